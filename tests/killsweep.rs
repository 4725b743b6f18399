//! The kill sweep of `examples/killsweep`, short.

#[path = "../examples/killsweep/board.rs"]
mod board;
#[path = "../examples/killsweep/lock.rs"]
mod lock;
#[path = "../examples/killsweep/pool.rs"]
mod pool;
#[path = "../examples/killsweep/queue.rs"]
mod queue;
#[path = "../examples/killsweep/report.rs"]
mod report;

use mp_core::testing::{Census, Watchdog};
use report::{Options, Report};

mp::init_in_tests!();

/// Two hundred kills of what `sweep` kills; nothing is wrong afterwards.
fn kill(sweep: impl FnOnce(&Options) -> Result<Report, mp::Error>) {
    let _census = Census::take();
    let _dog = Watchdog::secs(300);
    let options = Options {
        kills: 200,
        seed: std::process::id().into(),
        method: mp::StartMethod::Spawn, // a test has other threads
    };
    let report = sweep(&options).unwrap();
    println!("seed {}: {report}", options.seed);
    let flaws = [report.lost, report.doubled, report.torn, report.hangs];
    assert_eq!(flaws, [0; 4], "seed {}: {report}", options.seed);
    assert!(report.committed > report.kills);
}

#[test]
fn killed_producers_and_consumers_cost_nobody_an_item() {
    kill(queue::sweep);
}

#[test]
fn the_books_balance_whoever_of_the_tellers_is_killed() {
    kill(lock::sweep);
}

#[test]
fn each_task_of_a_pool_has_one_outcome_whoever_of_the_workers_is_killed() {
    kill(pool::sweep);
}
