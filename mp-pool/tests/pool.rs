//! The call styles of a pool, and the rows of Python's own suite about them.

mp_process::init_in_tests!();

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mp_core::testing::{Census, Gate, Watchdog, eventually};
use mp_pool::{Part, Pool, PoolError, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

fn square(x: u64) -> u64 {
    x * x
}

fn squares(range: std::ops::Range<u64>) -> Vec<u64> {
    range.map(square).collect()
}

fn add(a: u64, b: u64) -> u64 {
    a + b
}

fn odd_panics(n: u64) -> u64 {
    assert!(n.is_multiple_of(2), "{n} is odd");
    n
}

fn crash(_: u32) -> u32 {
    std::process::abort()
}

fn forever(_: u32) -> u32 {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Refuses to be encoded.
#[derive(Debug, Deserialize)]
struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not on a Monday"))
    }
}

/// Can be encoded, and refuses to be decoded.
#[derive(Debug, Serialize)]
struct NoReturn;

impl<'de> Deserialize<'de> for NoReturn {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("no way back"))
    }
}

/// Panics while it is decoded.
#[derive(Debug, Serialize)]
struct Booby;

impl<'de> Deserialize<'de> for Booby {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("booby trap")
    }
}

#[test]
fn the_first_program_runs() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.map(|x: u64| x * x, 0..5).unwrap(), [0, 1, 4, 9, 16]);
    assert_eq!(pool.apply(|a: u32, b: u32| a + b, (40, 2)).unwrap(), 42);
    assert!(matches!(
        pool.apply(crash, (0,)),
        Err(TaskError::WorkerDied {
            signal: Some(6),
            ..
        })
    ));
    let slow = pool
        .task(forever, (0,))
        .timeout(Duration::from_millis(100))
        .submit();
    assert!(matches!(slow.get(), Err(TaskError::TimedOut { .. })));
    assert_eq!(pool.map(|x: u64| x + 1, 0..3).unwrap(), [1, 2, 3]);
    pool.close().join().unwrap();
}

/// Conformance: _TestPool.test_apply
#[test]
fn apply_returns_the_value_of_the_call() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    assert_eq!(pool.apply(square, (5,)).unwrap(), 25);
    assert_eq!(
        pool.apply(|| "nothing in".to_owned(), ()).unwrap(),
        "nothing in"
    );
    assert_eq!(pool.apply_async(add, (1, 2)).get().unwrap(), 3);
    assert_ne!(
        pool.apply(std::process::id, ()).unwrap(),
        std::process::id()
    );
}

/// Conformance: _TestPool.test_map
/// Conformance: _TestPool.test_map_async
#[test]
fn map_keeps_the_order_with_any_chunksize() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    for count in [0, 1, 10, 100, 1000] {
        assert_eq!(pool.map(square, 0..count).unwrap(), squares(0..count));
        assert_eq!(
            pool.map_async(square, 0..count).get().unwrap(),
            squares(0..count)
        );
        for chunksize in [1, 7, 20, 5000] {
            let tasks = pool.tasks(square, 0..count).chunksize(chunksize);
            assert_eq!(tasks.map().unwrap(), squares(0..count));
        }
    }
    // An input whose length nobody knows beforehand.
    let even = (0..1000).filter(|n| n % 2 == 0);
    assert_eq!(
        pool.map(square, even.clone()).unwrap(),
        even.map(square).collect::<Vec<_>>()
    );
}

/// Conformance: _TestPool.test_starmap
/// Conformance: _TestPool.test_starmap_async
#[test]
fn starmap_unpacks_its_tuples() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    let tuples: Vec<(u64, u64)> = (0..100).zip((0..100).rev()).collect();
    let sums = vec![99; 100];
    assert_eq!(pool.starmap(add, tuples.clone()).unwrap(), sums);
    assert_eq!(
        pool.startasks(add, tuples.clone())
            .chunksize(20)
            .map()
            .unwrap(),
        sums
    );
    assert_eq!(pool.starmap_async(add, tuples).get().unwrap(), sums);
}

