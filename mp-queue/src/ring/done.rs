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

/// In an intent: with this count all that was put is done, so orphans end, too.
pub(super) const ALL_DONE: u32 = 1 << 31;

/// What somebody says is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// What this claim is of, unless another handle has said so.
    Claimed(ClaimId),
    /// What could not be claimed.
    Unclaimed,
    /// What another handle took.
    Elsewhere,
}

impl Ring {
    /// How many records were put and are not done.
    pub(crate) fn unfinished(&self) -> u64 {
        // Acquire: meets the Release in `count_done`. Read first, so that it is never ahead.
        let done = self.memory.header().done.count.load(Ordering::Acquire);
        self.put_count().saturating_sub(done)
    }

    /// One more record is done, and its claim ends; `false` if all that was put is done already.
    ///
    /// If another handle took it, the claim that ends is the oldest of this process.
    pub(crate) fn finish(&self, finished: Finished) -> Result<bool, Corrupt> {
        let counted = {
            let _held = self.lock_get_only()?;
            self.unfinished() > 0 && {
                let claim = match finished {
                    Finished::Claimed(claim) if self.is_open(claim) => Some(claim),
                    Finished::Unclaimed => None,
                    _ => self.oldest_claim(),
                };
                self.count_done(claim);
                true
            }
        };
        if counted && self.unfinished() == 0 {
            self.wake_joiners();
        }
        Ok(counted)
    }

    /// Nobody is left who could say that the records of `claims` are done: they are lost, but for
    /// those that somebody has said it of.
    pub(crate) fn let_go(&self, claims: &[ClaimId]) {
        if claims.is_empty() {
            return;
        }
        // Under the lock: one that ends meanwhile must not be made an orphan.
        let Ok(_held) = self.lock_get_only() else {
            return;
        };
        for claim in claims.iter().filter(|claim| self.is_open(**claim)) {
            if self.unfinished() > 0 {
                self.abandon(*claim);
            } else {
                self.release(*claim);
            }
        }
    }

    /// As [`take_lost`](Self::take_lost); each of them counts as done, unless everything does: then
    /// somebody else has told of it, and it is not lost.
    pub(crate) fn finish_lost(&self) -> io::Result<Vec<Lost>> {
        let finish = |claim: ClaimId, owner| {
            let Ok(_held) = self.lock_get_only() else {
                return false;
            };
            // Somebody else may have been faster.
            let found = self.memory.claim(claim.index).owner.load(Ordering::Relaxed);
            let is_there = found == owner && self.is_open(claim);
            let is_lost = is_there && self.unfinished() > 0;
            if is_lost {
                self.count_done(Some(claim));
            } else if is_there {
                self.release(claim);
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
        let ending = self.ending_with(claim);
        if ending != 0 {
            let intent = u64::from(count as u32) << 32 | u64::from(ending);
            done.intent.store(intent, Ordering::Relaxed);
        }
        // Release: what was done with the record, and the intent, come first.
        done.count.store(count.wrapping_add(1), Ordering::Release);
        if ending != 0 {
            self.end(ending);
            done.intent.store(0, Ordering::Release);
        }
    }

    /// The claims that end with the next count, as an intent has them.
    fn ending_with(&self, claim: Option<ClaimId>) -> u32 {
        let one = claim.map_or(0, |claim| claim.index as u32 + 1);
        // Relaxed: under the lock.
        let orphans = self.memory.header().done.orphans.load(Ordering::Relaxed);
        // What is put after this look is in no hand yet.
        let is_last = orphans != 0 && self.unfinished() == 1;
        one | if is_last { ALL_DONE } else { 0 }
    }

    fn end(&self, ending: u32) {
        let claim = ((ending & !ALL_DONE) as usize).wrapping_sub(1);
        if claim < CLAIMS {
            // Release: after the count, for who finds the claim gone.
            let owner = &self.memory.claim(claim).owner;
            owner.store(0, Ordering::Release);
        }
        if ending & ALL_DONE != 0 {
            self.end_orphans();
        }
    }

    /// Under the get lock, after its owner died: what it had counted, its claims end.
    pub(super) fn complete_intent(&self) {
        let done = &self.memory.header().done;
        let intent = done.intent.load(Ordering::Relaxed);
        if done.count.load(Ordering::Relaxed) as u32 != (intent >> 32) as u32 {
            self.end(intent as u32);
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
