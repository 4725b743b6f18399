//! Counting what is not only taken, but done.
//!
//! The count of what is done and the claim of what was in hand change together, under the get lock.
//! An intent, written before and cleared after, tells the next owner of the lock which of the two a
//! dead one had come to: the count is the commit.

use std::io;

use mp_core::{
    deadline::Deadline,
    futex,
    primitive::{Ordering, fence},
};

use super::{ClaimId, Corrupt, Lost, Ring, memory::CLAIMS};

impl Ring {
    /// How many records were put and are not done.
    pub(crate) fn unfinished(&self) -> u64 {
        // Acquire: meets the Release in `count_done`. Read first, so that it is never ahead.
        let done = self.memory.header().done.count.load(Ordering::Acquire);
        self.put_count().saturating_sub(done)
    }

    /// One more record is done, and its claim ends; `false` if all that was put is done already.
    pub(crate) fn finish(&self, claim: Option<ClaimId>) -> Result<bool, Corrupt> {
        let counted = {
            let _held = self.lock_get_only()?;
            self.unfinished() > 0 && {
                self.count_done(claim);
                true
            }
        };
        if counted && self.unfinished() == 0 {
            self.wake_joiners();
        }
        Ok(counted)
    }

    /// As [`take_lost`](Self::take_lost); each of them counts as done, unless everything does: then
    /// somebody else has told of it, and it is not lost.
    pub(crate) fn finish_lost(&self) -> io::Result<Vec<Lost>> {
        let finish = |index, owner| {
            let Ok(_held) = self.lock_get_only() else {
                return false;
            };
            // Somebody else may have been faster.
            let is_there = self.memory.claim(index).owner.load(Ordering::Relaxed) == owner;
            let is_lost = is_there && self.unfinished() > 0;
            if is_lost {
                self.count_done(Some(ClaimId(index)));
            } else if is_there {
                self.release(ClaimId(index));
            }
            is_lost
        };
        let lost = self.lost(finish)?;
        if self.unfinished() == 0 {
            self.wake_joiners();
        }
        Ok(lost)
    }

    /// Under the get lock. Killed before the count is stored, nothing has happened.
    fn count_done(&self, claim: Option<ClaimId>) {
        let done = &self.memory.header().done;
        let count = done.count.load(Ordering::Relaxed);
        if let Some(claim) = claim {
            let intent = u64::from(count as u32) << 32 | (claim.0 as u64 + 1);
            done.intent.store(intent, Ordering::Relaxed);
        }
        // Release: what was done with the record, and the intent, come first.
        done.count.store(count.wrapping_add(1), Ordering::Release);
        if let Some(claim) = claim {
            // Release: after the count, for who finds the claim gone.
            let owner = &self.memory.claim(claim.0).owner;
            owner.store(0, Ordering::Release);
            done.intent.store(0, Ordering::Release);
        }
    }

    /// Under the get lock, after its owner died: if it had counted a record, its claim ends.
    pub(super) fn complete_intent(&self) {
        let done = &self.memory.header().done;
        let intent = done.intent.load(Ordering::Relaxed);
        let claim = (intent as u32 as usize).wrapping_sub(1);
        if claim < CLAIMS && done.count.load(Ordering::Relaxed) as u32 != (intent >> 32) as u32 {
            let owner = &self.memory.claim(claim).owner;
            owner.store(0, Ordering::Release);
        }
        done.intent.store(0, Ordering::Release);
    }

    /// Wakes those who wait for everything to be done, if anybody ever did.
    fn wake_joiners(&self) {
        let done = &self.memory.header().done;
        // SeqCst: the count is stored before the registrations are read. Meets the fence in
        // `wait_finished`.
        fence(Ordering::SeqCst);
        if done.registered.load(Ordering::Relaxed) != 0 {
            futex::wake_all(&done.count);
        }
    }

    /// Waits for everything to be done, a slice at most; `false` if `until` has passed.
    pub(crate) fn wait_finished(&self, until: Option<Deadline>) -> bool {
        let done = &self.memory.header().done;
        let seen = done.count.load(Ordering::Acquire) as u32;
        // SeqCst: registered before the comparison, as in `Signal::sleep`.
        done.registered.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.unfinished() == 0 || futex::wait(&done.count, seen, until)
    }
}
