//! Queues that several processes share.
//!
//! * [`Queue`]: `put` returns once the item is in shared memory; it outlives its producer.
//! * [`SimpleQueue`]: `put` and `get`, nothing else.
//! * [`JoinableQueue`]: a [`Queue`] that counts unfinished tasks.
//!
//! All three are a ring of bytes in one mapping, a robust lock per end, and one commit word per end;
//! what is in the ring is the difference of the two words. One store of a word puts an item, or takes
//! it: a process killed at any instruction has done the one, or has left no trace. Every step, with
//! its memory ordering, is in `src/ring.md`.
//!
//! ```
//! use mp_queue::{Queue, TryPutError};
//!
//! let queue = Queue::bounded(2)?;
//! queue.put(1)?;
//! queue.put(2)?;
//! assert!(matches!(queue.try_put(3), Err(TryPutError::Full(3)))); // handed back
//! assert_eq!((queue.get()?, queue.get()?), (1, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Items travel encoded (serde, postcard), so they are copied, not shared. A queue of [`Bytes`] takes
//! and gives plain bytes with one copy each ([`Queue::put_bytes`], [`Queue::get_bytes_into`]).
//!
//! No thread is started. A `put` that returned needs its process no more: a child that has put may be
//! joined before anybody reads.

#![deny(unsafe_code)] // opened in `ring::memory` and `lane::memory` only

#[cfg(not(mp_loom))]
mod builder;
#[cfg(not(mp_loom))]
mod claimed;
#[cfg(not(mp_loom))]
mod error;
#[cfg(not(mp_loom))]
mod iter;
#[cfg(not(mp_loom))]
mod joinable_queue;
#[cfg(not(mp_loom))]
#[doc(hidden)]
pub mod lane;
#[cfg(not(mp_loom))]
mod queue;
#[cfg(not(mp_loom))]
#[doc(hidden)]
pub mod ring;
#[cfg(not(mp_loom))]
mod simple_queue;

/// Under loom only what `tests/loom_ring.rs` models: the words, and sleeping on them.
#[cfg(mp_loom)]
#[doc(hidden)]
pub mod ring {
    pub mod hunger;
    pub mod number;
    pub mod signal;
    pub mod word;
}

#[cfg(not(mp_loom))]
pub use mp_core::codec::{Bytes, DecodeError, EncodeError};

#[cfg(not(mp_loom))]
pub use crate::{
    builder::{Builder, DEFAULT_AREA},
    claimed::Claimed,
    error::{GetError, PutError, PutManyError, TooLarge, TryGetError, TryPutError},
    iter::{Drained, Iter},
    joinable_queue::{JoinError, JoinableQueue, TaskDoneError},
    queue::Queue,
    ring::{Corrupt, Lost},
    simple_queue::SimpleQueue,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
