//! What a sweep is told and what it finds; and what all targets need.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use mp::{Process, StartMethod};

/// How long nothing may happen before that counts as a hang.
pub(crate) const HANG: Duration = Duration::from_secs(10);

pub(crate) struct Options {
    pub(crate) kills: u64,
    pub(crate) seed: u64,
    /// How the members are started.
    pub(crate) method: StartMethod,
}

/// What a sweep found.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) kills: u64,
    /// Items (or tasks, or increments) that were made.
    pub(crate) committed: u64,
    /// Those that were in the hands of the killed, known by name.
    pub(crate) in_hand: u64,
    /// What is missing beyond these.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) torn: u64,
    pub(crate) hangs: u64,
    pub(crate) worst_stall: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kills={} committed={} in_hand={} lost={} doubled={} torn={} hangs={} worst_stall_ms={:.1}",
            self.kills,
            self.committed,
            self.in_hand,
            self.lost,
            self.doubled,
            self.torn,
            self.hangs,
            self.worst_stall.as_secs_f64() * 1e3,
        )
    }
}

/// Waits for `process`, which is to end by itself. If it does not, that is a hang, and it is killed.
pub(crate) fn join(process: Process, report: &mut Report) -> Result<(), mp::Error> {
    if process.join_timeout(HANG)? {
        return Ok(process.join()?);
    }
    report.hangs += 1;
    process.kill()?;
    process.wait()?;
    Ok(())
}

/// Numbers without a pattern, the same for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Looks whether a counter still moves.
pub(crate) struct Watch {
    seen: u64,
    since: Instant,
    worst: Duration,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            seen: 0,
            since: Instant::now(),
            worst: Duration::ZERO,
        }
    }

    /// Waits until the counter has moved since the last call; whether it stands still for [`HANG`].
    pub(crate) fn is_stuck(&mut self, counter: &AtomicU64) -> bool {
        let start = Instant::now();
        loop {
            let now = counter.load(Ordering::SeqCst);
            if now != self.seen {
                self.seen = now;
                self.since = Instant::now();
                return false;
            }
            self.worst = self.worst.max(self.since.elapsed());
            if start.elapsed() > HANG {
                return true;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// The longest time without a move that was seen.
    pub(crate) fn worst(&self) -> Duration {
        self.worst
    }
}
