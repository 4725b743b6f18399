//! The executor, and the rows of Python's own suite about it.

mp_process::init_in_tests!();

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use mp_core::testing::{Census, Gate, Watchdog, eventually};
use mp_pool::{
    AsyncResult, Executor, MapIn, Part, Pool, PoolError, TaskError, ThreadPool, WorkerState,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

fn square(x: u64) -> u64 {
    x * x
}

fn pow(base: u64, exponent: u32) -> u64 {
    base.pow(exponent)
}

fn nap(x: u64) -> u64 {
    thread::sleep(Duration::from_millis(2));
    x
}

fn forever(_: u32) -> u32 {
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn crash(_: u32) -> u32 {
    std::process::abort()
}

/// Runs until the gate is open.
fn gate(key: String) -> u32 {
    Gate::pass(&key);
    7
}

/// Does what it says, where it says.
#[derive(Debug, PartialEq)]
struct Trap(u8);

impl Trap {
    const ENCODE_ERROR: u8 = 1;
    const ENCODE_ABORT: u8 = 2;
    const ENCODE_EXIT: u8 = 3;
    const DECODE_ERROR: u8 = 4;
    const DECODE_ABORT: u8 = 5;
    const DECODE_EXIT: u8 = 6;
    const DECODE_PANIC: u8 = 7;
}

impl Serialize for Trap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Self::ENCODE_ERROR => Err(serde::ser::Error::custom("not on a Monday")),
            Self::ENCODE_ABORT => std::process::abort(),
            Self::ENCODE_EXIT => std::process::exit(3),
            what => what.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            Self::DECODE_ERROR => Err(serde::de::Error::custom("no way back")),
            Self::DECODE_ABORT => std::process::abort(),
            Self::DECODE_EXIT => std::process::exit(4),
            Self::DECODE_PANIC => panic!("booby trap"),
            what => Ok(Self(what)),
        }
    }
}

fn take(_: Trap) -> u32 {
    0
}

fn give(what: u8) -> Trap {
    Trap(what)
}

/// The executor works, and comes to its end.
fn goes_on(executor: &Executor) {
    assert_eq!(executor.submit(square, (5,)).get().unwrap(), 25);
    executor.shutdown(true, false).unwrap();
}

fn died(error: &TaskError) -> (Option<i32>, Option<i32>) {
    match error {
        TaskError::WorkerDied { code, signal, .. } => (*code, *signal),
        other => panic!("{other:?}"),
    }
}

/// The words of arguments mean nothing here: they are a tuple.
///
/// Conformance: ExecutorTest.test_submit
/// Conformance: ExecutorTest.test_submit_keyword
/// Conformance: ExecutorTest.test_max_workers_negative
#[test]
fn submit_returns_the_value_of_the_call() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    assert_eq!(executor.submit(pow, (2, 8)).get().unwrap(), 256);
    let function = executor.submit(|function: String| function, ("submit".to_owned(),));
    assert_eq!(function.get().unwrap(), "submit");
    assert!(matches!(Executor::new(0), Err(PoolError::Invalid(_))));
}

/// Conformance: ExecutorTest.test_map
/// Conformance: ProcessPoolExecutorTest.test_map_chunksize
#[test]
fn map_keeps_the_order_with_any_chunksize() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    let powers: Result<Vec<_>, _> = executor.starmap(pow, (0..40).zip(2..)).take(5).collect();
    assert_eq!(powers.unwrap(), [0, 1, 16, 243, 4096]);
    let expected: Vec<_> = (0..40).map(square).collect();
    for chunksize in [1, 6, 40, 50] {
        let squares = executor.map_chunks(square, 0..40, chunksize).unwrap();
        assert_eq!(squares.collect::<Result<Vec<_>, _>>().unwrap(), expected);
    }
    let none = executor.map_chunks(square, 0..40, 0);
    assert!(matches!(none, Err(PoolError::Invalid(_))));
    let endless = executor.map(square, 0..);
    assert_eq!(endless.take(3).last().unwrap().unwrap(), 4);
}

