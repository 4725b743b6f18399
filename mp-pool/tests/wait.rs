//! Waiting for many results at once, awaiting one, and being called back.

mp_process::init_in_tests!();

use std::{
    pin::pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use mp_core::testing::{Census, Gate, Watchdog, eventually};
use mp_pool::{AsyncResult, Pool, Return, TaskError, WorkerState, as_completed, wait};

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

fn settled(result: AsyncResult<u32>) -> AsyncResult<u32> {
    eventually(20, || result.ready());
    result
}

fn succeeded(pool: &Pool, x: u32) -> AsyncResult<u32> {
    settled(pool.apply_async(id, (x,)))
}

fn failed(pool: &Pool, x: u32) -> AsyncResult<u32> {
    settled(pool.apply_async(panics, (x,)))
}

/// Every worker is busy by then, so the task had not begun.
fn cancelled(pool: &Pool) -> AsyncResult<u32> {
    let result = pool.apply_async(id, (0,));
    assert!(result.cancel());
    settled(result)
}

/// A running task that does not end by itself.
fn running(pool: &Pool) -> AsyncResult<u32> {
    let busy = pool.busy_pids().len();
    let result = pool.apply_async(forever, (0,));
    eventually(20, || {
        let stats = pool.stats();
        let run = stats.workers.iter();
        run.filter(|w| w.state == WorkerState::Running).count() > busy
    });
    result
}

/// Conformance: WaitTests.test_first_completed_some_already_completed
#[test]
fn wait_for_the_first_returns_with_all_that_are_there() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    let results = [succeeded(&pool, 1), failed(&pool, 2), running(&pool)];
    let (done, not_done) = wait(results, Return::FirstCompleted, None);
    assert_eq!((done.len(), not_done.len()), (2, 1));
    assert!(!not_done[0].ready());

    let held = Gate::new();
    let results = vec![
        not_done.into_iter().next().unwrap(),
        pool.apply_async(gate, (held.key(),)),
    ];
    let opener = thread::spawn(move || {
        held.open();
        held
    });
    let (done, not_done) = wait(results, Return::FirstCompleted, None);
    assert_eq!((done.len(), not_done.len()), (1, 1));
    assert_eq!(done.into_iter().next().unwrap().get().unwrap(), 7);
    opener.join().unwrap();
}

/// Conformance: WaitTests.test_first_exception
/// Conformance: WaitTests.test_first_exception_some_already_complete
#[test]
fn wait_for_the_first_error_minds_neither_values_nor_cancelled_tasks() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    let good = succeeded(&pool, 1);
    let forever = running(&pool);
    let held = Gate::new();
    let late = pool.apply_async(
        |path| {
            gate(path);
            panics(3)
        },
        (held.key(),),
    );
    let results = vec![good, cancelled(&pool), forever, late];
    let (done, not_done) = wait(
        results,
        Return::FirstError,
        Some(Duration::from_millis(100)),
    );
    assert_eq!((done.len(), not_done.len()), (2, 2), "no error so far");
    held.open();
    let results = done.into_iter().chain(not_done);
    let (done, not_done) = wait(results, Return::FirstError, None);
    assert_eq!((done.len(), not_done.len()), (3, 1));
    let outcomes: Vec<_> = done.into_iter().map(AsyncResult::get).collect();
    assert!(matches!(
        &outcomes[..],
        [
            Ok(1),
            Err(TaskError::Cancelled),
            Err(TaskError::Panicked { .. })
        ]
    ));
}

/// Conformance: WaitTests.test_all_completed
/// Conformance: WaitTests.test_timeout
#[test]
fn wait_for_all_takes_errors_as_well_and_ends_in_time() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    let other = Pool::new(1).unwrap(); // results of several pools together
    let results = vec![
        pool.apply_async(id, (1,)),
        other.apply_async(panics, (2,)),
        other.apply_async(id, (3,)),
    ];
    let (mut done, not_done) = wait(results, Return::All, None);
    assert_eq!((done.len(), not_done.len()), (3, 0));
    done.push(running(&pool));
    let (done, not_done) = wait(done, Return::All, Some(Duration::from_millis(50)));
    assert_eq!((done.len(), not_done.len()), (3, 1));
    assert!(!not_done[0].ready());
    let nothing = wait(Vec::<AsyncResult<()>>::new(), Return::All, None);
    assert!(nothing.0.is_empty() && nothing.1.is_empty());
}

