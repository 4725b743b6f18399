//! Sleeping on a commit word, and waking whoever sleeps there.

use mp_core::{
    deadline::Deadline,
    futex::{self, Told},
    primitive::{AtomicU32, AtomicU64, Ordering, fence},
};

use super::word::Word;

/// One end's commit word, and who may be asleep waiting for its next commit.
///
/// Nobody counts the sleepers, since a count would outlive a sleeper that is killed. `registered`
/// only grows: a sleeper adds one before it sleeps. `cleared` is the registration up to which a
/// waker has seen, after its own commit, that nobody was left asleep.
#[derive(Clone, Copy, Debug)]
pub struct Signal<'a> {
    /// Written under the lock of its end; read by the other end.
    pub word: &'a AtomicU64,
    /// Written by sleepers of the other end.
    pub registered: &'a AtomicU32,
    /// Written by wakers; a lost update costs a needless system call.
    pub cleared: &'a AtomicU32,
}

impl Signal<'_> {
    /// The commit: one store, which makes everything written before it visible.
    #[inline]
    pub fn commit(&self, word: Word) {
        // Release: meets the Acquire in `load`.
        self.word.store(word.0, Ordering::Release);
    }

    /// The word as the other end sees it.
    #[inline]
    pub fn load(&self) -> Word {
        // Acquire: meets the Release in `commit`; what was committed can be read, and what was
        // taken can be overwritten.
        Word(self.word.load(Ordering::Acquire))
    }

    /// After a commit and the unlock of its end: wakes at most `count` sleepers, if there may be any.
    #[inline]
    pub fn notify(&self, count: u32) {
        order_commit_before_look();
        // Relaxed: ordered after the commit by the fence above, which is all that matters. Either
        // this sees the sleeper's registration, or the sleeper's comparison sees the commit.
        let registered = self.registered.load(Ordering::Relaxed);
        // Relaxed: a hint; stale values cost a system call or repeat one.
        if registered != self.cleared.load(Ordering::Relaxed) {
            self.notify_slow(registered, count);
        }
    }

    #[cold]
    #[inline(never)]
    fn notify_slow(&self, registered: u32, count: u32) {
        if futex::wake(self.word, count) < count {
            // Everybody registered so far is awake, or will find the word changed.
            self.cleared.store(registered, Ordering::Relaxed);
        }
    }

    /// Sleeps until the word is no longer `seen`, a slice has passed, or `until`.
    pub fn sleep(&self, seen: Word, until: Option<Deadline>) -> Told {
        // SeqCst and the fence: registered before the kernel compares the word. Meets the fence
        // in `notify`.
        self.registered.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        futex::wait_told(self.word, seen.low(), until)
    }

    /// Wakes every sleeper, registered or not.
    #[cold]
    pub fn wake_all(&self) {
        futex::wake_all(self.word);
    }
}

/// The store of the commit comes before the load of the registrations.
///
/// Only a full barrier orders a store before a later load. On x86-64 the unlock that lies between
/// the two is a locked instruction, which is one; the compiler must not move the load before it.
#[cfg(all(target_arch = "x86_64", not(mp_loom)))]
#[inline]
fn order_commit_before_look() {
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}

#[cfg(not(all(target_arch = "x86_64", not(mp_loom))))]
#[inline]
fn order_commit_before_look() {
    fence(Ordering::SeqCst);
}
