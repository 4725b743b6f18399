//! The stepper kills where it says, at every instruction, also asleep; and shows it on the robust mutex.
#![allow(unsafe_code)] // words and a mutex in shared memory

use std::time::Duration;

use mp_core::{
    deadline::Deadline,
    futex,
    primitive::{AtomicU32, AtomicU64, Ordering},
    robust::{Acquired, RobustMutex},
    shm::Mapping,
    testing::{
        Census, Watchdog, skip,
        stepper::{self, Outcome, Sweep},
    },
};

/// Shared memory for a few words and a mutex.
struct Page(Mapping);

impl Page {
    fn new() -> Page {
        let page = Page(Mapping::create("mp-test", 4096, 4096).unwrap());
        // SAFETY: mapped, aligned to 64, and nobody uses it yet.
        unsafe { RobustMutex::init(page.0.as_ptr().wrapping_add(64).cast()) }.unwrap();
        page
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < 8);
        // SAFETY: aligned, inside the mapping, before the mutex; lives as long as the mapping.
        unsafe { &*self.0.as_ptr().cast::<AtomicU32>().wrapping_add(index) }
    }

    fn count(&self) -> &AtomicU64 {
        // SAFETY: as above, behind the mutex.
        unsafe { &*self.0.as_ptr().wrapping_add(1024).cast::<AtomicU64>() }
    }

    fn mutex(&self) -> &RobustMutex {
        // SAFETY: initialised in `new`; lives as long as the mapping.
        unsafe { &*self.0.as_ptr().wrapping_add(64).cast::<RobustMutex>() }
    }
}

/// As often a victim counts up: how far it came tells how far it got.
const COUNT: u64 = 10;

fn count_up(page: &Page) {
    for _ in 0..COUNT {
        let count = page.count().load(Ordering::Relaxed);
        page.count().store(count + 1, Ordering::Relaxed);
    }
}

