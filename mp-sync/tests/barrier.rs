//! `Barrier`: nobody passes before all have come, and what breaks it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use mp_core::testing::{Case, Census, Child, Forked, Watchdog, eventually, fork_child};
use mp_sync::{Array, Barrier, BarrierError, Event, Value};

const PARTIES: usize = 5;
const LONG: Duration = Duration::from_secs(30);

/// Runs `party` in five: the first is this thread, two more threads, two processes.
fn with_parties(party: impl Fn(usize) + Sync) {
    let party = &party;
    let child = |index| {
        fork_child(move || {
            party(index);
            mp_core::hooks::run_exit_hooks(); // a normal exit, which is no death
        })
    };
    let children: Vec<Forked> = [3, 4].map(child).into();
    thread::scope(|scope| {
        for index in [1, 2] {
            scope.spawn(move || party(index));
        }
        party(0);
    });
    children.into_iter().for_each(Forked::wait_success);
}

fn lockstep(rounds: usize) {
    let barrier = Barrier::new(PARTIES as u32).unwrap();
    let done = [0, 1].map(|_| Array::<u32>::zeroed(PARTIES).unwrap());
    with_parties(|me| {
        for round in 1..=rounds as u32 {
            for half in &done {
                half.lock().unwrap()[me] = round;
                barrier.wait().unwrap();
                assert!(half.lock().unwrap().iter().all(|r| *r >= round));
            }
        }
    });
    assert_eq!(barrier.n_waiting(), 0);
    assert!(!barrier.is_broken());
}

/// Conformance: _TestBarrier.test_barrier
#[test]
fn all_see_that_all_have_come() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    lockstep(1);
}

/// Conformance: _TestBarrier.test_barrier_10
#[test]
fn rounds_do_not_mix() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    lockstep(10);
}

/// Conformance: _TestBarrier.test_wait_return
#[test]
fn each_party_gets_its_own_index() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let barrier = Barrier::new(PARTIES as u32).unwrap();
    let seen = Array::<u32>::zeroed(PARTIES).unwrap();
    with_parties(|_| {
        let index = barrier.wait().unwrap();
        seen.lock().unwrap()[index as usize] += 1;
    });
    assert_eq!(*seen.lock().unwrap(), [1; PARTIES]);
}

/// Conformance: _TestBarrier.test_action
#[test]
fn the_action_runs_once_before_anybody_goes_on() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let barrier = Barrier::new(PARTIES as u32).unwrap();
    let runs = Value::new(0).unwrap();
    with_parties(|_| {
        barrier.wait_with(|| *runs.lock().unwrap() += 1).unwrap();
        assert_eq!(runs.get().unwrap(), 1);
    });
    assert_eq!(runs.get().unwrap(), 1);
}

/// Conformance: _TestBarrier.test_abort
#[test]
fn an_abort_breaks_it_for_all_and_for_good() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let barrier = Barrier::new(PARTIES as u32).unwrap();
    with_parties(|me| {
        if me == 2 {
            barrier.abort();
        } else {
            assert!(matches!(barrier.wait(), Err(BarrierError::Broken)));
        }
    });
    assert!(barrier.is_broken());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken)));
    assert_eq!(barrier.n_waiting(), 0);
}

/// Conformance: _TestBarrier.test_reset
#[test]
fn a_reset_sends_away_who_waits_and_all_can_pass_afterwards() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let barrier = Barrier::new(PARTIES as u32).unwrap();
    let again = Barrier::new(PARTIES as u32).unwrap();
    with_parties(|me| {
        if me == 0 {
            eventually(30, || barrier.n_waiting() == PARTIES as u32 - 1);
            barrier.reset();
        } else {
            assert!(matches!(barrier.wait(), Err(BarrierError::Broken)));
        }
        again.wait().unwrap();
        barrier.wait().unwrap();
    });
    assert!(!barrier.is_broken() && barrier.n_waiting() == 0);
    barrier.reset(); // of an idle one: nothing
    assert!(!barrier.is_broken());
}

/// Conformance: _TestBarrier.test_abort_and_reset
#[test]
fn a_broken_barrier_is_as_new_after_a_reset() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let barrier = Barrier::new(PARTIES as u32).unwrap();
    let again = Barrier::new(PARTIES as u32).unwrap();
    with_parties(|me| {
        if me == 3 {
            barrier.abort();
        } else {
            assert!(barrier.wait().is_err());
        }
        if again.wait().unwrap() == 0 {
            barrier.reset();
        }
        again.wait().unwrap();
        barrier.wait().unwrap();
    });
}

