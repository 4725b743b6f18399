//! Waiting for what another process changes under a lock.
#![allow(unsafe_code)] // a lock inside shared memory, and giving up the lock that a guard holds

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{deadline::Deadline, primitive::Ordering, robust::Acquired, shm::ShmSafe};

use crate::{
    error::{LockError, OwnerDied, TryLockError, lock_error},
    lock::{Exclusive, Guard, Held, Unproven, locked, sealed, try_locked},
    members::{Members, SLOTS},
    object::{Object, Shape, Words, handle, is_own_thread},
    raw::{RawCondition, RawLock, Roster},
};

#[repr(C)]
#[derive(Debug)]
pub(crate) struct ConditionWords {
    lock: RawLock,
    raw: RawCondition,
    roster: Roster<SLOTS>,
}

// SAFETY: `repr(C)`; a mutex and atomics.
unsafe impl ShmSafe for ConditionWords {}
// SAFETY:
// * A mutex and atomics.
// * No data follows.
unsafe impl Words for ConditionWords {
    const KIND: u32 = 6;
    const NAME: &'static str = "Condition";

    fn is_pinned(&self) -> bool {
        self.lock.owner().is_some_and(is_own_thread)
    }
}

/// Waiting until another process or thread has changed something, under the lock that guards it.
///
/// It waits with any guard of this crate: that of a [`Value`](crate::Value) or
/// [`Array`](crate::Array), which is then what the condition is about, of a
/// [`Lock`](crate::Lock) or [`RLock`](crate::RLock), or with [its own](Self::lock). Those who wait
/// for the same thing use the same lock.
///
/// `notify` never blocks, with or without the lock. The change itself needs it: one between a
/// waiter's look and its wait is missed otherwise, with its notice.
///
/// # Process death
///
/// A waiter that dies is not counted anywhere. A death among the users wakes all who wait, once,
/// within half a second, since the dead may have taken a wake-up along: [`wait`](Self::wait) may
/// return without a notice, [`wait_while`](Self::wait_while) hides that. A normal exit is a death,
/// too, if another thread waits or notifies at that moment.
///
/// # Examples
///
/// ```
/// let (items, changed) = (mp_sync::Value::new(0)?, mp_sync::Condition::new()?);
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         let items = changed.wait_while(items.lock().unwrap(), |items| **items == 0);
///         assert_eq!(*items.unwrap(), 3);
///     });
///     *items.lock().unwrap() = 3;
///     changed.notify_one();
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.Condition")]
#[doc(alias = "condvar")]
#[derive(Clone)]
pub struct Condition(Arc<Shared>);

struct Shared {
    object: Object<ConditionWords>,
    members: Members,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.members.leave(&self.object.words().roster);
    }
}

