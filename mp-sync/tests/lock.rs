//! `Lock` and `RLock` in one process: threads, timeouts, wrong use.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use mp_sync::{Lock, LockError, RLock, TryLockError};

const SHORT: Duration = Duration::from_millis(30);

/// A thread locks and ends; it is joined, so that the kernel has seen its end.
fn die_holding(lock: &Lock) {
    thread::scope(|scope| {
        let dying = scope.spawn(|| std::mem::forget(lock.lock().unwrap()));
        dying.join().unwrap();
    });
}

/// Conformance: _TestLock.test_lock
#[test]
fn a_held_lock_is_not_taken_again_even_by_its_owner() {
    let lock = Lock::new().unwrap();
    let guard = lock.lock().unwrap();
    assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
    assert!(lock.is_locked());
    drop(guard);
    assert!(!lock.is_locked());
    drop(lock.try_lock().unwrap());
}

/// Conformance: _TestLock.test_lock_context
#[test]
fn a_lock_is_held_for_the_scope_of_its_guard() {
    let lock = Lock::new().unwrap();
    {
        let _guard = lock.lock().unwrap();
        assert!(lock.is_locked());
    }
    assert!(!lock.is_locked());
}

#[test]
fn locking_again_in_the_same_thread_is_an_error() {
    let lock = Lock::new().unwrap();
    let _guard = lock.lock().unwrap();
    assert!(matches!(lock.lock(), Err(LockError::Deadlock)));
    assert!(matches!(
        lock.lock_timeout(SHORT),
        Err(TryLockError::Deadlock)
    ));
    assert!(matches!(lock.clone().lock(), Err(LockError::Deadlock)));
}

#[test]
fn a_timeout_is_waited_for_and_then_told() {
    let lock = Lock::new().unwrap();
    let _guard = lock.lock().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            assert!(matches!(
                lock.lock_timeout(SHORT),
                Err(TryLockError::TimedOut)
            ));
            assert!(begun.elapsed() >= SHORT);
        });
    });
}

#[test]
fn threads_exclude_each_other() {
    let lock = Lock::new().unwrap();
    let inside = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let _guard = lock.lock().unwrap();
                    assert!(!inside.swap(true, Ordering::Relaxed));
                    inside.store(false, Ordering::Relaxed);
                }
            });
        }
    });
}

#[test]
fn a_thread_that_ends_with_its_guard_counts_as_dead() {
    let lock = Lock::new().unwrap();
    die_holding(&lock);
    assert!(lock.lock().unwrap_err().is_owner_died());
}

#[test]
fn an_error_that_is_dropped_leaves_the_notice_for_the_next() {
    let lock = Lock::new().unwrap();
    die_holding(&lock);
    for _ in 0..3 {
        assert!(matches!(lock.try_lock(), Err(TryLockError::OwnerDied(_))));
    }
    drop(lock.lock().unwrap_err().into_guard());
    drop(lock.lock().unwrap());
}

#[test]
fn a_forgotten_guard_keeps_its_memory_mapped() {
    thread::spawn(|| {
        let lock = Lock::new().unwrap();
        std::mem::forget(lock.lock().unwrap());
        drop(lock);
        // The robust list of this thread still holds the first; walking it must not fault.
        let other = Lock::new().unwrap();
        drop(other.lock().unwrap());
    })
    .join()
    .unwrap();
}

#[test]
fn the_owner_of_a_recursive_lock_comes_in_again() {
    let lock = RLock::new().unwrap();
    let outer = lock.lock().unwrap();
    let middle = lock.try_lock().unwrap();
    let inner = lock.lock_timeout(SHORT).unwrap();
    drop(outer);
    drop(inner);
    thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock))));
    });
    drop(middle);
    thread::scope(|scope| {
        scope.spawn(|| drop(lock.try_lock().unwrap()));
    });
}

#[test]
fn a_dead_owner_of_a_recursive_lock_leaves_it_free_whatever_the_depth() {
    let lock = RLock::new().unwrap();
    thread::scope(|scope| {
        let dying = scope.spawn(|| {
            for _ in 0..3 {
                std::mem::forget(lock.lock().unwrap());
            }
        });
        dying.join().unwrap();
    });
    drop(lock.lock().unwrap_err().into_guard());
    assert!(!lock.is_locked());
}

#[test]
fn debug_tells_who_holds_a_lock() {
    let (lock, recursive) = (Lock::new().unwrap(), RLock::new().unwrap());
    assert_eq!(format!("{lock:?}"), "Lock { owner: none }");
    let _guards = (lock.lock().unwrap(), recursive.lock().unwrap());
    assert_eq!(format!("{lock:?}"), "Lock { owner: this thread }");
    assert_eq!(
        format!("{recursive:?}"),
        "RLock { owner: this thread, depth: 1 }"
    );
    thread::scope(|scope| {
        scope.spawn(|| assert!(format!("{lock:?}").contains("of this process")));
    });
}

#[test]
fn a_descriptor_of_something_else_is_refused() {
    let clone = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned().unwrap();
    let (lock, recursive) = (Lock::new().unwrap(), RLock::new().unwrap());
    assert!(Lock::from_fd(clone(&recursive)).is_err());
    assert!(RLock::from_fd(clone(&lock)).is_err());
    let null = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(
        Lock::from_fd(null.into()).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    let again = Lock::from_fd(clone(&lock)).unwrap();
    let _guard = lock.lock().unwrap();
    assert!(again.is_locked());
}