/// `map` is lazy here, so that its input may be endless; `map_async` hands in all of it.
///
/// Conformance: ThreadPoolExecutorTest.test_map_submits_without_iteration
#[test]
fn map_async_submits_everything_though_nobody_asks_for_a_value() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    drop(executor.handle().map_async(square, 0..100));
    drop(executor.map(square, 0..100)); // takes no item before its first `next`
    let handle = executor.handle();
    executor.shutdown(true, false).unwrap();
    assert_eq!(handle.stats().completed, 100);
}

/// Conformance: ThreadPoolExecutorTest.test_executor_map_current_future_cancel
#[test]
fn a_map_whose_value_is_late_can_be_given_up() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let held = Gate::new();
    let handle = executor.handle();
    let keys = (0..).map(|_| held.key());
    let mut values = handle.tasks(gate, keys).buffer(10).imap();
    assert!(values.next_timeout(Duration::from_millis(10)).is_err());
    let running = || {
        handle
            .stats()
            .workers
            .iter()
            .any(|w| w.state == WorkerState::Running)
    };
    eventually(20, running);
    values.cancel_waiting();
    held.open();
    let outcomes: Vec<_> = values.collect();
    assert_eq!(outcomes.len(), 10, "those in flight, and no further item");
    assert_eq!(outcomes[0], Ok(7), "it had begun");
    // A worker claims frames ahead of the one at work only together with it.
    assert!(
        outcomes[1..]
            .iter()
            .all(|one| *one == Err(TaskError::Cancelled))
    );
    assert_eq!(handle.restarts(), 0);

    let mut endless = executor.map(forever, 0..);
    assert!(endless.next_timeout(Duration::from_millis(10)).is_err());
    endless.cancel();
    assert!(endless.all(|one| one == Err(TaskError::Cancelled)));
    goes_on(&executor);
}

/// Conformance: ThreadPoolExecutorTest.test_hang_global_shutdown_lock
#[test]
fn pools_come_and_go_while_other_threads_submit() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(120));
    let (busy, threads) = (Executor::new(1).unwrap(), ThreadPool::new(1).unwrap());
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                assert_eq!(threads.apply(square, (2,)), Ok(4));
                assert_eq!(busy.submit(square, (3,)).get(), Ok(9));
            }
        });
        for round in 0..20 {
            let executor = Executor::new(2).unwrap();
            let tasks: Vec<_> = (0..4).map(|x| executor.submit(square, (x,))).collect();
            executor.shutdown(true, false).unwrap();
            assert!(
                tasks.into_iter().all(|task| task.get().is_ok()),
                "round {round}"
            );
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_pool_can_be_one_step_of_a_chain() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    let even = (0..).filter(|x| x % 2 == 0);
    let squares = even.map_in(&pool, square).take(4);
    assert_eq!(
        squares.collect::<Result<Vec<_>, _>>().unwrap(),
        [0, 4, 16, 36]
    );
    let all = (0..10).map_in_unordered(&pool, square).map(Result::unwrap);
    assert_eq!(all.sum::<u64>(), 285);
}

/// Conformance: ExecutorTest.test_map_exception
#[test]
fn map_yields_what_comes_before_an_error_and_then_the_error() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    let divide = |a: u32, b: u32| a / b;
    let mut quotients = executor.starmap(divide, [(6, 1), (6, 2), (6, 0), (6, 3)]);
    assert_eq!(quotients.next().unwrap(), Ok(6));
    assert_eq!(quotients.next().unwrap(), Ok(3));
    let error = quotients.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("divide by zero"), "{error}");
    assert_eq!(quotients.next().unwrap(), Ok(2), "only one item failed");
}

/// Conformance: ProcessPoolExecutorTest.test_traceback
#[test]
fn a_panic_tells_where_it_was() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let line = line!() + 1;
    let task = executor.submit(|| panic!("quite deep"), ());
    let Err::<(), _>(TaskError::Panicked {
        message, location, ..
    }) = task.get()
    else {
        panic!("it panicked");
    };
    assert_eq!(message, "quite deep");
    let place = format!("{}:{line}:", file!());
    assert!(location.unwrap().contains(&place));
}

