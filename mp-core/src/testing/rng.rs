//! Random numbers that can be had again.

use std::{
    env,
    hash::{BuildHasher, RandomState},
    hint, thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Marsaglia's xorshift64*: small, seedable, good enough to choose moments and sizes.
///
/// When it is dropped by a panic it prints its seed and how to use it again.
///
/// ```
/// use mp_core::testing::Rng;
///
/// let (mut one, mut two) = (Rng::seeded(7), Rng::seeded(7));
/// assert_eq!(one.next_u64(), two.next_u64());
/// assert!(one.below(10) < 10);
/// ```
#[derive(Debug)]
pub struct Rng {
    seed: u64,
    state: u64,
}

impl Rng {
    /// The sequence that belongs to `seed`.
    pub fn seeded(seed: u64) -> Rng {
        // One round of splitmix64: neighbouring seeds give unrelated sequences, and no seed gives 0.
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Rng {
            seed,
            state: (state ^ (state >> 31)).max(1),
        }
    }

    /// Seeded by `MP_TEST_SEED`, or else differently each time.
    pub fn from_env() -> Rng {
        let seed = env::var("MP_TEST_SEED").ok();
        let seed = seed.and_then(|text| text.parse().ok());
        Rng::seeded(seed.unwrap_or_else(|| RandomState::new().hash_one(0)))
    }

    /// What [`seeded`](Self::seeded) takes to have this sequence again.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `limit` − 1.
    ///
    /// # Panics
    ///
    /// When `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        assert!(limit > 0, "no number is below 0");
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A time shorter than `limit`.
    pub fn duration(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.max(1)))
    }

    /// One of `items`.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Overwrites `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("random seed: run again with MP_TEST_SEED={}", self.seed);
        }
    }
}

/// Waits for a random time below `max_delay`, then sends SIGKILL to `pid`; tells the time it waited.
///
/// `pid` must be a child that nobody else reaps meanwhile, or the number may name another process.
/// That it has ended before is no error.
pub fn kill_at_random(pid: u32, rng: &mut Rng, max_delay: Duration) -> Duration {
    let delay = rng.duration(max_delay);
    let begin = Instant::now();
    // `sleep` wakes some 50 µs late: the last stretch is spun, so that short delays differ.
    thread::sleep(delay.saturating_sub(Duration::from_micros(100)));
    while begin.elapsed() < delay {
        hint::spin_loop();
    }
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_sequences_and_others_do_not() {
        let sequence = |seed| -> Vec<u64> {
            let mut rng = Rng::seeded(seed);
            (0..100).map(|_| rng.next_u64()).collect()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
        assert_ne!(sequence(0), sequence(u64::MAX));
    }

    #[test]
    fn numbers_below_a_limit_reach_all_of_them() {
        let mut rng = Rng::from_env();
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| count > 500), "{seen:?}");
    }
}
