//! Queues that several processes share.

#![deny(unsafe_code)] // opened in `ring::memory` and `lane` only

mod builder;
mod claimed;
mod error;
mod iter;
mod joinable_queue;
#[doc(hidden)]
pub mod lane;
mod queue;
#[doc(hidden)]
pub mod ring;
mod simple_queue;

pub use mp_core::codec::{Bytes, DecodeError, EncodeError};

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