#[test]
fn a_later_kill_finds_more_done() {
    if !stepper::is_available() {
        return skip("a_later_kill_finds_more_done", "ptrace");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let page = Page::new();
    let done_after = |k| {
        page.count().store(0, Ordering::Relaxed);
        let outcome = stepper::kill_after(k, |mark| mark.call(|| count_up(&page)));
        (outcome, page.count().load(Ordering::Relaxed))
    };
    let (whole, all) = done_after(u64::MAX);
    let Outcome::Finished { steps } = whole else {
        panic!("{whole:?}")
    };
    assert_eq!(all, COUNT);
    let mut before = 0;
    for k in [0, steps / 4, steps / 2, steps * 3 / 4, steps - 1] {
        let (outcome, done) = done_after(k);
        assert_eq!(outcome, Outcome::Killed { step: k });
        assert!(
            done >= before && done <= COUNT,
            "{before} then {done} at {k}"
        );
        // In the middle of the loop the share of the steps is that of the stores, up to the few
        // instructions around it.
        assert!(
            done.abs_diff(COUNT * k / steps) <= 3,
            "{done} at {k} of {steps}"
        );
        before = done;
    }
    assert_eq!(done_after(steps), (Outcome::Killed { step: steps }, COUNT));
}

#[test]
fn a_sweep_kills_where_single_steps_would() {
    if !stepper::is_available() {
        return skip("a_sweep_kills_where_single_steps_would", "ptrace");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let page = Page::new();
    let whole = stepper::kill_after(u64::MAX, |mark| mark.call(|| count_up(&page)));
    let Outcome::Finished { steps } = whole else {
        panic!("{whole:?}")
    };
    let sweep = Sweep {
        stride: Some((steps / 25).max(1)),
        ..Sweep::default()
    };
    let mut kills = Vec::new();
    stepper::for_every_instruction(
        sweep,
        Page::new,
        |page, mark| mark.call(|| count_up(page)),
        |page, outcome| {
            if let Outcome::Killed { step } = outcome {
                kills.push((step, page.count().load(Ordering::Relaxed)));
            }
        },
    );
    assert!(kills.len() > 20, "{kills:?}");
    for (step, count) in kills {
        let page = Page::new();
        let outcome = stepper::kill_after(step, |mark| mark.call(|| count_up(&page)));
        assert_eq!(outcome, Outcome::Killed { step });
        assert_eq!(page.count().load(Ordering::Relaxed), count, "after {step}");
    }
}

#[test]
fn every_value_between_two_stores_is_seen() {
    if !stepper::is_available() {
        return skip("every_value_between_two_stores_is_seen", "ptrace");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let mut seen = Vec::new();
    let swept = stepper::for_every_instruction(
        Sweep::default(),
        Page::new,
        |page, mark| {
            mark.call(|| {
                for value in 1..=3 {
                    page.word(0).store(value, Ordering::Relaxed);
                    page.word(1).store(value, Ordering::Relaxed);
                }
            });
        },
        |page, outcome| {
            if let Outcome::Killed { .. } = outcome {
                seen.push([0, 1].map(|index| page.word(index).load(Ordering::Relaxed)));
            }
        },
    );
    seen.dedup();
    assert_eq!(
        seen,
        [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [3, 2], [3, 3]]
    );
    assert_eq!(swept.kills, swept.instructions + 1);
    assert_eq!((swept.blocked, swept.stride), (0, 1));
}

#[test]
fn a_detour_of_the_first_victim_does_not_prolong_the_sweep() {
    if !stepper::is_available() {
        return skip(
            "a_detour_of_the_first_victim_does_not_prolong_the_sweep",
            "ptrace",
        );
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let mut victims = 0;
    let mut finished = 0;
    let swept = stepper::for_every_instruction(
        Sweep::default(),
        || {
            victims += 1;
            let page = Page::new();
            page.word(0).store(victims, Ordering::Relaxed);
            page
        },
        |page, mark| {
            mark.call(|| {
                let is_first = page.word(0).load(Ordering::Relaxed) == 1;
                let stores = if is_first { 300 } else { 10 };
                (0..stores).for_each(|n| page.word(1).store(n, Ordering::Relaxed));
            });
        },
        |_, outcome| finished += u64::from(matches!(outcome, Outcome::Finished { .. })),
    );
    assert!(swept.kills >= swept.instructions, "{swept:?}");
    assert!(finished < 50, "{finished} were through early: {swept:?}");
}

#[test]
fn a_victim_asleep_is_killed_in_its_sleep() {
    if !stepper::is_available() {
        return skip("a_victim_asleep_is_killed_in_its_sleep", "ptrace");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let page = Page::new();
    let outcome = stepper::kill_after(u64::MAX, |mark| {
        mark.call(|| {
            let until = Deadline::after(Duration::from_secs(1000));
            while futex::wait(page.word(0), 0, Some(until)) {}
        });
    });
    assert!(
        matches!(outcome, Outcome::Blocked { step } if step > 0),
        "{outcome:?}"
    );
}

#[test]
#[should_panic(expected = "ended by itself")]
fn a_victim_that_dies_by_itself_is_told() {
    if !stepper::is_available() {
        skip("a_victim_that_dies_by_itself_is_told", "ptrace");
        panic!("ended by itself");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    stepper::kill_after(u64::MAX, |mark| mark.call(|| std::process::abort()));
}

#[test]
fn the_robust_mutex_survives_a_kill_at_every_instruction_of_lock_and_unlock() {
    if !stepper::is_available() {
        return skip("the_robust_mutex_survives_a_kill", "ptrace");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(300);
    let (mut clean, mut died) = (0, 0);
    let swept = stepper::for_every_instruction(
        Sweep::default(),
        Page::new,
        |page, mark| {
            mark.call(|| {
                page.mutex().lock().unwrap();
                page.word(0).store(1, Ordering::Relaxed);
                page.word(0).store(0, Ordering::Relaxed);
                // SAFETY: locked two lines above.
                unsafe { page.mutex().unlock() };
            });
        },
        |page, outcome| {
            let until = Deadline::after(Duration::from_secs(20));
            match page.mutex().lock_until(Some(until)).unwrap() {
                Acquired::Clean => {
                    clean += 1;
                    // Half-done work is never passed off as whole.
                    assert_eq!(page.word(0).load(Ordering::Relaxed), 0, "{outcome:?}");
                }
                Acquired::OwnerDied => died += 1,
            }
            // SAFETY: locked above.
            unsafe { page.mutex().unlock() };
            page.mutex().lock().unwrap();
            // SAFETY: locked above.
            unsafe { page.mutex().unlock() };
        },
    );
    assert!(
        clean > 1 && died > 1,
        "{clean} clean, {died} died: {swept:?}"
    );
}
