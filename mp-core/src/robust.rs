//! A mutex in shared memory that survives the death of its owner.
//!
//! glibc's `PTHREAD_MUTEX_ROBUST`: the kernel walks the dying thread's list and hands the lock to
//! one waiter, also when the owner was killed inside `lock` or `unlock`. But for one case: it had freed
//! the lock, and another has taken it before the wake. So who waits looks again after each
//! [`SLICE`](crate::futex::SLICE).
//!
//! Process-shared, and error-checking: locking again in the same thread is an error instead of a deadlock.
//!
//! Under `cfg(mp_loom)` it is a model with the same answers.

use std::io;

#[cfg(not(mp_loom))]
mod glibc;
#[cfg(mp_loom)]
mod model;

#[cfg(not(mp_loom))]
pub use glibc::RobustMutex;
#[cfg(mp_loom)]
pub use model::RobustMutex;

/// How a lock was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Its last owner released it.
    Clean,
    /// Its last owner died with it. The mutex is consistent again; what it protects may be
    /// half-written, which is for the caller to repair or to mark before it unlocks.
    OwnerDied,
}

/// Why a lock was not obtained.
#[derive(Debug)]
pub enum LockFailure {
    /// Somebody else holds it.
    WouldBlock,
    /// Somebody else held it until the deadline.
    TimedOut,
    /// This thread holds it already.
    Deadlock,
    /// The memory holds no mutex, or a damaged one.
    Broken(io::Error),
}
