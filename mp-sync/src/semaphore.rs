//! Permits that come back when their holder dies.
#![allow(unsafe_code)] // says that words may be shared

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering}, // of this process alone: nothing here is modelled
    },
    time::Duration,
};

use mp_core::{
    deadline::Deadline,
    futex::Told,
    hooks::fork_generation,
    liveness::Member,
    primitive::{may_spin, spin_loop},
    shm::ShmSafe,
};

mod bounded;
mod holders;

pub use self::bounded::BoundedSemaphore;

use crate::{
    error::{AcquireError, ReleaseError, TryAcquireError},
    object::{Object, Shape, Words, handle},
    raw::{PAUSES, RawSemaphore, Taken},
};

/// How many threads can hold permits of one semaphore at a time.
pub(crate) const RECORDS: usize = 1024;
/// How many processes can.
pub(crate) const SLOTS: u32 = 1024;

#[repr(C)]
#[derive(Debug)]
pub(crate) struct SemaphoreWords {
    /// The most permits that may be free; never written again.
    bound: u32,
    raw: RawSemaphore<RECORDS>,
}

// SAFETY: `repr(C)`, integers and atomics.
unsafe impl ShmSafe for SemaphoreWords {}
// SAFETY:
// * Atomics, and an integer that is never written again.
// * No data follows.
unsafe impl Words for SemaphoreWords {
    const KIND: u32 = 3;
    const NAME: &'static str = "Semaphore";
}

/// A number of permits, each held by at most one thread of any process.
///
/// A permit is a guard: dropping it gives it back, and so does the death of its process. Python's
/// other use, a signal from one process to another, is [`release`](Self::release) on one side and
/// [`Permit::forget`] on the other.
///
/// # Process death
///
/// Permits held as guards by a dead process are free again within 1 s: whoever waits looks after the
/// dead every quarter of a second.
///
/// # Examples
///
/// ```
/// let seats = mp_sync::Semaphore::new(3)?;
/// let seat = seats.acquire()?;
/// assert_eq!(seats.available(), 2);
/// drop(seat);
/// assert_eq!(seats.available(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.Semaphore")]
#[derive(Clone)]
pub struct Semaphore(pub(crate) Arc<Shared>);

/// What the handles of this process share.
pub(crate) struct Shared {
    object: Object<SemaphoreWords>,
    /// Tells this handle's records from those of others in the threads' caches; never used twice.
    id: u64,
    bound: u32,
    member: Member,
    /// When the dead were looked for last, in milliseconds since some instant.
    looked: AtomicU64,
}

impl Semaphore {
    /// The most permits there can be.
    pub const MAX: u32 = crate::raw::MAX_PERMITS;

    /// A semaphore with `permits` free ones.
    ///
    /// # Errors
    ///
    /// More permits than [`MAX`](Self::MAX); out of memory or descriptors.
    pub fn new(permits: u32) -> io::Result<Self> {
        Self::with_bound(permits, Self::MAX)
    }

    fn with_bound(permits: u32, bound: u32) -> io::Result<Self> {
        if permits > Self::MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a semaphore has at most {} permits, not {permits}",
                    Self::MAX
                ),
            ));
        }
        let object = Object::create(Shape::NONE, |this: *mut SemaphoreWords| {
            // SAFETY: valid for writes, aligned, and not shared yet.
            unsafe {
                this.write(SemaphoreWords {
                    bound,
                    raw: RawSemaphore::new(permits),
                })
            };
            Ok(())
        })?;
        Ok(Self::over(object))
    }

    fn over(object: Object<SemaphoreWords>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(Arc::new(Shared {
            id: NEXT.fetch_add(1, Ordering::Relaxed), // only has to be unique
            bound: object.words().bound.min(Self::MAX),
            member: Member::new(object.mapping().clone(), 0, SLOTS),
            looked: AtomicU64::new(0),
            object,
        }))
    }

    /// The semaphore behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a semaphore.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(Self::over)
    }

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// [`AcquireError`]: none can be had, however long one waits.
    #[inline]
    pub fn acquire(&self) -> Result<Permit<'_>, AcquireError> {
        let record = self.0.record()?;
        match self.0.raw().take(record) {
            Taken::Yes => Ok(Permit::new(self, record)),
            taken => match self.0.take_slow(record, taken, None) {
                Ok(()) => Ok(Permit::new(self, record)),
                Err(TryAcquireError::Failed(error)) => Err(error),
                Err(_) => unreachable!("a wait without deadline does not end for time"),
            },
        }
    }

    /// Takes a permit if one is free.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`] if none is.
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>, TryAcquireError> {
        let record = self.0.record()?;
        match self.0.raw().take(record) {
            Taken::Yes => Ok(Permit::new(self, record)),
            taken => {
                self.0.take_again(record, taken)?;
                Ok(Permit::new(self, record))
            }
        }
    }

    /// Waits for a permit, at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::TimedOut`] if none was free until then.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, TryAcquireError> {
        let record = self.0.record()?;
        match self.0.raw().take(record) {
            Taken::Yes => {}
            taken => self
                .0
                .take_slow(record, taken, Some(Deadline::after(timeout)))?,
        }
        Ok(Permit::new(self, record))
    }

    /// Adds a permit that nobody held: a signal to who acquires.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] beyond [`MAX`](Self::MAX); nothing was added.
    pub fn release(&self) -> Result<(), ReleaseError> {
        self.release_many(1)
    }

    /// As [`release`](Self::release), `permits` at once.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] beyond [`MAX`](Self::MAX); nothing was added.
    pub fn release_many(&self, permits: u32) -> Result<(), ReleaseError> {
        let bound = self.0.bound;
        let released = self.0.raw().release(permits, bound);
        released.map_err(|_| ReleaseError { bound })
    }

    /// How many permits are free.
    #[doc(alias = "get_value")]
    #[must_use]
    pub fn available(&self) -> u32 {
        self.0.raw().free()
    }
}

