//! A process that is killed at any system call of a start is a child that was killed: its parent is
//! told so, at once, and nothing is left of it. What the fork server does for a start is no one's
//! loss: another child, or another server, takes the place of the one that was killed.
//!
//! The test forks a parent, which starts a child in the ordinary way; the kernel hands every process
//! that is born for it to the test as their tracer, and there one dies before its n-th system call.

use std::{fs, time::Instant};

use mp_core::testing::{Census, Watchdog, skip};
use mp_process::{ExitError, Process, StartError, StartMethod};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        ptrace::{self, Options},
        signal::{Signal, kill, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

fn main() {
    mp_process::init();
    if !can_trace() {
        return skip("kill_child_at_start", "ptrace");
    }
    // Nothing here makes such names, but other runs of tests do, and may be killed.
    let _census = Census::take().allow("/tmp/mp-").allow("/dev/shm/");
    let _dog = Watchdog::secs(300);
    // The children of a dead server are ours to reap then: not every init does it at once.
    prctl::set_child_subreaper(true).unwrap();
    for victim in VICTIMS {
        let (mut calls, begin) = (0, Instant::now());
        loop {
            // The victim stops before and after each call, with nothing but its own code between two.
            let (told, reached) = start_and_kill_at(&victim, 2 * calls);
            let may_be = if reached { victim.told } else { &[Told::Value] };
            let name = victim.name;
            assert!(
                may_be.contains(&told),
                "{name}, killed at call {calls}: {told:?}"
            );
            if !reached {
                break;
            }
            calls += 1;
        }
        let Victim { name, least, .. } = victim;
        assert!(
            calls > least,
            "{name}: only {calls} calls, it was not traced"
        );
        println!(
            "test killed_at_any_system_call_of_a_start ({name}, {calls} calls, {:.1?}) ... ok",
            begin.elapsed()
        );
    }
    println!("test result: ok. {} passed", VICTIMS.len());
}

/// Which process of a start dies.
struct Victim {
    name: &'static str,
    method: StartMethod,
    /// How many processes are born for the start before it.
    before: usize,
    /// Fewer system calls than it makes.
    least: usize,
    /// What its parent may be told.
    told: &'static [Told],
}

const VICTIMS: [Victim; 4] = [
    Victim {
        name: "an executed child",
        method: StartMethod::Spawn,
        before: 0,
        least: 60, // it makes its own way through the loader
        told: &[Told::Killed],
    },
    Victim {
        name: "a forked child",
        method: StartMethod::Fork,
        before: 0,
        least: 10,
        // It may die before its parent has told it to begin.
        told: &[Told::Killed, Told::NotStarted],
    },
    Victim {
        name: "the fork server",
        method: StartMethod::ForkServer,
        before: 0,
        least: 60,
        // Before Linux 6.15 nobody else knows how its children end.
        told: &[Told::Value, Told::NotStarted, Told::Unknown],
    },
    Victim {
        name: "its child",
        method: StartMethod::ForkServer,
        before: 2, // the server, and its question to the kernel
        least: 10,
        told: &[Told::Value, Told::Killed],
    },
];

/// What the parent of the child was told; its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Value = 10,
    Killed = 11,
    NotStarted = 12,
    Unknown = 13,
    Else = 14,
    LeftDescriptor = 15,
    LeftZombie = 16,
    NotAgain = 17,
}

impl Told {
    fn of(code: i32) -> Self {
        use Told::*;
        [
            Value,
            Killed,
            NotStarted,
            Unknown,
            LeftDescriptor,
            LeftZombie,
            NotAgain,
        ]
        .into_iter()
        .find(|told| *told as i32 == code)
        .unwrap_or(Else)
    }
}

