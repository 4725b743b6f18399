//! Permits: one word that counts the free ones, and a record for each thread that holds some.
//!
//! ```text
//! word    = record:10 | step:20 | what:2 | WAITERS:1 | CLOSED:1 | free:30     the low half is slept on
//! records = step:32 | held:16 | slot:12 | state:4                             one for each thread
//! ```
//!
//! A permit moves between the word and a record, which are two words; the truth must be one. So the
//! exchange that changes `free` also writes *whose* step it was, and what it did:
//!
//! 1. `word: free ∓ n, (record, step, what)`  **the commit**, one compare-and-exchange
//! 2. `record := held ± n, step + 1`          done
//!
//! A record that the word names with the step it is at has committed that step and is not done.
//! Whoever replaces a name in the word first sees to it that it is ([`settle`](RawSemaphore::settle)),
//! so every other record is done with all that it committed. So it is known of a dead owner, whatever
//! the instruction it was killed at, how many permits it held, and [`reap`](RawSemaphore::reap) gives
//! back that many.

use std::{array, fmt};

use mp_core::{
    deadline::Deadline,
    futex::{self, Told},
    primitive::{AtomicU64, Ordering},
};

mod record;

use self::record::{DRAIN, DRAINED, FREE, GIVE, OWNED, Record, TAKE};

/// A counter of free permits that knows who holds the others.
///
/// `RECORDS` is how many threads of all processes can hold permits at a time, at most 1024.
///
/// # Process death
///
/// What a record of a dead process holds goes back to the free ones when somebody
/// [reaps](Self::reap); a killed waker delays the woken by at most one [`SLICE`](futex::SLICE).
#[repr(C)]
pub struct RawSemaphore<const RECORDS: usize> {
    word: AtomicU64,
    records: [AtomicU64; RECORDS],
}

const FREE_MASK: u64 = (1 << 30) - 1;
const CLOSED: u64 = 1 << 30; // nobody takes: as if none were free
const WAITERS: u64 = 1 << 31; // somebody may sleep: a permit given back has to wake one
const LOW: u64 = (1 << 32) - 1;

/// The most permits a semaphore can have.
pub(crate) const MAX_PERMITS: u32 = FREE_MASK as u32;

impl<const RECORDS: usize> fmt::Debug for RawSemaphore<RECORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: as in `free`.
        let records = self
            .records
            .iter()
            .map(|record| Record(record.load(Ordering::Relaxed)));
        let used: Vec<(usize, Record)> = records
            .enumerate()
            .filter(|(_, record)| record.state() != FREE)
            .collect();
        f.debug_struct("RawSemaphore")
            .field("free", &self.free())
            .field("records", &used)
            .finish()
    }
}

/// How a [`RawSemaphore::take`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// With a permit, which the record holds now.
    Yes,
    /// None is free.
    No,
    /// The record holds as many as it can.
    Full,
}

