//! What the workers of a pool do, as a table, while they do it.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use mp::{Pool, PoolStats};

fn burn(millis: u64) -> u64 {
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_millis(millis) {
        rounds += 1;
    }
    rounds
}

fn print(stats: &PoolStats) {
    println!(
        "{} queued, {} with workers, {} completed, {} restarts",
        stats.queued, stats.assigned, stats.completed, stats.restarts
    );
    println!("worker      pid  state     tasks  given   busy ms   idle ms");
    for worker in &stats.workers {
        println!(
            "{:>6} {:>8}  {:<8} {:>6} {:>6} {:>9} {:>9}",
            worker.number,
            worker.pid,
            format!("{:?}", worker.state),
            worker.tasks,
            worker.assigned,
            worker.busy.as_millis(),
            worker.idle.as_millis(),
        );
    }
    println!();
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let pool = Pool::new(2)?;
    let work = pool.tasks(burn, vec![5; 150]).chunksize(1).map_async();
    while !work.wait(Duration::from_millis(120)) {
        print(&pool.stats());
    }
    sleep(Duration::from_millis(50));
    print(&pool.stats());
    Ok(())
}
