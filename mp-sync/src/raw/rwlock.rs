//! Many readers or one writer: a lock that writers hold, and a permit for each reader.
//!
//! 1. A writer takes the lock, **then** closes the semaphore, and waits until all permits are free.
//! 2. It opens the semaphore, **then** gives up the lock.
//!
//! So whoever finds the semaphore closed and gets the lock all the same knows that a writer died
//! between the two, and [opens](RawRwLock::reopen) it; the lock keeps the notice for a writer.
#![allow(unsafe_code)] // unlocks what its callers have locked

use std::io;

use mp_core::{
    deadline::Deadline,
    futex::Told,
    robust::{Acquired, LockFailure},
};

use super::{MAX_PERMITS, RawLock, RawSemaphore, Taken};

/// How long a call may wait.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Not at all.
    Never,
    /// Until then, or as long as it takes.
    Until(Option<Deadline>),
}

impl Wait {
    /// What a call fails with whose time is over.
    fn over(self) -> LockFailure {
        match self {
            Self::Never => LockFailure::WouldBlock,
            Self::Until(_) => LockFailure::TimedOut,
        }
    }
}

/// A read-write lock over words that lie elsewhere.
///
/// The semaphore has [`MAX`](crate::Semaphore::MAX) permits.
///
/// # Process death
///
/// A dead reader's permit comes back when a writer that waits reaps. What a dead writer closed is
/// opened by the next reader that waits, or belongs to the next writer, who is told.
#[derive(Clone, Copy, Debug)]
pub struct RawRwLock<'a, const RECORDS: usize> {
    /// Held by the writer; its mark is the notice.
    pub writers: &'a RawLock,
    /// A permit for each reader; closed while a writer is there or waits for the readers' end.
    pub readers: &'a RawSemaphore<RECORDS>,
}

impl<const RECORDS: usize> RawRwLock<'_, RECORDS> {
    /// Enters as a reader, whose record is `record`.
    ///
    /// # Errors
    ///
    /// [`LockFailure`]; [`Deadlock`](LockFailure::Deadlock) when this thread is the writer.
    pub fn read(&self, record: u32, wait: Wait) -> Result<(), LockFailure> {
        let mut over = false;
        loop {
            match self.readers.take(record) {
                Taken::Yes => return Ok(()),
                Taken::Full => return Err(too_many_guards()),
                Taken::No if over => return Err(wait.over()),
                Taken::No if self.writers.is_mine() => return Err(LockFailure::Deadlock),
                Taken::No => {}
            }
            let Wait::Until(until) = wait else {
                over = true;
                self.reopen();
                continue;
            };
            let told = self.readers.sleep(until);
            if told == Told::Slice || told == Told::Over {
                self.reopen();
            }
            over = told == Told::Over;
        }
    }

    /// Leaves as a reader.
    pub fn leave(&self, record: u32) {
        self.readers.give(record, MAX_PERMITS);
    }

    /// Whether a writer died and no other has accepted that.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.writers.is_marked()
    }

    /// Opens what a dead writer left closed; the lock notes its death.
    pub fn reopen(&self) {
        // A living writer holds the lock from before it closes until after it has opened.
        if self.readers.is_closed() && self.writers.try_lock().is_ok() {
            self.readers.open();
            // SAFETY: locked just now.
            unsafe { self.writers.unlock() };
        }
    }

    /// Enters as the writer, of a thread whose record is `record`. `look` is called after every
    /// slice, to look after dead readers.
    ///
    /// # Errors
    ///
    /// [`LockFailure`]; [`Deadlock`](LockFailure::Deadlock) when this thread is the writer, or a
    /// reader.
    pub fn write(
        &self,
        record: u32,
        wait: Wait,
        mut look: impl FnMut() -> io::Result<()>,
    ) -> Result<Acquired, LockFailure> {
        let (until, acquired) = match wait {
            Wait::Never if self.readers.holds(record) => return Err(LockFailure::WouldBlock),
            Wait::Until(_) if self.readers.holds(record) => return Err(LockFailure::Deadlock),
            Wait::Never => (Some(Deadline::now()), self.writers.try_lock()?),
            Wait::Until(until) => (until, self.writers.lock_until(until)?),
        };
        let given_up = GivenUp(self);
        self.readers.close();
        while let Some(told) = self.readers.sleep_until_free(MAX_PERMITS, until) {
            if told == Told::Slice || told == Told::Over {
                look().map_err(LockFailure::Broken)?;
            }
            if told == Told::Over && self.readers.free() < MAX_PERMITS {
                return Err(wait.over());
            }
        }
        std::mem::forget(given_up);
        Ok(acquired)
    }

    /// Leaves as the writer.
    ///
    /// # Safety
    ///
    /// This thread is the writer.
    pub unsafe fn leave_writer(&self) {
        self.readers.open(); // while locked: see `reopen`
        // SAFETY: the caller's promise.
        unsafe { self.writers.unlock() };
    }
}

/// A writer that has not got in yet; dropped, it lets the others go on.
struct GivenUp<'a, const RECORDS: usize>(&'a RawRwLock<'a, RECORDS>);

impl<const RECORDS: usize> Drop for GivenUp<'_, RECORDS> {
    fn drop(&mut self) {
        // SAFETY: made by the thread that has locked.
        unsafe { self.0.leave_writer() };
    }
}

fn too_many_guards() -> LockFailure {
    let text = format!("this thread holds {} guards already", u16::MAX);
    LockFailure::Broken(io::Error::other(text))
}
