//! The clients' halves of `Lock` and `RLock`; the server's half is `referents::lock`.

use std::{fmt, marker::PhantomData, time::Duration};

use mp_core::primitive::{AtomicU64, Ordering};

use crate::{
    error::CallError,
    proxies::nanos,
    proxy::{Proxy, proxy_type},
    referents::lock::Locked,
};

/// A number for this thread, for locks that know their owner.
pub(super) fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local!(static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed)); // only has to differ
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// Mutual exclusion between all clients of a server.
///
/// # Process death
///
/// When its holder dies, the lock is free within 100 ms, and the next owner is told:
/// [`LockError::OwnerDied`].
///
/// A guard that is dropped while there is no connection to tell the server (all are in use by calls
/// that wait, and no descriptor is left for another) ends the session, as a death does: the lock is
/// free, and the calls of this client are [`CallError::ServerDied`].
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let lock = manager.lock()?;
/// let guard = lock.lock().unwrap();
/// assert!(lock.is_locked()?);
/// drop(guard);
/// assert!(!lock.is_locked()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "AcquirerProxy")]
pub struct Lock {
    proxy: Proxy,
}

/// A [`Lock`] that the thread which holds it may lock again.
///
/// # Process death
///
/// As for [`Lock`].
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let lock = manager.rlock()?;
/// let outer = lock.lock().unwrap();
/// let inner = lock.lock().unwrap(); // the same thread: no waiting
/// drop((inner, outer));
/// assert!(!lock.is_locked()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RLock {
    proxy: Proxy,
}

proxy_type!(Lock, "Lock");
proxy_type!(RLock, "RLock");

/// The last holder died with the lock; what it protects may be half-changed.
///
/// The lock is held by this error. [`into_guard`](Self::into_guard) accepts the repair; dropped
/// instead, the lock is free and the next one is told.
pub struct OwnerDied<G> {
    guard: G,
}

/// A guard that can say that a death was seen to.
pub trait Guard: sealed::Sealed {}

mod sealed {
    pub trait Sealed {
        fn accept(&self);
    }
}

impl<G: Guard> OwnerDied<G> {
    pub(super) fn new(guard: G) -> Self {
        Self { guard }
    }

    /// Accepts: the caller has the lock, and repairs what it protects.
    #[must_use = "the lock is held by the guard"]
    pub fn into_guard(self) -> G {
        self.guard.accept();
        self.guard
    }
}

impl<G> fmt::Debug for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnerDied(..)")
    }
}

impl<G> fmt::Display for OwnerDied<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the client that held the lock died with it, and what it protects may be \
             half-changed; repair that and accept with into_guard()",
        )
    }
}

impl<G> std::error::Error for OwnerDied<G> {}

/// Why `lock()` gave no plain guard.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum LockError<G> {
    /// The last holder died. The lock is held by this error.
    #[error(transparent)]
    OwnerDied(OwnerDied<G>),
    /// This thread holds the lock already, and would wait for itself.
    #[error("this thread holds the lock already and would wait for itself; drop the first guard")]
    Deadlock,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Why `try_lock()` or `lock_timeout()` gave no plain guard.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TryLockError<G> {
    /// Somebody holds the lock.
    #[error("the lock is held")]
    WouldBlock,
    /// Somebody held the lock until the timeout.
    #[error("the lock was held until the timeout")]
    TimedOut,
    /// The last holder died. The lock is held by this error.
    #[error(transparent)]
    OwnerDied(OwnerDied<G>),
    /// This thread holds the lock already, and would wait for itself.
    #[error("this thread holds the lock already and would wait for itself; drop the first guard")]
    Deadlock,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnerDied(died) => died.fmt(f),
            Self::Deadlock => f.write_str("Deadlock"),
            Self::Call(error) => error.fmt(f),
        }
    }
}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("WouldBlock"),
            Self::TimedOut => f.write_str("TimedOut"),
            Self::OwnerDied(died) => died.fmt(f),
            Self::Deadlock => f.write_str("Deadlock"),
            Self::Call(error) => error.fmt(f),
        }
    }
}

/// Asks for the lock behind `proxy`; which acquisition it was, and whether the last owner died.
fn acquire<G>(
    proxy: &Proxy,
    timeout: Option<Duration>,
    guard: impl FnOnce(u64) -> G,
) -> Result<G, TryLockError<G>>
where
    G: Guard,
{
    let nanos = timeout.and_then(nanos);
    match proxy.ask_plain("acquire", &(thread_number(), nanos))? {
        Locked::Yes {
            hold,
            abandoned: false,
        } => Ok(guard(hold)),
        Locked::Yes { hold, .. } => Err(TryLockError::OwnerDied(OwnerDied::new(guard(hold)))),
        Locked::Deadlock => Err(TryLockError::Deadlock),
        Locked::TimedOut if timeout == Some(Duration::ZERO) => Err(TryLockError::WouldBlock),
        Locked::TimedOut => Err(TryLockError::TimedOut),
    }
}

