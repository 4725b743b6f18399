//! Items whose loss can be told.

use std::{fmt, ops::Deref, sync::Arc, thread};

use crate::ring::{ClaimId, Ring};

/// A value taken from a queue, and the note in the queue that this process has it in hand.
///
/// The note ends with this guard. If the process dies first, the others find the item's number by
/// [`Queue::take_lost`](crate::Queue::take_lost); also if the guard is dropped by a panic that began
/// after the item was taken, since that is no sign that the item was done with.
///
/// # Process death
///
/// Exact at every instant: an item is still in the queue, or noted, or its guard was dropped.
#[must_use = "the item counts as done when this is dropped"]
pub struct Claimed<T> {
    value: T,
    number: u64,
    claim: Claim,
}

impl<T> Claimed<T> {
    pub(crate) fn new(value: T, number: u64, claim: Claim) -> Self {
        Self {
            value,
            number,
            claim,
        }
    }

    /// How many items had been put before this one; what
    /// [`put_numbered`](crate::Queue::put_numbered) told its producer.
    #[must_use]
    pub fn number(this: &Self) -> u64 {
        this.number
    }

    /// The value; the note ends.
    pub fn into_inner(this: Self) -> T {
        this.claim.release();
        this.value
    }
}

impl<T> Deref for Claimed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Claimed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claimed")
            .field("value", &self.value)
            .field("number", &self.number)
            .finish()
    }
}

/// Releases the claim on drop; in a panic that began after it, it is abandoned.
pub(crate) struct Claim {
    ring: Arc<Ring>,
    id: ClaimId,
    /// In a forked child this is a copy: the claim is the parent's.
    generation: u64,
    /// Whether it was made during a panic, which then says nothing about its record.
    panicking: bool,
}

impl Claim {
    pub(crate) fn new(ring: Arc<Ring>, id: ClaimId) -> Self {
        Self {
            ring,
            id,
            generation: mp_core::hooks::fork_generation(),
            panicking: thread::panicking(),
        }
    }

    /// The claim, unless it is the parent's.
    pub(crate) fn id(&self) -> Option<ClaimId> {
        (self.generation == mp_core::hooks::fork_generation()).then_some(self.id)
    }

    /// The record is done with.
    pub(crate) fn release(self) {
        if let Some(id) = self.id() {
            self.ring.release(id);
        }
        self.forget();
    }

    /// Leaves it as it is: it has ended already, or is somebody else's to end.
    pub(crate) fn forget(mut self) -> Option<ClaimId> {
        let id = self.id();
        self.generation = u64::MAX; // no generation
        id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        match self.id() {
            Some(id) if thread::panicking() && !self.panicking => self.ring.abandon(id),
            Some(id) => self.ring.release(id),
            None => {}
        }
    }
}
