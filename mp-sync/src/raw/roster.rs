//! Who takes part, by slot: so that a death among them is noticed.

use std::array;

use mp_core::primitive::{AtomicU32, Ordering};

/// The pid of the process in each slot; 0 where nobody came, or who came has left.
///
/// A process that died did not leave: its pid stays until somebody has noticed.
#[repr(C)]
#[derive(Debug)]
pub struct Roster<const SLOTS: usize> {
    pids: [AtomicU32; SLOTS],
}

impl<const SLOTS: usize> Default for Roster<SLOTS> {
    fn default() -> Self {
        Self {
            pids: array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

impl<const SLOTS: usize> Roster<SLOTS> {
    /// Process `pid` takes part, in a slot that is its own now; `noticed` runs first if a dead
    /// process was there before.
    pub fn enter(&self, slot: u32, pid: u32, noticed: impl FnOnce()) {
        let Some(word) = self.pids.get(slot as usize) else {
            return; // damaged memory: nobody gives such a slot
        };
        if word.load(Ordering::Acquire) != 0 {
            noticed(); // before the pid goes: killed in between, the next notices once more
        }
        word.store(pid, Ordering::Release); // meets the Acquire of `dead`
    }

    /// The process in `slot` takes part no more.
    pub fn leave(&self, slot: u32) {
        if let Some(word) = self.pids.get(slot as usize) {
            word.store(0, Ordering::Release); // what it did comes before
        }
    }

    /// The pid of a process that died without leaving; `forget` takes all of them off.
    pub fn dead(&self, forget: bool, mut alive: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut found = None;
        for (slot, word) in self.pids.iter().enumerate() {
            // Before the question: who is dead after this load was so with this pid.
            let pid = word.load(Ordering::Acquire); // meets the Release of `enter`
            if pid == 0 || alive(slot as u32) {
                continue;
            }
            // And after it: who has left, and ended then, is not dead.
            if word.load(Ordering::Acquire) != pid {
                continue;
            }
            found = Some(pid);
            if forget {
                // A failure means that the slot is somebody's again, who noticed.
                let _ = word.compare_exchange(pid, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        found
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_while_it_is_asked_about_is_not_dead() {
        let roster = Roster::<2>::default();
        roster.enter(0, 7, || ());
        roster.enter(1, 8, || ());
        let leaves_and_ends = |slot| {
            if slot == 1 {
                roster.leave(slot);
            }
            false
        };
        assert_eq!(roster.dead(false, leaves_and_ends), Some(7));
        assert_eq!(roster.dead(true, |_| false), Some(7));
        assert_eq!(roster.dead(false, |_| false), None);
    }
}