/// Conformance: ProcessPoolExecutorTest.test_ressources_gced_in_workers
#[test]
fn a_worker_drops_the_arguments_before_the_next_task() {
    static DROPS: AtomicU32 = AtomicU32::new(0);

    #[derive(Serialize, Deserialize)]
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Ordering::SeqCst);
        }
    }

    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    for drops in 0..3 {
        let before = executor.submit(
            |argument: Counted| {
                let _argument = &argument;
                DROPS.load(Ordering::SeqCst)
            },
            (Counted,),
        );
        assert_eq!(before.get().unwrap(), drops);
    }
}

/// Conformance: ProcessPoolExecutorTest.test_saturation
#[test]
fn there_are_never_more_workers_than_asked_for() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    let held = Gate::new();
    let tasks: Vec<_> = (0..15 * 2)
        .map(|_| executor.submit(gate, (held.key(),)))
        .collect();
    let handle = executor.handle();
    eventually(20, || handle.busy_pids().len() == 2);
    assert_eq!(handle.pids().len(), 2);
    held.open();
    for task in tasks {
        assert_eq!(task.get().unwrap(), 7);
    }
    assert_eq!((handle.pids().len(), handle.restarts()), (2, 0));
}

/// Conformance: ProcessPoolExecutorTest.test_idle_process_reuse_one
#[test]
fn a_task_that_finds_a_worker_idle_starts_none() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(4).unwrap();
    let handle = executor.handle();
    let first = handle.pids();
    for x in 0..20 {
        assert_eq!(executor.submit(square, (x,)).get().unwrap(), x * x);
    }
    assert_eq!((first.len(), handle.workers()), (1, 4));
    assert_eq!(handle.pids(), first);
}

/// Conformance: ProcessPoolExecutorTest.test_idle_process_reuse_multiple
#[test]
fn tasks_that_are_done_leave_their_worker_to_the_next() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(4).unwrap();
    executor.submit(square, (1,)).get().unwrap();
    let _unawaited = executor.submit(square, (2,));
    executor.submit(square, (3,)).get().unwrap();
    let _unawaited = executor.submit(square, (4,));
    assert!(executor.handle().pids().len() <= 3);
}

/// Conformance: ProcessPoolShutdownTest.test_processes_terminate
#[test]
fn as_many_workers_are_started_as_tasks_wait_and_all_end_with_the_shutdown() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(8).unwrap();
    let held = Gate::new();
    let task = || executor.submit(gate, (held.key(),));
    let tasks = [task(), task(), task()];
    let handle = executor.handle();
    let running = || {
        let stats = handle.stats();
        let workers = stats.workers.iter();
        workers.filter(|w| w.state == WorkerState::Running).count()
    };
    eventually(20, || running() == 3);
    let pids = handle.pids();
    assert_eq!(pids.len(), 3, "the three tasks need no more");
    held.open();
    executor.shutdown(true, false).unwrap();
    assert!(tasks.iter().all(AsyncResult::ready));
    for pid in pids {
        let gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), None);
        assert_eq!(gone, Err(nix::errno::Errno::ESRCH));
    }
}

#[test]
fn a_map_starts_all_workers_and_one_that_died_is_replaced() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(3).unwrap();
    let handle = executor.handle();
    let naps = handle.tasks(nap, 0..300).chunksize(1).map().unwrap();
    assert_eq!(naps.len(), 300);
    eventually(20, || handle.ready() == 3);
    executor.submit(crash, (0,)).get().unwrap_err();
    eventually(20, || handle.ready() == 3 && handle.restarts() == 1);
    goes_on(&executor);
}

