//! Connections between processes, listeners, and waiting on many.
//!
//! * [`duplex`], [`simplex`]: a pair of connected ends, [`Connection`], [`Sender`], [`Receiver`].
//!   Each end knows at compile time what it sends and what it gets, and can be passed to another
//!   process.
//! * [`wait`](wait()): which of many are ready, for anything with a descriptor.
//!
//! A message is one frame on a stream socket, in Python's format; its content is the value's
//! [postcard](https://docs.rs/postcard) encoding, or plain bytes. Descriptors of handles inside the
//! value ride along. This crate starts no thread, and knows nothing of processes.

#![forbid(unsafe_code)]

mod channel;
mod ends;
mod error;
mod frame;
mod ready;
mod wait;

pub use mp_core::codec::{Bytes, DecodeError, EncodeError};

pub use crate::{
    channel::DEFAULT_MAX_MESSAGE_LEN,
    ends::{Connection, Iter, Receiver, Sender, duplex, simplex},
    error::{RecvError, SendError},
    wait::wait,
};
