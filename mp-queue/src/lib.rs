//! Queues that several processes share.

#![deny(unsafe_code)] // opened in `ring::memory` only

mod builder;
mod error;
mod iter;
mod queue;
#[doc(hidden)]
pub mod ring;
mod simple_queue;

pub use mp_core::codec::{Bytes, DecodeError, EncodeError};

pub use crate::{
    builder::{Builder, DEFAULT_AREA},
    error::{GetError, PutError, PutManyError, TooLarge, TryGetError, TryPutError},
    iter::{Drained, Iter},
    queue::Queue,
    ring::Corrupt,
    simple_queue::SimpleQueue,
};
