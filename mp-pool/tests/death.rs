//! What the death of a worker costs: its own task.

mp_process::init_in_tests!();

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mp_core::testing::{Census, Rng, Watchdog};
use mp_pool::{Pool, PoolBuilder, TaskError};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

fn slowly(x: u64) -> u64 {
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_micros(20) {
        std::hint::spin_loop();
    }
    x * 3
}

/// Kills a random worker every 10 ms while `work` runs; how many.
fn under_fire<R>(pool: &Pool, work: impl FnOnce() -> R) -> (R, u64) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let shooter = scope.spawn(|| {
            let mut rng = Rng::from_env();
            let mut kills = 0;
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
                let pids = pool.pids();
                if pids.is_empty() {
                    continue;
                }
                let pid = *rng.choose(&pids);
                kills += u64::from(kill(Pid::from_raw(pid as i32), Signal::SIGKILL).is_ok());
            }
            kills
        });
        let result = {
            let _cease = CeaseFire(&over); // also if `work` panics
            work()
        };
        (result, shooter.join().unwrap())
    })
}

struct CeaseFire<'a>(&'a AtomicBool);

impl Drop for CeaseFire<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// On a busy machine a worker may take longer to start than it is given to live, again and again: as
/// often as it takes.
fn builder() -> PoolBuilder {
    Pool::builder().workers(2).max_restarts(u32::MAX)
}

const TASKS: u64 = 100_000;

#[test]
fn every_task_has_exactly_one_outcome_under_fire() {
    let _guards = guarded(120);
    let pool = builder().build().unwrap();
    let (outcomes, kills) = under_fire(&pool, || {
        pool.tasks(|x: u64| (x, slowly(x)), 0..TASKS)
            .buffer(1000)
            .imap()
            .collect::<Vec<_>>()
    });
    assert_eq!(outcomes.len() as u64, TASKS);
    let mut died = 0;
    for (index, outcome) in (0..).zip(outcomes) {
        match outcome {
            Ok(value) => assert_eq!(value, (index, index * 3)),
            Err(TaskError::WorkerDied {
                signal: Some(9), ..
            }) => died += 1,
            Err(other) => panic!("{other}"),
        }
    }
    eprintln!("{kills} kills, {died} tasks died of them");
    assert!(died <= kills && kills > 0);
    pool.close().join().unwrap();
}

#[test]
fn with_retries_every_task_has_its_value_under_fire() {
    let _guards = guarded(120);
    let pool = builder().retries(1000).build().unwrap();
    let (values, kills) = under_fire(&pool, || pool.map(slowly, 0..TASKS).unwrap());
    assert!(values.iter().copied().eq((0..TASKS).map(|x| x * 3)));
    eprintln!("{kills} kills");
    assert!(kills > 0);
    pool.close().join().unwrap();
}
