//! How workers and pools begin and end: limits, recycling, initializers, cancel, terminate, drop.

mp_process::init_in_tests!();

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::{AsyncResult, Pool, PoolError, TaskError};
use mp_queue::Queue;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::{SigSet, Signal, kill},
};
use nix::unistd::Pid;

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

fn square(x: u64) -> u64 {
    x * x
}

fn nap(ms: u64) -> u32 {
    std::thread::sleep(Duration::from_millis(ms));
    std::process::id()
}

/// Never ends, and cannot be asked to.
fn stubborn(_: u64) -> u32 {
    SigSet::all().thread_block().unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn spin(_: u64) -> u32 {
    loop {
        std::hint::spin_loop();
    }
}

fn is_gone(pid: u32) -> bool {
    kill(Pid::from_raw(pid as i32), None).is_err()
}

#[test]
fn a_limit_counts_from_the_start_of_the_task_and_stops_it_alone() {
    let _guards = guarded(60);
    let limit = Duration::from_millis(300);
    let pool = Pool::builder()
        .workers(4)
        .task_timeout(limit)
        .grace(Duration::from_millis(200))
        .build()
        .unwrap();
    // Together far longer than the limit, each far shorter.
    let naps: Vec<_> = (0..20)
        .map(|n| match n {
            5 => pool.apply_async(stubborn, (0,)),
            _ => pool.apply_async(nap, (100,)),
        })
        .collect();
    for (n, result) in naps.into_iter().enumerate() {
        match result.get() {
            Err(TaskError::TimedOut { pid, limit: told }) => {
                assert_eq!((n, told), (5, limit));
                assert!(
                    is_gone(pid),
                    "it is told when the task does not run any more"
                );
            }
            outcome => assert!(n != 5 && outcome.is_ok(), "{n}: {outcome:?}"),
        }
    }
    assert_eq!(pool.map(square, 0..10).unwrap()[9], 81);
}

#[test]
fn a_limit_in_a_chunk_costs_one_item() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let tasks = pool.tasks(|n: u64| if n == 7 { spin(n) } else { n as u32 }, 0..20);
    let outcomes: Vec<_> = tasks
        .chunksize(10)
        .timeout(Duration::from_millis(200))
        .imap()
        .collect();
    for (n, outcome) in (0..).zip(outcomes) {
        match n {
            7 => assert!(matches!(outcome, Err(TaskError::TimedOut { .. }))),
            _ => assert_eq!(outcome, Ok(n)),
        }
    }
}

#[test]
fn limits_never_hit_the_task_that_follows() {
    let _guards = guarded(120);
    let pool = Pool::new(2).unwrap();
    // Around the limit: some end before it, some after, and the next one begins at once.
    let tasks = pool.tasks(
        |us: u64| std::thread::sleep(Duration::from_micros(us)),
        (0..300).map(|n| [0, 2500][n % 2]),
    );
    let outcomes: Vec<_> = tasks
        .chunksize(10)
        .timeout(Duration::from_micros(2600))
        .imap()
        .collect();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(()) => {}
            Err(TaskError::TimedOut { .. }) => {}
            other => panic!("{n}: {other:?}"),
        }
    }
}

#[test]
fn cancel_takes_a_waiting_task_away_and_ends_a_running_one() {
    let _guards = guarded(60);
    let pool = Pool::builder()
        .workers(1)
        .grace(Duration::from_millis(100))
        .build()
        .unwrap();
    let running = pool.apply_async(stubborn, (0,));
    let waiting: Vec<_> = (0..5).map(|n| pool.apply_async(square, (n,))).collect();
    eventually(30, || pool.busy_pids().len() == 1);
    assert!(waiting[2].cancel());
    assert_eq!(
        waiting[2].get_timeout(Duration::from_secs(30)),
        Some(Err(TaskError::Cancelled))
    );
    assert!(waiting[2].cancel(), "it is cancelled already");
    assert!(running.cancel());
    assert_eq!(running.get(), Err(TaskError::Cancelled));
    for (n, result) in waiting.into_iter().enumerate().filter(|(n, _)| *n != 2) {
        assert_eq!(result.get().unwrap(), (n * n) as u64);
    }
}