/// Conformance: _TestPool.test_map_async_callbacks
#[test]
fn one_callback_runs_once_and_before_anybody_is_told() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let calls = calls.clone();
        move |text: String| {
            std::thread::sleep(Duration::from_millis(20));
            calls.lock().unwrap().push(format!("{what} {text}"));
        }
    };
    let (good, bad) = (note("value"), note("error"));
    let result = pool
        .map_async(square, 0..3)
        .on_success(move |values| good(format!("{values:?}")))
        .on_error(move |error| bad(error.to_string()));
    assert!(result.wait(Duration::from_secs(50)));
    assert_eq!(*calls.lock().unwrap(), ["value [0, 1, 4]"]);
    calls.lock().unwrap().clear();
    let (good, bad) = (note("value"), note("error"));
    let result = pool
        .map_async(odd_panics, 0..3)
        .on_success(move |values| good(format!("{values:?}")))
        .on_error(move |error| bad(error.to_string()));
    assert!(result.wait(Duration::from_secs(50)));
    let calls = calls.lock().unwrap();
    assert!(calls.len() == 1 && calls[0].starts_with("error") && calls[0].contains("1 is odd"));
}

#[test]
fn a_callback_added_late_runs_before_who_waits_is_told() {
    let _guards = guarded(60);
    let pool = Pool::new(1).unwrap();
    let result = pool.apply_async(square, (3,));
    assert!(result.wait(Duration::from_secs(50)));
    let seen = Arc::new(AtomicUsize::new(0));
    let late = seen.clone();
    let slowly = move |value: &u64| {
        std::thread::sleep(Duration::from_millis(20));
        late.store(*value as usize, Ordering::SeqCst);
    };
    let result = result.on_success(slowly.clone());
    assert_eq!(result.get_timeout(Duration::from_secs(50)), Some(Ok(9)));
    assert_eq!(seen.swap(0, Ordering::SeqCst), 9);
    // While others run.
    let result = result.on_success(|_| ()).on_success(slowly);
    assert_eq!(result.get(), Ok(9));
    assert_eq!(seen.load(Ordering::SeqCst), 9);
}

#[test]
fn a_result_outlives_its_pool() {
    let _guards = guarded(60);
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let result = Pool::new(1).unwrap().apply_async(nap, (60_000,));
    assert_eq!(
        result.get_timeout(Duration::ZERO),
        Some(Err(TaskError::Terminated))
    );
    let seen = Arc::new(AtomicUsize::new(0));
    let noted = seen.clone();
    let result = result.on_error(move |_| noted.store(1, Ordering::SeqCst));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    assert_eq!(result.get(), Err(TaskError::Terminated));
}

#[test]
fn a_panicking_callback_costs_no_result() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let results: Vec<_> = (0..100)
        .map(|n| {
            let result = pool.apply_async(square, (n,));
            match n {
                3 => result.on_success(|_| panic!("in a callback")),
                _ => result,
            }
        })
        .collect();
    let values: Vec<_> = results
        .into_iter()
        .map(|result| result.get().unwrap())
        .collect();
    assert_eq!(values, squares(0..100));
    assert_eq!(pool.callback_panics(), 1);
}

#[test]
fn a_callback_cannot_wait_for_its_own_pool() {
    let _guards = guarded(60);
    let pool = Pool::new(1).unwrap();
    let handle = pool.handle();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    pool.apply_async(square, (3,))
        .on_success(move |_| {
            let mut notes = notes.lock().unwrap();
            notes.push(handle.apply(square, (1,)).map(|_| ()));
            notes.push(handle.map(square, 0..3).map(|_| ()));
            let endless = |_: u64| std::thread::sleep(Duration::MAX);
            notes.push(handle.apply_async(endless, (1,)).get());
            notes.push(handle.imap(endless, 0..3).next().unwrap());
        })
        .get()
        .unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        vec![Err(TaskError::WouldDeadlock); 4]
    );
    pool.terminate().join().unwrap();
}

