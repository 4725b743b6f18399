//! Who has which record in hand.
//!
//! A claim is written under the get lock, just before the commit that takes the record: a consumer
//! that dies has taken the record and claimed it, or neither. The one exception is a death between
//! the two; the next who gets the lock is told of it and voids the claim, since the record is still
//! in the ring.

use std::io;

use mp_core::primitive::Ordering;

use super::{GetFailure, Patience, Ring, memory::CLAIMS};

/// Processes that can claim records of one ring at a time.
pub(super) const SLOTS: u32 = 1024;

/// Owner of a claim whose owner died and whose slot somebody else has taken since, or whose owner
/// lives and has let go of the record without being done with it.
const ORPHAN: u32 = u32::MAX;

/// A claim. Its place will be another one's after it, its number will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClaimId {
    pub(super) index: usize,
    number: u64,
}

/// An item that was in the hand of a process when it died, or that was let go of there without
/// being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Lost {
    /// How many items had been put before it.
    pub number: u64,
    /// Who had it.
    pub pid: u32,
}

impl Ring {
    /// Takes the next record and claims it until [`release`](Self::release), or until this process
    /// dies: then [`take_lost`](Self::take_lost) names it. Its number and the claim.
    ///
    /// With `must` unset the record is also taken if it cannot be claimed.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub(crate) fn get_claimed(
        &self,
        out: &mut Vec<u8>,
        patience: Patience,
        must: bool,
    ) -> Result<(u64, Option<ClaimId>), GetFailure> {
        let slot = match self.join_claims() {
            Ok(slot) => Some(slot),
            Err(error) if must => return Err(GetFailure::Unclaimable(error)),
            Err(_) => None,
        };
        let mut claimed = None;
        let number = self.get_noting(out, patience, |number| {
            claimed = slot.and_then(|slot| self.claim(slot, number));
            claimed.is_some() || !must
        })?;
        Ok((number, claimed))
    }

    /// The record is done with: nobody has to hear of it.
    pub(crate) fn release(&self, claim: ClaimId) {
        // Release: what was done with the record comes first, for who sees the claim gone.
        self.memory
            .claim(claim.index)
            .owner
            .store(0, Ordering::Release);
    }

    /// The record is nobody's any more, and nobody is done with it: as if its owner had died.
    pub(crate) fn abandon(&self, claim: ClaimId) {
        self.note_orphan();
        // Release: as above.
        let owner = &self.memory.claim(claim.index).owner;
        owner.store(ORPHAN, Ordering::Release);
    }

    /// Names the records that were in the hands of processes that died; each is named once.
    ///
    /// # Errors
    ///
    /// This process cannot ask who lives: no descriptor is left, or `/proc` is not mounted.
    pub(crate) fn take_lost(&self) -> io::Result<Vec<Lost>> {
        self.lost(|claim, owner| {
            let claim = &self.memory.claim(claim.index).owner;
            // Relaxed: number and pid were read before.
            claim
                .compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// How many records were in the hands of processes that died and are not named yet.
    ///
    /// # Errors
    ///
    /// As [`take_lost`](Self::take_lost).
    pub(crate) fn count_lost(&self) -> io::Result<usize> {
        let count = || self.lost(|_, _| true).map(|lost| lost.len());
        match count()? {
            0 => Ok(0),
            // One of them may have died while it was done with it: the lock tells, and repairs.
            _ if self.lock_get_only().is_ok() => count(),
            lost => Ok(lost),
        }
    }

    /// Those of the lost for whose claim, and its owner, `take` holds.
    pub(super) fn lost(&self, take: impl Fn(ClaimId, u32) -> bool) -> io::Result<Vec<Lost>> {
        let mut lost = Vec::new();
        if !self.has_claims() {
            return Ok(lost);
        }
        // With a slot of one's own: asking for the first time could take that of a dead one.
        self.join_claims()?;
        let taken = self.get_count();
        for index in 0..CLAIMS {
            let claim = self.memory.claim(index);
            // Acquire: meets the Release in `claim`.
            let owner = claim.owner.load(Ordering::Acquire);
            if owner == 0 || !self.is_dead(owner)? {
                continue;
            }
            let found = Lost {
                number: claim.number.load(Ordering::Relaxed),
                pid: claim.pid.load(Ordering::Relaxed),
            };
            let number = found.number;
            // A claim of what is still in the ring will be voided.
            if number < taken && take(ClaimId { index, number }, owner) {
                lost.push(found);
            }
        }
        lost.sort_unstable();
        Ok(lost)
    }

    fn is_dead(&self, owner: u32) -> io::Result<bool> {
        if owner > SLOTS {
            return Ok(true); // an orphan
        }
        self.member.is_alive(owner - 1).map(|alive| !alive)
    }

    /// Whether anybody ever claimed.
    fn has_claims(&self) -> bool {
        // Acquire: meets the Release in `join_claims`.
        let next = &self.memory.header().get.next_claim;
        next.load(Ordering::Acquire) != 0
    }

    /// This process's slot among those that claim.
    fn join_claims(&self) -> io::Result<u32> {
        if !self.has_claims() {
            self.memory.allocate_claims()?;
            // Release: the memory is there before anybody looks at it.
            let next = &self.memory.header().get.next_claim;
            next.store(1, Ordering::Release);
        }
        self.member.slot(|slot| self.orphan_claims(slot + 1))
    }

    /// The slot has a new holder: what its dead one left must not pass for the new one's.
    fn orphan_claims(&self, owner: u32) {
        for index in 0..CLAIMS {
            let claim = &self.memory.claim(index).owner;
            // Relaxed: nothing is published with it. It may have been cleared meanwhile.
            if claim.load(Ordering::Relaxed) == owner {
                self.note_orphan();
                let _ = claim.compare_exchange(owner, ORPHAN, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Before a claim becomes an orphan.
    fn note_orphan(&self) {
        // Relaxed: under the lock, or a hint.
        self.memory
            .header()
            .done
            .orphans
            .store(1, Ordering::Relaxed);
    }

    /// Under the get lock: nothing that was let go of until now is lost.
    pub(super) fn end_orphans(&self) {
        if !self.has_claims() {
            return;
        }
        // Relaxed: nothing is published with them; the lock orders the rest. Before the claims: one
        // that is noted from now on is looked for again.
        self.memory
            .header()
            .done
            .orphans
            .store(0, Ordering::Relaxed);
        for index in 0..CLAIMS {
            let owner = &self.memory.claim(index).owner;
            if owner.load(Ordering::Relaxed) == ORPHAN {
                owner.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Whether the claim has not ended. Under the get lock.
    pub(super) fn is_open(&self, id: ClaimId) -> bool {
        let claim = self.memory.claim(id.index);
        // Relaxed: number and owner of a new claim are written under the lock.
        claim.number.load(Ordering::Relaxed) == id.number
            && claim.owner.load(Ordering::Relaxed) != 0
    }

    /// The claim that this process has held longest, by whichever handle. Under the get lock.
    ///
    /// Each handle has its slot, so they are told by the pid; and, since the dead may have had the same
    /// one, by the life of the owner.
    pub(super) fn oldest_claim(&self) -> Option<ClaimId> {
        if !self.has_claims() {
            return None;
        }
        let pid = std::process::id();
        let mut least = 0;
        loop {
            let oldest = self.first_claim_of(pid, least)?;
            // Relaxed: as in `is_open`.
            let owner = self
                .memory
                .claim(oldest.index)
                .owner
                .load(Ordering::Relaxed);
            if matches!(self.is_dead(owner), Ok(false)) {
                return Some(oldest);
            }
            least = oldest.number.checked_add(1)?;
        }
    }

    /// Of the open claims of `pid`, the one of the lowest number that is at least `least`.
    fn first_claim_of(&self, pid: u32, least: u64) -> Option<ClaimId> {
        let of_pid = (0..CLAIMS).filter_map(|index| {
            let claim = self.memory.claim(index);
            // Relaxed: as in `is_open`.
            let is_held = (1..=SLOTS).contains(&claim.owner.load(Ordering::Relaxed));
            (is_held && claim.pid.load(Ordering::Relaxed) == pid).then(|| ClaimId {
                index,
                number: claim.number.load(Ordering::Relaxed),
            })
        });
        of_pid
            .filter(|claim| claim.number >= least)
            .min_by_key(|claim| claim.number)
    }

    /// Writes a claim, if one is free. Under the get lock.
    fn claim(&self, slot: u32, number: u64) -> Option<ClaimId> {
        let next = &self.memory.header().get.next_claim;
        // Relaxed: under the lock; a damaged value only shifts where the search begins.
        let start = next.load(Ordering::Relaxed) as usize;
        let index = (start..start + CLAIMS)
            .map(|index| index % CLAIMS)
            .find(|index| self.memory.claim(*index).owner.load(Ordering::Acquire) == 0)?;
        next.store(index as u32 + 1, Ordering::Relaxed);
        let claim = self.memory.claim(index);
        claim.number.store(number, Ordering::Relaxed);
        claim.pid.store(std::process::id(), Ordering::Relaxed);
        // Release: number and pid come first.
        claim.owner.store(slot + 1, Ordering::Release);
        Some(ClaimId { index, number })
    }

    /// Under the get lock, after its owner died: what the dead had claimed and not taken is still
    /// in the ring.
    pub(super) fn void_claims(&self) {
        if !self.has_claims() {
            return;
        }
        let taken = self.get_count();
        for index in 0..CLAIMS {
            let claim = self.memory.claim(index);
            let number = claim.number.load(Ordering::Relaxed);
            if claim.owner.load(Ordering::Acquire) != 0 && number >= taken {
                claim.owner.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cold]
pub(super) fn too_many() -> GetFailure {
    GetFailure::Unclaimable(io::Error::other(format!(
        "{CLAIMS} items of this queue are in hand already"
    )))
}
