//! One word: has it happened, does somebody wait, and how often it happened.

use mp_core::{
    deadline::Deadline,
    futex::{self, Told},
    primitive::{AtomicU32, Ordering},
};

/// Something has happened; who waits for it goes on.
///
/// # Process death
///
/// Nothing to repair. A setter killed between its store and the wake-up delays the sleepers by at
/// most one [`SLICE`](futex::SLICE).
#[repr(C)]
#[derive(Debug)]
pub struct RawEvent {
    word: AtomicU32,
}

const SET: u32 = 1;
const WAITERS: u32 = 2; // somebody may sleep: `set` has to wake
const TIMES: u32 = 4; // the rest counts, so that a sleeper sees a `set` that was cleared at once

impl Default for RawEvent {
    fn default() -> Self {
        Self::new()
    }
}

impl RawEvent {
    /// An event that has not happened.
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
        }
    }

    /// Whether it has happened.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) & SET != 0 // meets the Release of `set`
    }

    /// It has happened: wakes all who wait. Async-signal-safe.
    pub fn set(&self) {
        let mut word = self.word.load(Ordering::Relaxed); // checked by the exchange
        loop {
            if word & SET != 0 {
                // What came before this `set` must be seen by who sees SET, also if it was set
                // already: hence an exchange that changes nothing.
                match self.word.compare_exchange_weak(
                    word,
                    word,
                    Ordering::Release,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return,
                    Err(now) => word = now,
                }
                continue;
            }
            let next = ((word & !WAITERS) | SET).wrapping_add(TIMES);
            // Release: who sees SET (Acquire) sees what came before. This is the commit.
            match self
                .word
                .compare_exchange_weak(word, next, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & WAITERS != 0 {
            futex::wake_all(&self.word);
        }
    }

    /// It has not happened, or is to happen again.
    pub fn clear(&self) {
        // AcqRel: what came before the `set` that is undone here is seen by who clears.
        self.word.fetch_and(!SET, Ordering::AcqRel);
    }

    /// Waits until it has happened; `false` if `until` came first.
    ///
    /// A `set` that is cleared again at once still ends the waits that had begun before it.
    #[inline]
    pub fn wait(&self, until: Option<Deadline>) -> bool {
        self.is_set() || self.wait_slow(until)
    }

    #[cold]
    fn wait_slow(&self, until: Option<Deadline>) -> bool {
        let begun = self.word.load(Ordering::Acquire);
        let mut word = begun;
        let mut over = false;
        loop {
            // Acquire on every load: meets the Release of `set`.
            if word & SET != 0 || word / TIMES != begun / TIMES {
                return true;
            }
            if over {
                return false;
            }
            let asleep = word | WAITERS;
            if word == asleep
                || self
                    .word
                    .compare_exchange(word, asleep, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                over = futex::wait_told(&self.word, asleep, until) == Told::Over;
            }
            word = self.word.load(Ordering::Acquire);
        }
    }
}
