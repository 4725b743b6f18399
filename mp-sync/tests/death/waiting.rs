//! Conditions, events and barriers: nobody is left waiting for the dead.

use std::{os::fd::AsFd, time::Duration};

use mp_core::testing::{Forked, eventually, fork_child};
use mp_sync::{Array, Barrier, BarrierError, Condition, Event, LockError, TryLockError, Value};

use crate::{LIMIT, Worst, is_asleep, survivor, sweep};

#[test]
fn a_notifier_that_dies_leaves_no_waiter_asleep() {
    needs_ptrace!("a_notifier_that_dies_leaves_no_waiter_asleep");
    notifier_dies("Condition's notifier of one", Condition::notify_one);
    notifier_dies("Condition's notifier of all", Condition::notify_all);
}

fn notifier_dies(what: &str, notify: fn(&Condition)) {
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || {
            let (state, changed) = (Value::new(0).unwrap(), Condition::new().unwrap());
            let waiter = survivor(|| {
                let state = changed.wait_while(state.lock().unwrap(), |state| **state == 0);
                drop(state.unwrap());
            });
            (state, changed, waiter)
        },
        |(state, changed, waiter), mark| {
            changed.notify_one(); // on the roster, as any user is after a first notice
            while !is_asleep(waiter.pid()) {
                std::thread::yield_now();
            }
            *state.lock().unwrap() = 1;
            mark.call(|| notify(changed));
        },
        |(_, _, waiter), _| worst.measure(|| waiter.wait_success()),
    );
    worst.report(what, &swept);
}

#[test]
fn a_waiter_that_dies_takes_no_notice_along() {
    needs_ptrace!("a_waiter_that_dies_takes_no_notice_along");
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || {
            let (state, changed) = (Value::new(0).unwrap(), Condition::new().unwrap());
            let waiter = survivor(|| {
                let mut guard = state.lock().unwrap_or_else(LockError::into_guard);
                while *guard == 0 {
                    guard = changed.wait(guard).unwrap_or_else(LockError::into_guard);
                }
            });
            (state, changed, waiter)
        },
        |(state, changed, _), mark| {
            let guard = state.lock().unwrap();
            mark.call(|| drop(changed.wait(guard)));
        },
        |(state, changed, waiter), _| {
            eventually(30, || is_asleep(waiter.pid()));
            let mut guard = state.lock().unwrap_or_else(LockError::into_guard);
            *guard = 1;
            drop(guard);
            changed.notify_one();
            worst.measure(|| waiter.wait_success());
        },
    );
    worst.report("Condition's waiter", &swept);
}

#[test]
fn a_waiter_that_dies_when_its_time_is_over_leaves_the_lock_to_others() {
    needs_ptrace!("a_waiter_that_dies_when_its_time_is_over_leaves_the_lock_to_others");
    let mut worst = Worst::default();
    let swept = sweep(
        12,
        || (Value::new(0).unwrap(), Condition::new().unwrap()),
        |(state, changed), mark| {
            let guard = state.lock().unwrap();
            mark.call(|| drop(changed.wait_timeout(guard, Duration::ZERO)));
        },
        |(state, changed), _| {
            let guard = worst.measure(|| {
                state.lock_timeout(LIMIT).or_else(|error| match error {
                    TryLockError::OwnerDied(died) => Ok(died.into_guard()),
                    other => Err(other),
                })
            });
            let (_, noticed) = changed
                .wait_timeout(guard.unwrap(), Duration::ZERO)
                .unwrap();
            assert!(!noticed);
        },
    );
    worst.report("Condition's waiter whose time is over", &swept);
}

#[test]
fn a_setter_that_dies_has_set_it_for_all_or_for_nobody() {
    needs_ptrace!("a_setter_that_dies_has_set_it_for_all_or_for_nobody");
    let mut worst = Worst::default();
    let swept = sweep(
        60,
        || {
            let event = Event::new().unwrap();
            let waiter = fork_child(|| event.wait());
            (event, waiter)
        },
        |(event, waiter), mark| {
            while !is_asleep(waiter.pid()) {
                std::thread::yield_now();
            }
            mark.call(|| event.set());
        },
        |(event, waiter), _| {
            if event.is_set() {
                worst.measure(|| waiter.wait_success());
            } else {
                event.set();
                waiter.wait_success();
            }
        },
    );
    worst.report("Event's setter", &swept);
}