impl Shared {
    pub(crate) fn raw(&self) -> &RawSemaphore<RECORDS> {
        &self.object.words().raw
    }

    /// This process among the users; what a dead user of the same slot left is given back first.
    fn slot(&self) -> io::Result<u32> {
        self.member.slot(|slot| {
            self.raw().reap(slot, self.bound, |other| other != slot);
        })
    }

    /// Gives back what the dead hold.
    pub(crate) fn reap(&self) -> io::Result<u32> {
        let me = self.slot()?;
        let mut failure = None;
        let reaped = self.raw().reap(me, self.bound, |slot| {
            // Who cannot be asked about counts as alive: a permit must not be given back twice.
            self.member.is_alive(slot).unwrap_or_else(|error| {
                failure = Some(error);
                true
            })
        });
        failure.map_or(Ok(reaped), Err)
    }

    /// Once more after the dead have been looked for, unless that was done just now.
    #[cold]
    fn take_again(&self, record: u32, taken: Taken) -> Result<(), TryAcquireError> {
        const PAUSE: u64 = 100; // milliseconds
        refuse_full(taken)?;
        let now = Deadline::now().as_timespec();
        let now = now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000;
        // Relaxed: a hint; two threads that look at once do no harm.
        if now < self.looked.load(Ordering::Relaxed) + PAUSE {
            return Err(TryAcquireError::WouldBlock);
        }
        self.looked.store(now, Ordering::Relaxed);
        self.reap().map_err(AcquireError::System)?;
        match self.raw().take(record) {
            Taken::Yes => Ok(()),
            taken => {
                refuse_full(taken)?;
                Err(TryAcquireError::WouldBlock)
            }
        }
    }

    #[cold]
    fn take_slow(
        &self,
        record: u32,
        mut taken: Taken,
        until: Option<Deadline>,
    ) -> Result<(), TryAcquireError> {
        if may_spin() {
            for pauses in PAUSES {
                (0..pauses).for_each(|_| spin_loop());
                if self.raw().take(record) == Taken::Yes {
                    return Ok(());
                }
            }
        }
        loop {
            refuse_full(taken)?;
            let told = self.raw().sleep(until);
            if told == Told::Slice || told == Told::Over {
                self.reap().map_err(AcquireError::System)?;
            }
            taken = self.raw().take(record);
            if taken == Taken::Yes {
                return Ok(());
            }
            if told == Told::Over {
                return Err(TryAcquireError::TimedOut);
            }
        }
    }
}

fn refuse_full(taken: Taken) -> Result<(), AcquireError> {
    match taken {
        Taken::Full => Err(AcquireError::TooManyHeld {
            limit: u16::MAX as usize,
        }),
        _ => Ok(()),
    }
}

handle!(Semaphore(SemaphoreWords));

impl AsFd for Semaphore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.object.fd()
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.available())
            .finish()
    }
}

/// A permit of a [`Semaphore`]; dropping it gives it back.
#[must_use = "dropped at once, it is given back at once"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    record: u32,
    /// In a forked child it is a copy of its parent's, and gives nothing back.
    generation: u64,
    /// The record is this thread's.
    not_send: PhantomData<*const ()>,
}

impl<'a> Permit<'a> {
    #[inline]
    fn new(semaphore: &'a Semaphore, record: u32) -> Self {
        Self {
            semaphore,
            record,
            generation: fork_generation(),
            not_send: PhantomData,
        }
    }

    /// Takes the permit for good: it is not given back, unless somebody
    /// [releases](Semaphore::release) one.
    pub fn forget(self) {
        if self.generation == fork_generation() {
            self.semaphore.0.raw().forget(self.record);
        }
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.generation == fork_generation() {
            self.semaphore
                .0
                .raw()
                .give(self.record, self.semaphore.0.bound);
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("semaphore", self.semaphore)
            .finish()
    }
}
