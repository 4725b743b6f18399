//! A pool whose initializer fails, and what it leaves.

mp_process::init_in_tests!();

use std::{sync::Mutex, time::Duration};

use mp_core::testing::{Census, Watchdog, eventually, patience};
use mp_pool::{Pool, PoolError, TaskError};
use mp_process::{Process, StartMethod};
use mp_queue::Queue;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracing::Level;

use self::lines::Lines;

mod lines;

/// Errors that were logged in this process.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn fails(queue: Queue<u32>) {
    let _ = queue.put(1);
    panic!("no luck");
}

/// What was submitted fails, soon all of it does, and the log says why.
fn breaks(method: StartMethod) {
    let _ = tracing::subscriber::set_global_default(Lines {
        wanted: |metadata| *metadata.level() == Level::ERROR,
        take: |line| LOGGED.lock().unwrap().push(line),
    });
    let queue = Queue::bounded(100).unwrap();
    let builder = Pool::builder().workers(2).start_method(method);
    let executor = builder.initializer(fails, (queue.clone(),)).executor();
    let executor = executor.unwrap();
    let is_broken = |outcome: Result<u32, TaskError>| match outcome {
        Err(TaskError::PoolBroken { reason }) => reason.contains("no luck"),
        other => panic!("{other:?}"),
    };
    let early: Vec<_> = (0..9).map(|x: u32| executor.submit(|x| x, (x,))).collect();
    assert!(early.into_iter().all(|task| is_broken(task.get())));
    assert!(is_broken(executor.submit(|| 1, ()).get()));
    let end = executor.shutdown(true, false);
    assert!(matches!(end, Err(PoolError::Broken { .. })), "{end:?}");
    assert!(queue.get().is_ok(), "it was called");
    let logged = std::mem::take(&mut *LOGGED.lock().unwrap());
    assert!(
        logged.iter().any(|line| line.contains("no luck")),
        "{logged:?}"
    );
}

/// Conformance: FailingInitializerMixin.test_initializer
/// Conformance: FailingInitializerResourcesTest.test_spawn
#[test]
fn a_failing_initializer_breaks_the_pool_and_leaves_nothing() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    breaks(StartMethod::Spawn);
}

/// In a program of its own, as the fork server stays until its program ends.
///
/// Conformance: FailingInitializerMixin.test_initializer
/// Conformance: FailingInitializerResourcesTest.test_forkserver
#[test]
fn a_failing_initializer_breaks_the_pool_of_a_fork_server_as_well() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let program = Process::new(breaks, (StartMethod::ForkServer,));
    program.start().unwrap().join().unwrap();
}

fn waits_for_its_turn(turns: Queue<u32>) {
    let _ = turns.get();
}

#[test]
fn a_worker_that_replaces_another_has_no_more_time_for_its_initializer() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let turns = Queue::bounded(1).unwrap();
    turns.put(1).unwrap(); // one: the next worker waits in vain
    let pool = Pool::builder()
        .workers(1)
        .initializer(waits_for_its_turn, (turns.clone(),))
        .initializer_timeout(Duration::from_secs(2).mul_f64(patience()))
        .build()
        .unwrap();
    eventually(20, || pool.ready() == 1);
    kill(Pid::from_raw(pool.pids()[0] as i32), Signal::SIGKILL).unwrap();
    eventually(20, || pool.restarts() == 1);
    let outcome = pool.apply(|x: u32| x, (1,));
    let Err(TaskError::PoolBroken { reason }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(reason.contains("longer than it may"), "{reason}");
}

fn ends_if_told(orders: Queue<bool>) {
    if orders.get().is_ok_and(|end| end) {
        std::process::exit(3);
    }
}

#[test]
fn failed_starts_with_tasks_done_between_break_no_pool() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let orders = Queue::bounded(100).unwrap();
    orders.put(false).unwrap();
    let pool = Pool::builder()
        .workers(1)
        .max_tasks_per_child(1)
        .initializer(ends_if_told, (orders.clone(),))
        .build()
        .unwrap();
    for n in 0..10 {
        orders.put(true).unwrap();
        orders.put(false).unwrap();
        assert_eq!(pool.apply(|x: u32| x, (n,)), Ok(n));
    }
}
