//! Sleeping and waking on a word that other processes see.
//!
//! Every wait is cut into slices of at most [`SLICE`]: a wake-up that was lost together with the
//! process that owed it delays its sleeper, it never strands it. Callers therefore loop: look at
//! the condition, [`wait`], look again.
#![allow(unsafe_code)] // one system call, and half of a 64-bit atomic

use std::time::Duration;

use crate::{
    deadline::Deadline,
    primitive::{AtomicU32, AtomicU64},
};

/// The longest uninterrupted sleep of any wait in shared memory.
pub const SLICE: Duration = Duration::from_millis(250);

/// What one can sleep on: a 32-bit word, or the low half of a 64-bit one.
pub trait Word: sealed::Sealed {}
impl Word for AtomicU32 {}
impl Word for AtomicU64 {}

mod sealed {
    pub trait Sealed: super::imp::Word {}
    impl Sealed for super::AtomicU32 {}
    impl Sealed for super::AtomicU64 {}
}

/// Sleeps while `word` equals `expected`, at most one [`SLICE`]; `false` if `until` has passed.
///
/// May return early (`true`): the caller looks at its condition again. A word that has already
/// changed returns at once, and so does a deadline that has passed: for the kernel even that is a
/// timer and a sleep.
pub fn wait(word: &impl Word, expected: u32, until: Option<Deadline>) -> bool {
    if until.is_some_and(Deadline::is_over) {
        return false;
    }
    let slice = Deadline::after(SLICE);
    let end = until.map_or(slice, |until| until.min(slice));
    imp::wait(word, expected, end);
    !until.is_some_and(Deadline::is_over)
}

/// How a [`wait_told`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By a wake-up meant for this sleeper.
    Woken,
    /// The word was not as expected, or a signal came: look again.
    Look,
    /// After a whole [`SLICE`]: look again, also after the dead.
    Slice,
    /// The deadline has passed.
    Over,
}

/// As [`wait`], for those who have to know why it ended.
pub fn wait_told(word: &impl Word, expected: u32, until: Option<Deadline>) -> Told {
    if until.is_some_and(Deadline::is_over) {
        return Told::Over; // as in `wait`
    }
    let slice = Deadline::after(SLICE);
    let end = until.map_or(slice, |until| until.min(slice));
    match imp::wait(word, expected, end) {
        Told::Slice if until.is_some_and(Deadline::is_over) => Told::Over,
        told => told,
    }
}

/// Wakes at most `count` sleepers of `word`; how many were woken.
pub fn wake(word: &impl Word, count: u32) -> u32 {
    imp::wake(word, count)
}

/// Wakes every sleeper of `word`; how many were woken.
pub fn wake_all(word: &impl Word) -> u32 {
    wake(word, i32::MAX as u32)
}

#[cfg(not(mp_loom))]
pub use imp::low_half;

#[cfg(not(mp_loom))]
mod imp {
    use nix::{errno::Errno, libc};

    use super::{AtomicU32, AtomicU64, Deadline, Told};

    pub trait Word {
        fn futex(&self) -> &AtomicU32;
    }
    impl Word for AtomicU32 {
        fn futex(&self) -> &AtomicU32 {
            self
        }
    }
    impl Word for AtomicU64 {
        fn futex(&self) -> &AtomicU32 {
            low_half(self)
        }
    }