/// Conformance: ThreadPoolWaitTests.test_pending_calls_race
#[test]
fn wait_misses_no_completion_of_a_hundred_at_once() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    for round in 0..50 {
        let results: Vec<_> = (0..100).map(|x| pool.apply_async(id, (x,))).collect();
        let (done, not_done) = wait(results, Return::All, None);
        assert_eq!((done.len(), not_done.len()), (100, 0), "round {round}");
    }
}

#[test]
fn wait_ends_with_the_pool() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let results: Vec<_> = (0..10).map(|x| pool.apply_async(forever, (x,))).collect();
    let waiter = thread::spawn(move || wait(results, Return::All, None));
    pool.terminate().join().unwrap();
    let (done, not_done) = waiter.join().unwrap();
    assert_eq!((done.len(), not_done.len()), (10, 0));
    for result in done {
        assert_eq!(result.get(), Err(TaskError::Terminated));
    }
}

#[test]
fn wait_in_a_callback_does_not_wait_for_its_own_pool() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let (told, outcome) = mpsc::channel();
    let handle = pool.handle();
    let first = pool.apply_async(id, (1,)).on_success(move |_| {
        let (done, not_done) = wait([handle.apply_async(forever, (1,))], Return::All, None);
        let handed_out: Vec<_> = as_completed(not_done).map(AsyncResult::get).collect();
        told.send((done.len(), handed_out)).unwrap();
    });
    assert_eq!(first.get().unwrap(), 1);
    let expected = (0, vec![Err(TaskError::WouldDeadlock)]);
    assert_eq!(outcome.recv().unwrap(), expected);
}

/// Conformance: AsCompletedTests.test_no_timeout
#[test]
fn as_completed_yields_each_result_once() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let (good, bad) = (succeeded(&pool, 1), failed(&pool, 2));
    let held = Gate::new();
    let late = pool.apply_async(gate, (held.key(),));
    let results = vec![late, good, cancelled(&pool), bad];
    let mut completed = as_completed(results);
    assert_eq!(completed.len(), 4);
    let first: Vec<_> = completed.by_ref().take(3).map(AsyncResult::get).collect();
    assert_eq!(first[..2], [Ok(1), Err(TaskError::Cancelled)]);
    assert!(matches!(first[2], Err(TaskError::Panicked { .. })));
    held.open();
    assert_eq!(completed.next().unwrap().get().unwrap(), 7);
    assert!(completed.next().is_none());
}

/// A result cannot be given twice, as it is moved in; so "each once" is the compiler's promise too.
///
/// Conformance: AsCompletedTests.test_duplicate_futures
#[test]
fn as_completed_takes_any_iterator() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    let results = (0..100).map(|x| pool.apply_async(id, (x,)));
    let mut values: Vec<_> = as_completed(results).map(|r| r.get().unwrap()).collect();
    values.sort_unstable();
    assert_eq!(values, (0..100).collect::<Vec<_>>());
}

/// Conformance: AsCompletedTests.test_future_times_out
/// Conformance: AsCompletedTests.test_correct_timeout_exception_msg
#[test]
fn as_completed_tells_how_many_were_not_there_in_time() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let there = [succeeded(&pool, 1), succeeded(&pool, 2)];
    let not = [running(&pool), pool.apply_async(id, (0,))];
    let results = not.into_iter().chain(there);
    let mut completed = as_completed(results).timeout(Duration::ZERO);
    assert_eq!(completed.next().unwrap().unwrap().get(), Ok(1));
    assert_eq!(completed.next().unwrap().unwrap().get(), Ok(2));
    let error = completed.next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "2 (of 4) results unfinished");
    assert!(completed.next().is_none());
    let left = completed.into_unfinished();
    let mut again = as_completed(left).timeout(Duration::from_millis(100));
    let error = again.next().unwrap().unwrap_err();
    assert_eq!((error.unfinished, error.of), (2, 2));
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The whole of an async runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_result_can_be_awaited_and_the_end_of_the_pool_ends_that() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    let sum = block_on(async {
        let (one, two) = (pool.apply_async(id, (1,)), pool.apply_async(id, (2,)));
        one.await.unwrap() + two.await.unwrap()
    });
    assert_eq!(sum, 3);
    assert_eq!(block_on(pool.map_async(id, 0..9)).unwrap().len(), 9);
    let endless = pool.apply_async(forever, (0,));
    let waiter = thread::spawn(|| block_on(endless));
    drop(pool);
    assert_eq!(waiter.join().unwrap(), Err(TaskError::Terminated));
}

