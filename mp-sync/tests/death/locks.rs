//! Locks, and what lies under one.

use std::sync::atomic::Ordering;

use mp_core::testing::{fork_child, stepper::Outcome};
use mp_sync::{Array, Event, Guard, Lock, LockError, OnceValue, RLock, RawArray, RwLock, Value};

use crate::{LIMIT, Worst, is_asleep, sweep};

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
                drop(lock.try_lock().unwrap());
                drop(lock.lock_timeout(LIMIT).unwrap());
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
                let outer = lock.try_lock().unwrap();
                drop((lock.try_lock().unwrap(), lock.lock_timeout(LIMIT).unwrap()));
                drop(outer);
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
fn a_dead_reader_is_forgotten_and_a_dead_writer_is_told_of() {
    needs_ptrace!("a_dead_reader_is_forgotten_and_a_dead_writer_is_told_of");
    let (mut worst, mut told) = (Worst::default(), 0);
    let swept = sweep(
        16,
        || (RwLock::new().unwrap(), RawArray::<u64>::zeroed(1).unwrap()),
        |(lock, inside), mark| {
            drop(lock.read().unwrap()); // this thread has its record
            mark.call(|| {
                let reader = lock.read().unwrap();
                drop((lock.try_read().unwrap(), reader));
                let writer = lock.write().unwrap();
                inside[0].store(1, Ordering::Relaxed);
                inside[0].store(0, Ordering::Relaxed);
                drop(writer);
                drop(lock.try_write().unwrap());
                drop(lock.write_timeout(LIMIT).unwrap());
                drop(lock.read_timeout(LIMIT).unwrap());
            });
        },
        |(lock, inside), outcome| {
            let (reads, writes) = worst.measure(|| (is_sound(lock.read()), is_sound(lock.write())));
            // A writer that had not come in, or had left, disturbs no reader.
            assert!(
                reads || !writes,
                "a reader is told what the next writer is not"
            );
            told += u32::from(!writes);
            if inside.get(0) == Some(1) || matches!(outcome, Outcome::Finished { .. }) {
                let sound = inside.get(0) == Some(0);
                assert_eq!((reads, writes), (sound, sound), "{outcome:?}");
            }
            assert!(lock.try_write().is_ok() && lock.try_read().is_ok());
        },
    );
    assert!(told > 0 && u64::from(told) < swept.kills);
    worst.report("RwLock's reader or writer", &swept);
}

/// Whether nobody is told to have died; accepts that.
fn is_sound<G: Guard>(locked: Result<G, LockError<G>>) -> bool {
    match locked {
        Ok(_) => true,
        Err(error) => {
            drop(error.into_guard());
            false
        }
    }
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
