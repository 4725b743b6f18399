//! A started child as its parent holds it, and the list of all of them.

use std::{
    fmt, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    sync::Arc,
    time::Duration,
};

use mp_core::{deadline::Deadline, hooks};
use nix::libc;
use parking_lot::Mutex;

use crate::{
    error::ExitStatus,
    pidfd::{Ended, Pidfd, Scope},
    popen::StatusSource,
    private_fd::PrivateFd,
};

/// A child process of any kind: what all handles to it share.
///
/// [`active_children`] lists them, and [`Process::child`](crate::Process::child) gives the one
/// behind a typed handle. A clone is another handle to the same child.
#[derive(Clone)]
pub struct Child(Arc<Shared>);

struct Shared {
    name: String,
    pid: u32,
    pidfd: Pidfd,
    /// Our end of the bootstrap socket. The child sees it close when this process ends, so it is
    /// held as long as the child runs; its report waits in it.
    line: Mutex<Option<PrivateFd>>,
    /// Our end of the [life socket](crate::life), while a child runs that has one.
    life: Mutex<Option<PrivateFd>>,
    source: StatusSource,
    daemon: bool,
    memory_limit: Option<u64>,
    /// Which process started it: a forked copy of the handle is not the parent's.
    generation: u64,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    ended: Option<(ExitStatus, u64)>,
    detached: bool,
    /// Nobody holds a typed handle any more: the next start reaps it, if it has ended.
    abandoned: bool,
}

/// All children that have not been reaped yet.
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// What a start method hands over, and what the list keeps.
pub(crate) struct NewChild {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) pidfd: Pidfd,
    pub(crate) line: PrivateFd,
    pub(crate) life: Option<PrivateFd>,
    pub(crate) source: StatusSource,
    pub(crate) daemon: bool,
    pub(crate) memory_limit: Option<u64>,
}

impl Child {
    /// Puts a child that was just started on the list.
    pub(crate) fn register(new: NewChild) -> Self {
        let child = Self(Arc::new(Shared {
            name: new.name,
            pid: new.pid,
            pidfd: new.pidfd,
            line: Mutex::new(Some(new.line)),
            life: Mutex::new(new.life),
            source: new.source,
            daemon: new.daemon,
            memory_limit: new.memory_limit,
            generation: hooks::fork_generation(),
            state: Mutex::new(State::default()),
        }));
        CHILDREN.lock().push(child.clone());
        tracing::debug!(name = child.name(), pid = child.pid(), "started");
        child
    }

