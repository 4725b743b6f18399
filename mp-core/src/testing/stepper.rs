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
//! On x86_64 a breakpoint takes the later victims to the place where the first, stepped one has been,
//! so that a kill costs little more than its fork. Elsewhere, or where a victim goes another way, the
//! k-th kill takes k steps of some 20 µs.
//!
//! On aarch64 without LSE atomics an exclusive load and store never succeed under single-stepping;
//! the sweep then ends as blocked after its patience.

use std::{env, thread, time::Duration};

use super::{
    route::Route,
    victim::{self, Resume, Stop, Victim},
};

pub use super::victim::Mark;

/// How long a step may sleep in the kernel before the victim counts as blocked.
pub(super) const BLOCKED_AFTER: Duration = Duration::from_millis(30);

/// As many single steps a sweep may take before it leaves out instructions: some 10 s.
const STEP_BUDGET: u64 = 500_000;

/// As many victims a sweep may have before it leaves out instructions: some 5 s.
const VICTIM_BUDGET: u64 = 5_000;

/// After as many victims in a row that were through early, the recorded one is known to have made a
/// detour: the clock is read again and again until no tick comes between, and steps are slow.
const DETOUR: u32 = 10;

/// How often a way is recorded at most.
const RECORDS: u32 = 3;

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

impl Outcome {
    /// How many instructions of the call it ran.
    fn instructions(self) -> u64 {
        match self {
            Outcome::Killed { step }
            | Outcome::Blocked { step }
            | Outcome::Finished { steps: step } => step,
        }
    }
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
    step_to(k, None, victim)
}

#[track_caller]
fn step_to(k: u64, mut route: Option<&mut Route>, victim: impl FnOnce(&Mark)) -> Outcome {
    let mut victim = Victim::at_mark(victim);
    victim.share_cpu();
    let mut step = 0;
    loop {
        if let Some(route) = &mut route {
            route.note(&victim);
        }
        if step == k {
            victim.kill();
            return Outcome::Killed { step };
        }
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
}

/// As [`kill_after`], at full speed; `None` if the victim did not come by.
#[track_caller]
fn run_to(k: u64, route: &Route, victim: impl FnOnce(&Mark)) -> Option<Outcome> {
    let mut victim = Victim::at_mark(victim);
    let arrived = route.run_to(k, &mut victim);
    victim.kill();
    arrived.then_some(Outcome::Killed { step: k })
}

/// Which instructions [`for_every_instruction`] kills after.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// Every n-th instruction. Default: the variable `MP_STEP_STRIDE`, or else 1 for a call of up to
    /// 5000 instructions (1000 without breakpoints) and more beyond: a sweep takes some 10 s at most.
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
/// [marks](Mark::call) the call, `check` looks at what is left. A first, unharmed victim tells how far
/// the call gets before it returns, or blocks; that is checked too.
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
    let mut check = |shared, outcome| {
        let _printed = PrintedOnPanic(outcome);
        check(shared, outcome);
    };
    let (mut route, whole) = record(&mut setup, &mut victim, &mut check);
    let blocked = u64::from(matches!(whole, Outcome::Blocked { .. }));
    let mut swept = Swept {
        kills: blocked,
        blocked,
        instructions: whole.instructions(),
        stride: 1,
    };
    let (mut k, mut by_route, mut missed, mut records) = (sweep.first, true, 0, 1);
    let (mut early, mut longest) = (0, 0); // victims in a row that were through before `k`
    while k <= sweep.limit.min(swept.instructions) {
        swept.stride = sweep
            .stride
            .unwrap_or(default_stride(swept.instructions, by_route));
        let mut shared = setup();
        let mut outcome = None;
        if by_route {
            outcome = run_to(k, &route, |mark| victim(&shared, mark));
        }
        if by_route && outcome.is_none() {
            missed += 1;
            if missed >= 10 + swept.kills / 4 {
                // They seldom go this way: is there a shorter one, or else step.
                let (other, whole) = record(&mut setup, &mut victim, &mut check);
                if whole.instructions() < swept.instructions {
                    (route, missed) = (other, 0);
                    swept.instructions = whole.instructions();
                }
                records += 1;
                by_route = records < RECORDS;
            }
            shared = setup();
        }
        let outcome = outcome.unwrap_or_else(|| kill_after(k, |mark| victim(&shared, mark)));
        check(shared, outcome);
        k += swept.stride.max(1);
        if let Outcome::Finished { steps } = outcome {
            (early, longest) = (early + 1, steps.max(longest));
        } else {
            swept.kills += 1;
            (early, longest) = (0, 0);
        }
        if early == DETOUR && longest < swept.instructions {
            // The first victim made a detour. Without it there may be time for more instructions.
            (early, swept.instructions) = (0, longest);
            if default_stride(longest, by_route) < swept.stride && sweep.stride.is_none() {
                k = sweep.first;
            }
        }
    }
    swept
}

/// Lets a victim go its whole way.
#[track_caller]
fn record<S>(
    setup: &mut impl FnMut() -> S,
    victim: &mut impl FnMut(&S, &Mark),
    check: &mut impl FnMut(S, Outcome),
) -> (Route, Outcome) {
    let mut route = Route::default();
    let shared = setup();
    let whole = step_to(u64::MAX, Some(&mut route), |mark| victim(&shared, mark));
    check(shared, whole);
    (route, whole)
}

fn default_stride(instructions: u64, by_route: bool) -> u64 {
    match by_route {
        true => instructions.div_ceil(VICTIM_BUDGET),
        false => (instructions.saturating_mul(instructions) / 2).div_ceil(STEP_BUDGET),
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