#[test]
fn imap_in_a_callback_ends_with_the_refusal() {
    let _guards = guarded(60);
    let pool = Pool::new(1).unwrap();
    let handle = pool.handle();
    let seen = Arc::new(Mutex::new(None));
    let (notes, taken) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
    let count = taken.clone();
    let outcome = pool.apply_async(square, (3,)).on_success(move |_| {
        let input = (0..3).inspect(|_| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let outcomes: Vec<_> = handle.imap(square, input).take(10).collect();
        let of_nothing: Vec<_> = handle.imap(square, []).take(10).collect();
        *notes.lock().unwrap() = Some((outcomes, of_nothing));
    });
    assert_eq!(outcome.get(), Ok(9));
    let seen = seen.lock().unwrap().take();
    assert_eq!(seen, Some((vec![Err(TaskError::WouldDeadlock)], vec![])));
    assert_eq!(
        taken.load(Ordering::SeqCst),
        1,
        "to see whether there is any"
    );
    assert_eq!(pool.stats().completed, 1, "nothing is submitted");
}

/// Conformance: _TestPool.test_map_unplicklable
#[test]
fn arguments_that_cannot_be_sent_are_an_error_of_the_call() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let is_refusal = |error: TaskError| match error {
        TaskError::Encode {
            what: Part::Arguments,
            reason,
        } => reason.contains("Monday"),
        _ => false,
    };
    let take = |_: Refuses| 1;
    assert!(is_refusal(pool.map(take, [Refuses, Refuses]).unwrap_err()));
    assert!(is_refusal(pool.apply(take, (Refuses,)).unwrap_err()));
    let errors = pool
        .imap(take, [Refuses, Refuses])
        .map(|result| result.unwrap_err());
    assert_eq!(errors.filter(|error| is_refusal(error.clone())).count(), 2);
    assert_eq!(pool.apply(square, (4,)).unwrap(), 16);
}

/// Conformance: _TestPool.test_map_chunksize
/// Conformance: _TestPool.test_empty_iterable
#[test]
fn an_empty_input_gives_an_empty_result_at_once() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let none: [u64; 0] = [];
    assert_eq!(pool.map(square, none).unwrap(), []);
    assert_eq!(pool.imap(square, none).count(), 0);
    assert_eq!(pool.imap_unordered(square, none).count(), 0);
    assert_eq!(pool.map_async(square, none).get().unwrap(), []);
    let chunks = pool.tasks(square, none).chunksize(20).map_async();
    assert!(chunks.wait(Duration::from_secs(50)));
    assert_eq!(chunks.get().unwrap(), []);
}

/// An input that panics after some items.
fn breaks_after(count: u64) -> impl Iterator<Item = u64> {
    (0..).inspect(move |n| assert!(*n < count, "input broke"))
}

/// Conformance: _TestPool.test_map_handle_iterable_exception
#[test]
fn a_panic_of_the_input_comes_out_of_map_and_the_pool_goes_on() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    for count in [0, 1, 10] {
        let map = AssertUnwindSafe(|| pool.map(square, breaks_after(count)));
        assert!(catch_unwind(map).is_err());
        let singles =
            AssertUnwindSafe(|| pool.tasks(square, breaks_after(count)).chunksize(1).map());
        assert!(catch_unwind(singles).is_err());
        assert_eq!(pool.map(square, 0..10).unwrap(), squares(0..10));
    }
}

/// Conformance: _TestPool.test_imap
/// Conformance: _TestPool.test_imap_unordered
#[test]
fn imap_yields_each_value_once() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    for chunksize in [1, 100] {
        let values = pool.tasks(square, 0..1000).chunksize(chunksize).imap();
        assert_eq!(
            values.collect::<Result<Vec<_>, _>>().unwrap(),
            squares(0..1000)
        );
        let values = pool
            .tasks(square, 0..1000)
            .chunksize(chunksize)
            .imap_unordered();
        let mut values = values.collect::<Result<Vec<_>, _>>().unwrap();
        values.sort_unstable();
        assert_eq!(values, squares(0..1000));
    }
    let mut few = pool.imap(square, 0..2);
    assert_eq!([few.next(), few.next()], [Some(Ok(0)), Some(Ok(1))]);
    assert_eq!([few.next(), few.next()], [None, None]);
}

/// Conformance: _TestPool.test_imap_handle_iterable_exception
/// Conformance: _TestPool.test_imap_unordered_handle_iterable_exception
#[test]
fn imap_yields_what_came_before_the_input_broke() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    for (chunksize, whole) in [(1, 10), (3, 9)] {
        for ordered in [true, false] {
            let tasks = pool.tasks(square, breaks_after(10)).chunksize(chunksize);
            let mut values = if ordered {
                tasks.imap()
            } else {
                tasks.imap_unordered()
            };
            let mut seen: Vec<u64> = (0..whole)
                .map(|_| values.next().unwrap().unwrap())
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, squares(0..whole));
            assert!(catch_unwind(AssertUnwindSafe(|| values.next())).is_err());
            assert_eq!(values.next(), None);
        }
    }
    assert_eq!(pool.map(square, 0..10).unwrap(), squares(0..10));
}

