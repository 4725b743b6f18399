//! The same call styles over threads.

use std::{
    collections::HashSet,
    sync::{Arc, Barrier, Condvar, Mutex},
    thread,
    time::Duration,
};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::{PoolError, TaskError, ThreadPool, ThreadResult};

fn square(x: u64) -> u64 {
    x * x
}

/// Holds tasks up until it is opened. Not `Serialize`, which threads do not need.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn pass(self) -> u32 {
        let (open, opened) = &*self.0;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open));
        7
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

#[test]
fn the_call_styles_are_those_of_a_pool() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = ThreadPool::new(3).unwrap();
    assert_eq!(pool.apply(|a: u32, b: u32| a + b, (40, 2)).unwrap(), 42);
    assert_eq!(pool.apply_async(square, (5,)).get().unwrap(), 25);
    for count in [0, 1, 12, 13, 1000] {
        let squares: Vec<_> = (0..count).map(square).collect();
        assert_eq!(pool.map(square, 0..count).unwrap(), squares);
        assert_eq!(pool.map_async(square, 0..count).get().unwrap(), squares);
        let pairs = (0..count).map(|x| (x, x));
        assert_eq!(pool.starmap(|a, b| a * b, pairs).unwrap(), squares);
        let lazy: Result<Vec<_>, _> = pool.imap(square, 0..count).collect();
        assert_eq!(lazy.unwrap(), squares);
        let lazy = pool.imap_unordered(square, 0..count);
        let mut lazy = lazy.collect::<Result<Vec<_>, _>>().unwrap();
        lazy.sort_unstable();
        assert_eq!(lazy, squares);
    }
    let endless = pool.imap(square, 0..).take(5);
    assert_eq!(endless.last().unwrap().unwrap(), 16);
    pool.close().join().unwrap();
}

#[test]
fn nothing_is_encoded_and_what_is_copy_may_be_captured() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = ThreadPool::new(1).unwrap();
    let value = Arc::new(Mutex::new(1));
    let factor = 3;
    let double = move |value: Arc<Mutex<i32>>| *value.lock().unwrap() *= factor;
    pool.apply(double, (value.clone(),)).unwrap();
    assert_eq!(*value.lock().unwrap(), 3);
}

#[test]
fn a_panic_is_the_error_of_its_task_alone() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = ThreadPool::new(1).unwrap();
    let odd = |x: u32| {
        assert!(x.is_multiple_of(2), "{x} is odd");
        x
    };
    let error = pool.map(odd, 0..10).unwrap_err();
    assert!(
        matches!(&error, TaskError::Panicked { message, pid, .. } if message == "1 is odd" && *pid == std::process::id()),
        "{error:?}"
    );
    let outcomes: Vec<_> = pool.imap(odd, 0..4).map(|r| r.is_ok()).collect();
    assert_eq!(outcomes, [true, false, true, false]);
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

/// Conformance: ThreadPoolExecutorTest.test_saturation
/// Conformance: ThreadPoolShutdownTest.test_thread_names_default
#[test]
fn there_are_as_many_threads_as_asked_for() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = ThreadPool::new(3).unwrap();
    let all = Arc::new(Barrier::new(3)); // passed only by three at once
    let name = |all: Arc<Barrier>| {
        all.wait();
        thread::current().name().map(str::to_owned)
    };
    let tasks: Vec<_> = (0..30)
        .map(|_| pool.apply_async(name, (all.clone(),)))
        .collect();
    let names: HashSet<_> = tasks.into_iter().map(|t| t.get().unwrap()).collect();
    assert_eq!(names.len(), 3);
    let is_numbered = |name: &String| name.starts_with("mp-threads-");
    assert!(names.iter().flatten().all(is_numbered), "{names:?}");
    assert!(matches!(ThreadPool::new(0), Err(PoolError::Invalid(_))));
}

