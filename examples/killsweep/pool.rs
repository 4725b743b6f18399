//! A pool's `imap` over numbered tasks, while its workers are killed at random.
//!
//! Each task has exactly one outcome: its value, or the death of its worker (`in_hand`). No
//! outcome is missing, none comes twice, and no value is another's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use mp::{Bytes, Pool, PoolHandle, TaskError};

use crate::report::{Options, Random, Report, Watch};

const WORKERS: usize = 4;

/// The number of the task, and what only that task gives, of a length that only it has.
type Value = (u64, u64, Bytes);

fn task(number: u64) -> Value {
    let mut random = Random(number);
    let stamp = random.next();
    // Some fit into one record, some travel in pieces.
    let len = if number.is_multiple_of(500) {
        300_000
    } else {
        random.below(200)
    };
    (number, stamp, vec![stamp as u8; len as usize].into())
}

/// Shoots workers until `kills` are dead, and watches whether outcomes still come.
fn shoot(pool: &PoolHandle, options: &Options, outcomes: &AtomicU64, over: &AtomicBool) -> Report {
    let mut random = Random(options.seed);
    let (mut report, mut watch) = (Report::default(), Watch::new());
    while report.kills < options.kills && report.hangs == 0 {
        thread::sleep(Duration::from_micros(random.below(3000)));
        let pids = pool.pids();
        if pids.is_empty() {
            continue;
        }
        let pid = nix::unistd::Pid::from_raw(pids[random.below(pids.len() as u64) as usize] as i32);
        let killed = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        report.kills += u64::from(killed.is_ok());
        report.hangs += u64::from(watch.is_stuck(outcomes));
    }
    over.store(true, SeqCst);
    if report.hangs > 0 {
        pool.terminate(); // whoever waits is told
    }
    report.worst_stall = watch.worst();
    report
}

pub(crate) fn sweep(options: &Options) -> Result<Report, mp::Error> {
    // However long the series of deaths, this pool goes on.
    let pool = Pool::builder()
        .workers(WORKERS)
        .max_restarts(u32::MAX)
        .build()?;
    let over = Arc::new(AtomicBool::new(false));
    let outcomes = AtomicU64::new(0);
    let endless = {
        let over = over.clone();
        (0..).take_while(move |_| !over.load(SeqCst))
    };
    let tasks = pool.tasks(task, endless).chunksize(20).buffer(2000).imap();
    let (mut expected, mut lost_in_hand) = (0, 0);
    let (mut doubled, mut torn, mut other) = (0, 0, 0);
    let mut report = thread::scope(|scope| {
        let shooter = scope.spawn(|| shoot(&pool, options, &outcomes, &over));
        for outcome in tasks {
            match outcome {
                Ok(value) if value == task(expected) => {}
                Ok((number, ..)) if number < expected => doubled += 1,
                Ok(_) => torn += 1,
                Err(TaskError::WorkerDied { .. }) => lost_in_hand += 1,
                Err(_) => other += 1,
            }
            expected += 1;
            outcomes.fetch_add(1, SeqCst);
        }
        shooter.join().expect("the shooter does not panic")
    });
    report.committed = expected - lost_in_hand;
    report.in_hand = lost_in_hand;
    (report.doubled, report.torn) = (doubled, torn);
    // Outcomes come in order, so one that is missing would have stopped all that follow; and more
    // deaths than kills would be tasks that failed for another reason.
    report.lost = other + lost_in_hand.saturating_sub(report.kills);
    pool.close().join()?;
    Ok(report)
}
