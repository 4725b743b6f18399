//! Permits: those of the dead come back, and none is made.

use std::time::Duration;

use mp_core::testing::{fork_child, stepper::Outcome};
use mp_sync::{BoundedSemaphore, Event, Semaphore};

use crate::{LIMIT, Worst, is_asleep, sweep};

/// All `permits` can be had, and not one more.
fn assert_permits(semaphore: &Semaphore, permits: u32) {
    let held: Vec<_> = (0..permits)
        .map(|_| semaphore.acquire_timeout(LIMIT).expect("a permit is lost"))
        .collect();
    let one_more = semaphore.acquire_timeout(Duration::from_millis(1));
    assert!(one_more.is_err(), "a permit too many");
    drop(held);
    assert_eq!(semaphore.available(), permits);
}

#[test]
fn permits_of_the_dead_come_back_and_none_is_made() {
    needs_ptrace!("permits_of_the_dead_come_back_and_none_is_made");
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || {
            let semaphore = Semaphore::new(2).unwrap();
            drop(semaphore.acquire().unwrap()); // the parent has its slot and record
            semaphore
        },
        |semaphore, mark| {
            let _before = semaphore.acquire().unwrap();
            mark.call(|| {
                drop(semaphore.acquire().unwrap());
                drop(semaphore.try_acquire().unwrap());
                drop(semaphore.acquire_timeout(LIMIT).unwrap());
            });
        },
        |semaphore, _| worst.measure(|| assert_permits(&semaphore, 2)),
    );
    worst.report("permit's holder", &swept);
}

#[test]
fn who_dies_at_its_first_permit_takes_none_along() {
    needs_ptrace!("who_dies_at_its_first_permit_takes_none_along");
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || Semaphore::new(2).unwrap(),
        |semaphore, mark| mark.call(|| drop(semaphore.acquire().unwrap())),
        |semaphore, _| worst.measure(|| assert_permits(&semaphore, 2)),
    );
    worst.report("permit's holder, at its first", &swept);
}

#[test]
fn a_signal_is_given_or_not_and_taken_or_not_when_its_process_dies() {
    needs_ptrace!("a_signal_is_given_or_not_and_taken_or_not_when_its_process_dies");
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || {
            let semaphore = Semaphore::new(1).unwrap();
            drop(semaphore.acquire().unwrap());
            semaphore
        },
        |semaphore, mark| {
            drop(semaphore.acquire().unwrap());
            mark.call(|| {
                semaphore.acquire().unwrap().forget();
                semaphore.release_many(2).unwrap();
            });
        },
        |semaphore, outcome| {
            worst.measure(|| {
                // Before it took: 1; taken for good: 0; given: 2.
                let held: Vec<_> = std::iter::from_fn(|| {
                    let left = Duration::from_millis(1);
                    semaphore.acquire_timeout(left).ok()
                })
                .collect();
                assert!(held.len() <= 2, "{outcome:?}");
                if matches!(outcome, Outcome::Finished { .. }) {
                    assert_eq!(held.len(), 2);
                }
            });
        },
    );
    worst.report("signaller", &swept);
}

#[test]
fn a_bound_is_not_exceeded_whenever_a_holder_dies() {
    needs_ptrace!("a_bound_is_not_exceeded_whenever_a_holder_dies");
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || {
            let seats = BoundedSemaphore::new(2).unwrap();
            drop(seats.acquire().unwrap());
            seats
        },
        |seats, mark| {
            mark.call(|| {
                let kept = seats.acquire().unwrap();
                seats.acquire().unwrap().forget();
                seats.release().unwrap();
                drop(kept);
            });
        },
        |seats, outcome| {
            // One may have been taken for good when its taker died; the other comes back.
            let first = worst.measure(|| seats.acquire_timeout(LIMIT).expect("none came back"));
            let second = seats.acquire_timeout(Duration::from_millis(1));
            assert!(seats.try_acquire().is_err(), "a permit too many");
            if matches!(outcome, Outcome::Finished { .. }) {
                assert!(second.is_ok());
            }
            drop((first, second));
            while seats.available() < 2 {
                seats.release().unwrap();
            }
            assert!(seats.release().is_err());
        },
    );
    worst.report("BoundedSemaphore's holder", &swept);
}

#[test]
fn a_sleeping_waiter_gets_the_permit_of_its_dead_holder() {
    needs_ptrace!("a_sleeping_waiter_gets_the_permit_of_its_dead_holder");
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || {
            let (semaphore, held) = (Semaphore::new(1).unwrap(), Event::new().unwrap());
            let waiter = fork_child(|| {
                held.wait();
                drop(semaphore.acquire().unwrap());
            });
            (semaphore, held, waiter)
        },
        |(semaphore, held, waiter), mark| {
            let permit = semaphore.acquire().unwrap();
            held.set();
            while !is_asleep(waiter.pid()) {
                std::thread::yield_now();
            }
            mark.call(|| drop(permit));
        },
        |(semaphore, _, waiter), _| {
            worst.measure(|| waiter.wait_success());
            assert_permits(&semaphore, 1);
        },
    );
    worst.report("permit's holder, to a sleeping waiter", &swept);
}