#[test]
fn what_has_not_begun_can_be_cancelled() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = ThreadPool::new(1).unwrap();
    let (gate, begun) = (Gate::default(), Arc::new(Barrier::new(2)));
    let hold = |begun: Arc<Barrier>, gate: Gate| {
        begun.wait();
        gate.pass()
    };
    let running = pool.apply_async(hold, (begun.clone(), gate.clone()));
    begun.wait();
    let waiting = pool.apply_async(square, (2,));
    assert!(!running.cancel());
    assert!(waiting.cancel() && waiting.cancel() && waiting.cancelled());
    assert_eq!(waiting.successful(), Some(false));
    assert_eq!(waiting.get(), Err(TaskError::Cancelled));
    assert!(running.running() && running.get_timeout(Duration::ZERO).is_none());
    assert!(!running.ready() && !running.wait(Duration::from_millis(1)));
    gate.open();
    assert_eq!(running.get(), Ok(7));
    assert_eq!(pool.apply(square, (3,)).unwrap(), 9);
}

/// Conformance: ThreadPoolShutdownTest.test_threads_terminate
#[test]
fn close_finishes_what_was_given_and_terminate_only_what_has_begun() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let gate = Gate::default();
    let pool = ThreadPool::new(3).unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| pool.apply_async(Gate::pass, (gate.clone(),)))
        .collect();
    let closing = pool.close();
    gate.open();
    closing.join().unwrap();
    assert!(tasks.iter().all(ThreadResult::ready));
    assert!(tasks.into_iter().all(|task| task.get() == Ok(7)));

    let (gate, begun) = (Gate::default(), Arc::new(Barrier::new(2)));
    let hold = |begun: Arc<Barrier>, gate: Gate| {
        begun.wait();
        gate.pass()
    };
    let pool = ThreadPool::new(1).unwrap();
    let running = pool.apply_async(hold, (begun.clone(), gate.clone()));
    let waiting = pool.map_async(square, 0..9);
    begun.wait();
    let closing = pool.terminate();
    gate.open();
    closing.join().unwrap();
    assert_eq!(running.get(), Ok(7));
    assert_eq!(waiting.get(), Err(TaskError::Terminated));
}

#[test]
fn a_slow_first_value_holds_up_imap_and_not_imap_unordered() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = ThreadPool::new(2).unwrap();
    let gate = Gate::default();
    let first_waits = |(index, gate): (u32, Gate)| {
        if index == 0 {
            gate.pass();
        }
        index
    };
    let items = || (0..4).map(|index| (index, gate.clone()));
    let mut unordered = pool.imap_unordered(first_waits, items());
    assert_eq!(unordered.next(), Some(Ok(1)));
    let mut ordered = pool.imap(first_waits, items());
    assert!(ordered.next_timeout(Duration::from_millis(10)).is_err());
    gate.open();
    let values: Result<Vec<_>, _> = ordered.collect();
    assert_eq!(values.unwrap(), [0, 1, 2, 3]);
    assert_eq!(unordered.count(), 3);
}

#[test]
fn a_result_can_be_awaited() {
    use std::{
        pin::pin,
        task::{Context, Poll, Wake, Waker},
    };
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = ThreadPool::new(1).unwrap();
    let gate = Gate::default();
    let mut result = pin!(pool.apply_async(Gate::pass, (gate.clone(),)));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    assert!(result.as_mut().poll(&mut context).is_pending());
    gate.open();
    let mut value = None;
    eventually(20, || {
        if let Poll::Ready(outcome) = result.as_mut().poll(&mut context) {
            value = Some(outcome);
        }
        value.is_some()
    });
    assert_eq!(value, Some(Ok(7)));
}

#[test]
fn imap_of_a_closed_pool_gives_the_refusal_in_its_place_and_then_ends() {
    let pool = ThreadPool::new(1).unwrap();
    let handle = pool.handle();
    let mut values = handle.imap(square, 0..100);
    assert_eq!(values.next(), Some(Ok(0)));
    handle.close();
    let rest: Vec<_> = values.collect();
    assert_eq!(rest, [Ok(1), Err(TaskError::Closed)]); // 1 was in flight
}
