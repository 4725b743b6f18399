//! A descriptor that no forked child of this process gets.

use std::{
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use mp_core::hooks::{self, ForkClosed};

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
