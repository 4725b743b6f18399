//! This process among the users of an object that has to notice their deaths.

use std::{
    io, process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    /// `fork generation << 32 | EXITED | number of threads inside`, see [`begin`](Self::begin).
    inside: AtomicU64,
    /// A normal exit takes this process off, as dropping the last handle does. From then on, who
    /// comes and goes does it under this lock.
    exit: Mutex<Option<ExitHook>>,
}

/// The exit hook has run: this process is on the roster only while a thread is inside.
const EXITED: u64 = 1 << 31;
const INSIDE: u64 = EXITED - 1;

impl Members {
    pub(crate) fn new(mapping: Arc<Mapping>) -> Self {
        Self {
            member: Member::new(mapping, 0, SLOTS as u32),
            entered: AtomicU64::new(0),
            inside: AtomicU64::new(0),
            exit: Mutex::new(None),
        }
    }

    /// Enters this process, unless it is there; `noticed` runs if a dead one had its slot before.
    /// `at_exit` is to call [`exit`](Self::exit) when this process ends normally.
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
            *self.hook() = Some(hook);
        }
        Ok(())
    }

    /// While the result lives, any end of this process is a death to the others: also a normal one,
    /// which stops this thread half-way.
    pub(crate) fn begin<'a>(&'a self, roster: &'a Roster<SLOTS>) -> Inside<'a> {
        let inside = Inside {
            members: self,
            roster,
            generation: fork_generation(),
        };
        if !self.count(inside.generation, 1) {
            self.begin_late(roster);
        }
        inside
    }

    /// Adds to the number of threads inside; `false` once the exit hook has run.
    fn count(&self, generation: u64, add: u64) -> bool {
        // AcqRel: who leaves the roster comes after what those did that were inside.
        self.inside
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                let word = of_generation(word, generation);
                (word & EXITED == 0).then(|| word.wrapping_add(add))
            })
            .is_ok()
    }

    #[cold]
    fn begin_late(&self, roster: &Roster<SLOTS>) {
        let _alone = self.hook();
        if self.inside.fetch_add(1, Ordering::AcqRel) & INSIDE == 0
            && let Some(slot) = self.entered()
        {
            roster.enter(slot, process::id(), || ()); // our own slot: nobody else was there
        }
    }

    #[cold]
    fn end_late(&self, roster: &Roster<SLOTS>) {
        let _alone = self.hook();
        if self.inside.fetch_sub(1, Ordering::AcqRel) & INSIDE == 1 {
            self.leave_roster(roster);
        }
    }

    /// This process ends normally. Takes it off, unless a thread is inside: who has gone to sleep may
    /// be given a wake-up that others need, and who wakes others may be between two steps. The last
    /// to come out takes it off, should there be time.
    pub(crate) fn exit(&self, roster: &Roster<SLOTS>) {
        let _alone = self.hook();
        let generation = fork_generation();
        let before = self
            .inside
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                Some(of_generation(word, generation) | EXITED)
            })
            .map_or(0, |word| of_generation(word, generation));
        if before & INSIDE == 0 {
            self.leave_roster(roster);
        }
    }

    /// The last handle is gone: takes this process off, which is no death.
    pub(crate) fn leave(&self, roster: &Roster<SLOTS>) {
        self.leave_roster(roster);
        let exit = self.hook().take();
        if let Some(exit) = exit {
            exit.cancel();
        }
    }

    fn leave_roster(&self, roster: &Roster<SLOTS>) {
        if let Some(slot) = self.entered() {
            roster.leave(slot);
        }
    }

    /// The slot in which this process has entered the roster.
    fn entered(&self) -> Option<u32> {
        let entered = self.entered.load(Ordering::Relaxed); // of this process alone
        (entered != 0 && entered >> 32 == fork_generation() & 0xffff_ffff)
            .then(|| entered as u32 - 1)
    }

    fn hook(&self) -> MutexGuard<'_, Option<ExitHook>> {
        self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pid of a process that died without leaving; `forget` takes all of them off.
    pub(crate) fn dead(&self, roster: &Roster<SLOTS>, forget: bool) -> Option<u32> {
        // Who cannot be asked about counts as alive.
        roster.dead(forget, |slot| self.member.is_alive(slot).unwrap_or(true))
    }
}

/// `word` of this process: what a forked child finds counts the threads of its parent.
fn of_generation(word: u64, generation: u64) -> u64 {
    let own = generation << 32;
    match word >> 32 == own >> 32 {
        true => word,
        false => own,
    }
}

/// A thread of this process inside a wait or a notice.
pub(crate) struct Inside<'a> {
    members: &'a Members,
    roster: &'a Roster<SLOTS>,
    /// In a forked child it is a copy of its parent's, whose thread is not there.
    generation: u64,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if self.generation == fork_generation()
            && !self.members.count(self.generation, 1_u64.wrapping_neg())
        {
            self.members.end_late(self.roster);
        }
    }
}
