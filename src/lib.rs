//! Functions in other processes, as easy as threads; what they share survives the death of any of
//! them.
//!
//! ```no_run
//! // `no_run`: a documentation test is not an image that can be started again.
//! use mp::{Pool, Process, Queue};
//!
//! fn shout(words: Queue<String>, text: String) -> usize {
//!     words.put(text.to_uppercase()).unwrap();
//!     text.len()
//! }
//!
//! fn main() -> Result<(), mp::Error> {
//!     mp::init(); // first: in a child process it runs the child's function, and exits
//!
//!     let words = Queue::new()?;
//!     let child = Process::new(shout, (words.clone(), "hello".to_owned())).start()?;
//!     assert_eq!(words.get()?, "HELLO");
//!     assert_eq!(child.join()?, 5); // what the function returned
//!
//!     let squares = Pool::new(2)?.map(|n: u64| n * n, 0..5)?;
//!     assert_eq!(squares, [0, 1, 4, 9, 16]);
//!     Ok(())
//! }
//! ```
//!
//! # Where to look
//!
//! | you want | here | |
//! |---|---|---|
//! | a function in another process, once | [`Process`] | [`ExitError`] tells how it ended |
//! | … for many values | [`Pool`], [`Executor`] | [`TaskError`] for each that failed |
//! | … in threads, by the same calls | [`ThreadPool`] | |
//! | a program in another process | [`subprocess`] | |
//! | processes that talk | [`simplex`], [`duplex`], [`Queue`] | [`wait`] for many at once |
//! | … with other programs, Python's too | [`Listener`], [`Client`] | |
//! | memory that they share | [`Value`], [`Array`], [`SharedMemory`] | [`RawValue`] for atomics |
//! | turns and signals | [`Lock`], [`Semaphore`], [`Condition`], [`Event`], [`Barrier`] | |
//! | objects for many programs and machines | [`Manager`], [`Dict`], [`List`] | [`manager`] has the rest |
//!
//! Each type says under *Process death* what the others see when a process dies that uses it.
//!
//! Whoever comes from Python finds each name of `multiprocessing`, `concurrent.futures` and
//! `subprocess` in [`from_python`], and each error text with its cause and its remedy in
//! [`troubleshooting`].
//!
//! # One crate alone
//!
//! Every part is a crate of its own, and a feature of this one, which are all on by default:
//! `process`, `pipe`, `sync`, `queue`, `pool`, `manager`. Off by default are `progress`, a bar for `map`
//! and `imap` of pools; `ndarray`, arrays with more dimensions; and `tokio`, ends of pipes that are
//! awaited: `into_async` of [`Receiver`], [`Sender`] and [`Connection`].
//!
//! With `mp-queue` alone, between threads or between processes that something else has started:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let queue = mp_queue::Queue::bounded(8)?;
//! std::thread::scope(|scope| {
//!     scope.spawn(|| (0..100).for_each(|n| queue.put(n).unwrap()));
//!     let sum: u32 = queue.iter().take(100).map(Result::unwrap).sum();
//!     assert_eq!(sum, 4950);
//! });
//! # Ok(())
//! # }
//! ```
//!
//! # All of them
//!
//! ```no_run
#![doc = include_str!("../examples/tour.rs")]
//! ```

#![forbid(unsafe_code)]

extern crate self as mp; // so that the pages below can be read by themselves

pub mod error;
pub mod prelude;

/// What to write here for what you write in Python.
#[cfg(any(doc, doctest))]
pub mod from_python {
    #![doc = include_str!("../docs/from-python.md")]
}
/// Error texts, causes, remedies.
#[cfg(any(doc, doctest))]
pub mod troubleshooting {
    #![doc = include_str!("../docs/troubleshooting.md")]
}

#[cfg(feature = "manager")]
#[doc(inline)]
pub use mp_manager as manager;
#[cfg(feature = "pipe")]
#[doc(inline)]
pub use mp_pipe as pipe;
#[cfg(feature = "pool")]
#[doc(inline)]
pub use mp_pool as pool;
#[cfg(feature = "process")]
#[doc(inline)]
pub use mp_process as process;
#[cfg(feature = "queue")]
#[doc(inline)]
pub use mp_queue as queue;
#[cfg(feature = "sync")]
#[doc(inline)]
pub use mp_sync as sync;

pub use crate::error::Error;

pub use mp_core::codec::{Bytes, DecodeError, EncodeError};

#[cfg(feature = "manager")]
#[doc(inline)]
pub use mp_manager::{Dict, List, Manager, Namespace};
#[cfg(feature = "pipe")]
#[doc(inline)]
pub use mp_pipe::{
    AcceptError, Address, AuthError, Client, ConnectError, Connection, Credentials, Descriptor,
    Listener, Receiver, RecvError, SendError, Sender, duplex, simplex, wait,
};
#[cfg(feature = "pool")]
#[doc(inline)]
pub use mp_pool::{
    AsCompleted, AsyncResult, Closing, Executor, Imap, MapIn, Pool, PoolBuilder, PoolError,
    PoolHandle, PoolStats, Return, Share, Task, TaskError, TaskState, Tasks, ThreadPool,
    ThreadPoolHandle, ThreadResult, Unfinished, WorkerState, WorkerStats, as_completed,
};
#[cfg(feature = "process")]
#[doc(inline)]
pub use mp_process::{
    AuthKey, Child, Context, Current, ExitError, ExitHook, ExitStatus, Fd, Level, Limit,
    ParentProcess, Process, Run, StartError, StartMethod, Stdio, Target, active_children, at_exit,
    cpu_count, current_process, exit_with, init, init_in_tests, init_with, log_level,
    log_to_stderr, parent_process, set_executable, set_start_method, start_method, subprocess,
};
#[cfg(feature = "queue")]
#[doc(inline)]
pub use mp_queue::{
    Claimed, GetError, JoinError, JoinableQueue, PutError, Queue, SimpleQueue, TaskDoneError,
    TryGetError, TryPutError,
};
#[cfg(feature = "sync")]
#[doc(inline)]
pub use mp_sync::{
    AcquireError, Array, ArrayGuard, Barrier, BarrierError, BoundedSemaphore, Condition,
    ConditionGuard, Event, Lock, LockError, LockGuard, OnceError, OnceValue, OwnerDied, Permit,
    RLock, RLockGuard, RawArray, RawValue, ReadGuard, ReleaseError, RwLock, Semaphore,
    ShareableList, SharedMemory, TryAcquireError, TryLockError, Value, ValueGuard, WriteGuard,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
