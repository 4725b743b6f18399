//! Kills a process after every single instruction of a call.
//!
//! What lies in shared memory has to be right at whatever point its user dies. There is one way to
//! know: die at each. The victim is a forked child, traced; it stops itself right before the marked
//! call, is let go one instruction at a time, and killed after the k-th.
//!
//! ```
//! use mp_core::testing::stepper::{self, Outcome, Sweep};
//!
//! if !stepper::is_available() {
//!     return;
//! }
//! let sweep = stepper::for_every_instruction(
//!     Sweep::default(),
//!     || (),                               // made anew for each victim
//!     |(), mark| mark.call(|| drop(0_u8)), // in the victim
//!     |(), outcome| assert!(!matches!(outcome, Outcome::Blocked { .. })), // after its death
//! );
//! assert!(sweep.kills > 0);
//! ```
//!
//! A step costs some 20 µs and the k-th kill takes k of them, so a call of n instructions costs
//! n²/2 steps. Keep payloads small: each byte of a `rep movs` is a step of its own.
//!
//! On aarch64 without LSE atomics an exclusive load and store never succeed under single-stepping;
//! the sweep then ends as blocked after its patience.

use std::{env, thread, time::Duration};

use super::victim::{self, Resume, Stop, Victim};

pub use super::victim::Mark;

/// How long a step may sleep in the kernel before the victim counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(30);

/// As many steps a sweep may take before it leaves out instructions: some 10 s.
const STEP_BUDGET: u64 = 500_000;

/// What came of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Killed after this many instructions of the marked call.
    Killed {
        /// Instructions run.
        step: u64,
    },
    /// Killed asleep in the kernel, in the instruction after this many.
    Blocked {
        /// Instructions run.
        step: u64,
    },
    /// The marked call returned first; the victim then ran to its end.
    Finished {
        /// Instructions of the whole call.
        steps: u64,
    },
}

/// Whether this machine lets a process trace its child (a container may forbid it).
pub fn is_available() -> bool {
    victim::is_available()
}

/// Forks a child that runs `victim`, and kills it after `k` instructions of the call it [marks](Mark::call).
///
/// What [`fork_child`](super::fork_child) says of its body holds for `victim`.
///
/// # Panics
///
/// When the victim ends by itself other than by returning, or tracing is forbidden.
#[track_caller]
pub fn kill_after(k: u64, victim: impl FnOnce(&Mark)) -> Outcome {
    let mut victim = Victim::at_mark(victim);
    victim.share_cpu();
    let mut step = 0;
    while step < k {
        match victim.resume(Resume::Step, BLOCKED_AFTER) {
            Stop::Done => step += 1,
            Stop::Asleep => {
                victim.kill();
                return Outcome::Blocked { step };
            }
            Stop::Mark => {
                victim.run_to_end();
                return Outcome::Finished { steps: step };
            }
        }
    }
    victim.kill();
    Outcome::Killed { step }
}

/// Which instructions [`for_every_instruction`] kills after.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Every n-th instruction. Default: the variable `MP_STEP_STRIDE`, or else 1 for a call of up to
    /// 1000 instructions and more beyond, so that a sweep takes some 10 s at most.
    pub stride: Option<u64>,
    /// No kill after more instructions than this. Default: no limit.
    pub limit: u64,
    /// How many instructions before the first kill. Default: 0, that is right at the mark.
    pub first: u64,
}

impl Default for Sweep {
    fn default() -> Sweep {
        let stride = env::var("MP_STEP_STRIDE").ok();
        Sweep {
            stride: stride.and_then(|text| text.parse().ok()),
            limit: u64::MAX,
            first: 0,
        }
    }
}

/// What [`for_every_instruction`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Victims killed, asleep or not.
    pub kills: u64,
    /// Those of them that slept.
    pub blocked: u64,
    /// Instructions of the call, as far as it came when nobody killed it.
    pub instructions: u64,
    /// Every n-th instruction was a kill.
    pub stride: u64,
}

/// Kills one victim after each instruction of its marked call.
///
/// `setup` makes what the victim shares with this process, `victim` runs in a fork and
/// [marks](Mark::call) the call, `check` looks at what is left. The last victim is the one that
/// finishes or blocks by itself. How far the call gets is found by a first, unharmed victim, which is
/// checked too.
///
/// # Panics
///
/// As [`kill_after`], and with whatever `check` panics; the step is printed then.
#[track_caller]
pub fn for_every_instruction<S>(
    sweep: Sweep,
    mut setup: impl FnMut() -> S,
    mut victim: impl FnMut(&S, &Mark),
    mut check: impl FnMut(S, Outcome),
) -> Swept {
    let mut run = |k| {
        let shared = setup();
        let outcome = kill_after(k, |mark| victim(&shared, mark));
        let at = PrintedOnPanic(outcome);
        check(shared, outcome);
        drop(at);
        outcome
    };
    let instructions = match run(u64::MAX) {
        Outcome::Finished { steps: step }
        | Outcome::Blocked { step }
        | Outcome::Killed { step } => step,
    };
    let whole = instructions.saturating_mul(instructions) / 2;
    let stride = sweep.stride.unwrap_or(whole.div_ceil(STEP_BUDGET)).max(1);
    let (mut kills, mut blocked, mut k) = (0, 0, sweep.first);
    while k <= sweep.limit {
        match run(k) {
            Outcome::Killed { .. } => kills += 1,
            Outcome::Blocked { .. } => {
                (kills, blocked) = (kills + 1, blocked + 1);
                break;
            }
            Outcome::Finished { .. } => break,
        }
        k += stride;
    }
    Swept {
        kills,
        blocked,
        instructions,
        stride,
    }
}

/// Tells at which kill a check failed.
struct PrintedOnPanic(Outcome);

impl Drop for PrintedOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("stepper: the victim's outcome was {:?}", self.0);
        }
    }
}
