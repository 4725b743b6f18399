//! The mutex itself, as glibc and the kernel have it.
#![allow(unsafe_code)] // calls into glibc, and memory that other processes write

use std::{
    cell::UnsafeCell,
    io,
    mem::MaybeUninit,
    sync::atomic::{AtomicU32, Ordering}, // glibc's word, which loom does not model
};

use nix::{libc, unistd::gettid};

use super::{Acquired, LockFailure};
use crate::{deadline::Deadline, futex::SLICE, shm::ShmSafe};

unsafe extern "C" {
    // glibc ≥ 2.30; not in the libc crate.
    fn pthread_mutex_clocklock(
        mutex: *mut libc::pthread_mutex_t,
        clock: libc::clockid_t,
        until: *const libc::timespec,
    ) -> libc::c_int;
}

/// A robust mutex at a fixed place in a shared mapping.
///
/// # Safety
///
/// Of the memory it lies in: a mapping is not unmapped while a thread of this process holds or
/// waits for a mutex inside it, because the thread's robust list points there.
#[repr(C)]
#[derive(Debug)]
pub struct RobustMutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a process-shared mutex is made for access from many threads.
unsafe impl Send for RobustMutex {}
// SAFETY: as above.
unsafe impl Sync for RobustMutex {}
// SAFETY: `repr(C)`, plain words; the pointers glibc keeps inside are used by their owner only.
unsafe impl ShmSafe for RobustMutex {}

impl RobustMutex {
    /// Makes an unlocked mutex at `this`.
    ///
    /// # Errors
    ///
    /// What glibc reports.
    ///
    /// # Safety
    ///
    /// * `this` is valid for writes and aligned.
    /// * Nobody uses the memory as a mutex yet.
    pub unsafe fn init(this: *mut Self) -> io::Result<()> {
        let mut attr = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attr = attr.as_mut_ptr();
        // SAFETY: `attr` is valid for writes.
        check(unsafe { libc::pthread_mutexattr_init(attr) })?;
        // SAFETY: `attr` was initialised above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attr, libc::PTHREAD_PROCESS_SHARED) })?;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attr, libc::PTHREAD_MUTEX_ROBUST) })?;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_settype(attr, libc::PTHREAD_MUTEX_ERRORCHECK) })?;
        // SAFETY: the caller promises the memory of `this`; `attr` is initialised.
        check(unsafe { libc::pthread_mutex_init(this.cast(), attr) })
        // glibc's attribute owns nothing; there is nothing to destroy.
    }

    /// Locks, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockFailure::Deadlock`] and [`LockFailure::Broken`].
    #[inline]
    pub fn lock(&self) -> Result<Acquired, LockFailure> {
        self.lock_until(None)
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`LockFailure::WouldBlock`], also when this thread holds it, and [`LockFailure::Broken`].
    #[inline]
    pub fn try_lock(&self) -> Result<Acquired, LockFailure> {
        self.acquired(self.attempt())
    }

    /// Locks, waiting until `until`; without a deadline as [`lock`](Self::lock).
    ///
    /// # Errors
    ///
    /// [`LockFailure::TimedOut`], [`LockFailure::Deadlock`] and [`LockFailure::Broken`].
    #[inline]
    pub fn lock_until(&self, until: Option<Deadline>) -> Result<Acquired, LockFailure> {
        match self.attempt() {
            libc::EBUSY => self.acquired(self.wait(until)),
            result => self.acquired(result),
        }
    }

    #[inline]
    fn attempt(&self) -> libc::c_int {
        // SAFETY: `self` is an initialised mutex, as every constructor's caller promised.
        unsafe { libc::pthread_mutex_trylock(self.0.get()) }
    }

    /// Waits for the lock in [slices](SLICE). Its owner may be killed after it has freed the word and
    /// before it has woken anybody: if somebody else has taken it by then, who sleeps is not known to the
    /// new owner, and the kernel wakes nobody for the dead one.
    #[cold]
    fn wait(&self, until: Option<Deadline>) -> libc::c_int {
        loop {
            let slice = Deadline::after(SLICE);
            let last = until.filter(|until| *until <= slice);
            let end = last.unwrap_or(slice).as_timespec();
            // SAFETY: as in `attempt`; `end` outlives the call.
            let result = unsafe {
                pthread_mutex_clocklock(self.0.get(), libc::CLOCK_MONOTONIC, &raw const end)
            };
            if result != libc::ETIMEDOUT || last.is_some() {
                return result;
            }
        }
    }

    /// Unlocks.
    ///
    /// # Safety
    ///
    /// This thread holds the mutex.
    #[inline]
    pub unsafe fn unlock(&self) {
        // SAFETY: the caller holds it.
        let result = unsafe { libc::pthread_mutex_unlock(self.0.get()) };
        debug_assert_eq!(result, 0, "unlocked by who does not hold it");
    }

    /// The thread that holds it, by the number that the kernel gave it; a peek, old at once.
    ///
    /// A dead owner whose lock nobody has taken over yet is not one.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        // SAFETY: glibc's lock word is the first `int` of a mutex (its ABI), aligned, mapped as long
        // as `self` is borrowed, and only ever accessed atomically.
        let word = unsafe { AtomicU32::from_ptr(self.0.get().cast()) };
        // Relaxed: a hint; nothing is read on the strength of it.
        let owner = word.load(Ordering::Relaxed) & libc::FUTEX_TID_MASK;
        (owner != 0).then_some(owner)
    }

    /// Whether this thread holds it.
    #[inline]
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.owner() == Some(gettid().as_raw() as u32)
    }

    #[inline]
    fn acquired(&self, result: libc::c_int) -> Result<Acquired, LockFailure> {
        if result == 0 {
            return Ok(Acquired::Clean);
        }
        self.acquired_slow(result)
    }

    #[cold]
    fn acquired_slow(&self, result: libc::c_int) -> Result<Acquired, LockFailure> {
        match result {
            libc::EOWNERDEAD => {
                // SAFETY: EOWNERDEAD means that this thread holds it now.
                let result = unsafe { libc::pthread_mutex_consistent(self.0.get()) };
                debug_assert_eq!(result, 0);
                Ok(Acquired::OwnerDied)
            }
            libc::EBUSY => Err(LockFailure::WouldBlock),
            libc::ETIMEDOUT => Err(LockFailure::TimedOut),
            libc::EDEADLK => Err(LockFailure::Deadlock),
            errno => Err(LockFailure::Broken(io::Error::from_raw_os_error(errno))),
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
