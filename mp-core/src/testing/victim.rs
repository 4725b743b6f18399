//! A traced child that stops itself right before a marked call.
#![allow(unsafe_code)] // `fork`; a tracer lives in one thread and touches no memory of its victim

use std::time::{Duration, Instant};

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    sys::{
        ptrace,
        signal::{SigEvent, SigevNotify, Signal, kill},
        time::TimeSpec,
        timer::{Expiration, Timer, TimerSetTimeFlags},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    time::ClockId,
    unistd::{ForkResult, Pid, fork, gettid},
};

use crate::primitive::may_spin;

use super::{
    fork::{exit_after, show_panics_of_copies},
    helpers::patience,
    procfs::Stat,
    storm::interrupt_by,
};

/// How long anything may take that makes no progress, times the machine's patience.
const LIMIT: Duration = Duration::from_secs(20);

/// How often the tracer looks whether its victim sleeps.
const LOOK: Duration = Duration::from_millis(5);

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
    /// Up to a breakpoint.
    Continue,
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
    /// Interrupts the tracer's waits, so that it looks whether the victim sleeps.
    _alarm: Timer,
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
                _alarm: start_alarm(),
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
        let here = sched_getcpu().is_ok_and(|cpu| one.set(cpu).is_ok());
        if !here {
            return;
        }
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
                Resume::Continue => ptrace::cont(self.pid, signal),
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
        let mut begin: Option<Instant> = None;
        let mut asleep_since: Option<Instant> = None;
        loop {
            // Blocking, because a tracer that yields or polls waits for the whole time slice of
            // whoever else wants this CPU. The alarm interrupts it.
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Ok(status) => return Some(status),
                Err(Errno::EINTR) => {}
                Err(errno) => panic!("somebody else reaped the victim: {errno}"),
            }
            let now = Instant::now();
            asleep_since = match self.sleeps() {
                true => asleep_since.or(Some(now)),
                false => None,
            };
            let asleep = asleep_since.is_some_and(|since| now - since > sleep);
            let begin = *begin.get_or_insert(now);
            if asleep || now - begin > LIMIT.mul_f64(patience()) {
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
            // Stops that came before the kill are reported first, and the alarm interrupts.
            let status = waitpid(self.pid, Some(WaitPidFlag::__WALL));
            let goes_on = matches!(
                status,
                Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceSyscall(_)) | Err(Errno::EINTR)
            );
            self.reaped = !goes_on;
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

/// Signals this thread every [`LOOK`].
fn start_alarm() -> Timer {
    interrupt_by(Signal::SIGURG);
    let event = SigEvent::new(SigevNotify::SigevThreadId {
        signal: Signal::SIGURG,
        thread_id: gettid().as_raw(),
        si_value: 0,
    });
    let mut alarm = Timer::new(ClockId::CLOCK_MONOTONIC, event).expect("a timer can be had");
    let interval = Expiration::Interval(TimeSpec::from(LOOK));
    alarm
        .set(interval, TimerSetTimeFlags::empty())
        .expect("the interval is valid");
    alarm
}

/// Whether this machine lets a process trace its child (a container may forbid it).
pub(super) fn is_available() -> bool {
    let mut victim = Victim::start(|_| ());
    matches!(victim.end(), Some(WaitStatus::Exited(_, 0)))
}
