//! The types that most programs name, in one line: `use mp::prelude::*;`.
//!
//! Functions are not in here: `mp::init()`, `mp::simplex()` and `mp::wait()` read better with their
//! `mp::`, and so do `mp::Error` and the errors of the operations.
//!
//! ```no_run
//! use mp::prelude::*;
//!
//! fn count(words: Dict<String, u64>, texts: Queue<String>) {
//!     for text in texts.iter().flatten() {
//!         words.update(text, 0, |n| n + 1).unwrap();
//!     }
//! }
//! # fn main() {}
//! ```

#[cfg(feature = "sync")]
pub use crate::{
    Array, Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, RawArray, RawValue, RwLock,
    Semaphore, SharedMemory, Value,
};
#[cfg(feature = "pool")]
pub use crate::{AsyncResult, Executor, Pool, ThreadPool};
#[cfg(feature = "pipe")]
pub use crate::{Client, Connection, Listener, Receiver, Sender};
#[cfg(feature = "manager")]
pub use crate::{Dict, List, Manager, Namespace};
#[cfg(feature = "queue")]
pub use crate::{JoinableQueue, Queue, SimpleQueue};
#[cfg(feature = "process")]
pub use crate::{Process, Run, StartMethod};
