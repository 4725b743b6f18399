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
/// only grows: a sleeper adds one before it sleeps. `cleared` is a registration up to which nobody
/// can be asleep any more; while the two are equal, a commit wakes nobody.
#[derive(Clone, Copy, Debug)]
pub struct Signal<'a> {
    /// Written under the lock of its end; read by the other end.
    pub word: &'a AtomicU64,
    /// Written by sleepers of the other end.
    pub registered: &'a AtomicU32,
    /// Written by who commits; a lost update costs a needless system call.
    pub cleared: &'a AtomicU32,
}

/// The registrations before a commit: what it may clear.
#[derive(Clone, Copy, Debug)]
#[must_use = "a commit has to be notified"]
pub struct Committed {
    registered: u32,
}

impl Signal<'_> {
    /// The commit: one store, which makes everything written before it visible.
    #[inline]
    pub fn commit(&self, word: Word) -> Committed {
        // Acquire: who registered before this had looked at the word before it, so it will find
        // the word changed.
        let registered = self.registered.load(Ordering::Acquire);
        // Release: meets the Acquire in `load`.
        self.word.store(word.0, Ordering::Release);
        Committed { registered }
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
    pub fn notify(&self, committed: Committed, count: u32) {
        if self.may_have_sleepers() {
            self.notify_slow(committed, count);
        }
    }

    #[cold]
    #[inline(never)]
    fn notify_slow(&self, committed: Committed, count: u32) {
        if futex::wake(self.word, count) < count {
            // Nobody is asleep now, and who registered before the commit will not fall asleep.
            // Not so who registered since: it may have seen this very commit, found that somebody
            // else had been faster, and be about to sleep until the next.
            // Relaxed: a hint.
            self.cleared.store(committed.registered, Ordering::Relaxed);
        }
    }

    /// Wakes one sleeper, if there may be any, without a commit: by who was woken for more than
    /// it took.
    #[inline]
    pub fn pass_on(&self) {
        if self.may_have_sleepers() {
            futex::wake(self.word, 1);
        }
    }

    #[inline]
    fn may_have_sleepers(&self) -> bool {
        order_commit_before_look();
        // Relaxed: ordered after the commit by the fence above, which is all that matters. Either
        // this sees the sleeper's registration, or the sleeper's comparison sees the commit.
        let registered = self.registered.load(Ordering::Relaxed);
        // Relaxed: a hint; an old value costs a system call.
        registered != self.cleared.load(Ordering::Relaxed)
    }

    /// Sleeps until the word is no longer `seen`, a slice has passed, or `until`.
    pub fn sleep(&self, seen: Word, until: Option<Deadline>) -> Told {
        // SeqCst and the fence: registered before the kernel compares the word. Meets the fence
        // in `may_have_sleepers`.
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
