//! Many readers or one writer.
#![allow(unsafe_code)] // unlocks what a guard proves to be locked

use std::{fmt, io, marker::PhantomData, time::Duration};

use mp_core::{
    deadline::Deadline,
    hooks::fork_generation,
    robust::{Acquired, LockFailure},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LockError, TryLockError},
    lock::{Guard, Lock, Unproven, locked, owner, sealed, try_locked},
    raw::{RawRwLock, Wait},
    semaphore::{RECORDS, Semaphore},
};

#[cfg(doc)]
use crate::OwnerDied;

/// A lock that many readers hold at a time, or one writer.
///
/// A writer that waits keeps new readers out; a thread that reads already may read again. It guards
/// what its users agree on, as [`Lock`] does.
///
/// It consists of two objects in shared memory, and so has no single descriptor to pass on by hand: it
/// travels as an argument or over a connection.
///
/// # Process death
///
/// A reader that dies is gone within 1 s, and nobody is told: it has changed nothing. When a writer
/// dies, the next to lock, reader or writer, gets the lock within 1 s as [`LockError::OwnerDied`]. A
/// reader may look at what there is; the notice stays until a writer [accepts](OwnerDied::into_guard).
///
/// # Examples
///
/// ```
/// let lock = mp_sync::RwLock::new()?;
/// let (first, second) = (lock.read().unwrap(), lock.read().unwrap());
/// assert!(lock.try_write().is_err());
/// drop((first, second));
/// assert!(lock.try_write().is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct RwLock {
    writers: Lock,
    readers: Semaphore,
}

impl RwLock {
    /// A free lock.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            writers: Lock::new()?,
            readers: Semaphore::new(Semaphore::MAX)?,
        })
    }

    fn raw(&self) -> RawRwLock<'_, RECORDS> {
        RawRwLock {
            writers: self.writers.raw(),
            readers: self.readers.0.raw(),
        }
    }

    /// Waits until no writer has or wants the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], with the lock held, when a writer died and no other has accepted
    /// that; [`LockError::Deadlock`] when this thread holds it as the writer.
    pub fn read(&self) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        let (answer, guard) = self.enter(Wait::Until(None));
        locked(answer, guard)
    }

    /// Takes the lock for reading if no writer has or wants it.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`], and those of [`read`](Self::read).
    pub fn try_read(&self) -> Result<ReadGuard<'_>, TryLockError<ReadGuard<'_>>> {
        let (answer, guard) = self.enter(Wait::Never);
        try_locked(answer, guard)
    }

    /// As [`read`](Self::read), at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], and those of [`read`](Self::read).
    pub fn read_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ReadGuard<'_>, TryLockError<ReadGuard<'_>>> {
        let (answer, guard) = self.enter(Wait::Until(Some(Deadline::after(timeout))));
        try_locked(answer, guard)
    }

    /// Waits until nobody else has the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], with the lock held, when the last writer died;
    /// [`LockError::Deadlock`] when this thread holds it, as a reader or the writer.
    pub fn write(&self) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        locked(self.exclude(Wait::Until(None)), WriteGuard::new(self))
    }

    /// Takes the lock for writing if nobody has it.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`], and those of [`write`](Self::write).
    pub fn try_write(&self) -> Result<WriteGuard<'_>, TryLockError<WriteGuard<'_>>> {
        try_locked(self.exclude(Wait::Never), WriteGuard::new(self))
    }

    /// As [`write`](Self::write), at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], and those of [`write`](Self::write).
    pub fn write_timeout(
        &self,
        timeout: Duration,
    ) -> Result<WriteGuard<'_>, TryLockError<WriteGuard<'_>>> {
        let answer = self.exclude(Wait::Until(Some(Deadline::after(timeout))));
        try_locked(answer, WriteGuard::new(self))
    }

    fn record(&self) -> Result<u32, LockFailure> {
        let record = self.readers.0.record();
        record.map_err(|error| LockFailure::Broken(io::Error::other(error)))
    }

    fn enter(&self, wait: Wait) -> (Result<Acquired, LockFailure>, Unproven<ReadGuard<'_>>) {
        let record = self.record();
        let guard = ReadGuard::new(self, *record.as_ref().unwrap_or(&0));
        let entered = record.and_then(|record| self.raw().read(record, wait));
        let answer = entered.map(|()| match self.raw().is_suspect() {
            true => Acquired::OwnerDied,
            false => Acquired::Clean,
        });
        (answer, guard)
    }

    fn exclude(&self, wait: Wait) -> Result<Acquired, LockFailure> {
        let look = || self.readers.0.reap().map(drop);
        self.raw().write(self.record()?, wait, look)
    }
}

impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readers = Semaphore::MAX - self.readers.available();
        f.debug_struct("RwLock")
            .field("writer", &owner(self.writers.raw()))
            .field("readers", &readers)
            .finish()
    }
}

/// An [`RwLock`], held for reading; dropping it leaves.
#[must_use = "dropped at once, it leaves at once"]
pub struct ReadGuard<'a> {
    lock: &'a RwLock,
    record: u32,
    /// In a forked child it is a copy of its parent's, and gives nothing back.
    generation: u64,
    /// The record is this thread's.
    not_send: PhantomData<*const ()>,
}

impl<'a> ReadGuard<'a> {
    fn new(lock: &'a RwLock, record: u32) -> Unproven<Self> {
        Unproven::new(Self {
            lock,
            record,
            generation: fork_generation(),
            not_send: PhantomData,
        })
    }
}

impl Guard for ReadGuard<'_> {}

impl sealed::Accept for ReadGuard<'_> {
    /// A reader cannot repair: the notice stays for a writer.
    fn accept(&self) {}
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        if self.generation == fork_generation() {
            self.lock.raw().leave(self.record);
        }
    }
}

impl fmt::Debug for ReadGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}

/// An [`RwLock`], held for writing; dropping it unlocks.
#[must_use = "dropped at once, it unlocks at once"]
pub struct WriteGuard<'a> {
    lock: &'a RwLock,
    /// In a forked child it is a copy of its parent's, and unlocks nothing.
    generation: u64,
    /// Only the thread that locked may unlock.
    not_send: PhantomData<*const ()>,
}

impl<'a> WriteGuard<'a> {
    fn new(lock: &'a RwLock) -> Unproven<Self> {
        Unproven::new(Self {
            lock,
            generation: fork_generation(),
            not_send: PhantomData,
        })
    }
}

impl Guard for WriteGuard<'_> {}

impl sealed::Accept for WriteGuard<'_> {
    fn accept(&self) {
        if self.generation == fork_generation() {
            self.lock.writers.raw().clear_mark();
        }
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        if self.generation == fork_generation() {
            // SAFETY: made by locking in this process, and it cannot leave its thread.
            unsafe { self.lock.raw().leave_writer() };
        }
    }
}

impl fmt::Debug for WriteGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}
