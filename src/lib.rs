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
//!     Ok(())
//! }
//! ```

#![forbid(unsafe_code)]

mod error;

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
    AsCompleted, AsyncResult, Closing, Executor, Imap, Pool, PoolBuilder, PoolError, PoolHandle,
    PoolStats, Return, Task, TaskError, TaskState, Tasks, ThreadPool, ThreadPoolHandle,
    ThreadResult, Unfinished, WorkerState, WorkerStats, as_completed,
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
