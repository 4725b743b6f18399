//! What one thread holds of a semaphore, and how far it has come.

use std::fmt;

// What a step did, as the word says; 0 before there was any.
pub(super) const TAKE: u32 = 1;
pub(super) const GIVE: u32 = 2;
pub(super) const DRAIN: u32 = 3; // all that a dead owner held

// The state of a record.
pub(super) const FREE: u64 = 0; // nobody's; its step number stays, so that it never looks like an earlier one
pub(super) const OWNED: u64 = 1; // a thread's
pub(super) const DRAINED: u64 = 2; // a dead thread's; a living process is about to give back all it held

/// A record as it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Record(pub(super) u64);

impl Record {
    pub(super) const HELD: u64 = 1 << 16; // one permit
    pub(super) const STEP: u64 = 1 << 32; // one step

    pub(super) fn step(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn held(self) -> u16 {
        (self.0 >> 16) as u16
    }

    pub(super) fn slot(self) -> u32 {
        self.0 as u32 >> 4 & 0xfff
    }

    pub(super) fn state(self) -> u64 {
        self.0 & 0xf
    }

    /// One step further, with `held` permits.
    pub(super) fn moved_on(self, held: u16, slot: u32, state: u64) -> Self {
        let step = u64::from(self.step().wrapping_add(1)) << 32;
        Self(step | u64::from(held) << 16 | u64::from(slot) << 4 | state)
    }

    /// When the step that it is at has done `what`.
    #[inline]
    pub(super) fn done(self, what: u32) -> Self {
        match what {
            TAKE => Self(self.0.wrapping_add(Self::STEP + Self::HELD)),
            GIVE => Self(self.0.wrapping_add(Self::STEP - Self::HELD)),
            _ => self.moved_on(0, 0, FREE),
        }
    }

    /// What the word says of the step that record `index` is at, once it has committed.
    #[inline]
    pub(super) fn name(self, index: u32, what: u32) -> u32 {
        index << 22 | (self.step() & 0xf_ffff) << 2 | what
    }

    /// What it has to become if `word` tells that record `index` has committed its step.
    #[inline]
    pub(super) fn committed(self, index: u32, word: u64) -> Option<Self> {
        let name = (word >> 32) as u32;
        let what = name & 3;
        (what != 0 && self.name(index, what) == name).then(|| self.done(what))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("step", &self.step())
            .field("held", &self.held())
            .field("slot", &self.slot())
            .field("state", &self.state())
            .finish()
    }
}
