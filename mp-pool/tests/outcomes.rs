//! Every accepted task has exactly one outcome, and it is its own: when the pool ends in the middle of a
//! chunk, and when another task is stopped.

mp_process::init_in_tests!();

use std::{
    thread,
    time::{Duration, Instant},
};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::{Pool, TaskError};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

fn square(x: u64) -> u64 {
    x * x
}

fn nap_micros(us: u64) {
    thread::sleep(Duration::from_micros(us));
}

fn spin_micros(us: u64) {
    let since = Instant::now();
    while since.elapsed() < Duration::from_micros(us) {
        std::hint::spin_loop();
    }
}

/// A pool of two workers that are in the middle of long chunks of tiny tasks.
fn in_the_middle(check: impl FnOnce(Pool, mp_pool::AsyncResult<Vec<u64>>)) {
    let pool = Pool::new(2).unwrap();
    let map = pool.map_async(square, 0..200_000);
    eventually(30, || map.completed() > 0);
    check(pool, map);
}

fn is_whole_or_terminated(outcome: Result<Vec<u64>, TaskError>) {
    match outcome {
        Ok(values) => assert_eq!(values.len(), 200_000),
        Err(error) => assert_eq!(error, TaskError::Terminated),
    }
}

#[test]
fn terminate_in_the_middle_of_chunks_forgets_no_task() {
    let _guards = guarded(120);
    for _ in 0..3 {
        in_the_middle(|pool, map| {
            pool.terminate().join().unwrap();
            is_whole_or_terminated(map.get());
        });
    }
}

#[test]
fn drop_in_the_middle_of_chunks_forgets_no_task() {
    let _guards = guarded(120);
    for _ in 0..3 {
        in_the_middle(|pool, map| {
            thread::scope(|scope| {
                scope.spawn(|| is_whole_or_terminated(map.get()));
                drop(pool);
            });
        });
    }
}

#[test]
fn imap_tells_of_each_item_of_a_chunk_once_when_the_pool_ends() {
    let _guards = guarded(120);
    for _ in 0..3 {
        let pool = Pool::new(2).unwrap();
        let tasks = pool.tasks(square, 0..100_000).chunksize(25_000);
        let mut values = tasks.buffer(100_000).imap();
        assert_eq!(values.next(), Some(Ok(0)));
        pool.terminate().join().unwrap();
        let mut told = 1;
        for (n, outcome) in (1..).zip(values) {
            match outcome {
                Ok(value) => assert_eq!(value, n * n),
                Err(error) => assert_eq!(error, TaskError::Terminated),
            }
            told += 1;
        }
        assert_eq!(told, 100_000);
    }
}

#[test]
fn imap_says_in_the_place_of_its_items_that_the_pool_takes_no_more() {
    let _guards = guarded(60);
    for (chunk, refused) in [(1, 5..6), (3, 3..6)] {
        let pool = Pool::new(1).unwrap();
        let handle = pool.handle();
        let mut open = Some(pool);
        let mut closed = None;
        let input = (0..10).inspect(|n| {
            if *n == 5 {
                closed = open.take().map(Pool::close);
            }
        });
        let tasks = handle.tasks(square, input).chunksize(chunk).buffer(6);
        let outcomes: Vec<_> = tasks.imap().collect();
        let expected = (0..6).map(|n| match refused.contains(&n) {
            true => Err(TaskError::Closed),
            false => Ok(n * n),
        });
        assert_eq!(outcomes, expected.collect::<Vec<_>>());
        closed.unwrap().join().unwrap();
    }
}

#[test]
fn cancel_stops_no_task_that_follows() {
    let _guards = guarded(300);
    let pool = Pool::new(1).unwrap();
    for n in 0..600 {
        let first = pool.apply_async(spin_micros, (n % 150,));
        let second = pool.apply_async(nap_micros, (3_000,));
        spin_micros(100); // about its end: any order is fine
        let cancelled = first.cancel();
        match first.get() {
            Ok(()) => assert!(!cancelled),
            Err(error) => assert!(cancelled && error == TaskError::Cancelled, "{error}"),
        }
        assert_eq!(second.get(), Ok(()), "{n}");
    }
}

#[test]
fn a_limit_stops_no_task_without_one_that_follows() {
    let _guards = guarded(300);
    let pool = Pool::new(1).unwrap();
    for n in 0..600 {
        let timed = pool
            .task(spin_micros, (1_000 + n % 200,)) // who looks at the limit comes a little later
            .timeout(Duration::from_millis(1))
            .submit();
        let free = pool.apply_async(nap_micros, (3_000,));
        assert!(matches!(
            timed.get(),
            Ok(()) | Err(TaskError::TimedOut { .. })
        ));
        assert_eq!(free.get(), Ok(()), "{n}");
    }
}
