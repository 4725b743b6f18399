//! Mutual exclusion between processes and threads.
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
    robust::{Acquired, LockFailure},
};

use crate::{
    error::{LockError, OwnerDied, TryLockError, lock_error, try_lock_error},
    object::{Object, Shape, Words, handle, is_own_thread},
    raw::RawLock,
};

// SAFETY:
// * A mutex and what its owner alone touches.
// * 48 bytes.
unsafe impl Words for RawLock {
    const KIND: u32 = 1;
    const NAME: &'static str = "Lock";

    /// A guard was forgotten: the robust list of one of our threads points into the memory.
    fn is_pinned(&self) -> bool {
        self.owner().is_some_and(is_own_thread)
    }
}

/// What the locks of this crate return: the lock is held as long as it lives.
///
/// In a forked child a guard of its parent is a copy that holds nothing: dropping it does nothing,
/// and the data behind it must not be touched.
///
/// Not to be implemented elsewhere.
pub trait Guard: sealed::Accept {}

/// A guard that holds its lock alone, so that a [`Condition`](crate::Condition) can wait with it.
///
/// Not to be implemented elsewhere.
pub trait Exclusive: Guard + sealed::Holds {}

pub(crate) mod sealed {
    use crate::raw::RawLock;

    pub trait Accept: Sized {
        /// The owner's death is accepted.
        fn accept(&self);
    }

    pub trait Holds {
        /// The lock that is held.
        fn raw(&self) -> &RawLock;

        /// Whether this process has locked, and not the parent that forked it.
        fn is_own(&self) -> bool;
    }

    impl<G: Holds> Accept for G {
        fn accept(&self) {
            if self.is_own() {
                self.raw().clear_mark();
            }
        }
    }
}

/// Mutual exclusion between processes and threads; whoever dies holding it does not take it along.
///
/// A clone is another handle to the same lock. Locking again in the thread that holds it is an
/// error. Who waits for a lock that another process may give back without having taken it needs a
/// [`Semaphore`](crate::Semaphore).
///
/// # Process death
///
/// The next [`lock`](Self::lock) of anybody gets the lock, within 100 ms, as
/// [`LockError::OwnerDied`]: once for each death, and again only until somebody accepts it with
/// [`into_guard`](OwnerDied::into_guard). The same when a thread ends without dropping its guard.
///
/// # Examples
///
/// ```
/// let lock = mp_sync::Lock::new()?;
/// {
///     let _guard = lock.lock().unwrap_or_else(|died| died.into_guard());
///     assert!(lock.try_lock().is_err());
/// }
/// assert!(lock.try_lock().is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.Lock")]
#[derive(Clone)]
pub struct Lock(pub(crate) Arc<Object<RawLock>>);

impl Lock {
    /// A free lock.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        Self::with_data(Shape::NONE)
    }

    /// A lock with zeroed data of `shape` behind it.
    pub(crate) fn with_data(shape: Shape) -> io::Result<Self> {
        // SAFETY:
        // * `create` gives memory that is valid, aligned, and not shared yet.
        // * A guard borrows the handle that keeps it mapped; `Object` leaks it if one is forgotten.
        let object = Object::create(shape, |this| unsafe { RawLock::init(this) })?;
        Ok(Self(Arc::new(object)))
    }

    /// The lock behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a lock.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(|object| Self(Arc::new(object)))
    }

    pub(crate) fn raw(&self) -> &RawLock {
        self.0.words()
    }

    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], with the lock held, when its last owner died;
    /// [`LockError::Deadlock`] when this thread holds it.
    #[doc(alias = "acquire")]
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        locked(self.raw().lock_until(None), LockGuard::new(self))
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// [`TryLockError::WouldBlock`] when it is held, also by this thread;
    /// [`TryLockError::OwnerDied`] as in [`lock`](Self::lock).
    #[inline]
    pub fn try_lock(&self) -> Result<LockGuard<'_>, TryLockError<LockGuard<'_>>> {
        try_locked(self.raw().try_lock(), LockGuard::new(self))
    }

    /// Waits for the lock, at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`TryLockError::TimedOut`], and those of [`lock`](Self::lock).
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<LockGuard<'_>, TryLockError<LockGuard<'_>>> {
        let until = Some(Deadline::after(timeout));
        try_locked(self.raw().lock_until(until), LockGuard::new(self))
    }

    /// Whether somebody holds it: a peek, old at once.
    #[doc(alias = "locked")]
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.raw().owner().is_some()
    }
}

