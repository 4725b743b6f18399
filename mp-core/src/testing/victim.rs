//! A traced child that stops itself right before a marked call.
#![allow(unsafe_code)] // `fork`; a tracer lives in one thread and touches no memory of its victim

use std::{
    thread,
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

use super::{
    fork::{exit_after, show_panics_of_copies},
    helpers::patience,
    procfs::Stat,
};

/// How long anything may take that makes no progress, times the machine's patience.
const LIMIT: Duration = Duration::from_secs(20);

/// The victim's side: marks the call that is looked into.
#[derive(Debug)]
pub struct Mark {
    _private: (),
}

impl Mark {
    /// Runs `call` under the tracer's hand. Once per victim.
    pub fn call<R>(&self, call: impl FnOnce() -> R) -> R {
        let own = Pid::this();
        // Not `raise`, which does a dozen things around it.
        let stop = || kill(own, Signal::SIGSTOP).expect("this process exists");
        stop();
        let result = call();
        stop();
        result
    }
}

/// How a stopped victim goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// One instruction.
    Step,
    /// Up to the next entry to, or return from, a system call.
    Syscall,
}

/// What a victim that was [resumed](Victim::resume) came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// As asked for.
    Done,
    /// The end of the marked call.
    Mark,
    /// It sleeps in the kernel instead.
    Asleep,
}

/// A traced child; killed and reaped when dropped.
pub(super) struct Victim {
    pub(super) pid: Pid,
    reaped: bool,
    /// The tracer's CPUs before it moved to the victim's one.
    own_cpus: Option<CpuSet>,
}

impl Victim {
    /// Forks a child that runs `body`, and waits until it has reached its mark.
    #[track_caller]
    pub(super) fn at_mark(body: impl FnOnce(&Mark)) -> Victim {
        let victim = Victim::start(body);
        loop {
            match victim.next_stop(LIMIT) {
                Some(WaitStatus::Stopped(_, Signal::SIGSTOP)) => break,
                Some(WaitStatus::Stopped(_, other)) => victim.cont(Some(other)),
                other => panic!("the victim marked no call; it came to {other:?}"),
            }
        }
        // If this test is killed, its victims go too.
        let options = ptrace::Options::PTRACE_O_EXITKILL | ptrace::Options::PTRACE_O_TRACESYSGOOD;
        ptrace::setoptions(victim.pid, options).expect("victim is stopped");
        victim
    }

    fn start(body: impl FnOnce(&Mark)) -> Victim {
        show_panics_of_copies();
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

    /// Moves victim and tracer to one CPU, where a step is a switch and no wake of another CPU: two
    /// thirds of the time. If that is not allowed it is only slower.
    pub(super) fn share_cpu(&mut self) {
        let _ = may_spin(); // remembered before there is one CPU only
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

    /// Lets the stopped victim go on; it counts as asleep when it sleeps for longer than `sleep`.
    #[track_caller]
    pub(super) fn resume(&mut self, how: Resume, sleep: Duration) -> Stop {
        let mut signal = None;
        loop {
            let resumed = match how {
                Resume::Step => ptrace::step(self.pid, signal),
                Resume::Syscall => ptrace::syscall(self.pid, signal),
            };
            resumed.expect("victim is stopped");
            match self.next_stop(sleep) {
                Some(WaitStatus::PtraceSyscall(_)) => return Stop::Done,
                Some(WaitStatus::Stopped(_, Signal::SIGTRAP)) => return Stop::Done,
                Some(WaitStatus::Stopped(_, Signal::SIGSTOP)) => return Stop::Mark,
                Some(WaitStatus::Stopped(_, other)) => signal = Some(other), // its own business
                Some(end) => {
                    self.reaped = true;
                    panic!("the victim ended by itself: {end:?}")
                }
                None => return Stop::Asleep,
            }
        }
    }

    /// Lets the victim run to its own end, which has to be a return from its body.
    #[track_caller]
    pub(super) fn run_to_end(&mut self) {
        self.cont(None);
        let end = self.end();
        let success = matches!(end, Some(WaitStatus::Exited(_, 0)));
        assert!(success, "after the marked call the victim came to {end:?}");
    }

    fn cont(&self, signal: Option<Signal>) {
        ptrace::cont(self.pid, signal).expect("victim is stopped");
    }

    /// The victim's end; `None` if it does not come.
    pub(super) fn end(&mut self) -> Option<WaitStatus> {
        loop {
            match self.next_stop(LIMIT)? {
                WaitStatus::Stopped(_, signal) => {
                    self.cont((signal != Signal::SIGSTOP).then_some(signal));
                }
                end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                    self.reaped = true;
                    return Some(end);
                }
                _ => self.cont(None),
            }
        }
    }

    /// What happens next to the victim; `None` if it sleeps for longer than `sleep` instead.
    fn next_stop(&self, sleep: Duration) -> Option<WaitStatus> {
        let begin = Instant::now();
        let mut asleep_since: Option<Instant> = None;
        let mut looks = 0_u32;
        loop {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            match waitpid(self.pid, Some(flags)).expect("somebody else reaped the victim") {
                WaitStatus::StillAlive => looks += 1,
                status => return Some(status),
            }
            // A step takes microseconds, on the CPU that this thread yields.
            if looks < 200 {
                thread::yield_now();
                continue;
            }
            thread::sleep(Duration::from_micros(200));
            asleep_since = match self.sleeps() {
                true => asleep_since.or_else(|| Some(Instant::now())),
                false => None,
            };
            let asleep = asleep_since.is_some_and(|since| since.elapsed() > sleep);
            if asleep || begin.elapsed() > LIMIT.mul_f64(patience()) {
                return None;
            }
        }
    }

    fn sleeps(&self) -> bool {
        Stat::of_process(self.pid.as_raw()).is_some_and(|stat| matches!(stat.state, 'S' | 'D'))
    }

    /// SIGKILL: not one instruction more.
    pub(super) fn kill(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        while !self.reaped {
            // Stops that came before the kill are reported first.
            let status = waitpid(self.pid, Some(WaitPidFlag::__WALL));
            let stopped = matches!(
                status,
                Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceSyscall(_) | WaitStatus::StillAlive)
            );
            self.reaped = !stopped;
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

/// Whether this machine lets a process trace its child (a container may forbid it).
pub(super) fn is_available() -> bool {
    let mut victim = Victim::start(|_| ());
    matches!(victim.end(), Some(WaitStatus::Exited(_, 0)))
}
