//! A lock and a word: done by one, and then seen by all.
#![allow(unsafe_code)] // a lock at a fixed place in memory

use std::io;

use mp_core::{
    primitive::{AtomicU32, Ordering},
    robust::LockFailure,
    shm::ShmSafe,
};

use super::RawLock;

/// Something that is done once, by whoever comes first.
///
/// # Process death
///
/// Whoever dies doing it has done nothing: the next one does it again from the start.
#[repr(C)]
#[derive(Debug)]
pub struct RawOnce {
    lock: RawLock,
    /// Stored once, when it has been done: the commit.
    done: AtomicU32,
}

// SAFETY: `repr(C)`; a mutex and integers.
unsafe impl ShmSafe for RawOnce {}

impl RawOnce {
    /// Makes one at `this` that nobody has done.
    ///
    /// # Errors
    ///
    /// What glibc reports.
    ///
    /// # Safety
    ///
    /// As for [`RawLock::init`].
    pub unsafe fn init(this: *mut Self) -> io::Result<()> {
        // SAFETY: inside `this`, which the caller vouches for.
        let done = unsafe { &raw mut (*this).done };
        // SAFETY: valid for writes, as part of `this`.
        unsafe { done.write(AtomicU32::new(0)) };
        // SAFETY: the lock is the first field; the caller's promises are those of `init`.
        unsafe { RawLock::init(this.cast()) }
    }

    /// Whether it has been done; what was written by then is seen.
    #[inline]
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) != 0 // meets the Release in `call`
    }

    /// Does it, unless it has been done. Who comes meanwhile waits.
    ///
    /// # Errors
    ///
    /// [`LockFailure::Deadlock`] when `f` itself comes here; [`LockFailure::Broken`].
    pub fn call(&self, f: impl FnOnce()) -> Result<(), LockFailure> {
        if self.is_done() {
            return Ok(());
        }
        self.lock.lock_until(None)?;
        let _unlock = Unlock(&self.lock);
        self.lock.clear_mark(); // who died before the commit has done nothing
        if !self.is_done() {
            f();
            self.done.store(1, Ordering::Release); // the commit; meets `is_done`
        }
        Ok(())
    }

    /// The lock that is held meanwhile.
    pub(crate) fn lock(&self) -> &RawLock {
        &self.lock
    }

    /// Begins to do it, and dies there.
    #[cfg(mp_loom)]
    pub fn call_and_die(&self) {
        if self.lock.lock_until(None).is_ok() {
            self.lock.die();
        }
    }
}

/// Unlocks, also when what is done panics.
struct Unlock<'a>(&'a RawLock);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        // SAFETY: made by the thread that has locked, and dropped in the same call.
        unsafe { self.0.unlock() };
    }
}