#[test]
fn cancel_racing_with_completion_gives_one_outcome() {
    let _guards = guarded(120);
    let pool = Pool::new(2).unwrap();
    let outcomes = Arc::new(AtomicU32::new(0));
    for n in 0..300 {
        let counted = outcomes.clone();
        let failed = outcomes.clone();
        let result = pool
            .apply_async(square, (n,))
            .on_success(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
            })
            .on_error(move |_| {
                failed.fetch_add(1, Ordering::SeqCst);
            });
        if n % 3 == 0 {
            std::thread::yield_now();
        }
        let cancelled = result.cancel();
        match result.get() {
            Ok(value) => assert!(value == n * n && !cancelled),
            Err(TaskError::Cancelled) => assert!(cancelled),
            Err(other) => panic!("{other}"),
        }
    }
    pool.close().join().unwrap();
    assert_eq!(outcomes.load(Ordering::SeqCst), 300);
}

#[test]
fn a_cancelled_map_stops_as_a_whole() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let map = pool.map_async(nap, vec![100; 1000]);
    let other = pool.apply_async(square, (3,));
    assert!(map.cancel());
    assert_eq!(map.get(), Err(TaskError::Cancelled));
    assert_eq!(other.get().unwrap(), 9);
}

#[test]
fn nothing_that_a_task_started_survives_with_kill_tree() {
    let _guards = guarded(60);
    let pool = Pool::builder().workers(1).kill_tree(true).build().unwrap();
    let start_and_tell = |file: String| -> u32 {
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        std::fs::write(&file, child.id().to_string()).unwrap();
        child.wait().map_or(0, |_| 1)
    };
    let file = std::env::temp_dir().join(format!("mp-pool-kill-tree-{}", std::process::id()));
    let name = file.to_str().unwrap().to_owned();
    let task = pool.task(start_and_tell, (name,)).submit();
    let read = || std::fs::read_to_string(&file).ok()?.parse::<u32>().ok();
    eventually(30, || read().is_some());
    let grandchild = read().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(task.cancel());
    assert_eq!(task.get(), Err(TaskError::Cancelled));
    // Whoever adopted it may take its time to reap it: a zombie does not run.
    eventually(30, || {
        let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

/// Conformance: _TestPoolWorkerLifetime.test_pool_worker_lifetime
#[test]
fn workers_are_replaced_after_their_tasks() {
    let _guards = guarded(120);
    let pool = Pool::builder()
        .workers(3)
        .max_tasks_per_child(10)
        .build()
        .unwrap();
    let before: BTreeSet<_> = pool.pids().into_iter().collect();
    let results: Vec<_> = (0..100).map(|n| pool.apply_async(square, (n,))).collect();
    for (n, result) in (0..).zip(results) {
        assert_eq!(result.get().unwrap(), n * n);
    }
    eventually(30, || pool.ready() == 3 && pool.pids().len() == 3);
    let after: BTreeSet<_> = pool.pids().into_iter().collect();
    assert_ne!(before, after);
    assert_eq!(pool.map(square, 0..30).unwrap().len(), 30);
    pool.close().join().unwrap();
}

#[test]
fn recycling_works_for_all_small_numbers() {
    let _guards = guarded(300);
    for workers in 1..=3 {
        for max in 1..=3 {
            for count in [0, 1, 2, 5, 12] {
                let pool = Pool::builder().workers(workers).max_tasks_per_child(max);
                let pool = pool.build().unwrap();
                let pids = pool.map(|_: u64| std::process::id(), 0..count).unwrap();
                let distinct: BTreeSet<_> = pids.iter().collect();
                assert!(
                    distinct.len() as u64 >= count.div_ceil(max),
                    "{workers} {max} {count}"
                );
                pool.close().join().unwrap();
            }
        }
    }
}

/// Conformance: _TestPoolWorkerLifetime.test_pool_maxtasksperchild_invalid
#[test]
fn no_tasks_at_all_is_refused() {
    let none = Pool::builder().workers(1).max_tasks_per_child(0).build();
    assert!(matches!(none, Err(PoolError::Invalid(_))));
}

#[test]
fn a_worker_that_grew_is_replaced() {
    let _guards = guarded(60);
    let pool = Pool::builder()
        .workers(1)
        .max_memory_per_child(64 << 20)
        .build()
        .unwrap();
    let first = pool.apply(nap, (15,)).unwrap();
    let grow = |bytes: usize| {
        std::thread::sleep(Duration::from_millis(15));
        std::mem::forget(vec![1_u8; bytes]);
    };
    pool.apply(grow, (128 << 20,)).unwrap();
    eventually(30, || pool.apply(nap, (1,)).unwrap() != first);
}

static GO_ON: OnceLock<Queue<()>> = OnceLock::new();

fn take_queue(go_on: Queue<()>) {
    let _ = GO_ON.set(go_on);
}

/// Items of the chunk that [`grow`] does: longer than it takes to find that no worker can be started.
const GROWING: u64 = 400;
const NAP: Duration = Duration::from_millis(3);

/// With its first item the worker grows, and asks for a successor; in the second one it waits until it may
/// go on. Who has the others does not grow.
fn grow(n: u64) -> (u64, u32) {
    match n {
        0 => {
            std::mem::forget(vec![1_u8; 128 << 20]);
            std::thread::sleep(Duration::from_millis(15)); // it looks at its memory every 10 ms
        }
        // Not for ever: a test that fails would wait for it.
        1 => drop(GO_ON.get().unwrap().get_timeout(Duration::from_secs(60))),
        _ => std::thread::sleep(NAP),
    }
    (n, std::process::id())
}

/// A pool of one worker, which may not have as much as [`start_growing`] takes, and what lets that go on.
fn pool_for_growing() -> (Pool, Queue<()>) {
    let go_on = Queue::bounded(1).unwrap();
    let pool = Pool::builder()
        .workers(1)
        .initializer(take_queue, (go_on.clone(),))
        .max_memory_per_child(64 << 20)
        .build()
        .unwrap();
    eventually(30, || pool.ready() == 1);
    (pool, go_on)
}

fn start_growing(pool: &Pool) -> AsyncResult<Vec<(u64, u32)>> {
    pool.tasks(grow, 0..GROWING).chunksize(1000).map_async()
}

fn pids_of_each_item_once(done: &[(u64, u32)]) -> Vec<u32> {
    assert!(
        done.iter().map(|(n, _)| *n).eq(0..GROWING),
        "each item once"
    );
    done.iter().map(|(_, pid)| *pid).collect()
}

/// Two items were done by the worker that grew, the others by its successor.
fn assert_handed_over(done: &[(u64, u32)]) {
    let pids = pids_of_each_item_once(done);
    assert!(pids[..2].iter().all(|pid| *pid == pids[0]), "{pids:?}");
    assert!(pids[2..].iter().all(|pid| *pid == pids[2]), "{pids:?}");
    assert_ne!(pids[0], pids[2]);
}

#[test]
fn a_worker_that_grew_is_replaced_in_the_middle_of_a_chunk() {
    let _guards = guarded(120);
    let (pool, go_on) = pool_for_growing();
    let map = start_growing(&pool);
    eventually(30, || pool.pids().len() == 2);
    go_on.put(()).unwrap();
    assert_handed_over(&map.get().unwrap());
    assert_eq!(pool.apply(square, (3,)), Ok(9));
}

#[test]
fn a_worker_that_grew_is_replaced_while_its_pool_is_closing() {
    let _guards = guarded(120);
    let (pool, go_on) = pool_for_growing();
    let map = start_growing(&pool);
    let handle = pool.handle();
    let closing = pool.close();
    eventually(30, || handle.pids().len() == 2);
    go_on.put(()).unwrap();
    closing.join().unwrap();
    assert_handed_over(&map.get().unwrap());
}

#[test]
fn a_worker_that_grew_finishes_its_chunk_if_a_closing_pool_has_no_successor() {
    let _guards = guarded(120);
    let (pool, go_on) = pool_for_growing();
    go_on.put(()).unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Below all that are open, so that also a dead worker's descriptors are no help.
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let map = start_growing(&pool);
    let joined = pool.close().join();
    let done = map.get();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let pids = pids_of_each_item_once(&done.unwrap());
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    joined.unwrap();
}

#[test]
fn a_task_beyond_the_memory_limit_fails_alone() {
    let _guards = guarded(60);
    let pool = Pool::builder()
        .workers(2)
        .memory_limit(256 << 20)
        .build()
        .unwrap();
    let take = |bytes: usize| vec![1_u8; bytes].len();
    let outcomes: Vec<_> = pool.imap(take, [1 << 20, 1 << 30, 1 << 20]).collect();
    assert_eq!([&outcomes[0], &outcomes[2]], [&Ok(1 << 20), &Ok(1 << 20)]);
    assert!(
        matches!(outcomes[1], Err(TaskError::WorkerDied { .. })),
        "{outcomes:?}"
    );
}

static GREETING: Mutex<String> = Mutex::new(String::new());

fn greet(text: String, lane: mp_pool::Bytes) {
    *GREETING.lock().unwrap() = format!("{text} {}", lane.len());
}

/// Conformance: TestInitializers.test_pool_initializer
#[test]
fn the_initializer_runs_once_in_each_worker() {
    let _guards = guarded(60);
    let pool = Pool::builder()
        .workers(2)
        .initializer(greet, ("hello".to_owned(), vec![0; 100_000].into()))
        .build()
        .unwrap();
    let ask = |_: u32| GREETING.lock().unwrap().clone();
    assert!(
        pool.map(ask, 0..20)
            .unwrap()
            .iter()
            .all(|text| text == "hello 100000")
    );
    // Also in one that replaces another.
    let _ = pool.apply(|| -> u8 { std::process::abort() }, ());
    assert!(
        pool.map(ask, 0..20)
            .unwrap()
            .iter()
            .all(|text| text == "hello 100000")
    );
    pool.close().join().unwrap();
}

#[test]
fn a_failing_initializer_breaks_the_pool_and_nothing_hangs() {
    let _guards = guarded(120);
    let failures: [fn(Pool); 3] = [
        |pool| {
            let Err(TaskError::PoolBroken { reason }) = pool.map(square, 0..100) else {
                panic!("a broken pool gave values");
            };
            assert!(reason.contains("no luck today"), "{reason}");
        },
        |pool| {
            let results: Vec<_> = (0..10).map(|n| pool.apply_async(square, (n,))).collect();
            let outcomes = results.into_iter().map(AsyncResult::get);
            assert!(
                outcomes
                    .into_iter()
                    .all(|o| matches!(o, Err(TaskError::PoolBroken { .. })))
            );
        },
        |pool| {
            let outcomes: Vec<_> = pool.imap(square, 0..).take(3).collect();
            assert!(
                matches!(outcomes[0], Err(TaskError::PoolBroken { .. })),
                "{outcomes:?}"
            );
        },
    ];
    for check in failures {
        let pool = Pool::builder()
            .workers(2)
            .initializer(|| panic!("no luck today"), ());
        check(pool.build().unwrap());
    }
    let pool = Pool::builder()
        .workers(2)
        .initializer(|| std::process::exit(3), ());
    let pool = pool.build().unwrap();
    let Err(TaskError::PoolBroken { reason }) = pool.apply(square, (1,)) else {
        panic!("a broken pool gave a value");
    };
    assert!(reason.contains("exit code 3"), "{reason}");
    assert!(matches!(pool.close().join(), Err(PoolError::Broken { .. })));
}

/// Conformance: TestPoolNotLeakOnFailure.test_release_unused_processes
#[test]
fn a_pool_that_cannot_be_made_whole_leaves_nothing() {
    let _guards = guarded(60);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    // Room for a few workers, and not for fifty.
    setrlimit(Resource::RLIMIT_NOFILE, open + 30, hard).unwrap();
    let refused = Pool::new(50);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(refused.is_err());
}

#[test]
fn a_pool_that_cannot_replace_its_workers_says_so() {
    let _guards = guarded(60);
    let pool = Pool::new(1).unwrap();
    pool.apply(square, (1,)).unwrap();
    let running = pool.apply_async(nap, (60_000,));
    let waiting = pool.apply_async(square, (2,));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, open.min(hard), hard).unwrap();
    kill(Pid::from_raw(pool.pids()[0] as i32), Signal::SIGKILL).unwrap();
    let outcomes = (running.get(), waiting.get());
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    // It may not have begun yet.
    let told = matches!(
        outcomes.0,
        Err(TaskError::WorkerDied {
            signal: Some(9),
            ..
        } | TaskError::PoolBroken { .. })
    );
    assert!(told, "{outcomes:?}");
    // The dead worker's own descriptors may be enough for its successor; if not, it is told why.
    match outcomes.1 {
        Ok(value) => assert_eq!(value, 4),
        Err(TaskError::PoolBroken { reason }) => {
            assert!(reason.contains("RLIMIT_NOFILE"), "{reason}")
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_pool_whose_used_up_worker_gets_no_successor_says_so() {
    let _guards = guarded(60);
    let pool = Pool::builder().workers(1).max_tasks_per_child(1);
    let pool = pool.build().unwrap();
    eventually(30, || pool.ready() == 1);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, (open - 1).min(hard), hard).unwrap();
    let outcomes = (pool.apply(square, (2,)), pool.apply(square, (3,)));
    let joined = pool.close().join();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_eq!(outcomes.0, Ok(4));
    let told = match &outcomes.1 {
        Err(TaskError::PoolBroken { reason }) => reason.contains("RLIMIT_NOFILE"),
        _ => false,
    };
    assert!(told, "{outcomes:?}");
    assert!(
        matches!(joined, Err(PoolError::Broken { .. })),
        "{joined:?}"
    );
}

#[test]
fn options_may_be_as_large_as_their_types_allow() {
    let _guards = guarded(60);
    let pool = Pool::builder()
        .workers(usize::MAX)
        .on_demand()
        .grace(Duration::MAX)
        .task_timeout(Duration::MAX)
        .initializer(|| (), ())
        .initializer_timeout(Duration::MAX)
        .max_tasks_per_child(u64::MAX)
        .max_memory_per_child(u64::MAX)
        .retries(u32::MAX)
        .max_restarts(u32::MAX)
        .build()
        .unwrap();
    let tasks = || pool.tasks(square, 0..10).chunksize(usize::MAX);
    let expected: Vec<_> = (0..10).map(square).collect();
    assert_eq!(pool.map(square, 0..10).unwrap(), expected);
    assert_eq!(tasks().map().unwrap(), expected);
    let buffers = [None, Some(1), Some(usize::MAX)];
    for buffer in buffers {
        let tasks = match buffer {
            None => tasks(),
            Some(items) => tasks().buffer(items),
        };
        let values: Vec<_> = tasks.imap().map(Result::unwrap).collect();
        assert_eq!(values, expected);
    }
    let single = pool.tasks(square, 0..10).buffer(usize::MAX);
    assert_eq!(single.imap_unordered().count(), 10);
    drop(pool);
}

#[test]
fn many_pools_live_side_by_side() {
    let _guards = guarded(120);
    std::thread::scope(|scope| {
        for n in 0..6_u64 {
            scope.spawn(move || {
                let pool = Pool::new(2).unwrap();
                let _ = pool.apply(|| -> u8 { std::process::abort() }, ());
                assert_eq!(pool.map(square, 0..n * 10).unwrap().len() as u64, n * 10);
            });
        }
    });
}

/// Conformance: _TestPool.test_terminate
#[test]
fn terminate_ends_thousands_of_long_tasks_at_once() {
    let _guards = guarded(60);
    let pool = Pool::new(3).unwrap();
    let map = pool.map_async(nap, vec![10_000; 10_000]);
    let start = Instant::now();
    pool.terminate().join().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "generous: half a second is typical"
    );
    assert_eq!(map.get(), Err(TaskError::Terminated));
}

#[test]
fn terminate_is_quick_whatever_the_workers_do() {
    let _guards = guarded(120);
    let work = |kind: u64| if kind == 0 { stubborn(0) } else { spin(0) };
    for kind in [0, 1] {
        for from_callback in [false, true] {
            let pool = Pool::builder()
                .workers(2)
                .grace(Duration::from_millis(200))
                .build()
                .unwrap();
            let results: Vec<_> = (0..4).map(|_| pool.apply_async(work, (kind,))).collect();
            eventually(30, || pool.ready() == 2);
            // One of them does not even run.
            kill(Pid::from_raw(pool.pids()[0] as i32), Signal::SIGSTOP).unwrap();
            let handle = pool.handle();
            if from_callback {
                pool.task(square, (3,)).priority(1).submit().cancel();
                results[3].cancel();
                let handle = handle.clone();
                pool.apply_async(square, (3,))
                    .on_error(move |_| handle.terminate())
                    .cancel();
            } else {
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| handle.terminate());
                    }
                });
            }
            for result in results {
                let outcome = result.get();
                let ended = matches!(outcome, Err(TaskError::Terminated | TaskError::Cancelled));
                assert!(ended, "{outcome:?}");
            }
            assert_eq!(handle.apply(square, (1,)), Err(TaskError::Closed));
            drop(pool);
        }
    }
}

