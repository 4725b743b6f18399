//! A model of the mutex: who holds it is one word, and who dies with it is told of.
#![allow(unsafe_code)] // the interface of the mutex that it stands for

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    io,
};

use super::{Acquired, LockFailure};
use crate::{
    deadline::Deadline,
    futex,
    primitive::{AtomicU32, Ordering, thread},
    shm::ShmSafe,
};

const FREE: u32 = 0;
const DEAD: u32 = 1; // its owner died with it

/// A robust mutex, modelled.
#[derive(Debug)]
pub struct RobustMutex(AtomicU32);

// SAFETY: a model lies on the heap of one process.
unsafe impl ShmSafe for RobustMutex {}

impl RobustMutex {
    /// Makes an unlocked mutex at `this`.
    ///
    /// # Errors
    ///
    /// None.
    ///
    /// # Safety
    ///
    /// `this` is valid for writes and aligned.
    pub unsafe fn init(this: *mut Self) -> io::Result<()> {
        // SAFETY: the caller promises it.
        unsafe { this.write(Self(AtomicU32::new(FREE))) };
        Ok(())
    }

    /// Locks, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockFailure::Deadlock`].
    pub fn lock(&self) -> Result<Acquired, LockFailure> {
        loop {
            match self.acquire() {
                Ok(acquired) => return Ok(acquired),
                Err(holder) if holder == me() => return Err(LockFailure::Deadlock),
                Err(FREE | DEAD) => {} // just now
                Err(holder) => {
                    futex::wait(&self.0, holder, None);
                }
            }
        }
    }

    /// Locks if that is possible at once.
    ///
    /// # Errors
    ///
    /// [`LockFailure::WouldBlock`].
    pub fn try_lock(&self) -> Result<Acquired, LockFailure> {
        self.acquire().map_err(|_| LockFailure::WouldBlock)
    }

    /// As [`lock`](Self::lock): a model has no time.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_until(&self, _until: Option<Deadline>) -> Result<Acquired, LockFailure> {
        self.lock()
    }

    /// Unlocks.
    ///
    /// # Safety
    ///
    /// This thread holds the mutex.
    pub unsafe fn unlock(&self) {
        self.leave(FREE);
    }

    /// This thread dies with the mutex, as far as others can tell.
    pub fn die(&self) {
        self.leave(DEAD);
    }

    /// The thread that holds it.
    #[must_use]
    pub fn owner(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|holder| *holder > DEAD)
    }

    /// Whether this thread holds it.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        self.owner() == Some(me())
    }

    /// Takes it, or tells who has it.
    fn acquire(&self) -> Result<Acquired, u32> {
        let take = |from| {
            self.0
                .compare_exchange(from, me(), Ordering::Acquire, Ordering::Relaxed)
        };
        match take(FREE) {
            Ok(_) => Ok(Acquired::Clean),
            Err(DEAD) => take(DEAD).map(|_| Acquired::OwnerDied),
            Err(holder) => Err(holder),
        }
    }

    fn leave(&self, state: u32) {
        self.0.store(state, Ordering::Release); // meets `acquire`
        futex::wake(&self.0, 1);
    }
}

/// The number of this thread of the model.
fn me() -> u32 {
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(thread::current().id());
    hash as u32 | 2
}
