//! The states of a result, and that awaiting one ends whatever becomes of the pool.

mp_process::init_in_tests!();

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
    thread,
    time::Duration,
};

use mp_core::testing::{Census, Gate, Watchdog, eventually};
use mp_pool::{
    AsyncResult, Pool, Return, TaskError, TaskState, ThreadPool, ThreadResult, as_completed, wait,
};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::{runtime, task::JoinSet, time};

fn id(x: u32) -> u32 {
    x
}

fn panics(x: u32) -> u32 {
    panic!("no {x}")
}

fn forever(_: u32) -> u32 {
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn gate(key: String) -> u32 {
    Gate::pass(&key);
    7
}

fn is(result: &AsyncResult<u32>, state: TaskState) {
    eventually(20, || result.state() == state);
}

/// Conformance: FutureTests.test_running
#[test]
fn running_is_true_exactly_while_a_worker_is_at_it() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let hold = Gate::new();
    let first = pool.apply_async(gate, (hold.key(),));
    let second = pool.apply_async(id, (1,));
    eventually(20, || first.running());
    assert!(!second.running() && second.state() == TaskState::Waiting);
    hold.open();
    eventually(20, || first.ready() && second.ready());
    assert!(!first.running() && !second.running());
    let dropped = pool.apply_async(forever, (1,));
    eventually(20, || dropped.running());
    assert!(dropped.cancel());
    is(&dropped, TaskState::Cancelled);
    assert!(!dropped.running());
}

#[test]
fn a_result_whose_callbacks_run_counts_as_running() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let (release, released) = std::sync::mpsc::channel();
    let (tell, told) = std::sync::mpsc::channel();
    let result = pool.apply_async(id, (1,)).on_success(move |_| {
        tell.send(()).unwrap();
        released.recv().unwrap();
    });
    told.recv().unwrap();
    assert_eq!(result.state(), TaskState::Running);
    release.send(()).unwrap();
    is(&result, TaskState::Succeeded);
}

/// `cancel` stops what runs as well; `cancel_waiting` is Python's.
///
/// Conformance: FutureTests.test_cancel
#[test]
fn cancel_waiting_stops_what_has_not_begun_and_nothing_else() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let hold = Gate::new();
    let running = pool.apply_async(gate, (hold.key(),));
    eventually(20, || running.running());
    let mut waiting: Vec<_> = (0..10).map(|x| pool.apply_async(id, (x,))).collect();
    for result in &waiting[..8] {
        assert!(result.cancel_waiting());
        assert!(result.cancelled());
        assert!(result.cancel_waiting() && result.cancel(), "it is");
    }
    assert!(!running.cancel_waiting());
    assert_eq!(running.state(), TaskState::Running);
    hold.open();
    assert_eq!(waiting.pop().unwrap().get(), Ok(9));
    assert_eq!(waiting.pop().unwrap().get(), Ok(8), "not cancelled");
    is(&running, TaskState::Succeeded);
    assert!(!running.cancel_waiting() && !running.cancel());
    assert_eq!(running.get(), Ok(7));
    let failed = pool.apply_async(panics, (1,));
    is(&failed, TaskState::Failed);
    assert!(!failed.cancel_waiting() && !failed.cancel());
    assert!(matches!(failed.get(), Err(TaskError::Panicked { .. })));
    assert_eq!(pool.restarts(), 0);
}

#[test]
fn cancelling_the_rest_of_a_map_leaves_the_item_at_work() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let hold = Gate::new();
    let keys = vec![hold.key(); 100];
    let map = pool.tasks(gate, keys).chunksize(1).map_async();
    eventually(20, || map.running());
    assert!(map.cancel_waiting());
    assert_eq!((map.completed(), map.state()), (99, TaskState::Running));
    hold.open();
    assert_eq!(map.get(), Err(TaskError::Cancelled));
    assert_eq!((pool.stats().completed, pool.restarts()), (1, 0));
}

#[test]
fn cancelling_twice_says_the_same_while_the_worker_ends() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let running = pool.apply_async(forever, (1,));
    eventually(20, || running.running());
    assert!(running.cancel() && running.cancel());
    is(&running, TaskState::Cancelled);
    assert!(running.cancel());
}

/// Conformance: FutureTests.test_repr
#[test]
fn debug_shows_the_state_and_the_type_or_the_error() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let running = pool.apply_async(forever, (1,));
    eventually(20, || running.running());
    let waiting = pool.map_async(id, 0..3);
    let text = format!("{running:?}");
    assert_eq!(text, "AsyncResult { of: u32, state: Running }");
    let text = format!("{waiting:?}").replace("alloc::vec::", "");
    assert_eq!(text, "AsyncResult { of: Vec<u32>, state: Waiting }");
    assert!(running.cancel());
    is(&running, TaskState::Cancelled);
    let text = format!("{running:?}");
    assert_eq!(text, "AsyncResult { of: u32, state: Cancelled }");
    eventually(20, || waiting.ready());
    assert!(format!("{waiting:?}").ends_with("state: Succeeded }"));
    let failed = pool.apply_async(panics, (3,));
    eventually(20, || failed.ready());
    let text = format!("{failed:?}");
    assert!(
        text.contains("state: Failed, error: Panicked") && text.contains("no 3"),
        "{text}"
    );
}