#[test]
fn who_dies_clearing_an_event_or_waiting_for_it_keeps_nobody_from_using_it() {
    needs_ptrace!("who_dies_clearing_an_event_or_waiting_for_it_keeps_nobody_from_using_it");
    let mut worst = Worst::default();
    let swept = sweep(
        12,
        || {
            let event = Event::new().unwrap();
            event.set();
            event
        },
        |event, mark| {
            mark.call(|| {
                event.wait();
                event.clear();
                event.wait_timeout(Duration::ZERO);
                event.wait(); // for ever
            });
        },
        |event, _| {
            let waiter = fork_child(|| event.wait());
            event.set();
            worst.measure(|| waiter.wait_success());
            event.clear();
            assert!(!event.is_set() && !event.wait_timeout(Duration::ZERO));
        },
    );
    assert!(swept.blocked > 0);
    worst.report("Event's waiter", &swept);
}

#[test]
fn a_party_that_dies_breaks_the_barrier_for_the_rest_alike() {
    needs_ptrace!("a_party_that_dies_breaks_the_barrier_for_the_rest_alike");
    let (mut worst, mut broke) = (Worst::default(), 0);
    let swept = sweep(
        8,
        || {
            let barrier = Barrier::new(3).unwrap();
            let results = Array::<u32>::zeroed(2).unwrap();
            let wait = |index: usize| {
                let (barrier, results) = (barrier.clone(), results.clone());
                survivor(move || {
                    let result = match barrier.wait() {
                        Ok(_) => 1,
                        Err(BarrierError::PartyDied { .. }) => 2,
                        Err(error) => panic!("{error}"),
                    };
                    results.lock().unwrap()[index] = result;
                })
            };
            let waiters = [wait(0), wait(1)];
            (barrier, results, waiters)
        },
        |(barrier, _, _), mark| {
            // As a process that received it, and is a party from then on.
            let barrier = Barrier::from_fd(barrier.as_fd().try_clone_to_owned().unwrap()).unwrap();
            while barrier.n_waiting() < 2 {
                std::thread::yield_now();
            }
            mark.call(|| drop(barrier.wait()));
        },
        |(barrier, results, waiters), outcome| {
            worst.measure(|| waiters.into_iter().for_each(Forked::wait_success));
            let results = results.to_vec().unwrap();
            assert_eq!(results[0], results[1], "{outcome:?}");
            if results[0] == 2 {
                broke += 1;
                assert!(barrier.is_broken());
            }
            barrier.reset(); // who died after all had passed breaks the next round
            assert!(!barrier.is_broken());
        },
    );
    assert!(broke > 0);
    worst.report("Barrier's party", &swept);
}

#[test]
fn who_dies_breaking_or_resetting_a_barrier_has_done_it_for_all_or_not_at_all() {
    needs_ptrace!("who_dies_breaking_or_resetting_a_barrier_has_done_it_for_all_or_not_at_all");
    breaker_dies("Barrier's breaker", Barrier::abort);
    breaker_dies("Barrier's resetter", Barrier::reset);
}

fn breaker_dies(what: &str, break_it: fn(&Barrier)) {
    let mut worst = Worst::default();
    let swept = sweep(
        8,
        || {
            let barrier = Barrier::new(2).unwrap();
            let waiter = survivor(|| assert!(barrier.wait().is_err()));
            (barrier, waiter)
        },
        |(barrier, waiter), mark| {
            while barrier.n_waiting() < 1 || !is_asleep(waiter.pid()) {
                std::thread::yield_now();
            }
            mark.call(|| break_it(barrier));
        },
        |(barrier, waiter), _| {
            if !barrier.is_broken() && barrier.n_waiting() > 0 {
                barrier.abort(); // it had not begun
            }
            worst.measure(|| waiter.wait_success());
            barrier.reset();
            let both = [(); 2].map(|()| survivor(|| assert!(barrier.wait().is_ok())));
            both.into_iter().for_each(Forked::wait_success);
        },
    );
    worst.report(what, &swept);
}
