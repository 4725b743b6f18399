//! Descriptors that stay out of the way: of forked children, and of who looks for a standard stream.

use std::{
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use mp_core::hooks::{self, ForkClosed};
use nix::libc;

/// Closed in every child that this process forks, by whatever code, before it runs there: the peer
/// then sees the end of this process, whoever its children are.
///
/// Close-on-exec does the same for children that are executed.
#[derive(Debug)]
pub(crate) struct PrivateFd {
    /// There until the drop.
    fd: Option<OwnedFd>,
    registration: ForkClosed,
}

impl From<OwnedFd> for PrivateFd {
    fn from(fd: OwnedFd) -> Self {
        let fd = above_streams(fd);
        let registration = hooks::close_after_fork(fd.as_raw_fd());
        Self {
            fd: Some(fd),
            registration,
        }
    }
}

impl AsFd for PrivateFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("there until the drop").as_fd()
    }
}

impl Drop for PrivateFd {
    fn drop(&mut self) {
        if !self.registration.forget() {
            // Closed already, when this process was forked; the number may be another file's now.
            mem::forget(self.fd.take());
        }
    }
}

/// The same descriptor, but not in the place of a standard stream that this program has closed: what
/// somebody prints must not go into it.
pub(crate) fn above_streams(fd: OwnedFd) -> OwnedFd {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return fd;
    }
    fd.try_clone().unwrap_or(fd) // std duplicates to where no stream is
}
