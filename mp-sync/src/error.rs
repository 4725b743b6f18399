//! Why something was not obtained.

use std::{fmt, io};

use mp_core::robust::LockFailure;

use crate::lock::Guard;

/// The last owner died with the lock; what it protects may be half-written.
///
/// The lock is held by this error. [`into_guard`](Self::into_guard) accepts the repair; dropping the
/// error instead, as a stray `?` does, unlocks and leaves the notice for the next.
pub struct OwnerDied<G> {
    guard: G,
}

impl<G: Guard> OwnerDied<G> {
    pub(crate) fn new(guard: G) -> Self {
        Self { guard }
    }

    /// Accepts: the mark is cleared, and the caller has the lock to repair what it protects.
    #[must_use = "the lock is held by the guard"]
    pub fn into_guard(self) -> G {
        self.guard.accept();
        self.guard
    }

    /// What the lock protects, to look before accepting.
    #[must_use]
    pub fn get_ref(&self) -> &G {
        &self.guard
    }

    /// As [`get_ref`](Self::get_ref), to repair first and accept then: a death meanwhile is told.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut G {
        &mut self.guard
    }
}

impl<G> fmt::Debug for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerDied(..)")
    }
}

impl<G> fmt::Display for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the process or thread that held the lock died with it, and what it protects may be \
             half-written; repair that and accept with into_guard()",
        )
    }
}

impl<G> std::error::Error for OwnerDied<G> {}

/// Why `lock()` gave no plain guard.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LockError<G> {
    /// The last owner died. The lock is held by this error.
    #[error(transparent)]
    OwnerDied(OwnerDied<G>),
    /// This thread holds the lock already, and would wait for itself.
    #[error("this thread holds the lock already and would wait for itself; drop the first guard")]
    Deadlock,
    /// The lock's memory has been overwritten, or this process cannot be entered among its users.
    #[error("the lock's shared memory cannot be used: {0}")]
    Broken(io::Error),
}

impl<G: Guard> LockError<G> {
    /// The guard, if the last owner died: accepts that, see [`OwnerDied::into_guard`].
    ///
    /// # Panics
    ///
    /// With the other errors, which have no guard: the program is wrong, or the memory damaged.
    #[must_use = "the lock is held by the guard"]
    pub fn into_guard(self) -> G {
        match self {
            Self::OwnerDied(died) => died.into_guard(),
            other => panic!("{other}"),
        }
    }

    /// Whether the last owner died, and this error holds the lock.
    #[must_use]
    pub fn is_owner_died(&self) -> bool {
        matches!(self, Self::OwnerDied(_))
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnerDied(died) => died.fmt(f),
            Self::Deadlock => f.write_str("Deadlock"),
            Self::Broken(error) => f.debug_tuple("Broken").field(error).finish(),
        }
    }
}

/// Why `try_lock()` or `lock_timeout()` gave no plain guard.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TryLockError<G> {
    /// Somebody holds the lock, maybe this very thread.
    #[error("the lock is held")]
    WouldBlock,
    /// Somebody held the lock until the timeout.
    #[error("the lock was held until the timeout")]
    TimedOut,
    /// The last owner died. The lock is held by this error.
    #[error(transparent)]
    OwnerDied(OwnerDied<G>),
    /// This thread holds the lock already, and would wait for itself.
    #[error("this thread holds the lock already and would wait for itself; drop the first guard")]
    Deadlock,
    /// The lock's memory has been overwritten, or this process cannot be entered among its users.
    #[error("the lock's shared memory cannot be used: {0}")]
    Broken(io::Error),
}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("WouldBlock"),
            Self::TimedOut => f.write_str("TimedOut"),
            Self::OwnerDied(died) => died.fmt(f),
            Self::Deadlock => f.write_str("Deadlock"),
            Self::Broken(error) => f.debug_tuple("Broken").field(error).finish(),
        }
    }
}

impl<G> From<LockError<G>> for TryLockError<G> {
    fn from(error: LockError<G>) -> Self {
        match error {
            LockError::OwnerDied(died) => Self::OwnerDied(died),
            LockError::Deadlock => Self::Deadlock,
            LockError::Broken(error) => Self::Broken(error),
        }
    }
}

/// A failure without the waiting kind, which the call could not end in.
pub(crate) fn lock_error<G>(failure: LockFailure) -> LockError<G> {
    match failure {
        LockFailure::Deadlock => LockError::Deadlock,
        LockFailure::Broken(error) => LockError::Broken(error),
        LockFailure::WouldBlock | LockFailure::TimedOut => {
            unreachable!("a wait without deadline does not end for time")
        }
    }
}

pub(crate) fn try_lock_error<G>(failure: LockFailure) -> TryLockError<G> {
    match failure {
        LockFailure::WouldBlock => TryLockError::WouldBlock,
        LockFailure::TimedOut => TryLockError::TimedOut,
        LockFailure::Deadlock => TryLockError::Deadlock,
        LockFailure::Broken(error) => TryLockError::Broken(error),
    }
}

/// Why no permit could be acquired, however long one waits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// More threads hold permits than the table of holders has room for.
    #[error(
        "{limit} threads hold permits of this semaphore already; share permits, or use more than one semaphore"
    )]
    TooManyHolders {
        /// How many threads can hold permits at a time.
        limit: usize,
    },
    /// This thread holds as many permits as can be counted.
    #[error("this thread holds {limit} permits of this semaphore already; drop some first")]
    TooManyHeld {
        /// How many permits one thread can hold.
        limit: usize,
    },
    /// This process could not be entered among the users: out of descriptors, too many processes. Or
    /// the thread is ending: a destructor of a thread-local value asked.
    #[error("cannot enter this process among the semaphore's users: {0}")]
    System(#[from] io::Error),
}

/// Why no permit was acquired now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// No permit is free.
    #[error("no permit is free")]
    WouldBlock,
    /// No permit was free until the timeout.
    #[error("no permit was free until the timeout")]
    TimedOut,
    /// None could be acquired, however long one waited.
    #[error(transparent)]
    Failed(#[from] AcquireError),
}

/// More permits were released than the semaphore can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("semaphore released too many times: no more than {bound} permits can be free")]
pub struct ReleaseError {
    /// The most permits that can be free.
    pub bound: u32,
}

/// Why a wait at a barrier did not end with all parties there. Nobody has passed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// Somebody aborted or reset the barrier, waited too long, or panicked in the action.
    #[error("the barrier is broken: a party gave up or reset it; reset() makes it as new")]
    Broken,
    /// The others did not come before the timeout, which has broken the barrier.
    #[error("the other parties did not come before the timeout, and the barrier is broken now")]
    TimedOut,
    /// A process that took part died.
    #[error("process {pid}, a party of the barrier, died; reset() makes the barrier as new")]
    PartyDied {
        /// Its pid.
        pid: u32,
    },
    /// This process could not be entered among the parties: out of descriptors, too many processes.
    #[error("cannot enter this process among the barrier's parties: {0}")]
    System(io::Error),
}

/// Why a value was not initialised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnceError {
    /// The initialiser asked for the value that it is to make.
    #[error("the value is asked for while this thread initialises it, and would wait for itself")]
    Reentered,
    /// The value's memory has been overwritten.
    #[error("the value's shared memory is damaged: {0}")]
    Broken(io::Error),
}
