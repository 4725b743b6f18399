//! Looking for a moment before sleeping.

use std::time::{Duration, Instant};

use mp_core::primitive::{AtomicU32, Ordering, may_spin, spin_loop};

/// A sleep and its wake-up cost 20 to 50 µs when they cross CPUs; looking that long costs no more.
const LONGEST: Duration = Duration::from_micros(50);
const SHORTEST: Duration = Duration::from_micros(1);
/// Between two looks, so that the other end can write its line in peace. It also lets a batch grow:
/// who looks too often fetches the same lines once for each item.
const PAUSES: u32 = 16;

/// How long this handle looks before it sleeps: longer after it paid, shorter after it did not.
#[derive(Debug)]
pub(super) struct Spin {
    nanos: AtomicU32,
}

impl Default for Spin {
    fn default() -> Self {
        Self {
            nanos: AtomicU32::new(LONGEST.as_nanos() as u32),
        }
    }
}

impl Spin {
    /// Looks at `done` for a moment; whether it became true. Not at all with one usable CPU.
    pub(super) fn until(&self, mut done: impl FnMut() -> bool) -> bool {
        if !may_spin() {
            return false;
        }
        // Relaxed: a guess of this process only.
        let limit = Duration::from_nanos(self.nanos.load(Ordering::Relaxed).into());
        let start = Instant::now();
        let paid = loop {
            for _ in 0..PAUSES {
                spin_loop();
            }
            if done() {
                break true;
            }
            if start.elapsed() >= limit {
                break false;
            }
        };
        let next = if paid { limit * 2 } else { limit / 2 };
        let next = next.clamp(SHORTEST, LONGEST).as_nanos() as u32;
        self.nanos.store(next, Ordering::Relaxed);
        paid
    }
}
