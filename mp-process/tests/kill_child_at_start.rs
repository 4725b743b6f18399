//! A child that is killed at any system call of its start is a child that was killed: its parent is
//! told so, at once, and nothing is left of it.
//!
//! The test forks a parent, which starts a child in the ordinary way; the kernel hands that child,
//! once it is born, to the test as its tracer, and there it dies at its n-th system call.

use std::fs;

use mp_core::testing::{Census, Watchdog, skip};
use mp_process::{ExitError, Process, StartError, StartMethod};
use nix::{
    sys::{
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
    // Nothing here makes such a directory, but listeners in other runs of tests do.
    let _census = Census::take().allow("/tmp/mp-");
    let _dog = Watchdog::secs(300);
    // An executed child makes its own way through the loader; a forked one begins in the middle.
    for (method, least) in [(StartMethod::Spawn, 60), (StartMethod::Fork, 10)] {
        let mut killed = 0;
        loop {
            let (told, reached) = start_and_kill_at(method, killed);
            if !reached {
                assert_eq!(told, Told::Value, "{method}, after {killed}");
                break;
            }
            // A forked child may die before its parent has told it to begin: it was not started.
            let expected =
                told == Told::Killed || told == Told::NotStarted && method == StartMethod::Fork;
            assert!(expected, "{method}, killed at {killed}: {told:?}");
            killed += 1;
        }
        assert!(
            killed > least,
            "{method}: only {killed} places, it was not traced"
        );
        println!(
            "test a_child_killed_at_any_system_call_is_told ({method}, {killed} places) ... ok"
        );
    }
    println!("test result: ok. 2 passed");
}

/// What the parent of the child was told; its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Value = 10,
    Killed = 11,
    NotStarted = 12,
    Else = 13,
    Leaked = 14,
}

/// Starts a child that dies at its system call `index`; what its parent was told, and whether the
/// child came that far.
fn start_and_kill_at(method: StartMethod, index: usize) -> (Told, bool) {
    // SAFETY:
    // * this process has one other thread, the watchdog's, which holds no lock that is needed here.
    #[allow(unsafe_code, reason = "a fork, to have a parent that can be traced")]
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            ptrace::traceme().unwrap();
            raise(Signal::SIGSTOP).unwrap();
            std::process::exit(start(method) as i32)
        }
        ForkResult::Parent { child } => trace(child, index),
    }
}

fn start(method: StartMethod) -> Told {
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let told = match Process::new(|n: u32| n + 1, (41,))
        .start_method(method)
        .start()
    {
        Err(StartError::System { .. }) => Told::NotStarted,
        Err(_) => Told::Else,
        Ok(child) => match child.join() {
            Ok(42) => Told::Value,
            Err(ExitError::Signal { signal: 9, .. }) => Told::Killed,
            _ => Told::Else,
        },
    };
    if descriptors() == before {
        told
    } else {
        Told::Leaked
    }
}

fn trace(parent: Pid, index: usize) -> (Told, bool) {
    waitpid(parent, None).unwrap(); // stopped by itself
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(parent, options).unwrap();
    ptrace::cont(parent, None).unwrap();
    let (mut calls, mut reached) = (0, false);
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Exited(pid, code) if pid == parent => {
                let told = [Told::Value, Told::Killed, Told::NotStarted, Told::Leaked]
                    .into_iter()
                    .find(|told| *told as i32 == code);
                return (told.unwrap_or(Told::Else), reached);
            }
            WaitStatus::Stopped(pid, signal) if pid == parent => {
                ptrace::cont(parent, signal).unwrap();
            }
            WaitStatus::PtraceEvent(pid, ..) if pid == parent => {
                ptrace::cont(parent, None).unwrap();
            }
            // The child, at a system call or after one.
            WaitStatus::PtraceSyscall(pid) => {
                if calls == index {
                    reached = true;
                    kill(pid, Signal::SIGKILL).unwrap();
                } else {
                    ptrace::syscall(pid, None).unwrap();
                }
                calls += 1;
            }
            // The child: born stopped, or executed.
            WaitStatus::Stopped(pid, _) | WaitStatus::PtraceEvent(pid, ..) => {
                // It may be dead already.
                let _ = ptrace::syscall(pid, None);
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