/// Conformance: _TestPool.test_context
/// Conformance: _TestPool.test_enter
#[test]
fn a_pool_that_left_its_scope_takes_nothing() {
    let _guards = guarded(60);
    let handle = {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.apply(square, (4,)).unwrap(), 16);
        pool.handle()
    };
    assert_eq!(handle.apply(square, (1,)), Err(TaskError::Closed));
    assert_eq!(handle.map(square, 0..3), Err(TaskError::Closed));
    let mut lazily = handle.imap(square, 0..3);
    assert_eq!(lazily.next(), Some(Err(TaskError::Closed)));
    assert_eq!(lazily.next(), None);
    assert!(handle.pids().is_empty());
}

#[test]
fn close_finishes_what_was_accepted() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let handle = pool.handle();
    let results: Vec<_> = (0..50).map(|n| pool.apply_async(square, (n,))).collect();
    let closing = pool.close();
    assert_eq!(handle.apply(square, (1,)), Err(TaskError::Closed));
    closing.join().unwrap();
    for (n, result) in (0..).zip(results) {
        assert_eq!(result.get().unwrap(), n * n);
    }
}

#[test]
fn dropping_at_any_moment_hangs_nobody() {
    let _guards = guarded(120);
    for delay in [0, 1, 2, 5, 10, 30] {
        let pool = Pool::new(2).unwrap();
        let results: Vec<_> = (0..200).map(|n| pool.apply_async(square, (n,))).collect();
        let map = pool.map_async(nap, vec![1; 100]);
        let lazily = pool.imap(square, 0..);
        std::thread::sleep(Duration::from_millis(delay));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let last = { lazily }.find(Result::is_err);
                assert!(matches!(
                    last,
                    Some(Err(TaskError::Terminated | TaskError::Closed))
                ));
            });
            scope.spawn(move || drop(pool));
            for (n, result) in (0..).zip(results) {
                match result.get() {
                    Ok(value) => assert_eq!(value, n * n),
                    Err(error) => assert_eq!(error, TaskError::Terminated),
                }
            }
            let _ = map.get();
        });
    }
}

