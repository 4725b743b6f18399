//! Many readers or one writer.
#![allow(unsafe_code)] // unlocks what a guard proves to be locked

use std::{fmt, io, marker::PhantomData, time::Duration};

use mp_core::{
    deadline::Deadline,
    futex::Told,
    hooks::fork_generation,
    robust::{Acquired, LockFailure},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LockError, OwnerDied, TryLockError, lock_error, try_lock_error},
    lock::{Guard, Lock, owner, sealed},
    raw::Taken,
    semaphore::Semaphore,
};

/// A lock that many readers hold at a time, or one writer.
///
/// A writer that waits keeps new readers out; a thread that reads already may read again. It guards
/// what its users agree on, as [`Lock`] does.
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
    /// Held by the writer; its mark is the notice.
    writers: Lock,
    /// A permit for each reader; closed while a writer is there or waits for the readers' end.
    readers: Semaphore,
}

/// How long a call may wait.
#[derive(Clone, Copy)]
enum Wait {
    Never,
    Until(Option<Deadline>),
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

    /// Waits until no writer has or wants the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], with the lock held, when a writer died and no other has accepted
    /// that; [`LockError::Deadlock`] when this thread holds it as the writer.
    pub fn read(&self) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        match self.enter(Wait::Until(None)) {
            Ok(guard) if self.writers.raw().is_marked() => {
                Err(LockError::OwnerDied(OwnerDied::new(guard)))
            }
            Ok(guard) => Ok(guard),
            Err(failure) => Err(lock_error(failure)),
        }
    }

    /// Takes the lock for reading if no writer has or wants it.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`], and those of [`read`](Self::read).
    pub fn try_read(&self) -> Result<ReadGuard<'_>, TryLockError<ReadGuard<'_>>> {
        self.told_reader(self.enter(Wait::Never))
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
        self.told_reader(self.enter(Wait::Until(Some(Deadline::after(timeout)))))
    }

    fn told_reader<'a>(
        &self,
        entered: Result<ReadGuard<'a>, LockFailure>,
    ) -> Result<ReadGuard<'a>, TryLockError<ReadGuard<'a>>> {
        match entered {
            Ok(guard) if self.writers.raw().is_marked() => {
                Err(TryLockError::OwnerDied(OwnerDied::new(guard)))
            }
            Ok(guard) => Ok(guard),
            Err(failure) => Err(try_lock_error(failure)),
        }
    }

    /// Waits until nobody else has the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], with the lock held, when the last writer died;
    /// [`LockError::Deadlock`] when this thread holds it, as a reader or the writer.
    pub fn write(&self) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        match self.exclude(Wait::Until(None)) {
            Ok((guard, Acquired::Clean)) => Ok(guard),
            Ok((guard, Acquired::OwnerDied)) => Err(LockError::OwnerDied(OwnerDied::new(guard))),
            Err(failure) => Err(lock_error(failure)),
        }
    }

    /// Takes the lock for writing if nobody has it.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`], and those of [`write`](Self::write).
    pub fn try_write(&self) -> Result<WriteGuard<'_>, TryLockError<WriteGuard<'_>>> {
        told_writer(self.exclude(Wait::Never))
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
        told_writer(self.exclude(Wait::Until(Some(Deadline::after(timeout)))))
    }

    fn record(&self) -> Result<u32, LockFailure> {
        let record = self.readers.0.record();
        record.map_err(|error| LockFailure::Broken(io::Error::other(error)))
    }

    fn enter(&self, wait: Wait) -> Result<ReadGuard<'_>, LockFailure> {
        let record = self.record()?;
        let mut over = false;
        loop {
            match self.readers.0.raw().take(record) {
                Taken::Yes => return Ok(ReadGuard::new(self, record)),
                Taken::Full => {
                    let text = format!("this thread holds {} guards already", u16::MAX);
                    return Err(LockFailure::Broken(io::Error::other(text)));
                }
                Taken::No if over => return Err(LockFailure::TimedOut),
                Taken::No => {}
            }
            if self.writers.raw().owner() == Some(nix::unistd::gettid().as_raw() as u32) {
                return Err(LockFailure::Deadlock);
            }
            let Wait::Until(until) = wait else {
                if self.reopen() {
                    continue;
                }
                return Err(LockFailure::WouldBlock);
            };
            let told = self.readers.0.raw().sleep(until);
            if told == Told::Slice || told == Told::Over {
                self.reopen();
            }
            over = told == Told::Over;
        }
    }

    /// Opens what a dead writer left closed; the lock notes its death. Whether it was so.
    fn reopen(&self) -> bool {
        let (readers, writers) = (self.readers.0.raw(), self.writers.raw());
        // A living writer holds the lock from before it closes until after it has opened.
        if !readers.is_closed() || writers.try_lock().is_err() {
            return false;
        }
        readers.open();
        // SAFETY: locked above.
        unsafe { writers.unlock() };
        true
    }

    fn exclude(&self, wait: Wait) -> Result<(WriteGuard<'_>, Acquired), LockFailure> {
        let (readers, writers) = (self.readers.0.raw(), self.writers.raw());
        if readers.holds(self.record()?) {
            return Err(match wait {
                Wait::Never => LockFailure::WouldBlock,
                Wait::Until(_) => LockFailure::Deadlock,
            });
        }
        let acquired = match wait {
            Wait::Never => writers.try_lock(),
            Wait::Until(until) => writers.lock_until(until),
        }?;
        // From here on the guard opens and unlocks.
        let guard = WriteGuard {
            lock: self,
            not_send: PhantomData,
        };
        readers.close();
        let until = match wait {
            Wait::Never => Some(Deadline::now()),
            Wait::Until(until) => until,
        };
        while let Some(told) = readers.sleep_until_free(Semaphore::MAX, until) {
            if told == Told::Slice || told == Told::Over {
                self.readers.0.reap().map_err(LockFailure::Broken)?;
            }
            if told == Told::Over && readers.free() < Semaphore::MAX {
                drop(guard);
                return Err(match wait {
                    Wait::Never => LockFailure::WouldBlock,
                    Wait::Until(_) => LockFailure::TimedOut,
                });
            }
        }
        Ok((guard, acquired))
    }
}

fn told_writer<'a>(
    excluded: Result<(WriteGuard<'a>, Acquired), LockFailure>,
) -> Result<WriteGuard<'a>, TryLockError<WriteGuard<'a>>> {
    match excluded {
        Ok((guard, Acquired::Clean)) => Ok(guard),
        Ok((guard, Acquired::OwnerDied)) => Err(TryLockError::OwnerDied(OwnerDied::new(guard))),
        Err(failure) => Err(try_lock_error(failure)),
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
    fn new(lock: &'a RwLock, record: u32) -> Self {
        Self {
            lock,
            record,
            generation: fork_generation(),
            not_send: PhantomData,
        }
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
            let readers = self.lock.readers.0.raw();
            readers.give(self.record, Semaphore::MAX);
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
    /// Only the thread that locked may unlock.
    not_send: PhantomData<*const ()>,
}

impl Guard for WriteGuard<'_> {}

impl sealed::Accept for WriteGuard<'_> {
    fn accept(&self) {
        self.lock.writers.raw().clear_mark();
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        let writers = self.lock.writers.raw();
        if writers.owner() != Some(nix::unistd::gettid().as_raw() as u32) {
            return; // a copy in a forked child, whose parent holds the lock
        }
        // Opened while locked: see `reopen`.
        self.lock.readers.0.raw().open();
        // SAFETY: a guard is made by locking, and cannot leave its thread.
        unsafe { writers.unlock() };
    }
}

impl fmt::Debug for WriteGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}