/// Its threads are stopped by what users can stop: a callback that does not return, and workers
/// that do not run.
///
/// Conformance: ExecutorDeadlockTest.test_gh105829_should_not_deadlock_if_wakeup_pipe_full
#[test]
fn a_hundred_tasks_can_be_submitted_while_nothing_moves() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let (release, released) = std::sync::mpsc::channel();
    let slow = executor.submit(square, (1,));
    let slow = slow.on_success(move |_| released.recv().unwrap());
    let worker = executor.submit(std::process::id, ()).get().unwrap();
    let signal = |which| nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker as i32), which);
    signal(SIGSTOP).unwrap();
    let tasks: Vec<_> = (0..100).map(|x| executor.submit(square, (x,))).collect();
    assert!(!slow.ready() && !tasks.iter().any(AsyncResult::ready));
    signal(SIGCONT).unwrap();
    for (x, task) in (0..).zip(tasks) {
        assert_eq!(task.get().unwrap(), x * x);
    }
    release.send(()).unwrap();
    assert_eq!(slow.get().unwrap(), 1);
}

/// A value that knows how many of its kind there are.
#[derive(Debug)]
struct Counted(&'static AtomicU32);

static ARGUMENTS: AtomicU32 = AtomicU32::new(0);
static RESULTS: AtomicU32 = AtomicU32::new(0);

impl Counted {
    fn new(count: &'static AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }

    fn argument() -> Self {
        Self::new(&ARGUMENTS)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer).map(|()| Self::new(&RESULTS))
    }
}

fn living(count: &AtomicU32) -> u32 {
    count.load(Ordering::SeqCst)
}

/// Conformance: ExecutorTest.test_no_stale_references
/// Conformance: ExecutorTest.test_free_reference
/// Conformance: AsCompletedTests.test_free_reference_yielded_future
#[test]
fn nobody_but_the_caller_keeps_arguments_and_values() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let held = Gate::new();
    let hold = |_: Counted, key| gate(key);
    let result = executor.submit(hold, (Counted::argument(), held.key()));
    assert_eq!(living(&ARGUMENTS), 0, "sent, and not begun");
    held.open();
    drop(result);

    let mut values = executor.map(|value: Counted| value, (0..5).map(|_| Counted::argument()));
    for value in values.by_ref().take(3) {
        assert_eq!(living(&RESULTS), 1, "{value:?}");
    }
    assert_eq!((living(&ARGUMENTS), living(&RESULTS)), (0, 0));

    let tasks = (0..3).map(|_| executor.submit(|value: Counted| value, (Counted::argument(),)));
    let mut completed = mp_pool::as_completed(tasks);
    for task in completed.by_ref() {
        let value = task.get().unwrap();
        assert_eq!(living(&RESULTS), 1, "{value:?}");
    }
    assert_eq!(living(&RESULTS), 0);
    drop(completed);
}

/// Conformance: ProcessPoolExecutorTest.test_max_tasks_early_shutdown
#[test]
fn workers_for_one_task_each_do_all_tasks_of_an_executor_that_is_shut_down() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::builder().workers(3).max_tasks_per_child(1);
    let executor = pool.executor().unwrap();
    let tasks: Vec<_> = (0..6).map(|x| executor.submit(square, (x,))).collect();
    executor.shutdown(true, false).unwrap();
    let values: Vec<_> = tasks.into_iter().map(|task| task.get().unwrap()).collect();
    assert_eq!(values, [0, 1, 4, 9, 16, 25]);
}

/// Conformance: ExecutorShutdownTest.test_run_after_shutdown
#[test]
fn nothing_can_be_submitted_after_a_shutdown() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    executor.shutdown(true, false).unwrap();
    assert_eq!(executor.submit(pow, (2, 5)).get(), Err(TaskError::Closed));
    let first = executor.map(square, 0..3).next();
    assert_eq!(first, Some(Err(TaskError::Closed)));
    executor.shutdown(true, true).unwrap();
}

/// Conformance: ExecutorShutdownTest.test_hang_issue12364
/// Conformance: ExecutorTest.test_shutdown_race_issue12456
#[test]
fn shutdown_waits_for_all_tasks() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    let tasks: Vec<_> = (0..50).map(|x| executor.submit(nap, (x,))).collect();
    executor.shutdown(true, false).unwrap();
    assert!(executor.handle().pids().is_empty());
    for (x, task) in (0..).zip(tasks) {
        assert_eq!(task.get_timeout(Duration::ZERO), Some(Ok(x)));
    }
}