#[test]
fn imap_can_be_asked_again_after_a_timeout() {
    let _guards = guarded(60);
    let pool = Pool::new(1).unwrap();
    let gate = Gate::new();
    let mut values = pool.imap(
        |key: String| {
            Gate::pass(&key);
            200
        },
        [gate.key()],
    );
    assert_eq!(
        values.next_timeout(Duration::from_millis(1)),
        Err(mp_pool::NotYet)
    );
    gate.open();
    assert_eq!(
        values.next_timeout(Duration::from_secs(50)),
        Ok(Some(Ok(200)))
    );
    assert_eq!(values.next_timeout(Duration::from_secs(50)), Ok(None));
}

/// Conformance: _TestPool.test_make_pool
#[test]
fn a_pool_has_as_many_workers_as_it_was_asked_for() {
    let _guards = guarded(60);
    assert!(matches!(Pool::new(0), Err(PoolError::Invalid(_))));
    let pool = Pool::new(3).unwrap();
    assert_eq!((pool.workers(), pool.pids().len()), (3, 3));
}

/// Conformance: _TestPool.test_traceback
/// Conformance: _TestPool.test_wrapped_exception
#[test]
fn a_panic_arrives_with_its_words_and_its_place() {
    let _guards = guarded(60);
    let pool = Pool::new(1).unwrap();
    let worker = pool.apply(std::process::id, ()).unwrap();
    let Err(TaskError::Panicked {
        message,
        location,
        pid,
        ..
    }) = pool.apply(odd_panics, (1,))
    else {
        panic!("it should have panicked");
    };
    assert_eq!((message.as_str(), pid), ("1 is odd", worker));
    assert!(location.unwrap().contains("tests/pool.rs:"));
    let other = pool.apply(|| -> u32 { std::panic::panic_any(7_u8) }, ());
    assert!(matches!(other, Err(TaskError::Panicked { .. })));
    // An error that the function returns is a value like any other, of its own type.
    let parsed = pool.apply(
        |text: String| text.parse::<u32>().map_err(|e| e.to_string()),
        ("x".to_owned(),),
    );
    assert_eq!(
        parsed.unwrap(),
        Err("invalid digit found in string".to_owned())
    );
    assert_eq!(
        pool.apply(std::process::id, ()).unwrap(),
        worker,
        "the worker lives on"
    );
}

/// Conformance: _TestPool.test_map_no_failfast
#[test]
fn map_reports_an_error_after_all_tasks_are_done() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    let error = pool.map(
        |n: u64| -> u64 {
            if n == 0 {
                panic!("{}", "x".repeat(1 << 20));
            }
            std::thread::sleep(Duration::from_millis(100));
            panic!("{}", "y".repeat(1 << 20));
        },
        0..10,
    );
    let Err(TaskError::Panicked { message, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(message.len(), 1 << 20);
    assert!(message.starts_with('x'), "the error of the first item");
    assert!(pool.busy_pids().is_empty(), "nothing is left to do");
    pool.close().join().unwrap();
}

/// Conformance: _TestPool.test_release_task_refs
#[test]
fn arguments_are_dropped_in_the_worker_after_each_task() {
    let _guards = guarded(60);
    static ALIVE: AtomicUsize = AtomicUsize::new(0);

    #[derive(Serialize)]
    struct Counted(u8);

    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            ALIVE.fetch_add(1, Ordering::SeqCst);
            u8::deserialize(deserializer).map(Self)
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::SeqCst);
        }
    }

    let pool = Pool::new(1).unwrap();
    let during = pool.map(
        |counted: Counted| {
            let _mine = counted;
            ALIVE.load(Ordering::SeqCst)
        },
        (0..10).map(Counted),
    );
    assert_eq!(during.unwrap(), [1; 10], "each sees only its own");
    assert_eq!(pool.apply(|| ALIVE.load(Ordering::SeqCst), ()).unwrap(), 0);
}