/// The same without a timeout.
fn acquire_endless<G: Guard>(
    proxy: &Proxy,
    guard: impl FnOnce(u64) -> G,
) -> Result<G, LockError<G>> {
    acquire(proxy, None, guard).map_err(|error| match error {
        TryLockError::OwnerDied(died) => LockError::OwnerDied(died),
        TryLockError::Deadlock => LockError::Deadlock,
        TryLockError::Call(error) => LockError::Call(error),
        TryLockError::WouldBlock | TryLockError::TimedOut => {
            LockError::Call(CallError::not_found("end of an endless wait"))
        }
    })
}

macro_rules! lock_methods {
    ($guard:ident) => {
        /// Waits for the lock, first come, first served.
        ///
        /// # Errors
        ///
        /// [`LockError`].
        #[doc(alias = "acquire")]
        pub fn lock(&self) -> Result<$guard<'_>, LockError<$guard<'_>>> {
            acquire_endless(&self.proxy, |hold| $guard::new(&self.proxy, hold))
        }

        /// Takes the lock if it is free.
        ///
        /// # Errors
        ///
        /// [`TryLockError`].
        pub fn try_lock(&self) -> Result<$guard<'_>, TryLockError<$guard<'_>>> {
            self.lock_timeout(Duration::ZERO)
        }

        /// Waits for the lock for at most `timeout`.
        ///
        /// # Errors
        ///
        /// [`TryLockError`].
        pub fn lock_timeout(
            &self,
            timeout: Duration,
        ) -> Result<$guard<'_>, TryLockError<$guard<'_>>> {
            acquire(&self.proxy, Some(timeout), |hold| {
                $guard::new(&self.proxy, hold)
            })
        }

        /// Whether somebody holds the lock at the moment.
        ///
        /// # Errors
        ///
        /// [`CallError`].
        pub fn is_locked(&self) -> Result<bool, CallError> {
            self.proxy.ask_plain("is_locked", &())
        }
    };
}

impl Lock {
    lock_methods!(LockGuard);

    /// Releases the lock without its guard, which was [forgotten](std::mem::forget): any client
    /// may.
    ///
    /// # Errors
    ///
    /// [`CallError::Refused`]: nobody holds it.
    pub fn release(&self) -> Result<(), CallError> {
        self.proxy
            .ask_plain("release", &(thread_number(), None::<u64>))
    }
}

impl RLock {
    lock_methods!(RLockGuard);

    /// Releases the lock without its guard, which was [forgotten](std::mem::forget) by this thread.
    ///
    /// # Errors
    ///
    /// [`CallError::Refused`]: this thread does not hold it.
    pub fn release(&self) -> Result<(), CallError> {
        self.proxy
            .ask_plain("release", &(thread_number(), None::<u64>))
    }
}

macro_rules! guard {
    ($name:ident, $lock:literal) => {
        #[doc = concat!("Holds a [`", $lock, "`]; dropped, it is free again.")]
        #[must_use = "the lock is released when the guard is dropped"]
        pub struct $name<'a> {
            proxy: &'a Proxy,
            hold: u64,
            /// The thread that locks is the one that unlocks.
            not_send: PhantomData<*const ()>,
        }

        impl<'a> $name<'a> {
            pub(super) fn new(proxy: &'a Proxy, hold: u64) -> Self {
                Self {
                    proxy,
                    hold,
                    not_send: PhantomData,
                }
            }
        }

        impl Drop for $name<'_> {
            fn drop(&mut self) {
                release_hold(self.proxy, self.hold);
            }
        }

        impl sealed::Sealed for $name<'_> {
            fn accept(&self) {
                // A server that is gone has no mark to clear. One that cannot be told keeps it:
                // the next owner is warned once more.
                let _: Result<(), _> = self.proxy.ask_plain("accept", &self.hold);
            }
        }

        impl Guard for $name<'_> {}

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.proxy)
            }
        }
    };
}

guard!(LockGuard, "Lock");
guard!(RLockGuard, "RLock");

impl<'a> RLockGuard<'a> {
    /// For a condition, whose wait releases and acquires again.
    pub(super) fn proxy(&self) -> &'a Proxy {
        self.proxy
    }

    pub(super) fn set_hold(&mut self, hold: u64) {
        self.hold = hold;
    }
}

fn release_hold(proxy: &Proxy, hold: u64) {
    proxy.give_back("release", &(thread_number(), Some(hold)));
}