#[test]
fn dropped_results_are_done_all_the_same() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let seen = Arc::new(AtomicU32::new(0));
    for _ in 0..50 {
        let seen = seen.clone();
        pool.apply_async(square, (2,)).on_success(move |_| {
            seen.fetch_add(1, Ordering::SeqCst);
        });
    }
    pool.close().join().unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 50);
}

#[test]
fn an_endless_input_is_taken_no_further_than_the_buffer() {
    let _guards = guarded(60);
    let pool = Pool::new(2).unwrap();
    let taken = AtomicU32::new(0);
    let input = (0_u64..).inspect(|_| {
        taken.fetch_add(1, Ordering::SeqCst);
    });
    let mut values = pool.tasks(square, input).chunksize(3).imap();
    for n in 0..10 {
        assert_eq!(values.next().unwrap().unwrap(), n * n);
    }
    std::thread::sleep(Duration::from_millis(50)); // nothing may happen meanwhile
    let seen = taken.load(Ordering::SeqCst);
    assert!(seen <= 10 + 12, "{seen} items taken for ten values");
}

#[test]
fn workers_leave_no_trace_however_many_there_were() {
    let _guards = guarded(300);
    let pool = Pool::builder()
        .workers(2)
        .max_tasks_per_child(1)
        .build()
        .unwrap();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    pool.map(square, 0..50).unwrap();
    let before = (count(), mp_core::testing::memory_rss());
    pool.map(square, 0..500).unwrap();
    eventually(30, || pool.pids().len() == 2 && count() <= before.0 + 8);
    let grown = mp_core::testing::memory_rss().saturating_sub(before.1);
    assert!(grown < 32 << 20, "{grown} bytes more after 500 workers");
    assert!(pool.restarts() >= 500);
}

#[test]
fn a_million_results_do_not_pile_up() {
    let _guards = guarded(300);
    let pool = Pool::new(2).unwrap();
    let tasks = || {
        pool.tasks(square, 0..200_000)
            .chunksize(100)
            .buffer(2000)
            .imap()
    };
    let sum: u64 = tasks().map(Result::unwrap).sum();
    let before = mp_core::testing::memory_rss();
    for _ in 0..4 {
        assert_eq!(tasks().map(Result::unwrap).sum::<u64>(), sum);
    }
    let grown = mp_core::testing::memory_rss().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
}