/// More permits would be free than there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl<const RECORDS: usize> RawSemaphore<RECORDS> {
    /// `permits` free ones.
    ///
    /// # Panics
    ///
    /// With more permits than 2³⁰ − 1, or more records than 1024.
    #[must_use]
    pub fn new(permits: u32) -> Self {
        assert!(permits <= MAX_PERMITS && RECORDS <= 1 << 10);
        Self {
            word: AtomicU64::new(u64::from(permits)),
            records: array::from_fn(|_| AtomicU64::new(FREE)),
        }
    }

    /// How many are free.
    #[inline]
    #[must_use]
    pub fn free(&self) -> u32 {
        // Relaxed: a number, old at once.
        (self.word.load(Ordering::Relaxed) & FREE_MASK) as u32
    }

    /// A record for a thread of the process in `slot`, if one is free.
    pub fn register(&self, slot: u32) -> Option<u32> {
        let index = self.records.iter().position(|own| {
            let record = Record(own.load(Ordering::Relaxed)); // checked by the exchange
            let owned = record.0 & !(Record::STEP - 1) | u64::from(slot) << 4 | OWNED;
            // AcqRel: the last owner's steps come before ours.
            record.state() == FREE
                && own
                    .compare_exchange(record.0, owned, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        })?;
        Some(index as u32)
    }

    /// Gives the record back, unless it still holds permits. For its owner only.
    pub fn unregister(&self, index: u32) {
        let (own, record) = self.own(index);
        if record.held() == 0 {
            own.store(record.0 & !0xf | FREE, Ordering::Release); // meets `register`
        }
    }

    /// The record `index`, for its owner, who alone changes it.
    #[inline]
    fn own(&self, index: u32) -> (&AtomicU64, Record) {
        let own = &self.records[index as usize];
        // Relaxed: what others may write, settling, is what this thread has written by now.
        (own, Record(own.load(Ordering::Relaxed)))
    }

    /// Takes a permit into the record `index`, whose owner the caller is, if one is free.
    #[inline]
    pub fn take(&self, index: u32) -> Taken {
        let (own, record) = self.own(index);
        if record.held() == u16::MAX {
            return Taken::Full;
        }
        // Acquire on every load of the word: meets the Release of the commit that wrote it.
        let mut word = self.word.load(Ordering::Acquire);
        // Who is inside already comes in again: the closer waits for its end.
        while (word & CLOSED == 0 || record.held() > 0) && word & FREE_MASK != 0 {
            match self.commit(word, word - 1, index, record, TAKE) {
                Ok(_) => {
                    // Release: who finds this record after our death finds it whole.
                    own.store(record.done(TAKE).0, Ordering::Release);
                    return Taken::Yes;
                }
                Err(now) => word = now,
            }
        }
        Taken::No
    }

    /// Takes a permit that is free, and dies before the record says so.
    #[cfg(mp_loom)]
    pub fn take_and_die(&self, index: u32) {
        let (_, record) = self.own(index);
        let word = self.word.load(Ordering::Acquire);
        let _ = self.commit(word, word - 1, index, record, TAKE);
    }

    /// Gives a permit of the record `index` back, and wakes one who waits; no more than `bound`
    /// are free afterwards. For the owner of the record, which holds one.
    #[inline]
    pub fn give(&self, index: u32, bound: u32) {
        let (own, record) = self.own(index);
        debug_assert!(record.held() > 0, "gave back a permit that was not held");
        let word = self.add(1, bound, index, record, GIVE);
        own.store(record.done(GIVE).0, Ordering::Release); // as in `take`
        if word & WAITERS != 0 {
            // Who waits for all of them to come back must not miss the last.
            let all = word & CLOSED != 0;
            self.wake(if all { i32::MAX as u32 } else { 1 }, word);
        }
    }

    /// The permit of the record `index` is gone for good. For the owner of the record.
    pub fn forget(&self, index: u32) {
        let (own, record) = self.own(index);
        if record.held() > 0 {
            // One store: before it, a death gives the permit back; after it, it is gone.
            own.store(record.0 - Record::HELD, Ordering::Release);
        }
    }

    /// Adds `permits` that nobody held, and wakes those who wait for them.
    ///
    /// # Errors
    ///
    /// More than `bound` would be free; nothing was added.
    pub fn release(&self, permits: u32, bound: u32) -> Result<(), Overflow> {
        let mut word = self.word.load(Ordering::Relaxed); // checked by the exchange
        let left = loop {
            if (word & FREE_MASK) + u64::from(permits) > u64::from(bound) {
                return Err(Overflow);
            }
            let next = word + u64::from(permits);
            // The name in the word stays, and with it all that is known of that record.
            // Release: what came before is seen by who takes the permit (Acquire).
            match self
                .word
                .compare_exchange_weak(word, next, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break next,
                Err(now) => word = now,
            }
        };
        if left & WAITERS != 0 {
            self.wake(permits, left);
        }
        Ok(())
    }

    /// Adds permits in the name of a record, which does `what`. The word afterwards.
    #[inline]
    fn add(&self, permits: u32, bound: u32, index: u32, record: Record, what: u32) -> u64 {
        let mut word = self.word.load(Ordering::Acquire); // as in `take`
        loop {
            let free = (word & FREE_MASK) + u64::from(permits);
            let next = (word & !FREE_MASK) | free.min(u64::from(bound));
            match self.commit(word, next, index, record, what) {
                Ok(left) => return left,
                Err(now) => word = now,
            }
        }
    }

    /// The commit: `word` becomes `next`, named after the step that record `index` is at. The word
    /// afterwards, or as it was found.
    #[inline]
    fn commit(
        &self,
        word: u64,
        next: u64,
        index: u32,
        record: Record,
        what: u32,
    ) -> Result<u64, u64> {
        if (word >> 32) as u32 >> 22 != index {
            self.settle(word); // our own steps are done before we begin another
        }
        let next = u64::from(record.name(index, what)) << 32 | next & LOW;
        // Release: who finds our name finds our record as it was. Acquire, also on failure: meets
        // the Release of the commit that wrote what we read.
        self.word
            .compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| next)
    }

    /// Does the second step for the record that `word` names, if its owner has not.
    ///
    /// The record is compared as a whole, with all 32 bits of its step, so a settler that was
    /// stopped for long changes nothing that has moved on.
    #[inline]
    fn settle(&self, word: u64) {
        let index = (word >> 54) as u32;
        let Some(own) = self.records.get(index as usize) else {
            return; // damaged: names no record
        };
        let record = Record(own.load(Ordering::Acquire)); // meets the Release of the commit
        if let Some(done) = record.committed(index, word) {
            self.settle_slow(word, own, record, done);
        }
    }

    #[cold]
    fn settle_slow(&self, word: u64, own: &AtomicU64, record: Record, done: Record) {
        // Still named, so the step that was read in between is the one that committed.
        if self.word.load(Ordering::Acquire) >> 32 == word >> 32 {
            // A failure means that the owner, or another settler, was faster.
            let _ = own.compare_exchange(record.0, done.0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Sleeps until a permit may be free, `until`, or for a slice.
    pub fn sleep(&self, until: Option<Deadline>) -> Told {
        let word = self.word.load(Ordering::Relaxed); // checked by the exchange, or the kernel
        if word & CLOSED == 0 && word & FREE_MASK != 0 {
            return Told::Look;
        }
        let asleep = word | WAITERS;
        if word != asleep
            && self
                .word
                .compare_exchange(word, asleep, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return Told::Look;
        }
        futex::wait_told(&self.word, asleep as u32, until)
    }

    /// Wakes as many as `permits`; `left` is what the caller's step made of the word.
    #[cold]
    fn wake(&self, permits: u32, left: u64) {
        let woken = futex::wake(&self.word, permits);
        if woken == 0 && left & FREE_MASK != 0 && left & CLOSED == 0 {
            // Nobody slept, and on a word such as this nobody goes to sleep: while it is what we
            // left, the next give need not look. Who takes from it writes another name.
            let _ = self.word.compare_exchange(
                left,
                left & !WAITERS,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// Gives back what dead processes hold; how many permits that were. `me` is the slot of the
    /// process that asks, `alive` tells of any other.
    ///
    /// May be killed anywhere and run by many at once: a dead owner's permits are first adopted by
    /// one exchange on the record, and then given back like any other.
    pub fn reap(&self, me: u32, bound: u32, mut alive: impl FnMut(u32) -> bool) -> u32 {
        let reaped = (0..RECORDS as u32)
            .map(|index| self.reap_record(index, me, bound, &mut alive))
            .sum();
        let word = self.word.load(Ordering::Relaxed); // the wake-up follows our own commits
        if reaped > 0 && word & WAITERS != 0 {
            futex::wake(&self.word, reaped);
        }
        reaped
    }

    fn reap_record(
        &self,
        index: u32,
        me: u32,
        bound: u32,
        alive: &mut impl FnMut(u32) -> bool,
    ) -> u32 {
        let own = &self.records[index as usize];
        let exchange = |record: Record, next: Record| {
            own.compare_exchange(record.0, next.0, Ordering::AcqRel, Ordering::Relaxed)
        };
        loop {
            // Before the question: who is dead *after* this load left the record as it was read.
            let record = Record(own.load(Ordering::Acquire)); // meets the Release of its owner
            if record.state() == FREE || alive(record.slot()) {
                return 0;
            }
            let word = self.word.load(Ordering::Acquire); // meets the Release of the commit
            if let Some(done) = record.committed(index, word) {
                let _ = exchange(record, done); // or a settler was faster
                continue;
            }
            // Not named: if it ever was, it has been settled, and the exchange fails.
            if record.held() == 0 {
                let _ = exchange(record, record.moved_on(0, 0, FREE));
                continue;
            }
            // One step further, so that two who adopt it never take each other's record for theirs.
            let mine = record.moved_on(record.held(), me, DRAINED);
            if exchange(record, mine).is_ok() {
                self.add(u32::from(mine.held()), bound, index, mine, DRAIN);
                let _ = exchange(mine, mine.done(DRAIN)); // settled, it may be somebody's by now
                return u32::from(mine.held());
            }
        }
    }

    /// Closes: nobody takes until [`open`](Self::open). For the writer of a read-write lock.
    pub(crate) fn close(&self) {
        self.word.fetch_or(CLOSED, Ordering::AcqRel); // before, and after, all that others did
    }

    /// Opens again, and wakes all who wait.
    pub(crate) fn open(&self) {
        // Release: what was done while it was closed is seen by who takes. Waiters set their bit
        // again.
        let word = self.word.fetch_and(!(CLOSED | WAITERS), Ordering::AcqRel);
        if word & WAITERS != 0 {
            futex::wake_all(&self.word);
        }
    }

    /// Whether it is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CLOSED != 0 // a hint
    }

    /// Whether the record `index` holds a permit. For its owner.
    pub(crate) fn holds(&self, index: u32) -> bool {
        self.own(index).1.held() > 0
    }

    /// Sleeps until all of `permits` may be free, `until`, or for a slice; `None` when they are.
    pub(crate) fn sleep_until_free(&self, permits: u32, until: Option<Deadline>) -> Option<Told> {
        let word = self.word.load(Ordering::Acquire); // meets the Release of the last give
        if word & FREE_MASK >= u64::from(permits) {
            return None;
        }
        let asleep = word | WAITERS;
        if word != asleep
            && self
                .word
                .compare_exchange(word, asleep, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return Some(Told::Look);
        }
        Some(futex::wait_told(&self.word, asleep as u32, until))
    }
}
