//! The server's halves of the types that come with this crate; their clients' halves are in
//! `proxies`.
//!
//! Each keeps its elements encoded, with a version: a number that no other write to the object
//! has had. A client that read version 7 of an element can write it back on the condition that it
//! still is version 7; that is how `update` is atomic without a lock.

mod array;
pub(crate) mod barrier;
mod condition;
mod dict;
mod event;
mod list;
pub(crate) mod lock;
#[cfg(feature = "pool")]
pub(crate) mod pool;
pub(crate) mod queue;
mod semaphore;
#[cfg(feature = "sync")]
pub(crate) mod shared_memory;
mod value;

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
};

type Make = fn(&Call<'_>) -> Result<Box<dyn Referent>, Fault>;

/// What a client can make by name. A `Namespace` is a `Dict` of its own name.
pub(crate) const CONSTRUCTORS: &[(&str, Make)] = &[
    ("Array", array::make),
    ("Barrier", barrier::make),
    ("BoundedSemaphore", semaphore::make_bounded),
    ("Condition", condition::make),
    ("Dict", dict::make),
    ("Event", event::make),
    ("JoinableQueue", queue::make),
    ("List", list::make),
    ("Lock", lock::make),
    ("Namespace", dict::make),
    #[cfg(feature = "pool")]
    ("Pool", pool::make),
    ("Queue", queue::make),
    ("RLock", lock::make_recursive),
    ("Semaphore", semaphore::make),
    #[cfg(feature = "sync")]
    ("ShareableList", shared_memory::make_list),
    #[cfg(feature = "sync")]
    ("SharedMemory", shared_memory::make),
    ("Value", value::make),
];
