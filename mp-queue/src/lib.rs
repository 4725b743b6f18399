//! Queues that several processes share.

#![deny(unsafe_code)] // opened in `ring::memory` only

#[cfg(not(mp_loom))]
#[doc(hidden)]
pub mod ring;
