//! How many items ever passed one end, in full: the word counts them modulo 2^27.

use mp_core::primitive::{AtomicU64, Ordering};

use super::{
    signal::Signal,
    word::{MAX_ITEMS, Word},
};

/// The next item's number at one end: noted after each commit, under the lock, so that a death can
/// leave it one commit behind. The word completes it.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a>(pub &'a AtomicU64);

impl Number<'_> {
    /// The number of the item that `word`, the end's own, comes to next. Under the lock.
    #[inline]
    #[must_use]
    pub fn of(self, word: Word) -> u64 {
        // Relaxed: under the lock.
        complete(self.0.load(Ordering::Relaxed), word)
    }

    /// After a commit, under its lock. Killed before it, the next commit makes up for it.
    #[inline]
    pub fn note(self, next: u64) {
        // Release: meets the Acquire in `count`.
        self.0.store(next, Ordering::Release);
    }

    /// How many items passed the end of `signal`, by who does not hold its lock.
    #[must_use]
    pub fn count(self, signal: &Signal<'_>) -> u64 {
        // Acquire, and before the word: so the word is no older than what was noted, or it would
        // seem to be 2^27 items ahead.
        let known = self.0.load(Ordering::Acquire);
        complete(known, signal.load())
    }
}

/// `known` is less than 2^27 behind the word.
#[inline]
fn complete(known: u64, word: Word) -> u64 {
    // Wrapping: `known` may be damaged.
    known.wrapping_add(u64::from(
        word.items().wrapping_sub(known as u32) & MAX_ITEMS,
    ))
}
