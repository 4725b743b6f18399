//! A process that ends when the process at the other end of a socket does.
//!
//! The kernel kills it: the socket is told to send SIGKILL instead of SIGIO when something happens
//! on it, and the only thing that ever happens on it is that the peer closes, for it carries no data. That works whatever
//! the process is doing, costs nothing while both live, and cannot be confused by which thread of
//! the parent started it (PR_SET_PDEATHSIG can).
#![allow(unsafe_code)] // F_SETSIG and F_SETOWN have no safe wrapper

use std::{
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use mp_core::{deadline::Deadline, fd};
use nix::libc;

/// Ends this process by SIGKILL as soon as nobody holds the peer of `socket` any more.
pub(crate) fn end_with_peer(socket: OwnedFd) {
    let socket = ManuallyDrop::new(socket); // open as long as this process lives
    let fd = socket.as_raw_fd();
    let me = std::process::id().cast_signed();
    // SAFETY: integers; the descriptor is open.
    unsafe { libc::fcntl(fd, libc::F_SETOWN, me) };
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGKILL) };
    // SAFETY: as above; a fresh socket has no other status flags.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) };
    // It may have ended before the flag was set.
    if fd::poll_one(socket.as_fd(), libc::POLLRDHUP, Some(Deadline::now())).unwrap_or(true) {
        // SAFETY: ends this process.
        unsafe { libc::raise(libc::SIGKILL) };
    }
}

/// `linux/fcntl.h`; not in libc for every architecture.
const F_SETSIG: libc::c_int = 10;
