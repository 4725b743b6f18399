//! The client's half of `Condition`; the server's half is `referents::condition`.

use std::time::Duration;

use mp_core::deadline::Deadline;

use crate::{
    error::CallError,
    proxies::{
        lock::{LockError, OwnerDied, RLockGuard, TryLockError, thread_number},
        nanos,
    },
    proxy::{Managed, Proxy, proxy_type},
    referents::lock::Locked,
};

/// Waiting for a change of what a lock protects.
///
/// It has a recursive lock of its own, or that of a [`Lock`](crate::Lock) or
/// [`RLock`](crate::RLock). Change what is waited for under that lock: a change between a waiter's
/// look and its wait is missed otherwise, with its notification. `notify` itself needs no lock.
///
/// # Process death
///
/// A waiter that dies strands nobody: a notification that it got is passed on. The death of a
/// holder of the lock is told to the next one, as for [`Lock`](crate::Lock), and wakes every
/// waiter, since the notification that it waits for may have died with the holder.
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let (queue, filled) = (manager.list::<u32>()?, manager.condition()?);
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         let guard = filled.lock().unwrap();
///         queue.push(7).unwrap();
///         drop(guard);
///         filled.notify_all().unwrap();
///     });
///     let guard = filled.lock().unwrap();
///     let guard = filled.wait_while(guard, || queue.is_empty());
///     drop(guard.unwrap());
/// });
/// assert_eq!(queue.pop()?, Some(7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "ConditionProxy")]
pub struct Condition {
    proxy: Proxy,
}

proxy_type!(Condition, "Condition");

type Held<'a> = Result<RLockGuard<'a>, LockError<RLockGuard<'a>>>;

impl Condition {
    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> Held<'_> {
        let args = (thread_number(), None::<u64>);
        self.held(self.proxy.ask_plain("acquire", &args)?)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    ///
    /// [`TryLockError`].
    pub fn try_lock(&self) -> Result<RLockGuard<'_>, TryLockError<RLockGuard<'_>>> {
        let locked = self
            .proxy
            .ask_plain("acquire", &(thread_number(), Some(0_u64)))?;
        if matches!(locked, Locked::TimedOut) {
            return Err(TryLockError::WouldBlock);
        }
        self.held(locked).map_err(|error| match error {
            LockError::OwnerDied(died) => TryLockError::OwnerDied(died),
            LockError::Deadlock => TryLockError::Deadlock,
            LockError::Call(error) => TryLockError::Call(error),
        })
    }

    fn held(&self, locked: Locked) -> Held<'_> {
        match locked {
            Locked::Yes { hold, abandoned } => {
                let guard = RLockGuard::new(&self.proxy, hold);
                if abandoned {
                    return Err(LockError::OwnerDied(OwnerDied::new(guard)));
                }
                Ok(guard)
            }
            Locked::Deadlock => Err(LockError::Deadlock),
            Locked::TimedOut => Err(LockError::Call(CallError::not_found(
                "end of an endless wait",
            ))),
        }
    }

    /// Releases the lock, waits until it is notified, and takes the lock again.
    ///
    /// # Errors
    ///
    /// [`LockError`]; [`CallError::Refused`] with the guard of another lock.
    pub fn wait<'a>(&'a self, guard: RLockGuard<'a>) -> Held<'a> {
        self.sleep(guard, None)?.1
    }

    /// As [`wait`](Self::wait), for at most `timeout`; whether it was notified. The lock is waited
    /// for in any case.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<'a>(
        &'a self,
        guard: RLockGuard<'a>,
        timeout: Duration,
    ) -> Result<(RLockGuard<'a>, bool), LockError<RLockGuard<'a>>> {
        let (notified, guard) = self.sleep(guard, nanos(timeout))?;
        Ok((guard?, notified))
    }

    /// Waits as long as `condition` holds.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait), and what `condition` fails with.
    #[doc(alias = "wait_for")]
    pub fn wait_while<'a>(
        &'a self,
        mut guard: RLockGuard<'a>,
        mut condition: impl FnMut() -> Result<bool, CallError>,
    ) -> Held<'a> {
        while condition()? {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait_while`](Self::wait_while), for at most `timeout`; whether the condition has ended.
    ///
    /// # Errors
    ///
    /// As [`wait_while`](Self::wait_while).
    pub fn wait_while_timeout<'a>(
        &'a self,
        mut guard: RLockGuard<'a>,
        timeout: Duration,
        mut condition: impl FnMut() -> Result<bool, CallError>,
    ) -> Result<(RLockGuard<'a>, bool), LockError<RLockGuard<'a>>> {
        let deadline = Deadline::after(timeout);
        while condition()? {
            if deadline.is_over() {
                return Ok((guard, false));
            }
            guard = self.wait_timeout(guard, deadline.remaining())?.0;
        }
        Ok((guard, true))
    }

    #[allow(clippy::type_complexity)] // whether it was notified, and the outcome of the lock
    fn sleep<'a>(
        &'a self,
        mut guard: RLockGuard<'a>,
        nanos: Option<u64>,
    ) -> Result<(bool, Held<'a>), CallError> {
        if guard.proxy() != &self.proxy {
            return Err(CallError::Refused {
                method: "Condition.wait".to_owned(),
                reason: "this guard is of another condition".to_owned(),
            });
        }
        let (notified, locked) = self
            .proxy
            .ask_plain::<_, (bool, Locked)>("wait", &(thread_number(), nanos))?;
        let outcome = match locked {
            Locked::Yes { hold, abandoned } => {
                guard.set_hold(hold);
                if abandoned {
                    Err(LockError::OwnerDied(OwnerDied::new(guard)))
                } else {
                    Ok(guard)
                }
            }
            other => self.held(other),
        };
        Ok((notified, outcome))
    }

    /// Wakes one waiter, if there is one. Never blocks.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "notify")]
    pub fn notify_one(&self) -> Result<(), CallError> {
        self.notify(1)
    }

    /// Wakes so many waiters, if there are as many.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn notify(&self, count: u64) -> Result<(), CallError> {
        self.proxy.ask_plain("notify", &Some(count))
    }

    /// Wakes every waiter.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn notify_all(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("notify", &None::<u64>)
    }

    /// The lock of `lock`, for the constructor.
    pub(crate) fn args<L: Managed>(lock: &L) -> Option<u64> {
        Some(lock.proxy().id())
    }
}
