//! Which record of a semaphore is this thread's.

use std::{
    cell::{Cell, RefCell},
    io,
    sync::{Arc, Weak},
};

use mp_core::hooks::fork_generation;

use super::{RECORDS, Shared};
use crate::error::AcquireError;

impl Shared {
    /// This thread's record.
    #[inline]
    pub(crate) fn record(self: &Arc<Self>) -> Result<u32, AcquireError> {
        let last = LAST.get();
        if last.id == self.id && last.generation == fork_generation() {
            return Ok(last.record);
        }
        self.record_slow()
    }

    #[cold]
    fn record_slow(self: &Arc<Self>) -> Result<u32, AcquireError> {
        let generation = fork_generation();
        let slot = self.slot()?;
        let register = |cache: &RefCell<Cache>| {
            let mut cache = cache.borrow_mut();
            if let Some(entry) = cache.find(self.id, generation) {
                return Ok(entry);
            }
            let registered = match self.raw().register(slot) {
                None => {
                    self.reap()?;
                    self.raw().register(slot)
                }
                some => some,
            };
            let record = registered.ok_or(AcquireError::TooManyHolders { limit: RECORDS })?;
            cache.insert(self, generation, record);
            Ok(record)
        };
        let record = CACHE.try_with(register).unwrap_or_else(|_| Err(ending()))?;
        LAST.set(Last {
            id: self.id,
            generation,
            record,
        });
        Ok(record)
    }
}

/// For a destructor of a thread-local value that runs after the cache's: nobody would give a record
/// back any more.
fn ending() -> AcquireError {
    AcquireError::System(io::Error::other(
        "this thread is ending, and can take no permit any more",
    ))
}

/// The record that this thread used last.
#[derive(Clone, Copy)]
struct Last {
    id: u64,
    generation: u64,
    record: u32,
}

thread_local! {
    static LAST: Cell<Last> = const { Cell::new(Last::NONE) };
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache(Vec::new())) };
}

impl Last {
    const NONE: Self = Self {
        id: 0, // of no semaphore
        generation: 0,
        record: 0,
    };
}

/// This thread's records in all semaphores; those that hold nothing are given back at its end.
struct Cache(Vec<Entry>);

struct Entry {
    id: u64,
    generation: u64,
    record: u32,
    semaphore: Weak<Shared>,
}

impl Cache {
    fn find(&self, id: u64, generation: u64) -> Option<u32> {
        let mut entries = self.0.iter();
        entries
            .find(|entry| entry.id == id && entry.generation == generation)
            .map(|entry| entry.record)
    }

    fn insert(&mut self, semaphore: &Arc<Shared>, generation: u64, record: u32) {
        self.0
            .retain(|entry| entry.generation == generation && entry.semaphore.strong_count() > 0);
        self.0.push(Entry {
            id: semaphore.id,
            generation,
            record,
            semaphore: Arc::downgrade(semaphore),
        });
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        LAST.set(Last::NONE); // somebody else's from now on
        for entry in &self.0 {
            if entry.generation == fork_generation()
                && let Some(semaphore) = entry.semaphore.upgrade()
            {
                semaphore.raw().unregister(entry.record);
            }
        }
    }
}
