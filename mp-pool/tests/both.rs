//! One program over processes and over threads: only the line that makes the pool differs.

mp_process::init_in_tests!();

use std::{collections::BTreeSet, sync::mpsc, time::Duration};

use mp_core::testing::{Census, Gate, Watchdog, eventually};
use mp_pool::{Pool, Return, TaskError, TaskState, ThreadPool, as_completed, wait};
use tokio::runtime;

fn square(x: u64) -> u64 {
    x * x
}

fn odd(x: u64) -> u64 {
    assert!(x % 2 == 1, "{x} is even");
    x
}

fn nap(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

/// Runs until the gate is open.
fn hold(key: String) -> u64 {
    Gate::pass(&key);
    7
}

fn panicked<R: std::fmt::Debug>(outcome: Result<R, TaskError>) -> String {
    match outcome {
        Err(TaskError::Panicked { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

/// The same tests over the pool that `$new` makes.
macro_rules! programs {
    ($kind:ident, $new:expr) => {
        mod $kind {
            use super::*;

            #[test]
            fn calls_return_what_the_function_returns() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                assert_eq!(pool.apply(square, (5,)), Ok(25));
                assert_eq!(pool.apply_async(square, (6,)).get(), Ok(36));
                for count in [0, 1, 7, 100] {
                    let squares: Vec<_> = (0..count).map(square).collect();
                    assert_eq!(pool.map(square, 0..count).unwrap(), squares);
                    assert_eq!(pool.map_async(square, 0..count).get().unwrap(), squares);
                    let pairs = || (0..count).map(|x| (x, x));
                    assert_eq!(pool.starmap(|a, b| a * b, pairs()).unwrap(), squares);
                    let starmap = pool.starmap_async(|a: u64, b: u64| a * b, pairs());
                    assert_eq!(starmap.get().unwrap(), squares);
                    let lazy: Result<Vec<_>, _> = pool.imap(square, 0..count).collect();
                    assert_eq!(lazy.unwrap(), squares);
                    let lazy = pool.imap_unordered(square, 0..count);
                    let lazy: Result<BTreeSet<_>, _> = lazy.collect();
                    assert!(lazy.unwrap().into_iter().eq(squares));
                }
                assert_eq!(pool.imap(square, 0..).nth(20), Some(Ok(400)));
                pool.close().join().unwrap();
            }

            #[test]
            fn a_panic_is_the_error_of_its_task() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                assert_eq!(panicked(pool.apply(odd, (4,))), "4 is even");
                assert_eq!(panicked(pool.map(odd, 1..100)), "2 is even");
                let outcomes: Vec<_> = pool.imap(odd, 1..5).map(|one| one.is_ok()).collect();
                assert_eq!(outcomes, [true, false, true, false]);
                let failed = pool.apply_async(odd, (6,));
                eventually(20, || failed.ready());
                let look = (failed.state(), failed.successful(), failed.cancelled());
                assert_eq!(look, (TaskState::Failed, Some(false), false));
                assert!(format!("{failed:?}").contains("6 is even"));
            }

            #[test]
            fn many_results_are_waited_for_together() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                let naps = || [60, 1].map(|millis| pool.apply_async(nap, (millis,)));
                let (done, late) = wait(naps(), Return::All, None);
                assert_eq!((done.len(), late.len()), (2, 0));
                let mut slept: Vec<_> = as_completed(naps()).map(|r| r.get().unwrap()).collect();
                slept.sort_unstable();
                assert_eq!(slept, [1, 60]);
                let results = [1, 2].map(|x| pool.apply_async(odd, (x,)));
                let (done, _) = wait(results, Return::FirstError, None);
                assert!(done.into_iter().any(|result| result.get().is_err()));
                let gate = Gate::new();
                let long = pool.apply_async(hold, (gate.key(),));
                let (_, late) = wait([long], Return::All, Some(Duration::from_millis(1)));
                assert!(!late[0].wait(Duration::ZERO));
                assert_eq!(late[0].get_timeout(Duration::ZERO), None);
                gate.open();
                assert_eq!(late[0].get_timeout(Duration::from_secs(50)), Some(Ok(7)));
            }

            #[test]
            fn a_result_is_awaited_under_tokio() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                let runtime = runtime::Builder::new_current_thread().build().unwrap();
                let sum = runtime.block_on(async {
                    let (a, b) = (pool.apply_async(nap, (20,)), pool.apply_async(nap, (10,)));
                    a.await.unwrap() + b.await.unwrap()
                });
                assert_eq!(sum, 30);
            }

            #[test]
            fn callbacks_come_before_whoever_waits_in_order_of_registration() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                let (tell, told) = mpsc::channel();
                let note = |name: &'static str| {
                    let tell = tell.clone();
                    move |what: String| tell.send(format!("{name} {what}")).unwrap()
                };
                let (one, two, three, late) = (note("1"), note("2"), note("3"), note("late"));
                let good = pool
                    .apply_async(nap, (20,))
                    .on_success(move |x| one(x.to_string()))
                    .on_error(|_| unreachable!("it is a value"))
                    .on_success(|_| panic!("a panic here concerns nobody"))
                    .on_success(move |x| two(x.to_string()));
                assert!(good.wait(Duration::from_secs(50)));
                assert_eq!(told.try_iter().collect::<Vec<_>>(), ["1 20", "2 20"]);
                let good = good.on_success(move |x| late(x.to_string()));
                assert_eq!(told.recv().unwrap(), "late 20");
                assert_eq!(good.get(), Ok(20));
                let bad = pool
                    .apply_async(odd, (2,))
                    .on_error(move |e| three(e.to_string()));
                assert!(bad.get().is_err());
                assert!(told.try_recv().unwrap().ends_with("2 is even"));
            }

            #[test]
            fn what_waits_can_be_cancelled() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                let gate = Gate::new();
                let busy = [(), ()].map(|()| pool.apply_async(hold, (gate.key(),)));
                let waiting: Vec<_> = (0..20).map(|x| pool.apply_async(square, (x,))).collect();
                eventually(20, || busy.iter().all(|task| task.running()));
                assert!(waiting[10..].iter().all(|task| task.cancel_waiting()));
                assert!(busy.iter().all(|task| !task.cancel_waiting()));
                gate.open();
                for (x, task) in (0..).zip(waiting) {
                    let expected = if x < 10 {
                        Ok(square(x))
                    } else {
                        Err(TaskError::Cancelled)
                    };
                    assert_eq!(task.get(), expected);
                }
                assert!(busy.into_iter().all(|task| task.get() == Ok(7)));
            }

            #[test]
            fn a_closed_pool_finishes_and_takes_no_more() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                let handle = pool.handle();
                let tasks: Vec<_> = (0..50).map(|x| pool.apply_async(square, (x,))).collect();
                let closing = pool.close();
                assert_eq!(handle.apply(square, (1,)), Err(TaskError::Closed));
                assert_eq!(handle.map(square, 0..3), Err(TaskError::Closed));
                let mut values = handle.imap(square, 0..3);
                assert_eq!(values.next(), Some(Err(TaskError::Closed)));
                assert_eq!(values.next(), None);
                assert!(closing.wait(Duration::from_secs(50)));
                closing.join().unwrap();
                assert!(tasks.into_iter().all(|task| task.get().is_ok()));
            }

            #[test]
            fn a_terminated_pool_leaves_nobody_waiting() {
                let (_census, _dog) = (Census::take(), Watchdog::secs(60));
                let pool = $new;
                let handle = pool.handle();
                let gate = Gate::new();
                let busy = [(), ()].map(|()| pool.apply_async(hold, (gate.key(),)));
                let waiting: Vec<_> = (0..9).map(|x| pool.apply_async(square, (x,))).collect();
                let map = pool.map_async(square, 0..100);
                let told = std::thread::spawn(|| map.get());
                eventually(20, || busy.iter().all(|task| task.running()));
                handle.terminate();
                gate.open(); // threads are not stopped
                assert_eq!(told.join().unwrap(), Err(TaskError::Terminated));
                let ended = |outcome| outcome == Err(TaskError::Terminated);
                assert!(waiting.into_iter().all(|task| ended(task.get())));
                assert_eq!(handle.apply(square, (1,)), Err(TaskError::Closed));
                drop(pool);
            }
        }
    };
}

programs!(processes, Pool::new(2).unwrap());
programs!(threads, ThreadPool::new(2).unwrap());