    pub(super) fn wait(word: &impl Word, expected: u32, end: Deadline) -> Told {
        let (word, timespec) = (word.futex(), end.as_timespec());
        // SAFETY:
        // * `word` is aligned and stays mapped during the call, because it is borrowed.
        // * `timespec` outlives the call.
        // No FUTEX_PRIVATE_FLAG: who wakes us may map this page at another address. FUTEX_WAIT_BITSET
        // because it takes absolute time.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT_BITSET,
                expected,
                &raw const timespec,
                std::ptr::null::<u32>(),
                libc::FUTEX_BITSET_MATCH_ANY,
            )
        };
        match Errno::result(result) {
            Ok(_) => Told::Woken,
            Err(Errno::ETIMEDOUT) => Told::Slice,
            Err(_) => Told::Look, // EAGAIN, EINTR
        }
    }

    pub(super) fn wake(word: &impl Word, count: u32) -> u32 {
        let word = word.futex();
        // SAFETY: `word` is aligned and mapped, because it is borrowed; waking reads nothing else.
        let woken =
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
        Errno::result(woken).map_or(0, |n| n as u32)
    }

    /// The half of a 64-bit word that changes with every step of its low bits, to sleep on.
    #[must_use]
    pub fn low_half(word: &AtomicU64) -> &AtomicU32 {
        let first = word.as_ptr().cast::<u32>();
        let low = if cfg!(target_endian = "little") {
            first
        } else {
            first.wrapping_add(1)
        };
        // SAFETY:
        // * Both halves lie inside `word`, aligned to 4 bytes, and live as long as its borrow.
        // * The memory is only ever accessed atomically; accesses of mixed size are what the
        //   kernel does with every futex, and the half is used for nothing but sleeping.
        unsafe { AtomicU32::from_ptr(low) }
    }
}

/// A model of the kernel's sleep queue: waiting is atomic with the comparison, waking is a notice.
#[cfg(mp_loom)]
mod imp {
    use std::collections::HashMap;

    use loom::sync::{Arc, Condvar, Mutex};

    use super::{AtomicU32, AtomicU64, Deadline, Told};
    use crate::primitive::Ordering;

    pub trait Word {
        fn low(&self) -> u32;
    }
    impl Word for AtomicU32 {
        fn low(&self) -> u32 {
            self.load(Ordering::SeqCst)
        }
    }
    impl Word for AtomicU64 {
        fn low(&self) -> u32 {
            self.load(Ordering::SeqCst) as u32
        }
    }

    type Queue = Arc<(Mutex<u32>, Condvar)>; // sleepers, and where they sleep

    loom::lazy_static! {
        static ref QUEUES: Mutex<HashMap<usize, Queue>> = Mutex::new(HashMap::new());
    }

    fn queue<W: Word>(word: &W) -> Queue {
        let key = std::ptr::from_ref(word) as usize;
        QUEUES
            .lock()
            .unwrap()
            .entry(key)
            .or_insert_with(|| Arc::new((Mutex::new(0), Condvar::new())))
            .clone()
    }

    /// Without a slice: in the model a lost wake-up has to show as a deadlock.
    pub(super) fn wait(word: &impl Word, expected: u32, _end: Deadline) -> Told {
        let queue = queue(word);
        let mut sleepers = queue.0.lock().unwrap();
        if word.low() != expected {
            return Told::Look;
        }
        *sleepers += 1;
        drop(queue.1.wait(sleepers).unwrap());
        Told::Woken
    }

    pub(super) fn wake(word: &impl Word, count: u32) -> u32 {
        let queue = queue(word);
        let mut sleepers = queue.0.lock().unwrap();
        let woken = count.min(*sleepers);
        *sleepers -= woken;
        for _ in 0..woken {
            queue.1.notify_one();
        }
        woken
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;
    use crate::primitive::Ordering;

    #[test]
    fn a_changed_word_does_not_sleep() {
        assert!(wait(&AtomicU32::new(1), 0, None));
    }

    #[test]
    fn a_wait_ends_with_its_deadline_and_not_before() {
        let word = AtomicU32::new(0);
        let start = Deadline::now();
        let until = Deadline::after(Duration::from_millis(30));
        while wait(&word, 0, Some(until)) {}
        assert!(Deadline::now() >= until && until > start);
    }

    #[test]
    fn a_wait_without_deadline_looks_again_after_a_slice() {
        let word = AtomicU32::new(0);
        let before = std::time::Instant::now();
        assert!(wait(&word, 0, None));
        assert!(before.elapsed() >= SLICE);
    }

    #[test]
    fn a_wake_reaches_a_sleeper_on_the_low_half() {
        let word = AtomicU64::new(7);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while word.load(Ordering::Acquire) == 7 {
                    wait(low_half(&word), 7, None);
                }
            });
            word.store(8, Ordering::Release);
            wake_all(low_half(&word));
            sleeper.join().unwrap();
        });
    }
}
