//! The promise about deaths, for every object: a kill after every instruction of what it does.
//!
//! Each test prints its figures (`--nocapture`). A number of kills keeps them short, above all those
//! in which a death is noticed at the end of a slice; `MP_STEP_STRIDE=1` kills after each instruction.

use std::{
    fs,
    os::fd::AsFd,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use mp_core::testing::{
    Census, Forked, Watchdog, eventually, fork_child, skip,
    stepper::{self, Mark, Outcome, Sweep, Swept},
};
use mp_sync::{
    Array, Barrier, BarrierError, Condition, Event, Lock, LockError, OnceValue, RLock, RawArray,
    Semaphore, Value,
};

/// No survivor waits longer, whatever the machine does; the promises are far shorter and reported.
const LIMIT: Duration = Duration::from_secs(20);

macro_rules! needs_ptrace {
    ($name:literal) => {
        if !stepper::is_available() {
            return skip($name, "ptrace");
        }
        let _census = Census::take();
        let _dog = Watchdog::secs(300);
    };
}

/// The longest of what was measured, for the report.
#[derive(Default)]
struct Worst(Duration);

impl Worst {
    fn measure<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let begun = Instant::now();
        let result = f();
        self.0 = self.0.max(begun.elapsed());
        result
    }

    fn report(&self, what: &str, swept: &Swept) {
        let (kills, worst) = (swept.kills, self.0.as_secs_f64() * 1e3);
        eprintln!("death of a {what}: {kills} kills, survivors go on after at most {worst:.1} ms");
    }
}

/// As [`stepper::for_every_instruction`], with about `kills` of them, evenly spread.
fn sweep<S>(
    kills: u64,
    mut setup: impl FnMut() -> S,
    mut victim: impl FnMut(&S, &Mark),
    mut check: impl FnMut(S, Outcome),
) -> Swept {
    let mut sweep = Sweep::default();
    if std::env::var_os("MP_STEP_STRIDE").is_none() {
        let none = Sweep {
            first: 1,
            limit: 0,
            ..sweep
        };
        let counted =
            stepper::for_every_instruction(none, &mut setup, &mut victim, &mut check).instructions;
        sweep.stride = Some((counted / kills).max(1));
    }
    stepper::for_every_instruction(sweep, setup, victim, check)
}

fn is_asleep(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") S ")
}

/// A process that ends normally: its handles are dropped, or its exit hooks run.
fn survivor(body: impl FnOnce()) -> Forked {
    fork_child(|| {
        body();
        mp_core::hooks::run_exit_hooks();
    })
}

/// Whether `lock` is told of a death; told once, and free afterwards.
fn is_told(lock: &Lock) -> bool {
    let told = match lock.lock() {
        Ok(_) => false,
        Err(LockError::OwnerDied(died)) => {
            drop(died.into_guard());
            true
        }
        Err(error) => panic!("{error}"),
    };
    drop(lock.lock().expect("told once only"));
    told
}

#[test]
fn an_owner_killed_at_any_instruction_is_told_of_if_it_held_the_lock() {
    needs_ptrace!("an_owner_killed_at_any_instruction_is_told_of_if_it_held_the_lock");
    let (mut worst, mut told) = (Worst::default(), 0);
    let swept = sweep(
        60,
        || (Lock::new().unwrap(), RawArray::<u64>::zeroed(1).unwrap()),
        |(lock, inside), mark| {
            mark.call(|| {
                let guard = lock.lock().unwrap();
                inside[0].store(1, Ordering::Relaxed);
                inside[0].store(0, Ordering::Relaxed);
                drop(guard);
            });
        },
        |(lock, inside), outcome| {
            let died = worst.measure(|| is_told(&lock));
            told += u32::from(died);
            if inside.get(0) == Some(1) {
                assert!(died, "not told: {outcome:?}");
            }
            if matches!(outcome, Outcome::Finished { .. }) {
                assert!(!died, "told without a death");
            }
        },
    );
    assert!(told > 0 && u64::from(told) < swept.kills);
    worst.report("Lock's owner", &swept);
}

#[test]
fn a_sleeping_waiter_gets_the_lock_whatever_the_instruction_of_unlock_its_owner_dies_at() {
    needs_ptrace!("a_sleeping_waiter_gets_the_lock_whatever_the_instruction");
    let mut worst = Worst::default();
    let swept = sweep(
        60,
        || {
            let (lock, held) = (Lock::new().unwrap(), Event::new().unwrap());
            let waiter = fork_child(|| {
                held.wait();
                is_told(&lock);
            });
            (lock, held, waiter)
        },
        |(lock, held, waiter), mark| {
            let guard = lock.lock().unwrap();
            held.set();
            while !is_asleep(waiter.pid()) {
                std::thread::yield_now();
            }
            mark.call(|| drop(guard));
        },
        |(_, _, waiter), _| worst.measure(|| waiter.wait_success()),
    );
    worst.report("Lock's owner, to a sleeping waiter", &swept);
}

