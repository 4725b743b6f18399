//! Permits: one word that counts the free ones, and a record for each thread that holds some.
//!
//! ```text
//! word    = record:10 | step:22 | WAITERS:1 | CLOSED:1 | free:30     the low half is slept on
//! records = step:32 | held:16 | slot:12 | state:4                    one for each thread
//! ```
//!
//! A permit moves between the word and a record, which are two words; the truth must be one. So the
//! exchange that changes `free` also writes *whose* step it was: the record and its step number.
//!
//! 1. `record := TAKE | GIVE | DRAIN`   the intent, by the record's owner
//! 2. `word: free ∓ n, (record, step)`  **the commit**, one compare-and-exchange
//! 3. `record := held ± n, step + 1`    done
//!
//! Whoever replaces the name of a record in the word first sees to it that step 3 has been done for
//! it ([`settle`](RawSemaphore::settle)): a record that still shows an intent, and is not named by
//! the word, has not committed. So it is known of a dead owner, whatever the instruction it was
//! killed at, how many permits it held, and [`reap`](RawSemaphore::reap) gives back that many.

use std::{array, fmt};

use mp_core::{
    deadline::Deadline,
    futex::{self, Told},
    primitive::{AtomicU64, Ordering},
};

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

/// Nobody's. The step number stays, so that a new owner's record never looks like an old one's.
const FREE: u64 = 0;
/// A thread's, between operations.
const IDLE: u64 = 1;
/// Its owner is about to take one permit.
const TAKE: u64 = 2;
/// Its owner is about to give one back.
const GIVE: u64 = 3;
/// A living process is about to give back all that a dead one held.
const DRAIN: u64 = 4;

impl<const RECORDS: usize> fmt::Debug for RawSemaphore<RECORDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: as in `free`.
        let records = self
            .records
            .iter()
            .map(|record| Record::unpack(record.load(Ordering::Relaxed)));
        let used: Vec<(usize, Record)> = records
            .enumerate()
            .filter(|(_, record)| record.state != FREE)
            .collect();
        f.debug_struct("RawSemaphore")
            .field("free", &self.free())
            .field("records", &used)
            .finish()
    }
}

/// A record, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    step: u32,
    held: u16,
    slot: u16,
    state: u64,
}

impl Record {
    fn unpack(bits: u64) -> Self {
        Self {
            step: (bits >> 32) as u32,
            held: (bits >> 16) as u16,
            slot: (bits >> 4) as u16 & 0xfff,
            state: bits & 0xf,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.step) << 32
            | u64::from(self.held) << 16
            | u64::from(self.slot) << 4
            | self.state
    }

    fn with(self, state: u64) -> Self {
        Self { state, ..self }
    }

    /// What it becomes when its intent has been committed.
    fn done(self) -> Self {
        let (held, state) = match self.state {
            TAKE => (self.held.wrapping_add(1), IDLE),
            GIVE => (self.held.wrapping_sub(1), IDLE),
            _ => (0, FREE),
        };
        Self {
            step: self.step.wrapping_add(1),
            held,
            state,
            ..self
        }
    }

    fn is_intent(self) -> bool {
        self.state >= TAKE
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
            // Step 1: the word names step 0 of record 0, which never was.
            records: array::from_fn(|_| AtomicU64::new(1 << 32)),
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
        let index = self.records.iter().position(|word| {
            let record = Record::unpack(word.load(Ordering::Relaxed)); // checked by the exchange
            let taken = Record {
                held: 0,
                slot: slot as u16,
                state: IDLE,
                ..record
            };
            // AcqRel: the last owner's steps come before ours.
            record.state == FREE
                && word
                    .compare_exchange(
                        record.pack(),
                        taken.pack(),
                        Ordering::AcqRel,
                        Ordering::Relaxed,
                    )
                    .is_ok()
        })?;
        Some(index as u32)
    }

    /// Gives the record back, unless it still holds permits. For its owner only.
    pub fn unregister(&self, index: u32) {
        let word = &self.records[index as usize];
        let record = Record::unpack(word.load(Ordering::Relaxed)); // our own
        if record.held == 0 {
            let free = Record {
                step: record.step.wrapping_add(1),
                state: FREE,
                ..record
            };
            word.store(free.pack(), Ordering::Release); // meets `register`
        }
    }

    /// Takes a permit into the record `index`, whose owner the caller is, if one is free.
    #[inline]
    pub fn take(&self, index: u32) -> Taken {
        let own = &self.records[index as usize];
        let record = Record::unpack(own.load(Ordering::Relaxed)); // our own
        if record.held == u16::MAX {
            return Taken::Full;
        }
        // Acquire on every load of the word: meets the Release of the commit that wrote it.
        let mut word = self.word.load(Ordering::Acquire);
        // Who is inside already comes in again: the closer waits for its end.
        while (word & CLOSED == 0 || record.held > 0) && word & FREE_MASK != 0 {
            // Relaxed: the commit below releases it.
            own.store(record.with(TAKE).pack(), Ordering::Relaxed);
            match self.commit(word, word - 1, index, record.step) {
                Ok(()) => {
                    // Release: who finds this record after our death finds it whole.
                    own.store(record.with(TAKE).done().pack(), Ordering::Release);
                    return Taken::Yes;
                }
                Err(now) => word = now,
            }
        }
        own.store(record.pack(), Ordering::Relaxed); // an intent given up never committed
        Taken::No
    }

