//! Models of the word protocols: every order of their steps, and every value an old load may see.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-sync --release --test 'loom_*'`
//!
//! A model has no slices: a wake-up that is lost shows as a deadlock. Threads stand for processes;
//! a process that dies is a thread that stops between two steps.
#![cfg(mp_loom)]

use loom::{
    model::Builder,
    sync::{Arc, Mutex},
    thread,
};
use mp_sync::raw::{RawCondition, RawEvent};

fn model(f: impl Fn() + Sync + Send + 'static) {
    model_with(3, f);
}

/// With at most `preemptions` in one run.
fn model_with(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

#[test]
fn an_event_wakes_who_waits() {
    model(|| {
        let event = Arc::new(RawEvent::new());
        let waiter = {
            let event = event.clone();
            thread::spawn(move || assert!(event.wait(None)))
        };
        event.set();
        waiter.join().unwrap();
    });
}

#[test]
fn an_event_set_and_cleared_wakes_who_waited_before() {
    model(|| {
        let event = Arc::new(RawEvent::new());
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let event = event.clone();
                thread::spawn(move || assert!(event.wait(None)))
            })
            .collect();
        event.set();
        event.clear();
        event.set();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

/// `waiters` wait until there is an item and take it; as many items come, each with one notice.
fn hand_over(waiters: usize, all_at_once: bool) {
    let condition = Arc::new(RawCondition::new());
    let items = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (0..waiters)
        .map(|_| {
            let (condition, items) = (condition.clone(), items.clone());
            thread::spawn(move || {
                let mut guard = items.lock().unwrap();
                while *guard == 0 {
                    let ticket = condition.begin();
                    drop(guard);
                    assert!(condition.wait(ticket, None, || ()));
                    guard = items.lock().unwrap();
                }
                *guard -= 1;
            })
        })
        .collect();
    if all_at_once {
        *items.lock().unwrap() = waiters;
        condition.notify_all();
    } else {
        for _ in 0..waiters {
            *items.lock().unwrap() += 1;
            condition.notify(1);
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_notice_reaches_the_one_who_waits() {
    model(|| hand_over(1, false));
}

#[test]
fn two_notices_reach_two() {
    model(|| hand_over(2, false));
}

#[test]
fn a_notice_to_all_reaches_all() {
    model(|| hand_over(2, true));
}

#[test]
fn two_that_take_turns_miss_no_notice() {
    model(|| {
        let condition = Arc::new(RawCondition::new());
        let turn = Arc::new(Mutex::new(0));
        let play = |mine: u32, condition: &RawCondition, turn: &Mutex<u32>| {
            for _ in 0..2 {
                let mut guard = turn.lock().unwrap();
                while *guard != mine {
                    let ticket = condition.begin();
                    drop(guard);
                    condition.wait(ticket, None, || ());
                    guard = turn.lock().unwrap();
                }
                *guard = 1 - mine;
                drop(guard);
                condition.notify(1);
            }
        };
        let other = {
            let (condition, turn) = (condition.clone(), turn.clone());
            thread::spawn(move || play(1, &condition, &turn))
        };
        play(0, &condition, &turn);
        other.join().unwrap();
    });
}

/// A stray notice clears the bit of a waiter that is between two sleeps; the next one still counts.
#[test]
fn a_notice_after_a_stray_one_is_not_missed() {
    // Fewer do not reach the case in which the second notice finds the bit cleared by the first.
    model_with(5, || {
        let condition = Arc::new(RawCondition::new());
        let ready = Arc::new(Mutex::new(false));
        let waiter = {
            let (condition, ready) = (condition.clone(), ready.clone());
            thread::spawn(move || {
                let mut guard = ready.lock().unwrap();
                while !*guard {
                    let ticket = condition.begin();
                    drop(guard);
                    condition.wait(ticket, None, || ());
                    guard = ready.lock().unwrap();
                }
            })
        };
        condition.notify(1);
        *ready.lock().unwrap() = true;
        condition.notify(1);
        waiter.join().unwrap();
    });
}