#[test]
fn a_dead_owner_of_a_recursive_lock_leaves_no_depth_behind() {
    needs_ptrace!("a_dead_owner_of_a_recursive_lock_leaves_no_depth_behind");
    let mut worst = Worst::default();
    let swept = sweep(
        60,
        || RLock::new().unwrap(),
        |lock, mark| {
            mark.call(|| {
                let outer = lock.lock().unwrap();
                let inner = lock.lock().unwrap();
                drop(outer);
                drop(inner);
            });
        },
        |lock, _| {
            worst.measure(|| drop(lock.lock().unwrap_or_else(LockError::into_guard)));
            assert!(!lock.is_locked());
            drop(lock.lock().expect("told once only"));
        },
    );
    worst.report("RLock's owner", &swept);
}

#[test]
fn half_written_data_is_never_seen_without_a_notice() {
    needs_ptrace!("half_written_data_is_never_seen_without_a_notice");
    let (mut worst, mut torn) = (Worst::default(), 0);
    let swept = sweep(
        60,
        || {
            let both = Value::new([0_u64; 2]).unwrap();
            (both, Array::from_slice(&[0_u64; 2]).unwrap())
        },
        |(value, array), mark| {
            mark.call(|| {
                let mut both = value.lock().unwrap();
                both[0] += 1;
                both[1] += 1;
                drop(both);
                let mut both = array.lock().unwrap();
                both[0] += 1;
                both[1] += 1;
            });
        },
        |(value, array), _| {
            worst.measure(|| match value.lock() {
                Ok(both) => assert_eq!(both[0], both[1]),
                Err(died) => torn += u32::from(died.into_guard()[0] == 1),
            });
            worst.measure(|| match array.lock() {
                Ok(both) => assert_eq!(both[0], both[1]),
                Err(died) => torn += u32::from(died.into_guard()[0] == 1),
            });
        },
    );
    assert!(torn > 0);
    worst.report("Value's or Array's owner", &swept);
}

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
        12,
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
            });
        },
        |semaphore, _| worst.measure(|| assert_permits(&semaphore, 2)),
    );
    worst.report("permit's holder", &swept);
}

#[test]
fn a_signal_is_given_or_not_and_taken_or_not_when_its_process_dies() {
    needs_ptrace!("a_signal_is_given_or_not_and_taken_or_not_when_its_process_dies");
    let mut worst = Worst::default();
    let swept = sweep(
        12,
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
fn a_sleeping_waiter_gets_the_permit_of_its_dead_holder() {
    needs_ptrace!("a_sleeping_waiter_gets_the_permit_of_its_dead_holder");
    let mut worst = Worst::default();
    let swept = sweep(
        12,
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

#[test]
fn a_notifier_that_dies_leaves_no_waiter_asleep() {
    needs_ptrace!("a_notifier_that_dies_leaves_no_waiter_asleep");
    let mut worst = Worst::default();
    let swept = sweep(
        12,
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
            mark.call(|| changed.notify_one());
        },
        |(_, _, waiter), _| worst.measure(|| waiter.wait_success()),
    );
    worst.report("Condition's notifier", &swept);
}

#[test]
fn a_waiter_that_dies_takes_no_notice_along() {
    needs_ptrace!("a_waiter_that_dies_takes_no_notice_along");
    let mut worst = Worst::default();
    let swept = sweep(
        12,
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
fn a_party_that_dies_breaks_the_barrier_for_the_rest_alike() {
    needs_ptrace!("a_party_that_dies_breaks_the_barrier_for_the_rest_alike");
    let (mut worst, mut broke) = (Worst::default(), 0);
    let swept = sweep(
        12,
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
fn an_initialiser_that_dies_has_done_all_or_nothing() {
    needs_ptrace!("an_initialiser_that_dies_has_done_all_or_nothing");
    let mut worst = Worst::default();
    let swept = sweep(
        60,
        || OnceValue::<[u64; 2]>::new().unwrap(),
        |value, mark| {
            mark.call(|| value.get_or_init(|| [7, 7]).map(|_| ()).unwrap());
        },
        |value, _| {
            let expected = value.get().copied().unwrap_or([9, 9]);
            let found = worst.measure(|| *value.get_or_init(|| [9, 9]).unwrap());
            assert_eq!(found, expected);
        },
    );
    worst.report("OnceValue's initialiser", &swept);
}