/// Nobody but the pool can give a task an outcome. It does so once, whatever happens afterwards.
///
/// Conformance: FutureTests.test_multiple_set_result
/// Conformance: FutureTests.test_multiple_set_exception
#[test]
fn the_first_outcome_stays() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let outcomes = outcomes.clone();
        move || outcomes.lock().unwrap().push(name)
    };
    let (value, error, cancelled) = (note("value"), note("error"), note("cancelled"));
    let good = pool.apply_async(id, (1,)).on_success(move |_| value());
    let bad = pool.apply_async(panics, (2,)).on_error(move |_| error());
    eventually(20, || good.ready() && bad.ready());
    let busy = pool.apply_async(forever, (0,));
    let dropped = pool.apply_async(id, (3,)).on_error(move |_| cancelled());
    assert!(dropped.cancel());
    eventually(20, || dropped.ready() && busy.running());

    for result in [&good, &bad, &dropped] {
        result.cancel();
    }
    let worker = nix::unistd::Pid::from_raw(pool.pids()[0] as i32);
    nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(matches!(busy.get(), Err(TaskError::WorkerDied { .. })));
    pool.terminate().join().unwrap();
    assert_eq!(*outcomes.lock().unwrap(), ["value", "error", "cancelled"]);
    assert_eq!(good.get(), Ok(1));
    assert!(matches!(bad.get(), Err(TaskError::Panicked { .. })));
    assert_eq!(dropped.get(), Err(TaskError::Cancelled));
}

fn runtime() -> runtime::Runtime {
    let builder = &mut runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().unwrap()
}

#[test]
fn tokio_awaits_results_from_many_tasks() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    runtime().block_on(async {
        let mut set = JoinSet::new();
        for x in 0..500 {
            let pool = pool.handle();
            set.spawn(async move {
                let one = pool.apply_async(id, (x,)).await.unwrap();
                one + pool.apply_async(id, (1,)).await.unwrap()
            });
        }
        let mut values = set.join_all().await;
        values.sort_unstable();
        assert_eq!(values, (1..501).collect::<Vec<_>>());
        let squares = pool.map_async(|x: u32| x * x, 0..1000).await.unwrap();
        assert_eq!(squares.len(), 1000);
        assert!(matches!(
            pool.apply_async(panics, (1,)).await,
            Err(TaskError::Panicked { .. })
        ));
    });
}

#[test]
fn tokio_can_stop_waiting_and_come_back() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let hold = Gate::new();
    runtime().block_on(async {
        let mut held = pool.apply_async(gate, (hold.key(),));
        for _ in 0..3 {
            let early = time::timeout(Duration::from_millis(5), &mut held).await;
            assert!(early.is_err());
        }
        // Polled by another task from here on, which is the one that has to be woken.
        let held = tokio::spawn(held);
        let forgotten = tokio::spawn(pool.apply_async(id, (2,)));
        forgotten.abort();
        hold.open();
        assert_eq!(held.await.unwrap(), Ok(7));
        let _ = forgotten.await; // aborted, or there before
        assert_eq!(pool.apply_async(id, (3,)).await, Ok(3));
    });
}

/// A waker that counts, and whose clones do not look like it (`will_wake`): so it is with those of any
/// runtime, now and then, in optimised builds.
fn counting_waker(count: &'static AtomicU32) -> Waker {
    fn clone(count: *const ()) -> RawWaker {
        RawWaker::new(count, &CLONE)
    }
    fn wake(count: *const ()) {
        // SAFETY: `counting_waker` put a reference there that lives for ever.
        let count = unsafe { &*count.cast::<AtomicU32>() };
        count.fetch_add(1, Ordering::SeqCst);
    }
    fn nothing(_: *const ()) {}
    static ORIGINAL: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, nothing);
    static CLONE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, nothing);

    // SAFETY: the functions own nothing, and may be called by any thread.
    unsafe { Waker::new(std::ptr::from_ref(count).cast(), &ORIGINAL) }
}

/// Gives up once, and comes back.
fn polled_twice_it_wakes<F>(mut held: F, state: fn(&F) -> TaskState, hold: &Gate)
where
    F: Future<Output = Result<u32, TaskError>> + Unpin,
{
    let woken = Box::leak(Box::default());
    let waker = counting_waker(woken);
    let poll = |held: &mut F| Pin::new(held).poll(&mut Context::from_waker(&waker));
    assert_eq!(poll(&mut held), Poll::Pending);
    assert!(matches!(
        state(&held),
        TaskState::Waiting | TaskState::Running
    ));
    assert_eq!(poll(&mut held), Poll::Pending);
    hold.open();
    eventually(20, || woken.load(Ordering::SeqCst) == 1);
    assert_eq!(poll(&mut held), Poll::Ready(Ok(7)));
}

