//! A pool of workers in the server.
#![cfg(feature = "pool")]

use std::time::Duration;

use mp_core::testing::{Gate, Watchdog};
use mp_manager::{CallError, Managed, Manager, Pool, TaskError};
use mp_process::Process;

mp_process::init_in_tests!();

fn square(n: u64) -> u64 {
    n * n
}

fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn fail(_: u32) -> u32 {
    panic!("no luck")
}

fn abort() {
    std::process::abort();
}

fn sleep(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

fn pass(key: String) -> u64 {
    Gate::pass(&key);
    50
}

fn start() -> (Watchdog, Manager, Pool) {
    let dog = Watchdog::secs(60);
    let manager = Manager::builder()
        .setup(|registry| {
            registry
                .function("square", square)
                .function("add", add)
                .function("fail", fail)
                .function("abort", abort)
                .function("sleep", sleep)
                .function("pass", pass);
        })
        .start()
        .unwrap();
    let pool = manager.pool(Some(2)).unwrap();
    (dog, manager, pool)
}

fn use_as_scope(pool: Pool) {
    let pool = pool.scope();
    assert_eq!(pool.apply::<u64>("square", &(7_u64,)).unwrap(), 49);
}

/// Conformance: TestSyncManagerTypes.test_pool
#[test]
fn a_scope_in_a_child_terminates_the_pool() {
    let (_dog, _manager, pool) = start();
    let child = Process::new(use_as_scope, (pool.clone(),)).start().unwrap();
    child.join().unwrap();
    pool.join().unwrap();
    let closed = pool.apply::<u64>("square", &(7_u64,));
    assert!(
        matches!(closed, Err(TaskError::Failed { .. })),
        "{closed:?}"
    );
}

#[test]
fn tasks_run_in_the_workers_of_the_server() {
    let (_dog, manager, pool) = start();
    assert_eq!(pool.apply::<u32>("add", &(40_u32, 2_u32)).unwrap(), 42);
    let squares: Vec<u64> = pool.map("square", 0..100_u64).unwrap();
    assert_eq!(squares, (0..100).map(square).collect::<Vec<_>>());
    let sums: Vec<u32> = pool.starmap("add", [(1_u32, 2_u32), (3, 4)]).unwrap();
    assert_eq!(sums, [3, 7]);
    let lazily: Vec<u64> = pool
        .imap("square", 0_u64..)
        .unwrap()
        .take(20)
        .map(Result::unwrap)
        .collect();
    assert_eq!(lazily, (0..20).map(square).collect::<Vec<_>>());
    let mut unordered: Vec<u64> = pool
        .imap_unordered("sleep", [30_u64, 1, 2])
        .unwrap()
        .map(Result::unwrap)
        .collect();
    unordered.sort_unstable();
    assert_eq!(unordered, [1, 2, 30]);
    let gate = Gate::new();
    let later = pool.apply_async::<u64>("pass", &(gate.key(),)).unwrap();
    assert!(!later.ready().unwrap());
    assert!(matches!(
        later.get_timeout(Duration::ZERO),
        Err(TaskError::NotYet)
    ));
    assert_eq!(later.successful().unwrap(), None);
    gate.open();
    assert_eq!(later.get().unwrap(), 50);
    assert_eq!(later.successful().unwrap(), Some(true));
    drop(later);
    assert_eq!(manager.number_of_objects().unwrap(), 1);
    assert!(matches!(pool.join(), Err(CallError::Refused { .. })));
    pool.close().unwrap();
    pool.join().unwrap();
}

#[test]
fn a_map_without_waiting_gives_all_values_or_the_first_failure() {
    let (_dog, manager, pool) = start();
    let squares = pool.map_async::<_, u64>("square", 0..300_u64).unwrap();
    assert_eq!(
        squares.get().unwrap(),
        (0..300).map(square).collect::<Vec<_>>()
    );
    assert_eq!(squares.successful().unwrap(), Some(true));
    let sums = pool.starmap_async::<_, u32>("add", [(1_u32, 2_u32), (3, 4)]);
    assert_eq!(sums.unwrap().get().unwrap(), [3, 7]);
    let none = pool.map_async::<u64, u64>("square", []).unwrap();
    assert_eq!(none.get().unwrap(), []);
    let slow = pool.map_async::<_, u64>("sleep", [0_u64, 60_000]).unwrap();
    assert!(!slow.wait(Duration::from_millis(20)).unwrap());
    assert!(matches!(
        slow.get_timeout(Duration::ZERO),
        Err(TaskError::NotYet)
    ));
    assert!(slow.cancel().unwrap());
    assert!(matches!(slow.get(), Err(TaskError::Failed { .. })));
    let failed = pool.map_async::<_, u32>("fail", [1_u32]).unwrap();
    assert!(failed.get().unwrap_err().to_string().contains("no luck"));
    drop((squares, none, slow, failed));
    assert_eq!(manager.number_of_objects().unwrap(), 1);
}

#[test]
fn a_task_that_fails_fails_alone() {
    let (_dog, _manager, pool) = start();
    let failed = pool.apply::<u32>("fail", &(1_u32,)).unwrap_err();
    assert!(failed.to_string().contains("no luck"), "{failed}");
    let died = pool.apply::<()>("abort", &()).unwrap_err();
    assert!(died.to_string().contains("died"), "{died}");
    let unknown = pool.apply::<()>("unknown", &()).unwrap_err();
    assert!(matches!(
        unknown,
        TaskError::Call(CallError::NotFound { .. })
    ));
    let wrong = pool.apply::<u64>("square", &("text",)).unwrap_err();
    assert!(
        matches!(wrong, TaskError::Call(CallError::Refused { .. })),
        "{wrong}"
    );
    let endless = pool.apply_async::<u64>("sleep", &(60_000_u64,)).unwrap();
    assert!(endless.cancel().unwrap());
    assert!(matches!(endless.get(), Err(TaskError::Failed { .. })));
    assert_eq!(pool.apply::<u64>("square", &(3_u64,)).unwrap(), 9);
}

#[test]
fn clients_cannot_have_more_workers_than_the_quota() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::builder().max_pool_workers(2).start().unwrap();
    for many in [3, usize::MAX] {
        let denied = manager.pool(Some(many));
        assert!(
            matches!(denied, Err(CallError::Denied { .. })),
            "{denied:?}"
        );
    }
    let two = manager.pool(Some(2)).unwrap();
    assert!(matches!(
        manager.pool(Some(1)),
        Err(CallError::Denied { .. })
    ));
    drop(two);
    let _again = manager.pool(Some(2)).unwrap();
}

