//! The kill sweep of `examples/killsweep`, short.

#[path = "../examples/killsweep/board.rs"]
mod board;
#[path = "../examples/killsweep/queue.rs"]
mod queue;
#[path = "../examples/killsweep/report.rs"]
mod report;

use report::Options;

mp::init_in_tests!();

#[test]
fn killed_producers_and_consumers_cost_nobody_an_item() {
    let options = Options {
        kills: 200,
        seed: std::process::id().into(),
        method: mp::StartMethod::Spawn, // a test has other threads
    };
    let report = queue::sweep(&options).unwrap();
    println!("seed {}: {report}", options.seed);
    let flaws = [report.lost, report.doubled, report.torn, report.hangs];
    assert_eq!(flaws, [0; 4], "seed {}: {report}", options.seed);
    assert!(report.committed > report.kills);
}
