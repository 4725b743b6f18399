//! Elements of plain data in shared memory, with one lock for all.
#![allow(unsafe_code)] // references to shared memory, for as long as its lock is held

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    slice,
    time::Duration,
};

use bytemuck::Pod;
use mp_core::deadline::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    cells::Cells,
    error::{LockError, TryLockError},
    lock::{Exclusive, Guard, Held, Lock, Unproven, locked, sealed, try_locked},
    raw::RawLock,
};

/// A slice of plain data, shared by processes and threads, with one lock.
///
/// Its length is fixed. `T` is any [`bytemuck::Pod`], structs included. The guard is the slice:
/// index, iterate, sort, copy in and out as with any other.
///
/// # Process death
///
/// As with [`Lock`]: the next [`lock`](Self::lock) is told that the owner died, and sees the
/// elements as the dead left them.
///
/// # Examples
///
/// ```
/// let cells = mp_sync::Array::from_slice(&[1, 2, 3])?;
/// let mut guard = cells.lock().unwrap();
/// guard[1..].copy_from_slice(&[5, 6]);
/// assert_eq!(*guard, [1, 5, 6]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.Array")]
#[derive(Clone)]
pub struct Array<T: Pod>(Cells<T>);

impl<T: Pod> Array<T> {
    /// `len` elements of zero bytes, with a lock of their own.
    ///
    /// # Errors
    ///
    /// No elements, or more than memory or `RLIMIT_FSIZE` allow; out of descriptors.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        Cells::zeroed(len).map(Self)
    }

    /// A copy of `values`, with a lock of their own.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> io::Result<Self> {
        Ok(Self(Cells::zeroed(values.len())?.copied_from(values)))
    }

    /// A copy of `values` that `lock` guards, maybe among others.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn with_lock(values: &[T], lock: &Lock) -> io::Result<Self> {
        Ok(Self(
            Cells::zeroed_with(values.len(), lock)?.copied_from(values),
        ))
    }

    /// The array behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of an array of such elements with a lock of its own.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Cells::from_parts(Lock::from_fd(fd)?, None).map(Self)
    }

    /// How many elements there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Waits for the lock; the guard is the slice.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock`].
    #[inline]
    pub fn lock(&self) -> Result<ArrayGuard<'_, T>, LockError<ArrayGuard<'_, T>>> {
        locked(self.0.lock.raw().lock_until(None), ArrayGuard::new(&self.0))
    }

    /// Takes the lock if it is free; the guard is the slice.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_lock`].
    #[inline]
    pub fn try_lock(&self) -> Result<ArrayGuard<'_, T>, TryLockError<ArrayGuard<'_, T>>> {
        try_locked(self.0.lock.raw().try_lock(), ArrayGuard::new(&self.0))
    }

    /// Waits for the lock, at most `timeout`; the guard is the slice.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock_timeout`].
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ArrayGuard<'_, T>, TryLockError<ArrayGuard<'_, T>>> {
        let until = Some(Deadline::after(timeout));
        try_locked(
            self.0.lock.raw().lock_until(until),
            ArrayGuard::new(&self.0),
        )
    }

    /// A copy of the elements.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn to_vec(&self) -> Result<Vec<T>, LockError<ArrayGuard<'_, T>>> {
        self.lock().map(|elements| elements.to_vec())
    }

    /// The lock, to hold it over more than this array or to share it.
    #[must_use]
    pub fn get_lock(&self) -> &Lock {
        &self.0.lock
    }

    /// Where the elements lie in this process, for code that has its own way of excluding others.
    #[doc(alias = "get_obj")]
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Pod> Serialize for Array<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cells::deserialize(deserializer).map(Self)
    }
}

impl<T: Pod> AsFd for Array<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug("Array", f, &|data| format!("{data:?}"))
    }
}

/// An [`Array`], locked; dropping it unlocks.
#[must_use = "dropped at once, it unlocks at once"]
pub struct ArrayGuard<'a, T: Pod> {
    cells: &'a Cells<T>,
    held: Held<'a>,
}

impl<'a, T: Pod> ArrayGuard<'a, T> {
    #[inline]
    fn new(cells: &'a Cells<T>) -> Unproven<Self> {
        let held = Held::new(cells.lock.raw());
        Unproven::new(Self { cells, held })
    }
}

impl<T: Pod> Deref for ArrayGuard<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: aligned, inside the mapping, valid as any bits are; the lock is held, so nobody
        // else writes.
        unsafe { slice::from_raw_parts(self.cells.as_ptr(), self.cells.len()) }
    }
}

impl<T: Pod> DerefMut for ArrayGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; nobody else reads either.
        unsafe { slice::from_raw_parts_mut(self.cells.as_ptr(), self.cells.len()) }
    }
}

impl<T: Pod> Guard for ArrayGuard<'_, T> {}
impl<T: Pod> Exclusive for ArrayGuard<'_, T> {}

impl<T: Pod> sealed::Holds for ArrayGuard<'_, T> {
    fn raw(&self) -> &RawLock {
        self.held.raw()
    }

    fn is_own(&self) -> bool {
        self.held.is_own()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ArrayGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