/// Conformance: _TestBarrier.test_default_timeout
#[test]
fn the_default_timeout_breaks_it_for_all() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let timeout = Duration::from_millis(200);
    let barrier = Barrier::with_timeout(PARTIES as u32, timeout).unwrap();
    with_parties(|_| {
        barrier.wait_timeout(LONG).unwrap(); // overrides
    });
    with_parties(|me| {
        if me == 4 {
            eventually(30, || barrier.is_broken());
        }
        let begun = Instant::now();
        match barrier.wait().unwrap_err() {
            BarrierError::TimedOut => assert!(begun.elapsed() >= timeout),
            error => assert!(matches!(error, BarrierError::Broken), "{error}"),
        }
    });
}

/// Conformance: _TestBarrier.test_single_thread
#[test]
fn one_party_never_waits() {
    let _census = Census::take();
    let barrier = Barrier::new(1).unwrap();
    for _ in 0..3 {
        assert_eq!(barrier.wait().unwrap(), 0);
    }
    assert_eq!(barrier.parties(), 1);
}

#[test]
fn a_barrier_for_nobody_is_an_error() {
    let _census = Census::take();
    assert!(Barrier::new(0).is_err());
    assert!(Barrier::new(1 << 15).is_err());
}

#[test]
fn an_action_that_panics_breaks_it() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let barrier = Barrier::new(2).unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| barrier.wait());
        eventually(30, || barrier.n_waiting() == 1);
        let last = catch_unwind(AssertUnwindSafe(|| {
            barrier.wait_with(|| std::panic::resume_unwind(Box::new("in the action")))
        }));
        assert!(last.is_err());
        assert!(matches!(first.join().unwrap(), Err(BarrierError::Broken)));
    });
}

#[test]
fn more_threads_than_parties_pass_in_turns() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let barrier = Barrier::new(3).unwrap();
    let passed = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..9 {
            scope.spawn(|| {
                barrier.wait_timeout(LONG).unwrap();
                passed.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(passed.into_inner(), 9);
}

#[test]
fn debug_tells_who_waits() {
    let _census = Census::take();
    let barrier = Barrier::new(2).unwrap();
    assert_eq!(
        format!("{barrier:?}"),
        "Barrier { parties: 2, waiting: 0, broken: false }"
    );
}

#[test]
fn case_exits_normally_inside_the_action() {
    let Some(case) = Case::get() else { return };
    let barrier: Barrier = case.args();
    thread::scope(|scope| {
        let (begun, acts) = std::sync::mpsc::channel();
        scope.spawn(|| {
            barrier.wait_with(move || {
                begun.send(()).unwrap();
                loop {
                    thread::park();
                }
            })
        });
        acts.recv().unwrap();
        std::process::exit(0);
    });
}

#[test]
fn case_exits_normally_while_it_waits() {
    let Some(case) = Case::get() else { return };
    let barrier: Barrier = case.args();
    thread::scope(|scope| {
        scope.spawn(|| barrier.wait());
        eventually(30, || barrier.n_waiting() == 2);
        std::process::exit(0);
    });
}

#[test]
fn a_normal_exit_with_a_thread_at_the_barrier_breaks_it_for_the_rest() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    for (parties, case) in [
        (2, "case_exits_normally_inside_the_action"),
        (3, "case_exits_normally_while_it_waits"),
    ] {
        let barrier = Barrier::new(parties).unwrap();
        thread::scope(|scope| {
            let rest = scope.spawn(|| barrier.wait());
            eventually(30, || barrier.n_waiting() == 1);
            let mut child = Child::case(case, &barrier);
            let broken = rest.join().unwrap().unwrap_err();
            assert!(matches!(broken, BarrierError::PartyDied { pid } if pid == child.pid()));
            assert!(child.wait().success());
        });
    }
}

#[test]
fn who_comes_back_from_the_barrier_during_the_exit_is_not_dead() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (barrier, hooks_ran) = (Barrier::new(2).unwrap(), Event::new().unwrap());
    let child = fork_child(|| {
        thread::scope(|scope| {
            scope.spawn(|| barrier.wait().unwrap());
            eventually(30, || barrier.n_waiting() == 1);
            mp_core::hooks::run_exit_hooks();
            hooks_ran.set();
        });
        barrier.wait().unwrap(); // entered again, and left again
    });
    hooks_ran.wait();
    barrier.wait().unwrap();
    barrier.wait().unwrap();
    child.wait_success();
    let alone = barrier.wait_timeout(Duration::from_millis(600)); // longer than a slice
    assert!(matches!(alone, Err(BarrierError::TimedOut)), "{alone:?}");
}
