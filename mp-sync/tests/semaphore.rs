//! `Semaphore` and `BoundedSemaphore` in one process.

use std::{
    cell::RefCell,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use mp_sync::{AcquireError, BoundedSemaphore, Semaphore, TryAcquireError};

const SHORT: Duration = Duration::from_millis(30);

/// Conformance: _TestSemaphore.test_semaphore
#[test]
fn permits_count_down_and_up_and_beyond() {
    let semaphore = Semaphore::new(2).unwrap();
    let first = semaphore.acquire().unwrap();
    let second = semaphore.acquire().unwrap();
    assert_eq!(semaphore.available(), 0);
    assert!(matches!(
        semaphore.try_acquire(),
        Err(TryAcquireError::WouldBlock)
    ));
    assert_eq!(semaphore.available(), 0);
    drop(first);
    assert_eq!(semaphore.available(), 1);
    drop(second);
    semaphore.release().unwrap();
    semaphore.release().unwrap();
    assert_eq!(semaphore.available(), 4);
}

/// Conformance: _TestSemaphore.test_bounded_semaphore
#[test]
fn a_bounded_semaphore_refuses_to_exceed_its_bound() {
    let semaphore = BoundedSemaphore::new(2).unwrap();
    assert!(semaphore.release().is_err());
    semaphore.acquire().unwrap().forget();
    let guard = semaphore.acquire().unwrap();
    assert_eq!(semaphore.available(), 0);
    semaphore.release().unwrap();
    drop(guard);
    assert_eq!(semaphore.available(), 2);
    let error = semaphore.release().unwrap_err();
    assert_eq!((error.bound, semaphore.bound()), (2, 2));
    assert_eq!(semaphore.available(), 2);
}

/// Conformance: _TestSemaphore.test_timeout
#[test]
fn a_timeout_is_waited_for_and_then_told() {
    let semaphore = Semaphore::new(0).unwrap();
    assert!(semaphore.try_acquire().is_err());
    let begun = Instant::now();
    assert!(matches!(
        semaphore.acquire_timeout(SHORT),
        Err(TryAcquireError::TimedOut)
    ));
    assert!(begun.elapsed() >= SHORT);
    assert!(semaphore.acquire_timeout(Duration::ZERO).is_err());
}

#[test]
fn no_more_threads_are_inside_than_there_are_permits() {
    let semaphore = Semaphore::new(3).unwrap();
    let inside = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let _permit = semaphore.acquire().unwrap();
                    assert!(inside.fetch_add(1, Ordering::Relaxed) < 3);
                    inside.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(semaphore.available(), 3);
}

#[test]
fn signals_reach_who_waits_and_are_used_up() {
    let semaphore = Semaphore::new(0).unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            for _ in 0..100 {
                semaphore.acquire().unwrap().forget();
            }
        });
        semaphore.release_many(40).unwrap();
        for _ in 0..60 {
            semaphore.release().unwrap();
        }
        waiter.join().unwrap();
    });
    assert_eq!(semaphore.available(), 0);
}

#[test]
fn one_thread_holds_many_permits_of_many_semaphores() {
    let semaphores: Vec<_> = (0..5).map(|_| Semaphore::new(100).unwrap()).collect();
    let permits: Vec<_> = (0..500)
        .map(|i| semaphores[i % 5].acquire().unwrap())
        .collect();
    assert!(semaphores.iter().all(|s| s.available() == 0));
    drop(permits);
    assert!(semaphores.iter().all(|s| s.available() == 100));
}

#[test]
fn threads_that_come_and_go_leave_no_records_behind() {
    let semaphore = Semaphore::new(1).unwrap();
    for _ in 0..3_000 {
        thread::scope(|scope| {
            scope.spawn(|| drop(semaphore.acquire().unwrap()));
        });
    }
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn impossible_numbers_are_errors() {
    assert!(Semaphore::new(Semaphore::MAX + 1).is_err());
    let full = Semaphore::new(Semaphore::MAX).unwrap();
    assert!(full.release().is_err());
    assert_eq!(full.available(), Semaphore::MAX);
}

#[test]
fn debug_tells_how_many_are_free() {
    let semaphore = Semaphore::new(2).unwrap();
    assert_eq!(format!("{semaphore:?}"), "Semaphore { available: 2 }");
    let bounded = BoundedSemaphore::new(2).unwrap();
    assert_eq!(
        format!("{bounded:?}"),
        "BoundedSemaphore { available: 2, bound: 2 }"
    );
}

/// Acquires when the thread's own values are dropped.
struct Late(Vec<Semaphore>, mpsc::Sender<bool>);

impl Drop for Late {
    fn drop(&mut self) {
        for semaphore in &self.0 {
            let refused = matches!(
                semaphore.try_acquire(),
                Err(TryAcquireError::Failed(AcquireError::System(_)))
            );
            self.1.send(refused).unwrap();
        }
    }
}

#[test]
fn a_thread_that_ends_takes_no_permit_with_a_record_that_it_gave_back() {
    thread_local! {
        static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    let semaphores = [(); 2].map(|()| Semaphore::new(1).unwrap());
    let (refused, told) = mpsc::channel();
    let late = Late(semaphores.to_vec(), refused);
    thread::scope(|scope| {
        scope.spawn(|| {
            LATE.set(Some(late)); // first, so that it is dropped last
            semaphores.iter().for_each(|it| drop(it.acquire().unwrap()));
        });
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), [true, true]);
    assert!(semaphores.iter().all(|it| it.available() == 1));
}
