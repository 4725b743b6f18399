//! Whose turn it is: who waits is not overtaken for ever.
//!
//! Neither a lock nor a sleep on a word keeps an order. Who runs finds the lock free and the item
//! there before the one who was woken for it has a CPU, and one who runs comes again at once. So who
//! has waited for a while and was overtaken says so in one word of its end, and who comes anew steps
//! aside until that one has been served: overtaking stays as cheap as it is, and ends in time.

use std::time::Duration;

use mp_core::deadline::Deadline;

use super::{Patience, hunger::Hunger};

/// Who waits longer than this is hungry. Longer than a wake-up takes, so that those who take
/// turns anyhow never step aside.
pub(super) const HUNGRY: Duration = Duration::from_micros(100);
/// A declaration older than this counts no more: who made it is dead, or has no CPU. It is the
/// most that one death can cost one operation.
const STALE: Duration = Duration::from_millis(2);

/// One operation at one end. Dropped when it was served, or has given up.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) patience: Patience,
    hunger: Hunger<'a>,
    /// When it began to wait, if it ever did.
    since: Option<u32>,
    /// How many were served at this end when it was first refused.
    served: Option<u32>,
    /// What it declared, or zero.
    declared: u32,
}

impl<'a> Turn<'a> {
    #[inline]
    pub(super) fn new(hunger: Hunger<'a>, patience: Patience) -> Self {
        Self {
            patience,
            hunger,
            since: None,
            served: None,
            declared: 0,
        }
    }

    /// The turn of one that comes anew: after the hungry, unless it may not wait at all.
    #[inline]
    pub(super) fn after_the_hungry(mut self) -> Self {
        let declared = self.hunger.declared();
        if declared != 0 && self.patience != Patience::Never {
            self.step_aside(declared);
        }
        self
    }

    #[cold]
    #[inline(never)]
    fn step_aside(&mut self, declared: u32) {
        let now = stamp();
        self.since = Some(now);
        if let Some(left) = STALE.checked_sub(between(declared, now)) {
            let stale = Deadline::after(left);
            let until = self.patience.until();
            let until = until.map_or(stale, |until| until.min(stale));
            self.hunger.step_aside(declared, until);
        }
        if is_stale(declared, stamp()) {
            self.hunger.declare(declared, 0); // so that nobody else has to look at the clock
        }
    }

    /// Refused, with `served` items through this end so far; others were served meanwhile if that
    /// is not what it was the first time.
    pub(super) fn refused(&mut self, served: u32) {
        let first = *self.served.get_or_insert(served);
        if self.is_hungry() && first != served {
            self.declare();
        }
    }

    /// Whether it has waited for long. It begins to wait with the first call.
    pub(super) fn is_hungry(&mut self) -> bool {
        let now = stamp();
        between(*self.since.get_or_insert(now), now) >= HUNGRY
    }

    /// Declares itself hungry, unless somebody else is; declares it anew, if it has done so before.
    pub(super) fn declare(&mut self) {
        let (found, now) = (self.hunger.declared(), stamp());
        // `declared` is zero, too, as long as nobody is hungry.
        let is_free = found == 0 || found == self.declared || is_stale(found, now);
        let declares = is_free && self.hunger.declare(found, now);
        self.declared = if declares { now } else { 0 };
    }
}

impl Drop for Turn<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.declared != 0 {
            self.hunger.end(self.declared);
        }
    }
}

fn is_stale(declared: u32, now: u32) -> bool {
    between(declared, now) > STALE
}

fn between(earlier: u32, later: u32) -> Duration {
    Duration::from_micros(later.wrapping_sub(earlier).into())
}

/// Now, in microseconds of the machine's clock, and never zero. It wraps within hours; a declaration
/// that was left that long ago may be taken for a fresh one, once.
fn stamp() -> u32 {
    let now = Deadline::now().as_timespec();
    let seconds = (now.tv_sec as u32).wrapping_mul(1_000_000);
    seconds.wrapping_add(now.tv_nsec as u32 / 1000) | 1
}
