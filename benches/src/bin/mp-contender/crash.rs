//! From SIGKILL until somebody knows.

use std::{sync::Arc, time::Instant};

use mp::{Event, Lock, Pool, Process, Queue};
use mp_bench::{Context, HANG, WORKERS, median, time_to_tell};

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

fn tell_pid_and_spin(pids: Queue<u32>) {
    pids.put(std::process::id()).expect("room");
    spin();
}

fn hold_and_spin(lock: Lock, held: Event) {
    let _guard = lock.lock().expect("free");
    held.set();
    spin();
}

fn put_forever(queue: Queue<u64>) {
    while queue.put(1).is_ok() {}
}

fn get_forever(queue: Queue<u64>) {
    while queue.get().is_ok() {}
}

pub(crate) fn all(context: &Context) {
    worker(context);
    lock_owner(context);
    pool_worker(context);
    pool_replacement(context);
    queue_reader(context);
    queue_writer(context);
}

fn report(context: &Context, param: &str, n: u64, told: Option<(f64, bool)>) {
    let (ms, note) = match told {
        Some((ms, true)) => (ms, None),
        Some((ms, false)) => (ms, Some("returned without an error")),
        None => (HANG.as_secs_f64() * 1e3, Some("hangs")),
    };
    context.report_as("mp", param, "ms", ms, n, note);
}

fn worker(context: &Context) {
    const ROUNDS: usize = 15;
    let told = time_to_tell(
        ROUNDS,
        || Arc::new(Process::new(spin, ()).start().expect("a child")),
        |child| child.kill().expect("it lives"),
        |child| {
            child
                .wait()
                .is_ok_and(|status| status != mp::ExitStatus::Code(0))
        },
    );
    report(context, "worker", ROUNDS as u64, told);
}

fn lock_owner(context: &Context) {
    const ROUNDS: usize = 5;
    let told = time_to_tell(
        ROUNDS,
        || {
            let (lock, held) = (
                Lock::new().expect("a lock"),
                Event::new().expect("an event"),
            );
            let arguments = (lock.clone(), held.clone());
            let child = Process::new(hold_and_spin, arguments)
                .start()
                .expect("a child");
            held.wait();
            (lock, Arc::new(child))
        },
        |(_, child)| child.kill().expect("it lives"),
        |(lock, _)| lock.lock().is_err_and(|error| error.is_owner_died()),
    );
    report(context, "lock-owner", ROUNDS as u64, told);
}

/// A pool whose tasks can tell who runs them, and where they tell it.
fn telling_pool() -> (Pool, Queue<u32>) {
    let pids = Queue::new().expect("a queue");
    let pool = Pool::builder()
        .workers(WORKERS)
        .initializer(keep_queue, (pids.clone(),))
        .build();
    (pool.expect("a pool"), pids)
}

/// A busy worker is killed: how long until its task has failed, and then, beside the start of the
/// replacement, until the next task is done?
fn pool_worker(context: &Context) {
    const ROUNDS: usize = 7;
    let (pool, pids) = telling_pool();
    let handle = pool.handle();
    let kill_one = || {
        time_to_tell(
            1,
            || {
                let result = handle.apply_async(tell_pid_of_worker, ());
                (
                    pids.get().expect("a pid"),
                    Arc::new(std::sync::Mutex::new(Some(result))),
                )
            },
            |(pid, _)| mp_bench::kill(*pid),
            |(_, result)| {
                let result = result.lock().expect("one thread").take().expect("once");
                result.get().is_err()
            },
        )
    };
    let (mut told_after, mut all_told) = (Vec::new(), true);
    let (mut usable_after, mut usable) = (Vec::new(), true);
    while usable && usable_after.len() < ROUNDS {
        let Some((ms, told)) = kill_one() else {
            return report(context, "pool-worker", ROUNDS as u64, None);
        };
        told_after.push(ms);
        all_told &= told;
        let start = Instant::now();
        let result = pool.apply_async(|x: u64| x + 1, (1,)).get_timeout(HANG);
        usable_after.push(start.elapsed().as_secs_f64() * 1e3);
        usable = matches!(result, Some(Ok(2)));
    }
    let n = told_after.len() as u64;
    let told = (median(&mut told_after), all_told);
    report(context, "pool-worker", n, Some(told));
    let (ms, note) = match usable {
        true => (median(&mut usable_after), "ok"),
        false => (HANG.as_secs_f64() * 1e3, "hangs"),
    };
    context.report_as("mp", "pool-usable-after", "ms", ms, n, Some(note));
}

/// Until a pool that lost a busy worker has all its workers again, ready for tasks.
fn pool_replacement(context: &Context) {
    const ROUNDS: u64 = 7;
    let (pool, pids) = telling_pool();
    let is_whole = |restarts| pool.restarts() == restarts && pool.ready() == WORKERS;
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            while !is_whole(round) {
                std::thread::yield_now();
            }
            let lost = pool.apply_async(tell_pid_of_worker, ());
            let pid = pids.get().expect("a pid");
            let start = Instant::now();
            mp_bench::kill(pid);
            while !is_whole(round + 1) {
                std::thread::yield_now();
            }
            let ms = start.elapsed().as_secs_f64() * 1e3;
            assert!(lost.get().is_err());
            ms
        })
        .collect();
    context.report("pool-replacement", "ms", median(&mut times), ROUNDS);
}

static PIDS: std::sync::OnceLock<Queue<u32>> = std::sync::OnceLock::new();

fn keep_queue(pids: Queue<u32>) {
    let _ = PIDS.set(pids);
}

fn tell_pid_of_worker() {
    tell_pid_and_spin(PIDS.get().expect("the initializer ran").clone());
}

/// A reader of a queue is killed in `get`: how long until another reader has the next item?
fn queue_reader(context: &Context) {
    const ROUNDS: usize = 5;
    let told = time_to_tell(
        ROUNDS,
        || {
            let queue = Queue::<u64>::new().expect("a queue");
            let child = Process::new(get_forever, (queue.clone(),))
                .start()
                .expect("a child");
            while queue.try_put(1).is_err() || !queue.is_empty() {
                std::thread::yield_now();
            }
            (queue, Arc::new(child))
        },
        |(queue, child)| {
            child.kill().expect("it lives");
            child.wait().expect("it is gone");
            queue.put(7).expect("room");
        },
        |(queue, _)| queue.get().is_ok_and(|item| item == 7),
    );
    report(context, "queue-reader", ROUNDS as u64, told);
}

/// A writer of a queue is killed in `put`: how long until another writer's next item is through?
fn queue_writer(context: &Context) {
    const ROUNDS: usize = 5;
    let told = time_to_tell(
        ROUNDS,
        || {
            let queue = Queue::<u64>::bounded(64).expect("a queue");
            let child = Process::new(put_forever, (queue.clone(),))
                .start()
                .expect("a child");
            queue.get().expect("it runs");
            (queue, Arc::new(child))
        },
        |(queue, child)| {
            child.kill().expect("it lives");
            child.wait().expect("it is gone");
            queue.put(7).expect("room");
        },
        |(queue, _)| queue.iter().any(|item| item.is_ok_and(|item| item == 7)),
    );
    report(context, "queue-writer", ROUNDS as u64, told);
}