#[test]
fn what_is_no_argument_is_refused_and_the_pool_lives_on() {
    let (_dog, _manager, pool) = start();
    for method in [
        "apply",
        "apply_async",
        "map",
        "map_async",
        "join",
        "cancel",
        "no such",
    ] {
        for garbage in [
            &b""[..],
            &[7],
            &[0xff; 40],
            b"\x06square\xff\xff\xff\xff\x0f\0",
        ] {
            let answer = pool.proxy().call::<_, ()>(method, &garbage);
            // What can be read as no items at all has an answer, which is no `()`.
            let refused = matches!(
                answer,
                Err(CallError::Refused { .. } | CallError::NotFound { .. } | CallError::Decode(_))
            );
            assert!(refused, "{method}: {answer:?}");
        }
    }
    assert_eq!(pool.apply::<u64>("square", &(3_u64,)).unwrap(), 9);
}

#[test]
fn who_joins_for_a_time_is_not_held_up_by_who_joins_for_ever() {
    let (_dog, _manager, pool) = start();
    let gate = Gate::new();
    let task = pool.apply_async::<u64>("pass", &(gate.key(),)).unwrap();
    pool.close().unwrap();
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| pool.join());
        for _ in 0..20 {
            let joined = pool.join_timeout(Duration::from_millis(10));
            assert!(!joined.unwrap());
        }
        gate.open();
        patient.join().unwrap().unwrap();
    });
    assert_eq!(task.get().unwrap(), 50);
}
