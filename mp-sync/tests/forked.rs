//! Guards in a forked child are copies: the lock is their parent's.

use std::thread;

use mp_core::testing::{Census, Watchdog, fork_child};
use mp_sync::{Array, Condition, Lock, LockError, RLock, RwLock, Value};

/// The parent drops its guard as soon as it has forked; the child holds the lock then, and drops its
/// copy of that guard.
macro_rules! a_copied_guard_unlocks_nothing {
    ($make:expr, $lock:ident, $try_lock:ident) => {
        let lock = $make.unwrap();
        let guard = lock.$lock().unwrap();
        let child = fork_child(|| {
            let own = lock.$lock().unwrap();
            drop(guard);
            let others = thread::scope(|scope| scope.spawn(|| lock.$try_lock().is_ok()).join());
            assert!(!others.unwrap(), "{own:?}");
        });
        child.wait_success();
        assert!(lock.$try_lock().is_ok());
    };
}

#[test]
fn a_guard_that_a_forked_child_drops_unlocks_nothing() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    a_copied_guard_unlocks_nothing!(Lock::new(), lock, try_lock);
    a_copied_guard_unlocks_nothing!(RLock::new(), lock, try_lock);
    a_copied_guard_unlocks_nothing!(Value::new(1), lock, try_lock);
    a_copied_guard_unlocks_nothing!(Array::from_slice(&[1]), lock, try_lock);
    a_copied_guard_unlocks_nothing!(Condition::new(), lock, try_lock);
    a_copied_guard_unlocks_nothing!(RwLock::new(), write, try_write);
}

#[test]
fn a_forked_child_leaves_a_recursive_lock_as_deep_as_its_parent_is_in() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let lock = RLock::new().unwrap();
    let (outer, inner) = (lock.lock().unwrap(), lock.lock().unwrap());
    fork_child(move || drop(inner)).wait_success(); // here it is dropped, too
    assert!(lock.is_locked());
    drop(outer);
    assert!(!lock.is_locked());
}

#[test]
fn a_forked_child_cannot_wait_with_its_parents_guard() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (lock, condition) = (Lock::new().unwrap(), Condition::new().unwrap());
    let mut guard = Some(lock.lock().unwrap());
    fork_child(|| {
        let copy = guard.take().unwrap();
        assert!(matches!(condition.wait(copy), Err(LockError::Broken(_))));
    })
    .wait_success();
    assert!(lock.is_locked() && guard.is_some());
}
