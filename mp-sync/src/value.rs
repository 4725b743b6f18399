//! One value of plain data in shared memory, with its lock.
#![allow(unsafe_code)] // references to shared memory, for as long as its lock is held

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use bytemuck::Pod;
use mp_core::deadline::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    cells::Cells,
    error::{LockError, TryLockError},
    lock::{Exclusive, Guard, Held, Lock, Unproven, locked, sealed, try_locked},
    raw::RawLock,
};

/// One value of plain data, shared by processes and threads, with its lock.
///
/// `T` is any [`bytemuck::Pod`]: integers, floats, arrays of them, and structs that derive it. For
/// integers that are only counted, [`RawValue`](crate::RawValue) is faster: it has no lock.
///
/// # Process death
///
/// As with [`Lock`]: the next [`lock`](Self::lock) is told that the owner died, and sees the value
/// as the dead left it.
///
/// # Examples
///
/// ```
/// let balance = mp_sync::Value::new(10_i64)?;
/// *balance.lock().unwrap() += 5;
/// assert_eq!(balance.get().unwrap(), 15);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.Value")]
#[derive(Clone)]
pub struct Value<T: Pod>(Cells<T>);

impl<T: Pod> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let cells = Cells::deserialize(deserializer)?;
        cells.shape().check_one::<T>().map_err(de::Error::custom)?;
        Ok(Self(cells))
    }
}

impl<T: Pod> Value<T> {
    /// A value with a lock of its own.
    ///
    /// # Errors
    ///
    /// A type of zero bytes; out of memory or descriptors.
    pub fn new(value: T) -> io::Result<Self> {
        Ok(Self(Cells::zeroed(1)?.copied_from(&[value])))
    }

    /// A value that `lock` guards, maybe among others.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_lock(value: T, lock: &Lock) -> io::Result<Self> {
        Ok(Self(Cells::zeroed_with(1, lock)?.copied_from(&[value])))
    }

    /// The value behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a value of this size with a lock of its own.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let cells = Cells::from_parts(Lock::from_fd(fd)?, None)?;
        cells.shape().check_one::<T>()?;
        Ok(Self(cells))
    }

    /// Waits for the lock; the guard is the value.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock`].
    #[inline]
    pub fn lock(&self) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        locked(self.0.lock.raw().lock_until(None), ValueGuard::new(&self.0))
    }

    /// Takes the lock if it is free; the guard is the value.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_lock`].
    #[inline]
    pub fn try_lock(&self) -> Result<ValueGuard<'_, T>, TryLockError<ValueGuard<'_, T>>> {
        try_locked(self.0.lock.raw().try_lock(), ValueGuard::new(&self.0))
    }

    /// Waits for the lock, at most `timeout`; the guard is the value.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock_timeout`].
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ValueGuard<'_, T>, TryLockError<ValueGuard<'_, T>>> {
        let until = Some(Deadline::after(timeout));
        try_locked(
            self.0.lock.raw().lock_until(until),
            ValueGuard::new(&self.0),
        )
    }

    /// A copy of the value.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn get(&self) -> Result<T, LockError<ValueGuard<'_, T>>> {
        self.lock().map(|value| *value)
    }

    /// Puts another value in its place, and returns the one before.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    #[doc(alias = "set")]
    pub fn replace(&self, value: T) -> Result<T, LockError<ValueGuard<'_, T>>> {
        self.lock()
            .map(|mut guard| std::mem::replace(&mut *guard, value))
    }

    /// The lock, to hold it over more than this value or to share it.
    #[must_use]
    pub fn get_lock(&self) -> &Lock {
        &self.0.lock
    }

    /// Where the value lies in this process, for code that has its own way of excluding others.
    #[doc(alias = "get_obj")]
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Pod> AsFd for Value<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug("Value", f, &|data| format!("{:?}", data[0]))
    }
}

/// A [`Value`], locked; dropping it unlocks.
#[must_use = "dropped at once, it unlocks at once"]
pub struct ValueGuard<'a, T: Pod> {
    cells: &'a Cells<T>,
    held: Held<'a>,
}

impl<'a, T: Pod> ValueGuard<'a, T> {
    #[inline]
    fn new(cells: &'a Cells<T>) -> Unproven<Self> {
        let held = Held::new(cells.lock.raw());
        Unproven::new(Self { cells, held })
    }
}

impl<T: Pod> Deref for ValueGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: aligned, inside the mapping, valid as any bits are; the lock is held, so nobody
        // else writes.
        unsafe { &*self.cells.as_ptr() }
    }
}

impl<T: Pod> DerefMut for ValueGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; nobody else reads either.
        unsafe { &mut *self.cells.as_ptr() }
    }
}

impl<T: Pod> Guard for ValueGuard<'_, T> {}
impl<T: Pod> Exclusive for ValueGuard<'_, T> {}

impl<T: Pod> sealed::Holds for ValueGuard<'_, T> {
    fn raw(&self) -> &RawLock {
        self.held.raw()
    }

    fn is_own(&self) -> bool {
        self.held.is_own()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
