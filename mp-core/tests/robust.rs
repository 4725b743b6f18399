//! The robust mutex across real processes, and at every instruction of its owner.

#![allow(unsafe_code)] // the mutex lies in memory that only the test knows about

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use mp_core::{
    deadline::Deadline,
    robust::{Acquired, LockFailure, RobustMutex},
    shm::Mapping,
    testing::{
        Census, Watchdog, eventually, fork_child,
        stepper::{self, Outcome, Sweep},
    },
};

/// A mutex in shared memory of its own.
#[derive(Clone)]
struct Shared(Arc<Mapping>);

impl Shared {
    fn new() -> Self {
        let mapping = Mapping::create("mp-test", 4096, 4096).unwrap();
        // SAFETY: a fresh page, larger and better aligned than a mutex, which nobody else knows.
        unsafe { RobustMutex::init(mapping.as_ptr().cast()) }.unwrap();
        Self(Arc::new(mapping))
    }

    fn mutex(&self) -> &RobustMutex {
        // SAFETY: initialised in `new`, and mapped as long as `self`.
        unsafe { &*self.0.as_ptr().cast() }
    }

    /// A word beside the mutex.
    fn held(&self) -> &AtomicBool {
        // SAFETY: in the same page, which begins as zeros; only ever used atomically.
        unsafe { AtomicBool::from_ptr(self.0.as_ptr().wrapping_add(1024).cast()) }
    }

    fn unlock(&self) {
        // SAFETY: only called by the thread that has just locked it.
        unsafe { self.mutex().unlock() }
    }
}

#[test]
fn the_next_owner_is_told_once_that_the_last_one_died() {
    let _census = Census::take();
    let _dog = Watchdog::secs(20);
    let shared = Shared::new();
    fork_child(|| drop(shared.mutex().lock())).wait_success();
    assert_eq!(shared.mutex().lock().unwrap(), Acquired::OwnerDied);
    shared.unlock();
    assert_eq!(shared.mutex().lock().unwrap(), Acquired::Clean);
    shared.unlock();
}

#[test]
fn a_waiter_gets_the_lock_of_a_killed_owner() {
    let _census = Census::take();
    let _dog = Watchdog::secs(20);
    let shared = Shared::new();
    let mut owner = fork_child(|| {
        shared.mutex().lock().unwrap();
        loop {
            std::thread::park();
        }
    });
    mp_core::testing::eventually(10, || match shared.mutex().try_lock() {
        Err(LockFailure::WouldBlock) => true,
        _ => {
            shared.unlock();
            false
        }
    });
    let waiter = {
        let shared = shared.clone();
        std::thread::spawn(move || {
            let acquired = shared.mutex().lock().unwrap();
            shared.unlock();
            acquired
        })
    };
    owner.kill();
    assert_eq!(waiter.join().unwrap(), Acquired::OwnerDied);
}

#[test]
fn locking_again_in_the_same_thread_is_an_error() {
    let shared = Shared::new();
    shared.mutex().lock().unwrap();
    assert!(matches!(shared.mutex().lock(), Err(LockFailure::Deadlock)));
    shared.unlock();
}

#[test]
fn a_wait_for_the_lock_ends_at_its_deadline() {
    let shared = Shared::new();
    let until = Deadline::after(Duration::from_millis(20));
    shared.mutex().lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let failure = shared.mutex().lock_until(Some(until)).unwrap_err();
            assert!(matches!(failure, LockFailure::TimedOut));
            assert!(until.is_over());
        });
    });
    shared.unlock();
}

#[test]
fn an_owner_killed_at_any_instruction_leaves_a_lock_that_works() {
    if !stepper::is_available() {
        mp_core::testing::skip("robust sweep", "ptrace");
        return;
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let shared = Shared::new();
    let swept = stepper::for_every_instruction(
        Sweep::default(),
        || shared.clone(),
        |shared, mark| {
            mark.call(|| {
                shared.mutex().lock().unwrap();
                shared.unlock();
            });
        },
        |shared, _| {
            shared.mutex().lock().unwrap();
            shared.unlock();
            assert_eq!(shared.mutex().lock().unwrap(), Acquired::Clean);
            shared.unlock();
        },
    );
    assert!(swept.kills > 20, "{swept:?}");
}

/// Between the store that frees the lock and the wake, another may take it. The kernel then wakes nobody
/// for the dead, and the other does not know of the sleeper.
#[test]
fn an_unlock_that_dies_before_its_wake_strands_no_waiter() {
    if !stepper::is_available() {
        mp_core::testing::skip("an unlock that dies", "ptrace");
        return;
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let mut taken_over = 0;
    for k in 0.. {
        let shared = Shared::new();
        let mut waiter = fork_child(|| {
            eventually(20, || shared.held().load(SeqCst));
            shared.mutex().lock().unwrap();
            shared.unlock();
        });
        let dead = AtomicBool::new(false);
        let outcome = thread::scope(|scope| {
            let other = scope.spawn(|| take_over(&shared, &dead));
            let outcome = stepper::kill_after(k, |mark| {
                shared.mutex().lock().unwrap();
                shared.held().store(true, SeqCst);
                eventually(20, || is_asleep(waiter.pid()));
                mark.call(|| shared.unlock());
            });
            dead.store(true, SeqCst);
            taken_over += u32::from(other.join().unwrap());
            outcome
        });
        eventually(20, || waiter.try_wait().is_some());
        if matches!(outcome, Outcome::Finished { .. }) {
            break;
        }
    }
    assert!(taken_over > 0);
}

/// Takes the lock as soon as it is free, and keeps it until its last owner is dead; whether it got it before.
fn take_over(shared: &Shared, dead: &AtomicBool) -> bool {
    eventually(20, || shared.held().load(SeqCst));
    while !dead.load(SeqCst) {
        if shared.mutex().try_lock().is_ok() {
            eventually(20, || dead.load(SeqCst));
            shared.unlock();
            return true;
        }
    }
    false
}

fn is_asleep(pid: u32) -> bool {
    let path = format!("/proc/{pid}/wchan");
    std::fs::read_to_string(path).is_ok_and(|place| place.starts_with("futex"))
}
