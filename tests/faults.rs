//! Each system call that making, using or starting something takes, failed once with each error it
//! may give: the caller gets an error that says so or does not notice, and nothing half-made stays.

use std::{fmt::Display, fs, time::Duration};

use mp::{
    Event, Lock, Process, Queue, Semaphore, SimpleQueue, StartError, Value, duplex,
    process::StartMethod, simplex,
};
use mp_core::testing::{Census, Watchdog, faults, skip};

mp::init_in_tests!();

/// What this process has: descriptors, shared mappings, children.
fn possessions() -> [usize; 3] {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let children = fs::read_to_string("/proc/thread-self/children").unwrap();
    [
        fs::read_dir("/proc/self/fd").unwrap().count(),
        maps.lines().filter(|line| line.contains("/memfd:")).count(),
        children.split_ascii_whitespace().count(),
    ]
}

/// Whether there is no more than before, but for `spare` descriptors.
///
/// There may be less: what all calls share is given up when its other end seems to be gone.
fn spare_at_most(spare: usize, mut before: [usize; 3], after: [usize; 3]) -> bool {
    before[0] += spare;
    before
        .iter()
        .zip(&after)
        .all(|(before, after)| after <= before)
}

/// Lets each system call of `marked` fail, on what `make` made; `finish` tidies up. Afterwards there
/// may be `spare` more descriptors than before.
#[track_caller]
fn fails_well<T, R, E: Display>(
    spare: usize,
    make: impl Fn() -> T,
    marked: impl Fn(&T) -> Result<R, E>,
    finish: impl Fn(R),
) {
    if !faults::is_available() {
        return skip("faults", "ptrace");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let failures = faults::for_every_failure(
        || (),
        |(), mark| {
            let made = make();
            // Unharmed at first: what exists once per process is there then.
            finish(marked(&made).unwrap_or_else(|error| panic!("{error}")));
            let before = possessions();
            match mark.call(|| marked(&made)) {
                Ok(result) => finish(result),
                Err(error) => {
                    let text = error.to_string();
                    assert!(!text.is_empty() && !text.contains("Interrupted"), "{text}");
                }
            }
            let after = possessions();
            assert!(
                spare_at_most(spare, before, after),
                "{before:?}, then {after:?}"
            );
            finish(marked(&made).unwrap_or_else(|error| panic!("the next time: {error}")));
        },
        |(), _| (),
    );
    assert!(failures > 0, "no call was made that can fail");
}

#[test]
fn queues_are_made_wholly_or_not_at_all() {
    fails_well(0, || (), |()| Queue::<u64>::new(), drop);
    fails_well(0, || (), |()| Queue::<u64>::bounded(4), drop);
    fails_well(0, || (), |()| SimpleQueue::<u64>::new(), drop);
}

#[test]
fn locks_and_values_are_made_wholly_or_not_at_all() {
    fails_well(0, || (), |()| Lock::new(), drop);
    fails_well(0, || (), |()| Event::new(), drop);
    fails_well(0, || (), |()| Semaphore::new(1), drop);
    fails_well(0, || (), |()| Value::new(1_u64), drop);
}

#[test]
fn connections_are_made_wholly_or_not_at_all() {
    fails_well(0, || (), |()| duplex::<u64, u64>(), drop);
    fails_well(0, || (), |()| simplex::<u64>(), drop);
}

#[test]
fn a_wait_for_an_item_is_interrupted_unnoticed() {
    fails_well(
        0,
        || Queue::<u64>::new().unwrap(),
        |queue| match queue.get_timeout(Duration::from_millis(20)) {
            Err(mp::TryGetError::Empty) => Ok(()),
            other => Err(format!("{other:?}")),
        },
        drop,
    );
}

fn answer() -> u32 {
    42
}

fn start(method: StartMethod) -> Result<Process<u32>, StartError> {
    Process::new(answer, ()).start_method(method).start()
}

#[test]
fn a_child_is_started_wholly_or_not_at_all() {
    let join = |child: Process<u32>| assert_eq!(child.join().unwrap(), 42);
    fails_well(0, || (), |()| start(StartMethod::Spawn), join);
    // Children that wait for work, two descriptors each, come whenever the fork server has made one.
    fails_well(8, || (), |()| start(StartMethod::ForkServer), join);
}

#[test]
fn a_child_is_joined_whatever_is_interrupted() {
    if !faults::is_available() {
        return skip("a_child_is_joined_whatever_is_interrupted", "ptrace");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let failures = faults::for_every_failure(
        || (),
        |(), mark| {
            let child = start(StartMethod::Spawn).unwrap();
            match mark.call(|| child.join()) {
                Ok(value) => assert_eq!(value, 42),
                // Its value was on a connection that broke.
                Err(error) => assert!(!error.to_string().contains("Interrupted"), "{error}"),
            }
        },
        |(), _| (),
    );
    assert!(failures > 2, "{failures}");
}

#[test]
fn a_parent_killed_anywhere_in_start_leaves_no_child() {
    if !faults::is_available() {
        return skip(
            "a_parent_killed_anywhere_in_start_leaves_no_child",
            "ptrace",
        );
    }
    let _census = Census::take(); // also finds children that have lost their parent
    let _dog = Watchdog::secs(120);
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let kills = faults::for_every_kill(
            || (),
            |(), mark| {
                let child = mark.call(|| start(method)).unwrap();
                assert_eq!(child.join().unwrap(), 42);
            },
            |(), _| (),
        );
        assert!(kills > 10, "{kills}");
    }
}
