//! One error that holds any other, for `?` in `main`, and what it holds where an error of the crates
//! has a guard or a value in it.

use std::{fmt, io};

/// Any error of this library.
///
/// For programs that only pass errors on: `?` turns every error of every crate into it, but for
/// [`StillRunning`](mp_process::StillRunning), which is a process. A value that an error hands back,
/// and a lock that it holds, are dropped on the way; where they matter, match on the error of the
/// operation itself.
///
/// `{:?}` is its text, too, since that is what a `main` prints that returns it; and behind it the
/// stack of a child or worker that panicked, if it had `RUST_BACKTRACE`.
#[derive(thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to make or to use something.
    Io(#[from] io::Error),
    /// A value has no encoding.
    Encode(#[from] crate::EncodeError),
    /// Bytes are not the encoding of the value that was expected.
    Decode(#[from] crate::DecodeError),
    /// A process could not be started.
    #[cfg(feature = "process")]
    Start(#[from] crate::StartError),
    /// A process ended without the value of its function.
    #[cfg(feature = "process")]
    Exit(#[from] crate::ExitError),
    /// A text names no start method.
    #[cfg(feature = "process")]
    StartMethod(#[from] mp_process::UnknownStartMethod),
    /// A program failed.
    #[cfg(feature = "process")]
    Subprocess(#[from] mp_process::subprocess::SubprocessError),
    /// A pool could not be made, or broke.
    #[cfg(feature = "pool")]
    Pool(#[from] crate::PoolError),
    /// A task has no value.
    #[cfg(feature = "pool")]
    Task(#[from] crate::TaskError),
    /// Some results of `as_completed` did not come in time.
    #[cfg(feature = "pool")]
    Unfinished(#[from] crate::Unfinished),
    /// The next value of `imap` did not come in time.
    #[cfg(feature = "pool")]
    NotYet(#[from] mp_pool::NotYet),
    /// A message was not sent.
    #[cfg(feature = "pipe")]
    Send(#[from] crate::SendError),
    /// No message was received.
    #[cfg(feature = "pipe")]
    Recv(#[from] crate::RecvError),
    /// No peer was accepted.
    #[cfg(feature = "pipe")]
    Accept(#[from] crate::AcceptError),
    /// No connection to a listener.
    #[cfg(feature = "pipe")]
    Connect(#[from] crate::ConnectError),
    /// The two ends of a connection do not have the same key, or no digest in common.
    #[cfg(feature = "pipe")]
    Auth(#[from] crate::AuthError),
    /// A value was not put.
    #[cfg(feature = "queue")]
    Put(crate::TryPutError<()>),
    /// No value was got.
    #[cfg(feature = "queue")]
    Get(#[from] crate::TryGetError),
    /// Tasks of a queue were lost with the processes that had them, or not done in time.
    #[cfg(feature = "queue")]
    Join(#[from] mp_queue::JoinError),
    /// A task of a queue was not counted as done.
    #[cfg(feature = "queue")]
    TaskDone(#[from] mp_queue::TaskDoneError),
    /// A lock was not obtained, or its last owner died with it. Not to be confused with
    /// [`mp::LockError`](crate::LockError), which holds the lock.
    #[cfg(feature = "sync")]
    Lock(#[from] LockError),
    /// A permit was not acquired.
    #[cfg(feature = "sync")]
    Acquire(#[from] mp_sync::TryAcquireError),
    /// More permits were released than a semaphore can have.
    #[cfg(feature = "sync")]
    Release(#[from] mp_sync::ReleaseError),
    /// A barrier is broken.
    #[cfg(feature = "sync")]
    Barrier(#[from] mp_sync::BarrierError),
    /// A `OnceValue` was not initialised.
    #[cfg(feature = "sync")]
    Once(#[from] mp_sync::OnceError),
    /// A list in shared memory does not hold what was asked for, or takes no more.
    #[cfg(feature = "sync")]
    List(#[from] mp_sync::ListError),
    /// A manager's server was not started.
    #[cfg(feature = "manager")]
    ManagerStart(#[from] mp_manager::StartError),
    /// No connection to a manager.
    #[cfg(feature = "manager")]
    ManagerConnect(#[from] mp_manager::ConnectError),
    /// A call on a managed object has no result.
    #[cfg(feature = "manager")]
    Call(#[from] mp_manager::CallError),
    /// A managed lock, queue or barrier did not give what was asked for.
    #[cfg(feature = "manager")]
    Managed(#[from] ManagedError),
    /// A task of a managed pool has no value.
    #[cfg(all(feature = "manager", feature = "pool"))]
    ManagedTask(#[from] mp_manager::TaskError),
}

impl Error {
    /// The stack of who panicked.
    fn backtrace(&self) -> Option<&str> {
        match self {
            #[cfg(feature = "process")]
            Self::Exit(crate::ExitError::Panic { backtrace, .. }) => backtrace.as_deref(),
            #[cfg(feature = "pool")]
            Self::Task(crate::TaskError::Panicked { backtrace, .. }) => backtrace.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self.backtrace() {
            Some(backtrace) => write!(f, "\n\n{backtrace}"),
            None => Ok(()),
        }
    }
}

/// What a managed lock, queue or barrier said, without the value or the lock in it.
#[cfg(feature = "manager")]
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ManagedError {
    reason: String,
}

#[cfg(feature = "manager")]
mod manager {
    use std::fmt::Display;

    use mp_manager as managed;

    use super::{Error, ManagedError};

    fn without_value(error: impl Display) -> Error {
        Error::Managed(ManagedError {
            reason: error.to_string(),
        })
    }

    impl<G> From<managed::LockError<G>> for Error {
        fn from(error: managed::LockError<G>) -> Self {
            match error {
                managed::LockError::Call(error) => error.into(),
                other => without_value(other),
            }
        }
    }

    impl<G> From<managed::TryLockError<G>> for Error {
        fn from(error: managed::TryLockError<G>) -> Self {
            match error {
                managed::TryLockError::Call(error) => error.into(),
                other => without_value(other),
            }
        }
    }

    impl<T> From<managed::PutError<T>> for Error {
        fn from(error: managed::PutError<T>) -> Self {
            match error {
                managed::PutError::Call(_, error) => error.into(),
                other => without_value(other),
            }
        }
    }

    impl<T> From<managed::TryPutError<T>> for Error {
        fn from(error: managed::TryPutError<T>) -> Self {
            match error {
                managed::TryPutError::Call(_, error) => error.into(),
                other => without_value(other),
            }
        }
    }

    impl From<managed::GetError> for Error {
        fn from(error: managed::GetError) -> Self {
            match error {
                managed::GetError::Call(error) => error.into(),
                other => without_value(other),
            }
        }
    }

    impl From<managed::TryGetError> for Error {
        fn from(error: managed::TryGetError) -> Self {
            match error {
                managed::TryGetError::Call(error) => error.into(),
                other => without_value(other),
            }
        }
    }

    impl From<managed::TryAcquireError> for Error {
        fn from(error: managed::TryAcquireError) -> Self {
            match error {
                managed::TryAcquireError::Call(error) => error.into(),
                other => without_value(other),
            }
        }
    }

    impl From<managed::BarrierError> for Error {
        fn from(error: managed::BarrierError) -> Self {
            match error {
                managed::BarrierError::Call(error) => error.into(),
                other => without_value(other),
            }
        }
    }
}

#[cfg(feature = "queue")]
mod queue {
    use super::Error;

    impl<T> From<mp_queue::TryPutError<T>> for Error {
        fn from(error: mp_queue::TryPutError<T>) -> Self {
            Self::Put(error.without_value())
        }
    }

    impl<T> From<mp_queue::PutError<T>> for Error {
        fn from(error: mp_queue::PutError<T>) -> Self {
            mp_queue::TryPutError::from(error).into()
        }
    }

    impl<T> From<mp_queue::PutManyError<T>> for Error {
        fn from(error: mp_queue::PutManyError<T>) -> Self {
            error.cause.into()
        }
    }

    impl From<mp_queue::GetError> for Error {
        fn from(error: mp_queue::GetError) -> Self {
            Self::Get(error.into())
        }
    }
}

/// A lock that was not obtained, without the guard that the error of the lock itself holds: that is
/// [`mp::LockError`](crate::LockError).
#[cfg(feature = "sync")]
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LockError {
    reason: String,
    owner_died: bool,
}

#[cfg(feature = "sync")]
impl LockError {
    /// Whether the lock was there to be had, but its last owner had died with it. The notice is
    /// left for the next who locks.
    #[must_use]
    pub fn is_owner_died(&self) -> bool {
        self.owner_died
    }
}

#[cfg(feature = "sync")]
mod sync {
    use super::{Error, LockError};

    impl<G: mp_sync::Guard> From<mp_sync::LockError<G>> for Error {
        fn from(error: mp_sync::LockError<G>) -> Self {
            Self::Lock(LockError {
                reason: error.to_string(),
                owner_died: matches!(error, mp_sync::LockError::OwnerDied(_)),
            })
        }
    }

    impl<G: mp_sync::Guard> From<mp_sync::TryLockError<G>> for Error {
        fn from(error: mp_sync::TryLockError<G>) -> Self {
            Self::Lock(LockError {
                reason: error.to_string(),
                owner_died: matches!(error, mp_sync::TryLockError::OwnerDied(_)),
            })
        }
    }

    impl From<mp_sync::AcquireError> for Error {
        fn from(error: mp_sync::AcquireError) -> Self {
            Self::Acquire(error.into())
        }
    }
}
