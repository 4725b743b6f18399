//! What a pool tells of itself.

mp_process::init_in_tests!();

use std::time::Duration;

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::{Pool, PoolStats, WorkerState};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn forever() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn count(stats: &PoolStats, state: WorkerState) -> usize {
    stats
        .workers
        .iter()
        .filter(|worker| worker.state == state)
        .count()
}

#[test]
fn a_pool_tells_who_runs_what_and_for_how_long() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let pool = Pool::new(2).unwrap();
    pool.map(|x: u64| x + 1, 0..100).unwrap();
    eventually(20, || count(&pool.stats(), WorkerState::Idle) == 2);
    let stats = pool.stats();
    assert_eq!((stats.completed, stats.queued, stats.assigned), (100, 0, 0));
    assert_eq!(
        stats.workers.iter().map(|worker| worker.tasks).sum::<u64>(),
        100
    );

    let tasks: Vec<_> = (0..5).map(|_| pool.apply_async(forever, ())).collect();
    eventually(20, || count(&pool.stats(), WorkerState::Running) == 2);
    let before = pool.stats();
    assert_eq!(before.queued + before.assigned, 5);
    eventually(20, || {
        let now = pool.stats();
        let pairs = before.workers.iter().zip(&now.workers);
        pairs
            .into_iter()
            .all(|(before, now)| before.busy < now.busy && before.idle == now.idle)
    });
    drop(tasks);
}

#[test]
fn a_pool_tells_how_many_workers_a_task_has_cost() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let pool = Pool::builder().workers(1).retries(5).build().unwrap();
    let _task = pool.apply_async(forever, ());
    for deaths in 0..3 {
        let mut running = None;
        eventually(20, || {
            let stats = pool.stats();
            let worker = stats.workers.first();
            running = worker.filter(|w| w.state == WorkerState::Running).cloned();
            running
                .as_ref()
                .is_some_and(|worker| worker.attempts == deaths)
        });
        let pid = running.expect("seen above").pid;
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        eventually(20, || pool.stats().restarts == u64::from(deaths) + 1);
    }
}