    /// Its name, as in `Process-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its pid. Once it has ended, the number may be given to another process.
    #[must_use]
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether it is ended with this process.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.0.daemon
    }

    /// Whether it is still running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.exit_status().is_none()
    }

    /// How it ended; `None` while it runs, which is told at once. For that of one that has ended it
    /// may wait for the fork server that made it, up to 10 s if that is stopped.
    ///
    /// In a forked copy of the handle it is [`ExitStatus::Unknown`], if it ended after the fork.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        if !self.is_ours() {
            return self.status_in_a_copy();
        }
        self.try_reap().ok().flatten().map(|(status, _)| status)
    }

    /// Python's exit code: the code, or minus the signal; `None` while it runs, or if it cannot be
    /// known ([`ExitStatus::Unknown`]).
    #[must_use]
    pub fn exitcode(&self) -> Option<i32> {
        self.exit_status()?.exitcode()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// The system cannot wait, or this process is a forked copy of the one that started it.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_until(None)? {
                return Ok(status);
            }
        }
    }

    /// Waits until it has ended, at most `timeout`; `None` if it still runs.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.wait_until(Some(Deadline::after(timeout)))
    }

    /// Asks it to end, by SIGTERM. Nothing happens if it has ended already.
    ///
    /// # Errors
    ///
    /// Not permitted: it changed its user.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// Ends it, by SIGKILL. Nothing happens if it has ended already.
    ///
    /// # Errors
    ///
    /// Not permitted: it changed its user.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Interrupts it as Ctrl-C does, by SIGINT. Nothing happens if it has ended already.
    ///
    /// # Errors
    ///
    /// Not permitted: it changed its user.
    pub fn interrupt(&self) -> io::Result<()> {
        self.signal(libc::SIGINT)
    }

    /// Sends any signal. It cannot reach another process that got the same pid later.
    ///
    /// # Errors
    ///
    /// Not permitted, or no such signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.0.pidfd.signal(signal, Scope::Process).map(drop)
    }

    /// Sends any signal to all members of the process group that it leads, or led until it ended. It cannot
    /// reach another group that got the same number later.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal); `EINVAL` before Linux 6.9.
    pub fn signal_group(&self, signal: i32) -> io::Result<()> {
        self.0.pidfd.signal(signal, Scope::Group).map(drop)
    }

    pub(crate) fn memory_limit(&self) -> Option<u64> {
        self.0.memory_limit
    }

    /// Status and peak memory; `None` while it runs.
    pub(crate) fn try_reap(&self) -> io::Result<Option<(ExitStatus, u64)>> {
        self.check_is_ours()?;
        let mut state = self.0.state.lock();
        if state.ended.is_some() {
            return Ok(state.ended);
        }
        let Some(ended) = self.0.source.try_reap(&self.0.pidfd)? else {
            return Ok(None);
        };
        let status = status_of(ended);
        state.ended = Some((status, ended.peak_rss.unwrap_or(0)));
        let ended = state.ended;
        drop(state);
        drop(self.0.life.lock().take());
        CHILDREN
            .lock()
            .retain(|child| !Arc::ptr_eq(&child.0, &self.0));
        tracing::debug!(name = self.name(), pid = self.pid(), %status, "ended");
        Ok(ended)
    }

    /// In a process that was forked from the parent: what was known before, or that it has ended.
    fn status_in_a_copy(&self) -> Option<ExitStatus> {
        // At the fork another thread may have held the lock, for ever.
        if let Some((status, _)) = self.0.state.try_lock().and_then(|state| state.ended) {
            return Some(status);
        }
        let ended = self.0.pidfd.wait(Some(Deadline::now())).unwrap_or(false);
        ended.then_some(ExitStatus::Unknown)
    }

    fn is_ours(&self) -> bool {
        self.0.generation == hooks::fork_generation()
    }

    fn check_is_ours(&self) -> io::Result<()> {
        if self.is_ours() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "process {} is a child of the process that this one was forked from, which alone can \
             wait for it",
            self.0.name
        )))
    }

    pub(crate) fn wait_until(&self, until: Option<Deadline>) -> io::Result<Option<ExitStatus>> {
        self.check_is_ours()?;
        loop {
            let is_reaped = self.0.state.lock().ended.is_some();
            if !is_reaped && !self.0.pidfd.wait(until)? {
                return Ok(None);
            }
            if let Some((status, _)) = self.try_reap()? {
                return Ok(Some(status));
            }
        }
    }

    /// Our end of the bootstrap socket, once, after the child has ended.
    pub(crate) fn take_line(&self) -> Option<PrivateFd> {
        self.0.line.lock().take()
    }

    pub(crate) fn detach(&self) {
        self.0.state.lock().detached = true;
        self.abandon();
    }

    /// The typed handle is gone: what has ended is reaped by whoever looks next.
    pub(crate) fn abandon(&self) {
        self.0.state.lock().abandoned = true;
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.0.state.lock().detached
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Process name={:?} pid={}", self.name(), self.pid())?;
        match self.exit_status() {
            None => f.write_str(" started")?,
            Some(status) => write!(f, " stopped, {status}")?,
        }
        f.write_str(if self.is_daemon() { " daemon>" } else { ">" })
    }
}

impl AsFd for Child {
    /// The sentinel: readable once the child has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

fn status_of(ended: Ended) -> ExitStatus {
    let Some(status) = ended.status else {
        return ExitStatus::Unknown;
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (_, Some(signal)) => ExitStatus::Signal(signal),
        _ => ExitStatus::Unknown,
    }
}

/// All children of this process that have not ended. Those that have are reaped by the way.
#[must_use]
pub fn active_children() -> Vec<Child> {
    let mut children = listed();
    children.retain(Child::is_alive);
    children
}

/// Reaps the children whose handles were dropped, as far as they have ended.
pub(crate) fn reap_abandoned() {
    for child in listed() {
        if child.0.state.lock().abandoned {
            let _ = child.try_reap();
        }
    }
}

/// The children that are not reaped yet, without asking the system.
pub(crate) fn listed() -> Vec<Child> {
    CHILDREN.lock().clone()
}

/// In a forked child: the children are its parent's.
pub(crate) fn forget_all() {
    CHILDREN.lock().clear();
}
