//! Pools of worker processes.
//!
//! * [`Pool`]: functions over values, in processes that may die without taking anything else along.
//! * [`PoolHandle`]: what can be called, from any thread: `apply`, `map`, `imap`, and their kin.
//! * [`AsyncResult`]: what becomes of a task; [`wait`] and [`as_completed`] for many of them.
//! * [`Executor`]: the face of `concurrent.futures`.
//! * [`ThreadPool`]: the same call styles over threads.
//!
//! * [`MapIn`]: a pool as one step of a chain of iterators.
//!
//! Each worker has a lane of its own in shared memory, so the pool always knows which task it has.
//! A worker's death fails that task and no other, within milliseconds; nothing hangs.

#![forbid(unsafe_code)]

mod arguments;
mod builder;
mod callback;
mod chunk;
mod dispatch;
mod error;
mod executor;
mod extent;
mod imap;
mod job;
mod keeper;
mod map_in;
mod outcome;
mod parker;
mod pool;
mod progress;
mod result;
mod roster;
mod share;
mod shared;
mod stats;
mod task;
mod thread_pool;
mod wait;
mod wire;
mod worker;

pub use crate::{
    builder::{GRACE, MAX_RESTARTS, PoolBuilder},
    error::{Part, PoolError, TaskError},
    executor::Executor,
    imap::{Imap, NotYet},
    map_in::MapIn,
    pool::{Closing, Pool, PoolHandle},
    result::{AsyncResult, TaskState},
    share::Share,
    stats::{PoolStats, WorkerState, WorkerStats},
    task::{Task, Tasks},
    thread_pool::{ThreadImap, ThreadPool, ThreadPoolHandle, ThreadResult, ThreadsClosing},
    wait::{AsCompleted, AsCompletedTimeout, Return, Unfinished, Waitable, as_completed, wait},
};
#[cfg(feature = "progress")]
pub use indicatif;
#[doc(inline)]
pub use mp_core::codec::Bytes;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
