//! A robust mutex and, beside it, the mark that its data is suspect.
#![allow(unsafe_code)] // a mutex at a fixed place in memory

use std::io;

use mp_core::{
    deadline::Deadline,
    primitive::{AtomicU32, Ordering, may_spin, spin_loop},
    robust::{Acquired, LockFailure, RobustMutex},
    shm::ShmSafe,
};

/// Mutual exclusion whose next owner is told when one died.
///
/// The kernel releases the mutex of a dead thread and says so, once, to who gets it next. The mark
/// keeps that notice until somebody [accepts](Self::clear_mark) it: an owner that was told and went
/// away, or died as well, has not used it up.
///
/// # Process death
///
/// The next [`lock_until`](Self::lock_until) succeeds and returns [`Acquired::OwnerDied`].
#[repr(C)]
#[derive(Debug)]
pub struct RawLock {
    mutex: RobustMutex,
    /// Written and read by the owner only.
    mark: AtomicU32,
    /// How deep the owner is in, for recursive use; written and read by the owner only.
    depth: AtomicU32,
}

const SOUND: u32 = 0;
const SUSPECT: u32 = 1; // an owner died, and nobody has accepted that yet

/// How long who finds something taken stays away before each further try, and then sleeps: some
/// microseconds together, what going to sleep and being woken costs. It does not look meanwhile:
/// polling takes the line from the owner each time, and halved what two processes got done.
pub(crate) const PAUSES: [u32; 3] = [32, 64, 128];

// SAFETY: `repr(C)`; a mutex and integers.
unsafe impl ShmSafe for RawLock {}

impl RawLock {
    /// Makes a free lock at `this`.
    ///
    /// # Errors
    ///
    /// What glibc reports.
    ///
    /// # Safety
    ///
    /// * `this` is valid for writes and aligned.
    /// * Nobody uses the memory as a lock yet.
    /// * The memory stays mapped while a thread of this process holds or waits for the lock.
    pub unsafe fn init(this: *mut Self) -> io::Result<()> {
        // SAFETY: inside `this`, which the caller vouches for.
        let mark = unsafe { &raw mut (*this).mark };
        // SAFETY: as above.
        let depth = unsafe { &raw mut (*this).depth };
        // SAFETY: valid for writes, as part of `this`.
        unsafe { mark.write(AtomicU32::new(SOUND)) };
        // SAFETY: as above.
        unsafe { depth.write(AtomicU32::new(0)) };
        // SAFETY: `mutex` is the first field; the caller's promises are those of `init`.
        unsafe { RobustMutex::init(this.cast()) }
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`LockFailure::WouldBlock`], also when this thread holds it, and [`LockFailure::Broken`].
    #[inline]
    pub fn try_lock(&self) -> Result<Acquired, LockFailure> {
        match self.mutex.try_lock() {
            Ok(acquired) => Ok(self.told(acquired)),
            Err(LockFailure::Deadlock) => Err(LockFailure::WouldBlock),
            Err(failure) => Err(failure),
        }
    }

    /// Locks, waiting until `until` or as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockFailure::TimedOut`], [`LockFailure::Deadlock`] and [`LockFailure::Broken`].
    #[inline]
    pub fn lock_until(&self, until: Option<Deadline>) -> Result<Acquired, LockFailure> {
        match self.mutex.try_lock() {
            Ok(acquired) => Ok(self.told(acquired)),
            Err(LockFailure::WouldBlock) => self.lock_slow(until),
            Err(failure) => Err(failure), // what waiting does not change; an RLock comes in again so
        }
    }

    #[cold]
    fn lock_slow(&self, until: Option<Deadline>) -> Result<Acquired, LockFailure> {
        if may_spin() {
            for pauses in PAUSES {
                (0..pauses).for_each(|_| spin_loop());
                if let Ok(acquired) = self.mutex.try_lock() {
                    return Ok(self.told(acquired));
                }
            }
        }
        self.mutex
            .lock_until(until)
            .map(|acquired| self.told(acquired))
    }

    /// The mark outlives whoever was told: a death is forgotten by [`clear_mark`](Self::clear_mark)
    /// only. Killed before the store, this thread is itself a dead owner for the next.
    #[inline]
    fn told(&self, acquired: Acquired) -> Acquired {
        // Relaxed: written under this lock, whose hand-over orders it.
        if acquired == Acquired::OwnerDied {
            self.mark.store(SUSPECT, Ordering::Relaxed);
            self.depth.store(0, Ordering::Relaxed);
        } else if self.mark.load(Ordering::Relaxed) == SOUND {
            return Acquired::Clean;
        }
        Acquired::OwnerDied
    }

    /// Accepts that an owner died: the data is sound again. For the owner only.
    pub fn clear_mark(&self) {
        self.mark.store(SOUND, Ordering::Relaxed); // as in `told`
    }

    /// Whether an owner died and nobody has accepted it; certain for the owner only.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.mark.load(Ordering::Relaxed) != SOUND // as in `told`
    }

    /// How often the owner has entered beyond the first time. For the owner only.
    pub(crate) fn depth(&self) -> &AtomicU32 {
        &self.depth
    }

    /// Unlocks.
    ///
    /// # Safety
    ///
    /// This thread holds the lock.
    #[inline]
    pub unsafe fn unlock(&self) {
        // SAFETY: the caller holds it.
        unsafe { self.mutex.unlock() };
    }

    /// The thread that holds it, a peek.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        self.mutex.owner()
    }

    /// Whether this thread holds it.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.mutex.is_mine()
    }

    /// This thread dies with the lock.
    #[cfg(mp_loom)]
    pub fn die(&self) {
        self.mutex.die();
    }
}
