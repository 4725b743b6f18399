//! Connections between processes, listeners, and waiting on many.
//!
//! * [`duplex`], [`simplex`]: a pair of connected ends, [`Connection`], [`Sender`], [`Receiver`].
//!   Each end knows at compile time what it sends and what it gets, and can be passed to another
//!   process.
//! * [`Listener`], [`Client`]: connections by [`Address`] (Unix path, abstract name, TCP), opened by a
//!   handshake that proves a shared key. A Python program can be the peer.
//! * [`Descriptor`]: an open file or socket as part of a message.
//! * [`wait`](wait()): which of many are ready, for anything with a descriptor.
//!
//! With the feature `tokio` the ends can be awaited: see `Async`.
//!
//! A message is one frame on a stream socket, in Python's format; its content is the value's
//! [postcard](https://docs.rs/postcard) encoding, or plain bytes. Descriptors of handles inside the
//! value ride along. This crate starts no thread, and knows nothing of processes.

#![cfg_attr(not(feature = "tokio"), forbid(unsafe_code))]
#![deny(unsafe_code)] // opened in `asynchronous` only

mod address;
#[cfg(feature = "tokio")]
mod asynchronous;
mod auth;
mod channel;
mod client;
mod descriptor;
mod ends;
mod error;
mod frame;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod listener;
mod options;
mod ready;
mod stream;
mod wait;

#[cfg(feature = "tokio")]
pub use crate::asynchronous::Async;

pub use mp_core::{
    authkey::AuthKey,
    codec::{Bytes, DecodeError, EncodeError},
};

pub use crate::{
    address::Address,
    auth::{AuthError, Digest, answer_challenge, deliver_challenge},
    channel::DEFAULT_MAX_MESSAGE_LEN,
    client::{Client, ConnectError},
    descriptor::Descriptor,
    ends::{Connection, Iter, Receiver, Sender, duplex, simplex},
    error::{RecvError, SendError},
    listener::{AcceptError, Builder, DEFAULT_BACKLOG, Listener, MAX_HALF_OPEN, Peer, Rejections},
    options::HANDSHAKE_TIMEOUT,
    stream::Credentials,
    wait::wait,
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
