//! Descriptors that a program inherits under their own numbers.
#![allow(unsafe_code)] // `pre_exec` runs code between fork and exec

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Lets what `command` starts inherit `fds`, which stay open as long as `command` is there.
pub(crate) fn pass(command: &mut Command, fds: Vec<OwnedFd>) {
    let inherit = move || {
        fds.iter().try_for_each(|fd| {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            io::Result::Ok(())
        })
    };
    // SAFETY:
    // * the closure only calls fcntl, which is async-signal-safe; it does not allocate, and what
    //   it captures is not dropped in the child, which execs or exits.
    unsafe { command.pre_exec(inherit) };
}
