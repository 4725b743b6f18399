//! When a receiver looks again and again before it sleeps.

use std::time::Duration;

use mp_core::primitive::may_spin;

/// How long a receiver looks again and again before it sleeps, if its process has two CPUs.
pub(super) const SPIN: Duration = Duration::from_micros(50);

/// A peer that is awake answers within this time; one that has to be woken takes longer, and waking
/// goes faster if this process makes room for it.
const SOON: Duration = Duration::from_micros(10);

/// So many slow answers in a row are followed by so many waits asleep. Both sides try now and then, so
/// that two that are busy with each other find out.
const MAX_SLOW: u32 = 8;
const SHORT_REST: u32 = 32;

/// After spinning in vain, at most this many waits begin asleep before spinning is tried again.
const MAX_REST: u32 = 256;

/// Whether to spin: as long as it pays off. A peer that sleeps itself, that takes longer, or that
/// cannot run because this process spins in its place, makes it rare.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// Waits that begin asleep before the next try.
    resting: u32,
    /// What `resting` starts from; doubled by each try in vain.
    rest: u32,
    /// Tries in a row that found something, but not soon.
    slow: u32,
}

impl Spin {
    /// Whether this wait is to begin asleep.
    pub(super) fn rests(&self) -> bool {
        self.resting > 0
    }

    pub(super) fn is_due(&mut self) -> bool {
        if self.resting > 0 {
            self.resting -= 1;
            return false;
        }
        may_spin()
    }

    /// Something came after this time.
    pub(super) fn found(&mut self, after: Duration) {
        self.slow = if after < SOON { 0 } else { self.slow + 1 };
        self.rest = match self.slow {
            MAX_SLOW => SHORT_REST,
            _ => 0,
        };
        if self.slow == MAX_SLOW {
            self.slow = 0;
        }
        self.resting = self.rest;
    }

    pub(super) fn in_vain(&mut self) {
        self.rest = (self.rest * 2 + 1).min(MAX_REST);
        self.resting = self.rest;
    }
}