/// Makes a start in which the victim dies at its system call `index`; what the parent was told, and
/// whether the victim came that far.
fn start_and_kill_at(victim: &Victim, index: usize) -> (Told, bool) {
    // SAFETY:
    // * this process has one other thread, the watchdog's, which holds no lock that is needed here.
    #[allow(unsafe_code, reason = "a fork, to have a parent that can be traced")]
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            ptrace::traceme().unwrap();
            raise(Signal::SIGSTOP).unwrap();
            std::process::exit(start_and_look(victim.method) as i32)
        }
        ForkResult::Parent { child } => trace(child, victim.before, index),
    }
}

/// The life of the parent: a start with a victim, and a look at what is left.
fn start_and_look(method: StartMethod) -> Told {
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let told = start(method);
    let mut at_most = before;
    if method == StartMethod::ForkServer {
        if start(method) != Told::Value {
            return Told::NotAgain;
        }
        // The socket to a server and its pidfd, and the same for each of the children that wait.
        at_most += 2 + 2 * 2;
    }
    if descriptors() > at_most {
        Told::LeftDescriptor
    } else if leaves_a_zombie() {
        Told::LeftZombie
    } else {
        told
    }
}

/// A server that died after it was last needed is no such: the next start would find it.
fn leaves_a_zombie() -> bool {
    let next = || waitpid(None, Some(WaitPidFlag::WNOHANG));
    match next() {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => false,
        _ => next() != Err(Errno::ECHILD), // and there is no other server
    }
}

fn start(method: StartMethod) -> Told {
    let child = Process::new(|n: u32| n + 1, (41,)).start_method(method);
    match child.start().map(Process::join) {
        Err(StartError::System { .. }) => Told::NotStarted,
        Ok(Ok(42)) => Told::Value,
        Ok(Err(ExitError::Signal { signal: 9, .. })) => Told::Killed,
        Ok(Err(ExitError::Unknown { .. })) => Told::Unknown,
        _ => Told::Else,
    }
}

/// Lets `parent` and all that is born for it run to their ends, but for the one with so many born
/// `before` it.
fn trace(parent: Pid, before: usize, index: usize) -> (Told, bool) {
    waitpid(parent, None).unwrap(); // stopped by itself
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(parent, options).unwrap();
    ptrace::cont(parent, None).unwrap();
    let (mut told, mut born) = (Told::Else, Vec::new());
    let (mut calls, mut reached) = (0, false);
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => return (told, reached), // nobody is left
            status => status.unwrap(),
        };
        match status {
            WaitStatus::Exited(pid, code) if pid == parent => told = Told::of(code),
            WaitStatus::Stopped(pid, signal) if pid == parent => {
                ptrace::cont(parent, signal).unwrap();
            }
            // The victim, at a system call or after one.
            WaitStatus::PtraceSyscall(pid) => {
                if calls == index {
                    reached = true;
                    kill(pid, Signal::SIGKILL).unwrap();
                } else {
                    let _ = ptrace::syscall(pid, None); // it may be dead already
                }
                calls += 1;
            }
            // Somebody gave birth, or was born, or executed.
            WaitStatus::PtraceEvent(pid, ..) | WaitStatus::Stopped(pid, _) => {
                let child = ptrace::getevent(pid).unwrap_or(0);
                for pid in [pid, Pid::from_raw(child as i32)] {
                    // It is one of the two that comes first, before the next is born.
                    if pid != parent && pid.as_raw() > 0 && !born.contains(&pid) {
                        born.push(pid);
                    }
                }
                let _ = if born.get(before) == Some(&pid) {
                    ptrace::syscall(pid, None)
                } else {
                    ptrace::cont(pid, None)
                };
            }
            _ => {}
        }
    }
}

fn can_trace() -> bool {
    // SAFETY:
    // * as in `start_and_kill_at`.
    #[allow(unsafe_code, reason = "a fork, to find out whether it can be traced")]
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => std::process::exit(i32::from(ptrace::traceme().is_err())),
        ForkResult::Parent { child } => {
            matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0)))
        }
    }
}