    /// Gives a permit of the record `index` back, and wakes one who waits; no more than `bound`
    /// are free afterwards. For the owner of the record, which holds one.
    #[inline]
    pub fn give(&self, index: u32, bound: u32) {
        let own = &self.records[index as usize];
        let record = Record::unpack(own.load(Ordering::Relaxed)); // our own
        debug_assert!(record.held > 0, "gave back a permit that was not held");
        own.store(record.with(GIVE).pack(), Ordering::Relaxed); // as in `take`
        let word = self.add(1, bound, index, record.step);
        own.store(record.with(GIVE).done().pack(), Ordering::Release); // as in `take`
        if word & WAITERS != 0 {
            // Who waits for all of them to come back must not miss the last.
            self.wake(if word & CLOSED == 0 {
                1
            } else {
                i32::MAX as u32
            });
        }
    }

    /// The permit of the record `index` is gone for good. For the owner of the record.
    pub fn forget(&self, index: u32) {
        let own = &self.records[index as usize];
        let record = Record::unpack(own.load(Ordering::Relaxed)); // our own
        let held = record.held.saturating_sub(1);
        // One store: before it, a death gives the permit back; after it, it is gone.
        own.store(Record { held, ..record }.pack(), Ordering::Release);
    }

    /// Adds `permits` that nobody held, and wakes those who wait for them.
    ///
    /// # Errors
    ///
    /// More than `bound` would be free; nothing was added.
    pub fn release(&self, permits: u32, bound: u32) -> Result<(), Overflow> {
        let mut word = self.word.load(Ordering::Relaxed); // checked by the exchange
        loop {
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
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & WAITERS != 0 {
            self.wake(permits);
        }
        Ok(())
    }

    /// Adds permits in the name of a record: the second half of `give` and `reap`. The word before.
    #[inline]
    fn add(&self, permits: u32, bound: u32, index: u32, step: u32) -> u64 {
        let mut word = self.word.load(Ordering::Acquire); // as in `take`
        loop {
            let free = (word & FREE_MASK) + u64::from(permits);
            let next = (word & !FREE_MASK) | free.min(u64::from(bound));
            match self.commit(word, next, index, step) {
                Ok(()) => return word,
                Err(now) => word = now,
            }
        }
    }

    /// The commit: `word` becomes `next`, named after step `step` of record `index`.
    #[inline]
    fn commit(&self, word: u64, next: u64, index: u32, step: u32) -> Result<(), u64> {
        if (word >> 32) as u32 >> 22 != index {
            self.settle(word); // our own steps are settled before we begin another
        }
        let name = u64::from(index << 22 | (step & 0x3f_ffff));
        let next = name << 32 | next & LOW;
        // Release: who finds our name finds our intent. Acquire, also on failure: meets the Release
        // of the commit that wrote what we read.
        self.word
            .compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
    }

    /// Does step 3 for the record that `word` names, if its owner has not.
    ///
    /// The record is compared as a whole, with all 32 bits of its step, so a settler that was
    /// stopped for long changes nothing that has moved on.
    #[inline]
    fn settle(&self, word: u64) {
        let name = (word >> 32) as u32;
        let Some(own) = self.records.get((name >> 22) as usize) else {
            return; // damaged: names no record
        };
        let bits = own.load(Ordering::Acquire); // meets the Release of the commit, or a later one
        let record = Record::unpack(bits);
        if record.is_intent() && record.step & 0x3f_ffff == name & 0x3f_ffff {
            self.settle_slow(word, own, bits);
        }
    }

    #[cold]
    fn settle_slow(&self, word: u64, own: &AtomicU64, bits: u64) {
        // Still named, so the intent that was read in between is the one that committed.
        if self.word.load(Ordering::Acquire) >> 32 == word >> 32 {
            let done = Record::unpack(bits).done().pack();
            // A failure means that the owner, or another settler, was faster.
            let _ = own.compare_exchange(bits, done, Ordering::AcqRel, Ordering::Relaxed);
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

    #[cold]
    fn wake(&self, permits: u32) {
        if futex::wake(&self.word, permits) != 0 {
            return;
        }
        // Nobody slept: the next give need not look. Who is about to sleep finds another word than
        // it expects, and sets the bit again.
        let word = self.word.load(Ordering::Relaxed); // checked by the exchange
        if word & WAITERS != 0 {
            let _ = self.word.compare_exchange(
                word,
                word & !WAITERS,
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
        if reaped > 0 && self.word.load(Ordering::Relaxed) & WAITERS != 0 {
            self.wake(reaped);
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
        loop {
            // Before the question: who is dead *after* this load left the record as it was read.
            let bits = own.load(Ordering::Acquire); // meets the Release of its owner's stores
            let record = Record::unpack(bits);
            if record.state == FREE || alive(u32::from(record.slot)) {
                return 0;
            }
            let next = if record.is_intent() {
                let word = self.word.load(Ordering::Acquire);
                if (word >> 32) as u32 == index << 22 | (record.step & 0x3f_ffff) {
                    record.done() // committed
                } else {
                    // Not named: if it ever was, it has been settled, and the exchange fails.
                    record.with(IDLE)
                }
            } else if record.held == 0 {
                Record {
                    step: record.step.wrapping_add(1),
                    state: FREE,
                    ..record
                }
            } else {
                Record {
                    slot: me as u16,
                    state: DRAIN,
                    ..record
                }
            };
            let exchanged =
                own.compare_exchange(bits, next.pack(), Ordering::AcqRel, Ordering::Relaxed);
            if exchanged.is_ok() && next.state == DRAIN {
                self.add(u32::from(next.held), bound, index, next.step);
                own.store(next.done().pack(), Ordering::Release); // as in `take`
                return u32::from(next.held);
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
        let record = self.records[index as usize].load(Ordering::Relaxed); // our own
        Record::unpack(record).held > 0
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
