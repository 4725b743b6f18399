//! What can go wrong with a task, and with a pool.

use std::{fmt, io, time::Duration};

use mp_process::StartError;
use serde::{Deserialize, Serialize};

/// Why a task has no value.
///
/// Every task that a pool accepted ends with a value or with exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The function panicked, in the worker; the worker lives on.
    #[error("the task panicked in worker {pid}{}: {message}", At(.location))]
    Panicked {
        /// What the panic said.
        message: String,
        /// File, line and column.
        location: Option<String>,
        /// The worker's stack, if `RUST_BACKTRACE` is set.
        backtrace: Option<String>,
        /// The worker.
        pid: u32,
    },
    /// The worker ended while it had this task: killed, aborted, out of memory, `exit`. The
    /// function may have run in part.
    #[error("worker {pid} died with the task: {}", How(*.code, *.signal))]
    WorkerDied {
        /// The worker.
        pid: u32,
        /// Its exit code, if it exited.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
    },
    /// The task ran longer than its limit, so its worker was ended.
    #[error("the task ran longer than {limit:?}, and worker {pid} was ended")]
    TimedOut {
        /// The worker that was ended.
        pid: u32,
        /// The limit.
        limit: Duration,
    },
    /// The task was cancelled before it had an outcome.
    #[error("the task was cancelled")]
    Cancelled,
    /// The pool was terminated, or dropped, before the task was done.
    #[error("the pool was terminated before the task was done")]
    Terminated,
    /// The pool takes no more tasks: it was closed.
    #[error("the pool takes no more tasks: it was closed or terminated")]
    Closed,
    /// The arguments (in the caller) or the result (in the worker) have no encoding.
    #[error("{what} cannot be sent: {reason}")]
    Encode {
        /// Which of the two.
        what: Part,
        /// What serde said.
        reason: String,
    },
    /// The arguments (in the worker) or the result (in the caller) could not be decoded.
    #[error("{what} cannot be decoded: {reason}")]
    Decode {
        /// Which of the two.
        what: Part,
        /// What serde said.
        reason: String,
    },
    /// The pool can run nothing any more, because its workers do not come up.
    #[error("the pool is broken: {reason}")]
    PoolBroken {
        /// What the workers died of.
        reason: String,
    },
    /// The value was taken before; only of a [`ThreadPool`](crate::ThreadPool), whose values exist once.
    #[error("the value of the task was taken before")]
    Taken,
    /// A callback waited for a result of its own pool, which only the thread it blocks can deliver.
    #[error("a callback cannot wait for a result of its own pool")]
    WouldDeadlock,
}

/// The two things that travel for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To the worker.
    Arguments,
    /// Back to the caller.
    Result,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arguments => "an argument of the task",
            Self::Result => "the result of the task",
        })
    }
}

struct At<'a>(&'a Option<String>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(location) => write!(f, " at {location}"),
            None => Ok(()),
        }
    }
}

/// How a process ended, in words.
pub(crate) struct How(pub(crate) Option<i32>, pub(crate) Option<i32>);

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (_, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
                Ok(name) => write!(f, "signal {signal} ({name})"),
                Err(_) => write!(f, "signal {signal}"),
            },
            (Some(code), None) => write!(f, "exit code {code}"),
            (None, None) => f.write_str("its exit status was taken by somebody else"),
        }
    }
}

/// Why a pool could not be made, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// An option that makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The system refused memory, descriptors or threads.
    #[error("the pool cannot be set up: {0}")]
    System(#[from] io::Error),
    /// A worker could not be started; those that had been were ended again.
    #[error("a worker of the pool cannot be started: {0}")]
    Start(#[from] StartError),
    /// The workers did not come up.
    #[error("the pool broke: {reason}")]
    Broken {
        /// What the workers died of.
        reason: String,
    },
}

/// What a worker tells of a panic.
#[derive(Serialize, Deserialize, Debug, Default)]
pub(crate) struct PanicReport {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}
