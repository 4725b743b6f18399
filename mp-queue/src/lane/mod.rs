//! A lane: the private road between a pool and one of its workers, and the [`Hub`] where they meet.
//!
//! Not part of the crate's interface: mp-pool stands on it, and holds no unsafe code itself.
//!
//! ```text
//! Host (the pool)   ── task ring: frames, published by `board` ──►   Guest (one worker)
//!                   ◄── result ring: records, committed by `tail` ──
//! Hub: one for all workers of a pool; the bells that wake the pool, and the area for large frames.
//! ```
//!
//! Each word has one writer, but for `board`, which both sides change by compare-and-swap:
//!
//! | word | written by | meaning |
//! |---|---|---|
//! | `board` | both | how many frames are published, how many of them the worker has claimed, whether it sleeps, whether no more will come |
//! | `begun` | guest | items begun since the start; an item is begun before its arguments are decoded |
//! | `tail` | guest | bytes of results committed: *the* commit of a result |
//! | `head` | host | bytes of results taken |
//! | `wake_at` | host | the guest rings the hub's bell when it has committed this many items |
//! | `stop` | host | no further item of the claimed frame may begin |
//!
//! A frame is taken back by lowering the published count, as long as it is not claimed: a worker
//! cannot have seen it, and another one gets it. A frame's bytes stay until the host retires it, so what
//! a dead worker had not begun is read back from here. Killed at any instruction, a worker leaves
//! nothing half-done: a result is committed or absent, an item begun or not.
//!
//! All of the unsafe code is in `memory`: copies to and from memory that another process maps.

mod guest;
mod host;
mod hub;
mod layout;
mod memory;

pub use self::{
    guest::{Claim, Guest},
    host::{Host, Nudge},
    hub::{Bell, Hub},
};
