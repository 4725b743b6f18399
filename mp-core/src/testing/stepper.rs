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
#![allow(unsafe_code)] // `fork`; a tracer lives in one thread and touches no memory of its victim

use std::{
    env, thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

use crate::primitive::may_spin;

use super::{fork::exit_after, helpers::patience, procfs::Stat};

/// How long a step may sleep in the kernel before the victim counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(30);

/// How long a step that does not sleep may take, however loaded the machine.
const STEP_LIMIT: Duration = Duration::from_secs(20);

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

/// The victim's side: marks the call that is stepped through.
#[derive(Debug)]
pub struct Mark {
    _private: (),
}

impl Mark {
    /// Runs `call`, single-stepped. Once per victim.
    pub fn call<R>(&self, call: impl FnOnce() -> R) -> R {
        let own = Pid::this();
        let stop = || kill(own, Signal::SIGSTOP).expect("this process exists");
        stop();
        let result = call();
        stop();
        result
    }
}

/// Whether this machine lets a process trace its child (a container may forbid it).
pub fn is_available() -> bool {
    let mut victim = Victim::start(|_| ());
    victim.look_for_end(Instant::now() + STEP_LIMIT) == Some(WaitStatus::Exited(victim.pid, 0))
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
    let mut victim = Victim::start(victim);
    victim.reach_mark();
    let mut step = 0;
    while step < k {
        match victim.step() {
            Step::Done => step += 1,
            Step::Asleep => {
                victim.kill();
                return Outcome::Blocked { step };
            }
            Step::MarkReached => {
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

enum Step {
    Done,
    Asleep,
    MarkReached,
}

/// A traced child; killed and reaped when dropped.
struct Victim {
    pid: Pid,
    reaped: bool,
    /// The tracer's CPUs before it moved to the victim's one.
    own_cpus: Option<CpuSet>,
}

impl Victim {
    fn start(body: impl FnOnce(&Mark)) -> Victim {
        let _ = may_spin(); // asked before the victim is confined to one CPU
        // SAFETY:
        // * As in `fork_child`: the copy runs `body` alone, and never returns into the test.
        match unsafe { fork() }.expect("cannot fork") {
            ForkResult::Parent { child } => Victim {
                pid: child,
                reaped: false,
                own_cpus: None,
            },
            ForkResult::Child => exit_after(|| {
                ptrace::traceme().expect("this machine does not allow tracing");
                body(&Mark { _private: () });
            }),
        }
    }

    /// Lets the victim run up to its mark.
    #[track_caller]
    fn reach_mark(&mut self) {
        match self.next_stop(STEP_LIMIT) {
            Some(Signal::SIGSTOP) => {}
            other => panic!("the victim marked no call; it stopped with {other:?}"),
        }
        // If this test is killed, its victims go too.
        ptrace::setoptions(self.pid, ptrace::Options::PTRACE_O_EXITKILL)
            .expect("victim is stopped");
        self.share_cpu();
    }

    /// Moves victim and tracer to one CPU, where a step is a switch and no wake of another CPU: two
    /// thirds of the time. If that is not allowed it is only slower.
    fn share_cpu(&mut self) {
        let current = Pid::from_raw(0);
        let Ok(own_cpus) = sched_getaffinity(current) else {
            return;
        };
        let mut one = CpuSet::new();
        let first = (0..CpuSet::count()).find(|&cpu| own_cpus.is_set(cpu).unwrap_or(false));
        let _ = first.map(|cpu| one.set(cpu));
        if sched_setaffinity(self.pid, &one).is_ok() && sched_setaffinity(current, &one).is_ok() {
            self.own_cpus = Some(own_cpus);
        }
    }

    /// Lets the victim run one instruction.
    #[track_caller]
    fn step(&mut self) -> Step {
        let mut signal = None;
        loop {
            ptrace::step(self.pid, signal).expect("victim is stopped");
            match self.next_stop(STEP_LIMIT) {
                Some(Signal::SIGTRAP) => return Step::Done,
                Some(Signal::SIGSTOP) => return Step::MarkReached,
                None => return Step::Asleep,
                other => signal = other, // the victim's own business
            }
        }
    }

    /// Lets the victim run to its own end.
    #[track_caller]
    fn run_to_end(&mut self) {
        ptrace::cont(self.pid, None).expect("victim is stopped");
        let end = self.look_for_end(Instant::now() + STEP_LIMIT.mul_f64(patience()));
        assert_eq!(
            end,
            Some(WaitStatus::Exited(self.pid, 0)),
            "the victim's end after the marked call"
        );
    }

    fn look_for_end(&mut self, until: Instant) -> Option<WaitStatus> {
        while Instant::now() < until {
            match self.poll() {
                Some(end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => {
                    return Some(end);
                }
                Some(WaitStatus::Stopped(_, signal)) => {
                    let pass_on = (signal != Signal::SIGSTOP).then_some(signal);
                    ptrace::cont(self.pid, pass_on).expect("victim is stopped");
                }
                _ => thread::sleep(Duration::from_micros(50)),
            }
        }
        None
    }

    /// The signal the victim stops with next; `None` if it sleeps instead.
    #[track_caller]
    fn next_stop(&mut self, limit: Duration) -> Option<Signal> {
        let begin = Instant::now();
        let mut asleep_since: Option<Instant> = None;
        let mut looks = 0u32;
        loop {
            match self.poll() {
                Some(WaitStatus::Stopped(_, signal)) => return Some(signal),
                Some(end) => panic!("the victim ended by itself: {end:?}"),
                None => looks += 1,
            }
            // A step takes microseconds, on the CPU that this thread yields.
            match looks {
                ..200 => thread::yield_now(),
                _ => {
                    thread::sleep(Duration::from_micros(200));
                    if self.sleeps() {
                        let since = *asleep_since.get_or_insert_with(Instant::now);
                        if since.elapsed() > BLOCKED_AFTER {
                            return None;
                        }
                    } else {
                        asleep_since = None;
                    }
                    if begin.elapsed() > limit.mul_f64(patience()) {
                        return None; // neither asleep nor done: it makes no progress
                    }
                }
            }
        }
    }

    fn sleeps(&self) -> bool {
        Stat::of_process(self.pid.as_raw()).is_some_and(|stat| matches!(stat.state, 'S' | 'D'))
    }

    /// What has happened to the victim, if anything.
    fn poll(&mut self) -> Option<WaitStatus> {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        match waitpid(self.pid, Some(flags)).expect("somebody else reaped the victim") {
            WaitStatus::StillAlive => None,
            status => {
                self.reaped = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
                Some(status)
            }
        }
    }

    /// SIGKILL: not one instruction more.
    fn kill(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        while !self.reaped {
            // Stops that came before the kill are reported first.
            let status = waitpid(self.pid, Some(WaitPidFlag::__WALL));
            self.reaped = !matches!(status, Ok(WaitStatus::Stopped(..) | WaitStatus::StillAlive));
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
        }
        if let Some(own_cpus) = self.own_cpus.take() {
            let _ = sched_setaffinity(Pid::from_raw(0), &own_cpus); // they were allowed before
        }
    }
}
