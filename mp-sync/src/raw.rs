//! The words in shared memory, without a mapping of their own.
//!
//! What is here lies wherever its caller puts it: in a page that several processes map, in a header
//! beside other data, on the heap in a test. The types above add the mapping, the handle and the
//! way to other processes. Each is one word whose single atomic change is the whole step; what else
//! it keeps is a hint, or can be rebuilt from the word and from who is alive.

mod barrier;
mod condition;
mod event;
mod lock;
mod once;
mod roster;
mod rwlock;
mod semaphore;

pub(crate) use self::{barrier::MAX_PARTIES, lock::PAUSES, semaphore::MAX_PERMITS};
pub use self::{
    barrier::{Broken, RawBarrier},
    condition::{RawCondition, Ticket},
    event::RawEvent,
    lock::RawLock,
    once::RawOnce,
    roster::Roster,
    rwlock::{RawRwLock, Wait},
    semaphore::{Overflow, RawSemaphore, Taken},
};
