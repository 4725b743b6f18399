//! This process among the users of an object that has to notice their deaths.

use std::{
    io, process,
    sync::{Arc, Mutex, PoisonError},
};

use mp_core::{
    hooks::{self, ExitHook, fork_generation},
    liveness::Member,
    primitive::{AtomicU64, Ordering},
    shm::Mapping,
};

use crate::raw::Roster;

/// How many processes can take part.
pub(crate) const SLOTS: usize = 1024;

#[derive(Debug)]
pub(crate) struct Members {
    member: Member,
    /// `fork generation << 32 | slot + 1` while this process is on the roster.
    entered: AtomicU64,
    /// A normal exit takes this process off, as dropping the last handle does.
    exit: Mutex<Option<ExitHook>>,
}

impl Members {
    pub(crate) fn new(mapping: Arc<Mapping>) -> Self {
        Self {
            member: Member::new(mapping, 0, SLOTS as u32),
            entered: AtomicU64::new(0),
            exit: Mutex::new(None),
        }
    }

    /// Enters this process, unless it is there; `noticed` runs if a dead one had its slot before.
    /// `at_exit` is to call [`leave`](Self::leave) when this process ends normally.
    pub(crate) fn enter(
        &self,
        roster: &Roster<SLOTS>,
        noticed: impl FnOnce(),
        at_exit: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        // The slot is ours before the roster says so. Meanwhile who was there before counts as
        // alive, and is noticed by us.
        let slot = self.member.slot(|_| ())?;
        let now = fork_generation() << 32 | u64::from(slot + 1);
        // Relaxed: of this process alone; the swap chooses one of its threads.
        if self.entered.load(Ordering::Relaxed) != now
            && self.entered.swap(now, Ordering::Relaxed) != now
        {
            roster.enter(slot, process::id(), noticed);
            // After whatever else runs at exit: that may still use the object. The hook of a
            // forked child's parent runs in the parent only.
            let hook = hooks::at_exit(i32::MIN, at_exit);
            *self.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
        }
        Ok(())
    }

    /// Takes this process off, which is no death.
    pub(crate) fn leave(&self, roster: &Roster<SLOTS>) {
        let entered = self.entered.load(Ordering::Relaxed); // of this process alone
        if entered != 0 && entered >> 32 == fork_generation() & 0xffff_ffff {
            roster.leave(entered as u32 - 1);
        }
        let exit = self
            .exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(exit) = exit {
            exit.cancel();
        }
    }

    /// The pid of a process that died without leaving; `forget` takes all of them off.
    pub(crate) fn dead(&self, roster: &Roster<SLOTS>, forget: bool) -> Option<u32> {
        // Who cannot be asked about counts as alive.
        roster.dead(forget, |slot| self.member.is_alive(slot).unwrap_or(true))
    }
}