#[test]
fn whoever_polls_again_is_woken_whatever_its_waker_looks_like() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let hold = Gate::new();
    let pool = Pool::new(1).unwrap();
    let held = pool.apply_async(gate, (hold.key(),));
    polled_twice_it_wakes(held, AsyncResult::state, &hold);
    let (pool, hold) = (ThreadPool::new(1).unwrap(), Gate::new());
    let held = pool.apply_async(gate, (hold.key(),));
    polled_twice_it_wakes(held, ThreadResult::state, &hold);
}

/// A way to wait for a result; what it says in the end.
type Wait = fn(AsyncResult<u32>) -> Result<u32, TaskError>;

const WAITS: [Wait; 6] = [
    AsyncResult::get,
    |result| result.get_timeout(Duration::from_secs(600)).unwrap(),
    |result| wait([result], Return::All, None).0.remove(0).get(),
    |result| as_completed([result]).next().unwrap().get(),
    |result| {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(result)
    },
    |result| {
        let (tell, told) = std::sync::mpsc::channel();
        let _result = result.on_error(move |error| tell.send(error.clone()).unwrap());
        Err(told.recv().unwrap())
    },
];

/// Waits in every way, each in a thread of its own, while `end` ends the pool; what they were told.
/// Half of the tasks run by then.
fn wait_until_the_end(pool: Pool, end: fn(Pool)) -> Vec<TaskError> {
    let submit = |_: Wait| {
        [
            pool.apply_async(forever, (1,)),
            pool.apply_async(forever, (2,)),
        ]
    };
    let tasks: Vec<_> = WAITS.into_iter().map(submit).collect();
    eventually(20, || tasks.iter().flatten().any(AsyncResult::running));
    let wait = |(wait, result): (Wait, AsyncResult<u32>)| thread::spawn(move || wait(result));
    let results = WAITS.into_iter().zip(tasks);
    let results = results.flat_map(|(wait, pair)| pair.map(|result| (wait, result)));
    let mut threads: Vec<_> = results.map(wait).collect();
    let handle = pool.handle();
    let mut values = pool.imap(forever, 0..);
    threads.push(thread::spawn(move || values.next().unwrap()));
    threads.push(thread::spawn(move || {
        handle.map(forever, 0..100_000).map(|_| 0)
    }));
    end(pool);
    let errors = threads
        .into_iter()
        .map(|thread| thread.join().unwrap().unwrap_err());
    errors.collect()
}

fn kill_all(pool: &Pool) {
    for pid in pool.pids() {
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

#[test]
fn every_wait_ends_with_the_pool() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(120));
    let builder = || Pool::builder().workers(2);
    let ended = |error: &TaskError| matches!(error, TaskError::Terminated | TaskError::Closed);
    let ends: [fn(Pool); 3] = [
        drop,
        |pool| pool.terminate().join().unwrap(),
        |pool| {
            let handle = pool.handle();
            let ender = thread::spawn(move || handle.terminate());
            ender.join().unwrap();
            pool.close().join().unwrap();
        },
    ];
    for end in ends {
        let told = wait_until_the_end(builder().build().unwrap(), end);
        assert!(told.iter().all(ended), "{told:?}");
    }
    let told = wait_until_the_end(builder().break_all().build().unwrap(), |pool| {
        kill_all(&pool);
        let end = pool.close().join();
        assert!(end.is_err(), "{end:?}");
    });
    let broke = |error: &TaskError| {
        matches!(
            error,
            TaskError::PoolBroken { .. } | TaskError::WorkerDied { .. } | TaskError::Closed
        )
    };
    assert!(told.iter().all(broke), "{told:?}");
    assert!(
        told.iter()
            .any(|error| matches!(error, TaskError::PoolBroken { .. }))
    );
}

/// How many values were decoded in this process.
static DECODED: AtomicU32 = AtomicU32::new(0);

#[derive(Debug, Serialize)]
struct Counted(u32);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::SeqCst);
        u32::deserialize(deserializer).map(Self)
    }
}

#[test]
fn asking_how_a_task_ended_decodes_no_value() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let results = [1, 2].map(|x| pool.apply_async(Counted, (x,)));
    let (results, _) = wait(results, Return::FirstError, None);
    for result in &results {
        eventually(20, || result.ready());
        assert_eq!(result.state(), TaskState::Succeeded);
        assert_eq!(result.successful(), Some(true));
        assert!(!result.running() && !result.cancelled() && !result.cancel());
        assert!(format!("{result:?}").contains("Succeeded"));
    }
    assert_eq!(DECODED.load(Ordering::SeqCst), 0);
    let sum: u32 = results
        .into_iter()
        .map(|result| result.get().unwrap().0)
        .sum();
    assert_eq!((sum, DECODED.load(Ordering::SeqCst)), (3, 2));
}

#[test]
fn a_callback_can_end_the_pool_that_others_wait_for() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let handle = pool.handle();
    let first = pool
        .apply_async(id, (1,))
        .on_success(move |_| handle.terminate());
    let second = pool.apply_async(forever, (2,));
    assert!(matches!(
        second.get(),
        Err(TaskError::Terminated | TaskError::Closed)
    ));
    assert_eq!(first.get(), Ok(1));
}
