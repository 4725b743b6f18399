//! Pools: maps of trivial tasks, large arguments, single calls, and plain computing.

use std::time::Instant;

use mp::{Bytes, Pool};
use mp_bench::{CPU_TASKS, Context, PAYLOADS, TASKS, WORKERS, hash_block, peek, per_iteration};

fn increment(x: u64) -> u64 {
    x + 1
}

fn peek_bytes(bytes: Bytes) -> u64 {
    peek(&bytes)
}

/// A pool whose workers run.
fn warm_pool(workers: usize) -> Pool {
    let pool = Pool::new(workers).expect("a pool");
    pool.map(increment, 0..1000).expect("workers");
    pool
}

pub(crate) fn map(context: &Context) {
    let pool = warm_pool(WORKERS);
    let start = Instant::now();
    let results = pool
        .tasks(increment, 0..TASKS)
        .chunksize(1)
        .map()
        .expect("results");
    let rate = TASKS as f64 / start.elapsed().as_secs_f64();
    assert_eq!(results[TASKS as usize - 1], TASKS);
    context.report("trivial/chunk1", "tasks/s", rate, TASKS);

    let start = Instant::now();
    let results = pool.map(increment, 0..TASKS).expect("results");
    let rate = TASKS as f64 / start.elapsed().as_secs_f64();
    assert_eq!(results[TASKS as usize - 1], TASKS);
    context.report("trivial/auto", "tasks/s", rate, TASKS);

    let (count, size) = PAYLOADS;
    let data: Vec<Bytes> = (0..count).map(|i| vec![i as u8; size].into()).collect();
    let start = Instant::now();
    pool.tasks(peek_bytes, data)
        .chunksize(1)
        .map()
        .expect("results");
    let rate = (count * size) as f64 / 1e6 / start.elapsed().as_secs_f64();
    context.report("payload1MiB", "MB/s", rate, count as u64);
    pool.close().join().expect("workers end well");
}

pub(crate) fn apply(context: &Context) {
    let pool = warm_pool(WORKERS);
    let (ns, n) = per_iteration(context.secs(), |n| {
        for i in 0..n {
            assert_eq!(pool.apply(increment, (i,)).expect("a result"), i + 1);
        }
    });
    context.report("apply", "us", ns / 1e3, n);
}

pub(crate) fn compute(context: &Context) {
    let [one, two] = [1, 2].map(|workers| {
        let pool = Pool::new(workers).expect("a pool");
        pool.tasks(hash_block, 0..4 * workers as u64)
            .chunksize(1)
            .map()
            .expect("warm");
        let start = Instant::now();
        pool.tasks(hash_block, 0..CPU_TASKS)
            .chunksize(1)
            .map()
            .expect("results");
        let seconds = start.elapsed().as_secs_f64();
        context.report(
            &format!("sha256/{workers}w"),
            "ms",
            seconds * 1e3,
            CPU_TASKS,
        );
        seconds
    });
    context.report("sha256/speedup", "x", one / two, CPU_TASKS);
}
