//! Locks, conditions and shared values that survive their holders.
//!
//! * [`Lock`]: mutual exclusion; the next owner is told when one died with it.
//! * [`RLock`]: the same, which its owner may lock again.
//! * [`RwLock`]: many readers or one writer.
//! * [`Value`], [`Array`]: plain data with its lock.
//! * [`RawValue`], [`RawArray`]: the same without: atomics, or copies in and out.
//! * [`OnceValue`]: computed once, by whoever comes first.
//! * [`Condition`]: waiting for what another changes under a lock.
//! * [`Semaphore`], [`BoundedSemaphore`]: permits; those of the dead come back.
//! * [`Event`]: something has happened, for all to see.
//! * [`Barrier`]: everybody waits until all have come.
//! * [`SharedMemory`], [`ShareableList`]: memory with a name, as Python has it.
//!
//! Each lives in memory of its own, which the kernel frees with its last user. A handle is cheap to
//! clone, works in threads and processes alike, and travels to another process as an argument or
//! over a connection. The words underneath, in memory of the caller's, are in [`raw`].

#![deny(unsafe_code)] // opened where shared memory is touched, and where a guard unlocks

mod array;
mod barrier;
mod cells;
mod condition;
mod error;
mod event;
mod lock;
mod members;
#[cfg(feature = "ndarray")]
mod ndarray;
mod object;
mod once;
pub mod raw;
mod raw_value;
mod rlock;
mod rwlock;
mod semaphore;
mod shareable_list;
mod shared_copy;
mod shared_memory;
mod tracker;
mod value;

pub use crate::{
    array::{Array, ArrayGuard},
    barrier::Barrier,
    condition::{Condition, ConditionGuard},
    error::{
        AcquireError, BarrierError, LockError, OnceError, OwnerDied, ReleaseError, TryAcquireError,
        TryLockError,
    },
    event::Event,
    lock::{Exclusive, Guard, Lock, LockGuard},
    once::OnceValue,
    raw_value::{Integer, RawArray, RawValue},
    rlock::{RLock, RLockGuard},
    rwlock::{ReadGuard, RwLock, WriteGuard},
    semaphore::{BoundedSemaphore, Permit, Semaphore},
    shareable_list::{Item, ListError, ShareableList},
    shared_memory::SharedMemory,
    value::{Value, ValueGuard},
};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