/// Conformance: ProcessPoolShutdownTest.test_shutdown_no_wait
#[test]
fn shutdown_without_waiting_leaves_the_work_to_be_finished() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    let held = Gate::new();
    let task = executor.submit(gate, (held.key(),));
    let more: Vec<_> = (0..20).map(|x| executor.submit(nap, (x,))).collect();
    executor.shutdown(false, false).unwrap(); // returns, although the gate is closed
    assert!(!task.ready());
    held.open();
    assert_eq!(task.get().unwrap(), 7);
    for (x, task) in (0..).zip(more) {
        assert_eq!(task.get().unwrap(), x);
    }
    eventually(20, || executor.handle().pids().is_empty());
}

#[test]
fn shutdown_can_cancel_what_has_not_begun() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let held = Gate::new();
    let begun = executor.submit(gate, (held.key(),));
    let handle = executor.handle();
    eventually(20, || {
        let worker = &handle.stats().workers[0];
        worker.state == WorkerState::Running
    });
    let waiting: Vec<_> = (0..500).map(|x| executor.submit(square, (x,))).collect();
    executor.shutdown(false, true).unwrap();
    for task in waiting {
        assert_eq!(task.get(), Err(TaskError::Cancelled));
    }
    assert!(!begun.ready());
    held.open();
    executor.shutdown(true, true).unwrap();
    assert_eq!(begun.get().unwrap(), 7);
}

/// Conformance: ExecutorShutdownTest.test_hang_gh94440
#[test]
fn a_task_that_was_just_cancelled_does_not_hold_up_a_shutdown() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    for _ in 0..5 {
        let executor = Executor::new(1).unwrap();
        executor.submit(square, (1,)).get().unwrap();
        let task = executor.submit(square, (2,));
        task.cancel();
        executor.shutdown(true, false).unwrap();
        assert!(matches!(task.get(), Ok(4) | Err(TaskError::Cancelled)));
    }
}

/// Conformance: ProcessPoolShutdownTest.test_context_manager_shutdown
/// Conformance: ProcessPoolShutdownTest.test_del_shutdown
#[test]
fn dropping_an_executor_finishes_its_tasks() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    let handle = executor.handle();
    let tasks: Vec<_> = (0..30).map(|x| executor.submit(nap, (x,))).collect();
    drop(executor);
    assert!(handle.pids().is_empty());
    assert!(tasks.iter().all(AsyncResult::ready));
    assert!(tasks.into_iter().all(|task| task.get().is_ok()));
}

/// Conformance: ExecutorDeadlockTest.test_error_at_task_pickle
/// Conformance: ExecutorDeadlockTest.test_shutdown_deadlock_pickle
#[test]
fn arguments_that_cannot_be_sent_fail_their_task_alone() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let task = executor.submit(take, (Trap(Trap::ENCODE_ERROR),));
    let Err(TaskError::Encode { what, reason }) = task.get() else {
        panic!("it has no encoding");
    };
    assert_eq!(what, Part::Arguments);
    assert!(reason.contains("not on a Monday"), "{reason}");
    let late = executor.submit(take, (Trap(Trap::ENCODE_ERROR),));
    goes_on(&executor);
    assert!(matches!(late.get(), Err(TaskError::Encode { .. })));
}

/// A worker that cannot decode lives on here, and breaks nothing.
///
/// Conformance: ExecutorDeadlockTest.test_error_at_task_unpickle
/// Conformance: ExecutorDeadlockTest.test_exit_at_task_unpickle
/// Conformance: ExecutorDeadlockTest.test_crash_at_task_unpickle
#[test]
fn a_worker_that_fails_or_ends_while_decoding_arguments_fails_one_task() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let submit = |what| executor.submit(take, (Trap(what),)).get().unwrap_err();
    let undecodable = submit(Trap::DECODE_ERROR);
    assert!(
        matches!(&undecodable, TaskError::Decode { what: Part::Arguments, reason } if reason.contains("Trap")),
        "{undecodable:?}"
    );
    assert_eq!(died(&submit(Trap::DECODE_EXIT)), (Some(4), None));
    assert_eq!(died(&submit(Trap::DECODE_ABORT)), (None, Some(6)));
    goes_on(&executor);
}

