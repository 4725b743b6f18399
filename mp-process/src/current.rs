//! This process and its parent, as the tree of mp processes sees them.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{
    authkey::{self, AuthKey},
    deadline::Deadline,
    fd,
    primitive::{AtomicU32, Ordering},
};
use nix::libc;
use parking_lot::Mutex;

use crate::bootstrap::Identity;

/// This process.
#[derive(Clone, Debug)]
pub struct Current(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: Vec<u32>,
    daemon: bool,
    /// How many children were made; they are numbered from 1.
    children: AtomicU32,
    parent: Option<ParentProcess>,
}

static CURRENT: Mutex<Option<Current>> = Mutex::new(None);

/// The process that runs this: the initial one, or the child that was started.
#[must_use]
pub fn current_process() -> Current {
    CURRENT
        .lock()
        .get_or_insert_with(|| {
            Current(Arc::new(Inner {
                name: "MainProcess".to_owned(),
                path: Vec::new(),
                daemon: false,
                children: AtomicU32::new(0),
                parent: None,
            }))
        })
        .clone()
}

/// The process that started this one; `None` in the initial process.
#[must_use]
pub fn parent_process() -> Option<ParentProcess> {
    current_process().0.parent.clone()
}

/// This process is the child `identity` from now on, at the other end of `line`.
pub(crate) fn become_child(identity: Identity, line: Arc<OwnedFd>) {
    *CURRENT.lock() = Some(Current(Arc::new(Inner {
        name: identity.name,
        path: identity.path,
        daemon: identity.daemon,
        children: AtomicU32::new(0),
        parent: Some(ParentProcess {
            name: identity.parent_name,
            pid: identity.parent_pid,
            line,
        }),
    })));
    authkey::set_current(identity.authkey.0);
}

impl Current {
    /// Its name: `MainProcess`, or the one it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its pid.
    #[must_use]
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether it is ended with its parent, and may have no children.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.0.daemon
    }

    /// The key by which connections of this program know each other.
    #[must_use]
    pub fn authkey(&self) -> AuthKey {
        authkey::current()
    }

    /// The path of the next child: ours, and its number.
    pub(crate) fn next_child(&self) -> Vec<u32> {
        // Only a number: nothing else depends on its order.
        let number = self.0.children.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.path.iter().copied().chain([number]).collect()
    }

    pub(crate) fn parent_line(&self) -> Option<Arc<OwnedFd>> {
        self.0.parent.as_ref().map(|parent| parent.line.clone())
    }
}

/// The process that started this one.
///
/// # Process death
///
/// Its end is noticed whatever the cause: the kernel closes its end of a socket.
#[derive(Clone, Debug)]
pub struct ParentProcess {
    name: String,
    pid: u32,
    /// Our end of the bootstrap socket. The parent never writes to it again, and closes its end
    /// only by ending.
    line: Arc<OwnedFd>,
}

impl AsFd for ParentProcess {
    /// The sentinel: readable once the parent has ended. Nothing is to be read from it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

impl ParentProcess {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pid. Once it has ended, the number may be given to another process.
    #[must_use]
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it is still running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.join(Some(Duration::ZERO))
    }

    /// Waits until it has ended, at most `timeout`; whether it has.
    pub fn join(&self, timeout: Option<Duration>) -> bool {
        let until = timeout.map(Deadline::after);
        // POLLHUP is always waited for; an error means that nothing can be seen any more.
        fd::poll_one(self.line.as_fd(), libc::POLLRDHUP, until).unwrap_or(true)
    }
}
