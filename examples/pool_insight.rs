//! What the workers of a pool do, as a table that follows them. In a terminal it stays in its place.

use std::{
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

use mp::{Pool, PoolStats, WorkerStats};

/// Computes for so long; now and then a task crashes, and takes its worker along.
fn burn(number: u64, millis: u64) -> u64 {
    if number % 97 == 96 {
        std::process::abort();
    }
    let start = Instant::now();
    (0..)
        .take_while(|_| start.elapsed() < Duration::from_millis(millis))
        .count() as u64
}

const WIDTH: usize = 20;

/// `####....`: which part of its life a worker was busy.
fn bar(worker: &WorkerStats) -> String {
    let life = (worker.busy + worker.idle).as_secs_f64();
    let busy = worker.busy.as_secs_f64() / life.max(f64::EPSILON);
    let filled = (busy * WIDTH as f64).round() as usize;
    format!(
        "{:.<WIDTH$} {:>3.0} %",
        "#".repeat(filled.min(WIDTH)),
        busy * 100.0
    )
}

fn print(stats: &PoolStats, seconds: f64) {
    println!(
        "{:>5.1} s   {} queued, {} with workers, {} completed ({:.0} a second), {} restarts",
        seconds,
        stats.queued,
        stats.assigned,
        stats.completed,
        stats.completed as f64 / seconds,
        stats.restarts
    );
    println!("worker      pid  state     tasks  given  busy");
    for worker in &stats.workers {
        println!(
            "{:>6} {:>8}  {:<8} {:>6} {:>6}  {}",
            worker.number,
            worker.pid,
            format!("{:?}", worker.state),
            worker.tasks,
            worker.assigned,
            bar(worker),
        );
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    // Seconds to run; a look is enough where nobody looks.
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let live = stdout().is_terminal();
    let tasks = seconds.unwrap_or(if live { 8 } else { 1 }) * 200;

    let pool = Pool::new(4)?;
    let start = Instant::now();
    let items = (0..tasks).map(|number| (number, 5 + number % 30));
    let work = pool.startasks(burn, items).chunksize(1).map_async();
    loop {
        let done = work.wait(Duration::from_millis(200));
        if live {
            print!("\x1b[H\x1b[J"); // from the top left corner, on a clear screen
        }
        print(&pool.stats(), start.elapsed().as_secs_f64());
        if done {
            break;
        }
    }
    // A map's error is that of its first task that has one; the others were done nevertheless.
    println!("{}", work.get().unwrap_err());
    Ok(())
}