/// Conformance: ExecutorDeadlockTest.test_crash_during_func_exec_on_worker
/// Conformance: ExecutorDeadlockTest.test_exit_during_func_exec_on_worker
/// Conformance: ExecutorDeadlockTest.test_crash_during_result_pickle_on_worker
/// Conformance: ExecutorDeadlockTest.test_exit_during_result_pickle_on_worker
/// Conformance: ExecutorDeadlockTest.test_error_during_result_pickle_on_worker
#[test]
fn a_worker_that_fails_or_ends_in_a_task_or_its_result_fails_one_task() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    let crashed = executor.submit(crash, (0,)).get().unwrap_err();
    assert_eq!(died(&crashed), (None, Some(6)));
    let exited = executor.submit(|code: i32| std::process::exit(code), (9,));
    let exited: Result<(), _> = exited.get();
    assert_eq!(died(&exited.unwrap_err()), (Some(9), None));

    let submit = |what| executor.submit(give, (what,)).get().unwrap_err();
    assert_eq!(died(&submit(Trap::ENCODE_ABORT)), (None, Some(6)));
    assert_eq!(died(&submit(Trap::ENCODE_EXIT)), (Some(3), None));
    let handle = executor.handle();
    eventually(20, || handle.ready() == 1);
    let pids = handle.pids();
    let unsendable = submit(Trap::ENCODE_ERROR);
    assert!(
        matches!(&unsendable, TaskError::Encode { what: Part::Result, reason } if reason.contains("not on a Monday")),
        "{unsendable:?}"
    );
    assert_eq!(handle.pids(), pids, "that is no reason to die");
    goes_on(&executor);
}

/// Conformance: ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler
/// Conformance: ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler
#[test]
fn a_result_that_the_caller_cannot_decode_fails_its_task_alone() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(1).unwrap();
    for (what, word) in [
        (Trap::DECODE_ERROR, "Trap"),
        (Trap::DECODE_PANIC, "booby trap"),
    ] {
        let error = executor.submit(give, (what,)).get().unwrap_err();
        assert!(
            matches!(&error, TaskError::Decode { what: Part::Result, reason } if reason.contains(word)),
            "{error:?}"
        );
    }
    goes_on(&executor);
}

/// Conformance: ExecutorDeadlockTest.test_shutdown_deadlock
#[test]
fn a_worker_that_dies_after_the_shutdown_does_not_hold_it_up() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let executor = Executor::new(2).unwrap();
    let held = Gate::new();
    let die = |key| crash(gate(key));
    let task = executor.submit(die, (held.key(),));
    executor.shutdown(false, false).unwrap();
    held.open();
    executor.shutdown(true, false).unwrap();
    assert_eq!(died(&task.get().unwrap_err()), (None, Some(6)));
}

/// Conformance: ProcessPoolExecutorTest.test_killed_child
#[test]
fn break_all_fails_everything_with_the_first_worker_that_dies() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::builder().workers(2).break_all();
    let executor = pool.executor().unwrap();
    let tasks: Vec<_> = (0..9).map(|_| executor.submit(forever, (0,))).collect();
    let handle = executor.handle();
    eventually(20, || handle.busy_pids().len() == 2);
    let crashed = executor.submit(crash, (0,));
    let victim = nix::unistd::Pid::from_raw(handle.busy_pids()[0] as i32);
    nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
    let (died, broken): (Vec<_>, Vec<_>) = tasks
        .into_iter()
        .chain([crashed])
        .map(|task| task.get().unwrap_err())
        .partition(|error| matches!(error, TaskError::WorkerDied { .. }));
    assert!(died.len() <= 1, "{died:?}");
    for error in broken {
        assert!(matches!(error, TaskError::PoolBroken { .. }), "{error:?}");
    }
    let late = executor.submit(forever, (0,)).get();
    assert!(
        matches!(late, Err(TaskError::PoolBroken { .. })),
        "{late:?}"
    );
    let end = executor.shutdown(true, false);
    assert!(matches!(end, Err(PoolError::Broken { .. })), "{end:?}");
}