/// Conformance: FutureTests.test_done_callback_with_result
/// Conformance: FutureTests.test_done_callback_with_exception
/// Conformance: FutureTests.test_done_callback_with_cancel
#[test]
fn callbacks_are_called_with_the_outcome_in_the_order_of_registration() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let busy = running(&pool);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let calls = calls.clone();
        move |what: String| calls.lock().unwrap().push(format!("{name} {what}"))
    };
    let (first, second, error, cancel) = (note("1"), note("2"), note("error"), note("cancel"));
    let good = pool.apply_async(id, (5,));
    let good = good.on_success(move |x| first(x.to_string()));
    let good = good.on_success(move |x| second(x.to_string()));
    let bad = pool.apply_async(panics, (6,)).on_error(move |e| {
        let TaskError::Panicked { message, .. } = e else {
            return error(e.to_string());
        };
        error(message.clone());
    });
    let dropped = pool.apply_async(id, (7,));
    let dropped = dropped.on_error(move |e| cancel(e.to_string()));
    assert!(dropped.cancel());
    assert_eq!(dropped.get(), Err(TaskError::Cancelled));
    assert!(busy.cancel());
    assert_eq!(good.get(), Ok(5));
    assert!(bad.get().is_err());
    let expected = ["cancel the task was cancelled", "1 5", "2 5", "error no 6"];
    assert_eq!(*calls.lock().unwrap(), expected);
}

/// Conformance: FutureTests.test_done_callback_already_successful
/// Conformance: FutureTests.test_done_callback_already_failed
/// Conformance: FutureTests.test_done_callback_already_cancelled
#[test]
fn a_callback_that_comes_late_is_called_as_well() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let (good, bad) = (succeeded(&pool, 5), failed(&pool, 6));
    let _busy = running(&pool);
    let dropped = cancelled(&pool);
    let (tell, told) = mpsc::channel();
    let _good = good.on_success({
        let tell = tell.clone();
        move |x| tell.send(x.to_string()).unwrap()
    });
    assert_eq!(told.recv().unwrap(), "5");
    let _bad = bad.on_error({
        let tell = tell.clone();
        move |e| tell.send(e.to_string()).unwrap()
    });
    assert!(told.recv().unwrap().ends_with("no 6"));
    let _dropped = dropped.on_error(move |e| tell.send(e.to_string()).unwrap());
    assert_eq!(told.recv().unwrap(), "the task was cancelled");
}

/// Conformance: FutureTests.test_done
/// Conformance: FutureTests.test_cancelled
/// Conformance: FutureTests.test_result_with_timeout
#[test]
fn a_result_tells_its_state_without_waiting() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(1).unwrap();
    let (good, bad) = (succeeded(&pool, 5), failed(&pool, 6));
    let runs = running(&pool);
    let (waits, dropped) = (pool.apply_async(id, (1,)), cancelled(&pool));
    let ready = [&good, &bad, &dropped, &runs, &waits].map(AsyncResult::ready);
    assert_eq!(ready, [true, true, true, false, false]);
    let now = |result: &AsyncResult<u32>| result.get_timeout(Duration::ZERO);
    assert_eq!((now(&runs), now(&waits)), (None, None));
    assert_eq!(now(&good), Some(Ok(5)));
    assert_eq!(now(&dropped), Some(Err(TaskError::Cancelled)));
    assert!(matches!(now(&bad), Some(Err(TaskError::Panicked { .. }))));
    assert!(!good.cancel() && !bad.cancel(), "there is nothing to stop");
}

/// Conformance: FutureTests.test_result_with_success
/// Conformance: FutureTests.test_result_with_cancel
/// Conformance: FutureTests.test_exception_with_success
#[test]
fn a_thread_that_waits_gets_what_comes_later() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(3).unwrap();
    let held = Gate::new();
    let good = pool.apply_async(gate, (held.key(),));
    let bad = pool.apply_async(|path| panics(gate(path)), (held.key(),));
    let (good, bad) = (
        thread::spawn(|| good.get()),
        thread::spawn(|| bad.get().unwrap_err()),
    );
    let stopped = Arc::new(running(&pool));
    let waiter = thread::spawn({
        let stopped = stopped.clone();
        move || stopped.get_timeout(Duration::from_secs(50))
    });
    held.open();
    assert_eq!(good.join().unwrap(), Ok(7));
    assert!(bad.join().unwrap().to_string().ends_with("no 7"));
    assert!(stopped.cancel());
    assert_eq!(waiter.join().unwrap(), Some(Err(TaskError::Cancelled)));
}