/// Conformance: _TestPoolWorkerErrors.test_unpickleable_result
#[test]
fn results_that_cannot_travel_cost_no_worker() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let before = pool.pids();
    for _ in 0..20 {
        let noted = Arc::new(Mutex::new(String::new()));
        let note = noted.clone();
        let result = pool
            .apply_async(|| Refuses, ())
            .on_error(move |error| *note.lock().unwrap() = error.to_string());
        let Err(TaskError::Encode {
            what: Part::Result,
            reason,
        }) = result.get()
        else {
            panic!("it should not have been encoded");
        };
        assert!(
            reason.contains("Refuses") && reason.contains("Monday"),
            "{reason}"
        );
        assert!(noted.lock().unwrap().contains("Monday"));
        let result = pool.apply(|| NoReturn, ());
        assert!(matches!(
            result,
            Err(TaskError::Decode {
                what: Part::Result,
                ..
            })
        ));
        let result = pool.apply(|| Booby, ());
        assert!(matches!(
            result,
            Err(TaskError::Decode {
                what: Part::Result,
                ..
            })
        ));
        let result = pool.apply(|_: NoReturn| 1, (NoReturn,));
        assert!(matches!(
            result,
            Err(TaskError::Decode {
                what: Part::Arguments,
                ..
            })
        ));
    }
    assert_eq!(pool.pids(), before);
    pool.close().join().unwrap();
}

/// Conformance: MiscTestCase.test_large_pool
#[test]
fn two_hundred_workers_share_a_thousand_items() {
    let _guards = guarded(120);
    let pool = Pool::new(200).unwrap();
    assert_eq!(pool.map(square, 0..1000).unwrap(), squares(0..1000));
    pool.close().join().unwrap();
}

#[test]
fn large_arguments_and_results_arrive_whole() {
    let _guards = guarded(120);
    let pool = Pool::new(2).unwrap();
    for len in [
        0,
        1,
        100,
        10_000,
        16_383,
        16_384,
        16_385,
        300_000,
        1 << 20,
        50 << 20,
    ] {
        let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let bytes = mp_pool::Bytes::from(bytes);
        let back = pool
            .apply(|bytes: mp_pool::Bytes| bytes, (bytes.clone(),))
            .unwrap();
        assert!(back == bytes, "{len} bytes");
    }
    let many = (0..40_u8).map(|n| mp_pool::Bytes::from(vec![n; 300_000]));
    let back = pool
        .tasks(|bytes: mp_pool::Bytes| bytes, many)
        .chunksize(1)
        .map()
        .unwrap();
    for (n, bytes) in (0..).zip(back) {
        assert!(bytes.len() == 300_000 && bytes.iter().all(|byte| *byte == n));
    }
}

#[test]
fn many_threads_share_a_pool() {
    let _guards = guarded(120);
    let pool = Pool::new(2).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let handle = pool.handle();
            scope.spawn(move || {
                for n in 0..200 {
                    let n = thread * 1000 + n;
                    assert_eq!(handle.apply(square, (n,)).unwrap(), n * n);
                }
                let range = thread * 1000..thread * 1000 + 500;
                assert_eq!(
                    handle.map(square, range.clone()).unwrap(),
                    squares(range.clone())
                );
                let lazily: Result<Vec<_>, _> = handle.imap(square, range.clone()).collect();
                assert_eq!(lazily.unwrap(), squares(range));
            });
        }
    });
    pool.close().join().unwrap();
}

#[test]
fn a_task_may_have_a_pool_of_its_own() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let sums = pool.map(
        |n: u64| {
            let inner = Pool::new(2).unwrap();
            inner.map(square, 0..n).unwrap().iter().sum::<u64>()
        },
        [2, 3, 4, 5],
    );
    assert_eq!(sums.unwrap(), [1, 5, 14, 30]);
}

#[test]
fn idle_workers_take_over_what_waits_behind_a_long_task() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let nap = |ms: u64| std::thread::sleep(Duration::from_millis(ms));
    let long = pool.apply_async(nap, (3_600_000,));
    let short: Vec<_> = (0..20).map(|_| pool.apply_async(nap, (1,))).collect();
    for result in short {
        result.get().unwrap();
    }
    assert!(!long.ready());
    assert!(long.cancel());
}

#[test]
fn tasks_of_high_priority_go_first() {
    let _guards = guarded(60);
    let pool = Pool::new(1).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let block = pool.apply_async(|| std::thread::sleep(Duration::from_secs(3600)), ());
    eventually(50, || block.running());
    let results: Vec<_> = [0, 5, -5, 5]
        .into_iter()
        .map(|priority| {
            let order = order.clone();
            let task = pool
                .task(|priority: i32| priority, (priority,))
                .priority(priority);
            task.submit()
                .on_success(move |value| order.lock().unwrap().push(*value))
        })
        .collect();
    assert!(block.cancel());
    for result in results {
        result.get().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [5, 5, 0, -5]);
}
