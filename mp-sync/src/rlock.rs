//! Mutual exclusion that its owner may enter again.
#![allow(unsafe_code)] // unlocks what a guard proves to be locked

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{
    deadline::Deadline,
    hooks::fork_generation,
    primitive::Ordering,
    robust::{Acquired, LockFailure},
    shm::ShmSafe,
};

use crate::{
    error::{LockError, TryLockError},
    lock::{Exclusive, Guard, Unproven, locked, owner, sealed, try_locked},
    object::{Object, Shape, Words, handle},
    raw::RawLock,
};

/// A lock of the other kind, so that the descriptor of one is not taken for the other.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Recursive(RawLock);

// SAFETY: a `RawLock`.
unsafe impl ShmSafe for Recursive {}
// SAFETY: as for `RawLock`.
unsafe impl Words for Recursive {
    const KIND: u32 = 5;
    const NAME: &'static str = "RLock";

    fn is_pinned(&self) -> bool {
        self.0.is_pinned()
    }
}

/// A [`Lock`](crate::Lock) that the thread which holds it may lock again.
///
/// It is free when every guard is gone. A forked child does not hold what its parent held.
///
/// # Process death
///
/// As with [`Lock`](crate::Lock); the next owner holds it once, however deep the dead was in.
///
/// # Examples
///
/// ```
/// let lock = mp_sync::RLock::new()?;
/// let outer = lock.lock().unwrap();
/// let inner = lock.lock().unwrap();
/// drop(outer);
/// assert!(lock.is_locked());
/// drop(inner);
/// assert!(!lock.is_locked());
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.RLock")]
#[derive(Clone)]
pub struct RLock(Arc<Object<Recursive>>);

impl RLock {
    /// A free lock.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY:
        // * `create` gives memory that is valid, aligned, and not shared yet.
        // * A guard borrows the handle that keeps it mapped; `Object` leaks it if one is forgotten.
        let object = Object::create(Shape::NONE, |this: *mut Recursive| unsafe {
            RawLock::init(this.cast())
        })?;
        Ok(Self(Arc::new(object)))
    }

    /// The lock behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of an `RLock`.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(|object| Self(Arc::new(object)))
    }

    fn raw(&self) -> &RawLock {
        &self.0.words().0
    }

    /// Waits for the lock, unless this thread holds it.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], with the lock held, when its last owner died.
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        let answer = self.enter(self.raw().lock_until(None));
        locked(answer, RLockGuard::new(self))
    }

    /// Takes the lock if it is free, or this thread's.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`] when somebody else holds it.
    pub fn try_lock(&self) -> Result<RLockGuard<'_>, TryLockError<RLockGuard<'_>>> {
        let answer = match self.raw().try_lock() {
            Err(LockFailure::WouldBlock) if self.raw().is_mine() => Err(LockFailure::Deadlock),
            answer => answer,
        };
        try_locked(self.enter(answer), RLockGuard::new(self))
    }

    /// Waits for the lock, at most `timeout`, unless this thread holds it.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], and those of [`lock`](Self::lock).
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<RLockGuard<'_>, TryLockError<RLockGuard<'_>>> {
        let until = Some(Deadline::after(timeout));
        let answer = self.enter(self.raw().lock_until(until));
        try_locked(answer, RLockGuard::new(self))
    }

    /// Whether somebody holds it: a peek, old at once.
    #[doc(alias = "locked")]
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.raw().owner().is_some()
    }

    /// The mutex knows its owner: its refusal to wait for itself is how a thread comes in again.
    fn enter(&self, answer: Result<Acquired, LockFailure>) -> Result<Acquired, LockFailure> {
        let Err(LockFailure::Deadlock) = answer else {
            return answer;
        };
        self.raw().depth().fetch_add(1, Ordering::Relaxed); // the owner's alone
        // Inside, the outer guard's holder has the notice of a death, or has accepted it.
        Ok(Acquired::Clean)
    }
}

handle!(RLock(Recursive));

impl AsFd for RLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut state = f.debug_struct("RLock");
        state.field("owner", &owner(self.raw()));
        if self.raw().is_mine() {
            let depth = self.raw().depth().load(Ordering::Relaxed); // the owner's alone
            state.field("depth", &(depth + 1));
        }
        state.finish()
    }
}

/// An [`RLock`], held; dropping the last one unlocks.
#[must_use = "dropped at once, it unlocks at once"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    /// In a forked child it is a copy of its parent's, and leaves nothing.
    generation: u64,
    /// Only the thread that locked may unlock.
    not_send: PhantomData<*const ()>,
}

impl<'a> RLockGuard<'a> {
    fn new(lock: &'a RLock) -> Unproven<Self> {
        Unproven::new(Self {
            lock,
            generation: fork_generation(),
            not_send: PhantomData,
        })
    }
}

impl Guard for RLockGuard<'_> {}
impl Exclusive for RLockGuard<'_> {}

impl sealed::Holds for RLockGuard<'_> {
    fn raw(&self) -> &RawLock {
        self.lock.raw()
    }

    fn is_own(&self) -> bool {
        self.generation == fork_generation()
    }
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        if !sealed::Holds::is_own(self) {
            return;
        }
        let depth = self.lock.raw().depth();
        // Relaxed: the owner's alone.
        match depth.load(Ordering::Relaxed) {
            // SAFETY: a guard is made by locking in this process, cannot leave its thread, and is the last.
            0 => unsafe { self.lock.raw().unlock() },
            inner => depth.store(inner - 1, Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}