impl Condition {
    /// A condition for which nobody waits, with a free lock.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        let object = Object::create(Shape::NONE, |this: *mut ConditionWords| {
            // SAFETY: inside `this`, which is valid for writes.
            let raw = unsafe { &raw mut (*this).raw };
            // SAFETY: valid for writes, aligned, and not shared yet.
            unsafe { raw.write(RawCondition::new()) };
            // SAFETY: as above.
            let roster = unsafe { &raw mut (*this).roster };
            // SAFETY: as above.
            unsafe { roster.write(Roster::default()) };
            // SAFETY:
            // * The lock is the first field; valid, aligned, not shared yet.
            // * A guard borrows the handle that keeps it mapped; `Object` leaks it if one is
            //   forgotten.
            unsafe { RawLock::init(this.cast()) }
        })?;
        Ok(Self::over(object))
    }

    fn over(object: Object<ConditionWords>) -> Self {
        let members = Members::new(object.mapping().clone());
        Self(Arc::new(Shared { object, members }))
    }

    /// The condition behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a condition.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(Self::over)
    }

    fn words(&self) -> &ConditionWords {
        self.0.object.words()
    }

    /// Waits for the lock that belongs to the condition.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock`](crate::Lock::lock).
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> Result<ConditionGuard<'_>, LockError<ConditionGuard<'_>>> {
        locked(
            self.words().lock.lock_until(None),
            ConditionGuard::new(self),
        )
    }

    /// Takes the lock that belongs to the condition, if it is free.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_lock`](crate::Lock::try_lock).
    pub fn try_lock(&self) -> Result<ConditionGuard<'_>, TryLockError<ConditionGuard<'_>>> {
        try_locked(self.words().lock.try_lock(), ConditionGuard::new(self))
    }

    /// Gives up the lock that `guard` holds, waits for a notice, and takes the lock again.
    ///
    /// A recursive lock is given up whatever its depth, and taken again as deep.
    ///
    /// # Errors
    ///
    /// [`LockError::OwnerDied`], with the lock held, when somebody died with it meanwhile;
    /// [`LockError::Broken`] in a forked child with a guard of its parent.
    pub fn wait<G: Exclusive>(&self, guard: G) -> Result<G, LockError<G>> {
        self.wait_until(guard, None).1
    }

    /// As [`wait`](Self::wait), at most `timeout`; whether it ended with a notice.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<G: Exclusive>(
        &self,
        guard: G,
        timeout: Duration,
    ) -> Result<(G, bool), LockError<G>> {
        let (noticed, guard) = self.wait_until(guard, Some(Deadline::after(timeout)));
        guard.map(|guard| (guard, noticed))
    }

    /// Waits as long as `condition` says so.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    #[doc(alias = "wait_for")]
    pub fn wait_while<G: Exclusive>(
        &self,
        mut guard: G,
        mut condition: impl FnMut(&mut G) -> bool,
    ) -> Result<G, LockError<G>> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// Waits as long as `condition` says so, at most `timeout`; whether what was waited for came.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_while_timeout<G: Exclusive>(
        &self,
        mut guard: G,
        timeout: Duration,
        mut condition: impl FnMut(&mut G) -> bool,
    ) -> Result<(G, bool), LockError<G>> {
        let until = Deadline::after(timeout);
        while condition(&mut guard) {
            if until.is_over() {
                return Ok((guard, false));
            }
            guard = self.wait_until(guard, Some(until)).1?;
        }
        Ok((guard, true))
    }

    fn wait_until<G: Exclusive>(
        &self,
        guard: G,
        until: Option<Deadline>,
    ) -> (bool, Result<G, LockError<G>>) {
        if !guard.is_own() {
            return (false, Err(copied()));
        }
        let ConditionWords { raw, roster, .. } = self.words();
        let counted = self.enter();
        // Until the lock is held again: who is woken and does not come back takes a notice along.
        let _inside = self.0.members.begin(roster);
        let ticket = raw.begin();
        let parked = Parked::new(guard);
        let noticed = raw.wait(ticket, until, || {
            // Who could not be entered does not rely on being missed: every slice is a wake-up.
            if !counted || self.0.members.dead(roster, false).is_some() {
                raw.lost();
                self.0.members.dead(roster, true);
            }
        });
        (noticed, parked.resume())
    }

    /// Whether this process is among those whose death is noticed.
    fn enter(&self) -> bool {
        let ConditionWords { raw, roster, .. } = self.words();
        let shared = Arc::downgrade(&self.0);
        let at_exit = move || {
            if let Some(shared) = shared.upgrade() {
                shared.members.exit(&shared.object.words().roster);
            }
        };
        self.0.members.enter(roster, || raw.lost(), at_exit).is_ok()
    }

    /// Wakes one of those who wait.
    pub fn notify_one(&self) {
        self.notify(1);
    }

    /// Wakes `count` of those who wait, or all if there are fewer.
    pub fn notify(&self, count: u32) {
        if self.enter() {
            let _inside = self.0.members.begin(&self.words().roster);
            self.words().raw.notify(count);
        } else {
            self.notify_all(); // nobody would miss us between the notice and the wake-up
        }
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.enter();
        let _inside = self.0.members.begin(&self.words().roster);
        self.words().raw.notify_all();
    }
}

fn copied<G>() -> LockError<G> {
    LockError::Broken(io::Error::other(
        "the guard is a copy in a forked child, whose parent holds the lock; lock it here",
    ))
}

/// A guard whose lock is given up for a while.
struct Parked<G: Exclusive> {
    guard: Unproven<G>,
    depth: u32,
}

impl<G: Exclusive> Parked<G> {
    fn new(guard: G) -> Self {
        let raw = guard.raw();
        // Relaxed: the owner's alone.
        let depth = raw.depth().swap(0, Ordering::Relaxed);
        // SAFETY: the guard proves that this thread holds the lock; it is not used, and not
        // dropped, before the lock is held again.
        unsafe { raw.unlock() };
        Self {
            guard: Unproven::new(guard),
            depth,
        }
    }

    fn resume(self) -> Result<G, LockError<G>> {
        let raw = self.guard.peek().raw();
        match raw.lock_until(None) {
            Err(failure) => Err(lock_error(failure)),
            Ok(acquired) => {
                raw.depth().store(self.depth, Ordering::Relaxed); // the owner's alone
                let guard = self.guard.proven();
                match acquired {
                    Acquired::Clean => Ok(guard),
                    Acquired::OwnerDied => Err(LockError::OwnerDied(OwnerDied::new(guard))),
                }
            }
        }
    }
}

handle!(Condition(ConditionWords));

impl AsFd for Condition {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.object.fd()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = crate::lock::owner(&self.words().lock);
        f.debug_struct("Condition").field("owner", &owner).finish()
    }
}

/// The lock of a [`Condition`], held; dropping it unlocks.
#[must_use = "dropped at once, it unlocks at once"]
pub struct ConditionGuard<'a> {
    condition: &'a Condition,
    held: Held<'a>,
}

impl<'a> ConditionGuard<'a> {
    fn new(condition: &'a Condition) -> Unproven<Self> {
        let held = Held::new(&condition.words().lock);
        Unproven::new(Self { condition, held })
    }
}

impl Guard for ConditionGuard<'_> {}
impl Exclusive for ConditionGuard<'_> {}

impl sealed::Holds for ConditionGuard<'_> {
    fn raw(&self) -> &RawLock {
        self.held.raw()
    }

    fn is_own(&self) -> bool {
        self.held.is_own()
    }
}

impl fmt::Debug for ConditionGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.condition.fmt(f)
    }
}
