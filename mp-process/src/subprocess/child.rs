//! One running program, held by its pidfd.

use std::{
    io, mem,
    process::{self, ExitStatus},
};

use mp_core::deadline::Deadline;
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use parking_lot::Mutex;

use crate::pidfd::{Pidfd, Scope};

/// Programs whose handle was dropped while they ran: reaped when the next program starts.
static ABANDONED: Mutex<Vec<Pidfd>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    /// `None` if other code in this program had reaped it before we could hold it.
    pidfd: Option<Pidfd>,
    state: State,
    /// Whether it was made the leader of a process group.
    leads_group: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Running,
    Ended(Option<ExitStatus>),
}

impl Child {
    /// Holds a program that was just started; if that is not possible, nothing of it runs any more.
    pub(super) fn new(child: &mut process::Child, leads_group: bool) -> io::Result<Self> {
        let pidfd = match Pidfd::open(child.id()) {
            Ok(pidfd) => Some(pidfd),
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => None,
            Err(error) => {
                let _ = child.kill(); // it may have ended
                let _ = child.wait(); // or others reaped it
                return Err(error);
            }
        };
        let state = if pidfd.is_some() {
            State::Running
        } else {
            State::Ended(None)
        };
        Ok(Self {
            pid: child.id(),
            pidfd,
            state,
            leads_group,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.pid
    }

    /// Waits for its end and reaps it; `false` if the deadline came first.
    pub(super) fn wait(&mut self, until: Option<Deadline>) -> io::Result<bool> {
        let (State::Running, Some(pidfd)) = (self.state, &self.pidfd) else {
            return Ok(true);
        };
        while pidfd.wait(until)? {
            if let Some(ended) = pidfd.try_reap()? {
                self.state = State::Ended(ended.status);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How it ended, once a wait has seen that; the inner `None` if nobody knows.
    pub(super) fn ended(&self) -> Option<Option<ExitStatus>> {
        match self.state {
            State::Running => None,
            State::Ended(status) => Some(status),
        }
    }

    pub(super) fn leads_group(&self) -> bool {
        self.leads_group
    }

    /// Sends `signal` to it, or to the whole group it leads; nobody left to get it is fine.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pidfd) = self.pidfd.as_ref().filter(|_| self.leads_group) else {
            return self.signal_alone(signal);
        };
        match pidfd.signal(signal as i32, Scope::Group) {
            // Before Linux 6.9.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                if !pidfd.is_unreaped() {
                    return Ok(()); // the number may be another group's by now
                }
                match killpg(Pid::from_raw(self.pid.cast_signed()), signal) {
                    Ok(()) | Err(Errno::ESRCH) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
            sent => sent.map(drop),
        }
    }

    /// Sends `signal` to it and nobody else.
    pub(super) fn signal_alone(&self, signal: Signal) -> io::Result<()> {
        let sent = self
            .pidfd
            .as_ref()
            .map(|pidfd| pidfd.signal(signal as i32, Scope::Process));
        sent.transpose().map(drop)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let (State::Running, Some(pidfd)) = (self.state, self.pidfd.take()) {
            ABANDONED.lock().push(pidfd);
        }
    }
}

/// Reaps what has ended of the programs whose handles are gone.
pub(super) fn reap_abandoned() {
    let held = mem::take(&mut *ABANDONED.lock());
    let running = held
        .into_iter()
        .filter(|pidfd| matches!(pidfd.try_reap(), Ok(None)));
    let running: Vec<_> = running.collect();
    ABANDONED.lock().extend(running);
}