handle!(Lock(RawLock));

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("owner", &owner(self.raw()))
            .finish()
    }
}

/// Who holds a lock, in words.
pub(crate) fn owner(raw: &RawLock) -> impl fmt::Debug {
    fmt::from_fn(|f| match raw.owner() {
        None => f.write_str("none"),
        Some(_) if raw.is_mine() => f.write_str("this thread"),
        Some(tid) if is_own_thread(tid) => write!(f, "thread {tid} of this process"),
        Some(tid) => write!(f, "thread {tid} of another process"),
    })
}

/// Turns what a lock answered into the guard that the caller has ready, which is not the caller's
/// before: on failure it is forgotten, not dropped.
#[inline]
pub(crate) fn locked<G: Guard>(
    answer: Result<Acquired, LockFailure>,
    guard: Unproven<G>,
) -> Result<G, LockError<G>> {
    match answer {
        Ok(Acquired::Clean) => Ok(guard.proven()),
        Ok(Acquired::OwnerDied) => Err(LockError::OwnerDied(OwnerDied::new(guard.proven()))),
        Err(failure) => Err(lock_error(failure)),
    }
}

/// As [`locked`], for the calls that can end without the lock.
#[inline]
pub(crate) fn try_locked<G: Guard>(
    answer: Result<Acquired, LockFailure>,
    guard: Unproven<G>,
) -> Result<G, TryLockError<G>> {
    match answer {
        Ok(Acquired::Clean) => Ok(guard.proven()),
        Ok(Acquired::OwnerDied) => Err(TryLockError::OwnerDied(OwnerDied::new(guard.proven()))),
        Err(failure) => Err(try_lock_error(failure)),
    }
}

/// A guard of a lock that is not known to be held yet: it unlocks nothing.
pub(crate) struct Unproven<G>(std::mem::ManuallyDrop<G>);

impl<G> Unproven<G> {
    pub(crate) fn new(guard: G) -> Self {
        Self(std::mem::ManuallyDrop::new(guard))
    }

    pub(crate) fn peek(&self) -> &G {
        &self.0
    }

    pub(crate) fn proven(self) -> G {
        std::mem::ManuallyDrop::into_inner(self.0)
    }
}

/// A lock that this thread holds; dropping it unlocks.
pub(crate) struct Held<'a> {
    raw: &'a RawLock,
    /// In a forked child it is a copy of its parent's, and unlocks nothing.
    generation: u64,
    /// Only the thread that locked may unlock.
    not_send: PhantomData<*const ()>,
}

impl<'a> Held<'a> {
    /// For a guard that is [not proven](Unproven) yet, or whose maker has locked.
    #[inline]
    pub(crate) fn new(raw: &'a RawLock) -> Self {
        Self {
            raw,
            generation: fork_generation(),
            not_send: PhantomData,
        }
    }
}

impl sealed::Holds for Held<'_> {
    #[inline]
    fn raw(&self) -> &RawLock {
        self.raw
    }

    #[inline]
    fn is_own(&self) -> bool {
        self.generation == fork_generation()
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if sealed::Holds::is_own(self) {
            // SAFETY: made by locking in this process, see `new`, and it cannot leave its thread.
            unsafe { self.raw.unlock() };
        }
    }
}

/// A [`Lock`], held; dropping it unlocks.
#[must_use = "dropped at once, it unlocks at once"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    held: Held<'a>,
}

impl<'a> LockGuard<'a> {
    #[inline]
    fn new(lock: &'a Lock) -> Unproven<Self> {
        let held = Held::new(lock.raw());
        Unproven::new(Self { lock, held })
    }
}

impl Guard for LockGuard<'_> {}
impl Exclusive for LockGuard<'_> {}

impl sealed::Holds for LockGuard<'_> {
    fn raw(&self) -> &RawLock {
        self.held.raw()
    }

    fn is_own(&self) -> bool {
        self.held.is_own()
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}
