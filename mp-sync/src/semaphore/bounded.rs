//! A semaphore with an upper bound.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use super::{Permit, Semaphore, SemaphoreWords};
use crate::{
    error::{AcquireError, ReleaseError, TryAcquireError},
    object::handle,
};

/// A [`Semaphore`] that never has more permits than it began with.
///
/// # Process death
///
/// As with [`Semaphore`].
///
/// # Examples
///
/// ```
/// let seats = mp_sync::BoundedSemaphore::new(1)?;
/// assert!(seats.release().is_err());
/// seats.acquire()?.forget();
/// assert!(seats.release().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.BoundedSemaphore")]
#[derive(Clone)]
pub struct BoundedSemaphore(Semaphore);

impl BoundedSemaphore {
    /// A semaphore with `permits` free ones, and never more.
    ///
    /// # Errors
    ///
    /// More permits than [`Semaphore::MAX`]; out of memory or descriptors.
    pub fn new(permits: u32) -> io::Result<Self> {
        Semaphore::with_bound(permits, permits).map(Self)
    }

    /// The semaphore behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a semaphore.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Semaphore::from_fd(fd).map(Self)
    }

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire`].
    #[inline]
    pub fn acquire(&self) -> Result<Permit<'_>, AcquireError> {
        self.0.acquire()
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::try_acquire`].
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>, TryAcquireError> {
        self.0.try_acquire()
    }

    /// Waits for a permit, at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Semaphore::acquire_timeout`].
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, TryAcquireError> {
        self.0.acquire_timeout(timeout)
    }

    /// Gives back a permit that was [forgotten](Permit::forget).
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] if all permits are free already.
    pub fn release(&self) -> Result<(), ReleaseError> {
        self.0.release()
    }

    /// How many permits are free.
    #[doc(alias = "get_value")]
    #[must_use]
    pub fn available(&self) -> u32 {
        self.0.available()
    }

    /// The most permits that can be free.
    #[must_use]
    pub fn bound(&self) -> u32 {
        self.0.0.bound
    }
}

handle!(BoundedSemaphore(SemaphoreWords));

impl AsFd for BoundedSemaphore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut state = f.debug_struct("BoundedSemaphore");
        state.field("available", &self.available());
        state.field("bound", &self.bound()).finish()
    }
}
