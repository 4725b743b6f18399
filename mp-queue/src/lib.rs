//! Queues that several processes share.

#![deny(unsafe_code)] // opened in `ring::memory` only

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
mod queue;
#[cfg(not(mp_loom))]
mod simple_queue;

#[cfg(not(mp_loom))]
#[doc(hidden)]
pub mod ring;

/// Under loom only what `tests/loom_ring.rs` models: the words, and sleeping on them.
#[cfg(mp_loom)]
#[doc(hidden)]
pub mod ring {
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
