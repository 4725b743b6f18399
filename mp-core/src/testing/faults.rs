//! Fails, or kills at, every single system call of a marked call.
//!
//! A victim (as the [`stepper`](super::stepper)'s) is stopped at each system call of its marked call.
//! [`for_every_failure`] lets one of them fail, with each error that this call is known to give;
//! [`for_every_kill`] ends the victim before and after each of them, which reaches into calls that
//! are far too long to be stepped through.
//!
//! ```
//! use mp_core::{shm::Mapping, testing::faults};
//!
//! if !faults::is_available() {
//!     return;
//! }
//! let failures = faults::for_every_failure(
//!     || (),
//!     |(), mark| {
//!         let made = mark.call(|| Mapping::create("mp-doc", 4096, 4096));
//!         if let Err(error) = made {
//!             assert!(!error.to_string().is_empty());
//!         }
//!     },
//!     |(), _| (),
//! );
//! assert!(failures > 3);
//! ```

use std::{fmt, fs, thread, time::Duration};

use nix::{errno::Errno, libc};

use super::{
    procfs::syscall_name,
    victim::{self, Resume, Stop, Victim},
};

pub use super::victim::Mark;

/// How long a system call of a victim may sleep. Those of `mp` look again after a quarter of it.
const ASLEEP_AFTER: Duration = Duration::from_secs(1);

/// Where in the marked call something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of system calls before this one.
    pub index: usize,
    /// The system call's number (`libc::SYS_…`).
    pub number: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match syscall_name(self.number) {
            Some(name) => write!(f, "system call {} ({name})", self.index),
            None => write!(f, "system call {} (number {})", self.index, self.number),
        }
    }
}

/// What was done to a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the first victim.
    None,
    /// The system call did nothing but return this error.
    Failed(Place, Errno),
    /// Killed before the system call did anything.
    KilledBefore(Place),
    /// Killed when the system call had returned.
    KilledAfter(Place),
    /// Killed while the system call slept; no later one is reached.
    KilledAsleep(Place),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::None => write!(f, "nothing was done to the victim"),
            Fault::Failed(place, errno) => write!(f, "{place} failed with {errno:?}"),
            Fault::KilledBefore(place) => write!(f, "killed before {place}"),
            Fault::KilledAfter(place) => write!(f, "killed after {place}"),
            Fault::KilledAsleep(place) => write!(f, "killed asleep in {place}"),
        }
    }
}

/// Whether this machine lets a process trace its child, and calls can be failed on it.
pub fn is_available() -> bool {
    cfg!(target_arch = "x86_64") && victim::is_available()
}

/// Lets each system call of the marked call fail once with each error that it may give; how many
/// victims that took.
///
/// That a call gives the error to its caller, and that it gets along without, are both right; `victim`
/// looks at what it got, and has to return. What a child of the victim calls is not reached. Refused
/// memory is left out where the allocator asks for it, because Rust ends the process then.
///
/// # Panics
///
/// When a victim panics, dies or hangs, and with whatever `check` panics. The fault is printed.
#[track_caller]
pub fn for_every_failure<S>(
    mut setup: impl FnMut() -> S,
    mut victim: impl FnMut(&S, &Mark),
    mut check: impl FnMut(S, Fault),
) -> usize {
    let mut run = |fault| run_one(fault, &mut setup, &mut victim, &mut check);
    let mut failures = 0;
    for call in run(Fault::None).calls {
        for &errno in call.errors() {
            run(Fault::Failed(call.place, errno));
            failures += 1;
        }
    }
    failures
}

/// Kills a victim before each system call of the marked call, and another one after it; how many.
///
/// # Panics
///
/// When the first victim panics, and with whatever `check` panics. The fault is printed.
#[track_caller]
pub fn for_every_kill<S>(
    mut setup: impl FnMut() -> S,
    mut victim: impl FnMut(&S, &Mark),
    mut check: impl FnMut(S, Fault),
) -> usize {
    let mut run = |fault| run_one(fault, &mut setup, &mut victim, &mut check);
    let whole = run(Fault::None);
    let mut kills = 0;
    for call in &whole.calls {
        run(Fault::KilledBefore(call.place));
        kills += 1;
        if whole.asleep_in != Some(call.place) {
            run(Fault::KilledAfter(call.place));
            kills += 1;
        }
    }
    kills
}

#[track_caller]
fn run_one<S>(
    fault: Fault,
    setup: &mut impl FnMut() -> S,
    victim: &mut impl FnMut(&S, &Mark),
    check: &mut impl FnMut(S, Fault),
) -> Trace {
    let _printed = PrintedOnPanic(fault);
    let shared = setup();
    let trace = run_victim(fault, |mark| victim(&shared, mark));
    match (fault, trace.asleep_in) {
        (Fault::Failed(..), Some(place)) => panic!("the victim sleeps for ever in {place}"),
        (Fault::None, Some(place)) => check(shared, Fault::KilledAsleep(place)),
        _ => check(shared, fault),
    }
    trace
}

/// Tells what was done to the victim that failed.
struct PrintedOnPanic(Fault);

impl Drop for PrintedOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("faults: {}", self.0);
        }
    }
}

/// A system call that a victim made.
#[derive(Clone, Copy, Debug)]
struct Call {
    place: Place,
    arguments: [u64; 6],
}

/// The system calls of a victim, up to its end.
#[derive(Debug, Default)]
struct Trace {
    calls: Vec<Call>,
    asleep_in: Option<Place>,
}

#[track_caller]
fn run_victim(fault: Fault, body: impl FnOnce(&Mark)) -> Trace {
    let mut victim = Victim::at_mark(body);
    let mut trace = Trace::default();
    loop {
        match victim.resume(Resume::Syscall, ASLEEP_AFTER) {
            Stop::Done => {}
            Stop::Mark => {
                trace.calls.pop(); // the mark itself
                victim.run_to_end();
                return trace;
            }
            Stop::Asleep => panic!(
                "the victim makes no progress after {:?}",
                trace.calls.last()
            ),
        }
        let call = current_call(victim.pid.as_raw(), trace.calls.len());
        trace.calls.push(call);
        if fault == Fault::KilledBefore(call.place) {
            victim.kill();
            return trace;
        }
        let refused = match fault {
            Fault::Failed(place, errno) if place == call.place => Some(errno),
            _ => None,
        };
        if refused.is_some() {
            registers::skip_call(victim.pid);
        }
        match victim.resume(Resume::Syscall, ASLEEP_AFTER) {
            Stop::Done => {}
            Stop::Mark | Stop::Asleep => {
                victim.kill();
                trace.asleep_in = Some(call.place);
                return trace;
            }
        }
        if let Some(errno) = refused {
            registers::set_result(victim.pid, errno);
        }
        if fault == Fault::KilledAfter(call.place) {
            victim.kill();
            return trace;
        }
    }
}

/// The system call at whose entry the process is stopped.
fn current_call(pid: i32, index: usize) -> Call {
    let line = fs::read_to_string(format!("/proc/{pid}/syscall")).expect("the victim is ours");
    let mut words = line.split_ascii_whitespace();
    let number = words.next().and_then(|word| word.parse().ok());
    let mut argument = || {
        let digits = words.next()?.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok()
    };
    Call {
        place: Place {
            index,
            number: number.expect("the victim is in a system call"),
        },
        arguments: [(); 6].map(|()| argument().unwrap_or(0)),
    }
}

impl Call {
    /// The errors this call may give that its caller has to live with.
    fn errors(&self) -> &'static [Errno] {
        let [_, second, _, fourth, ..] = self.arguments;
        let second = i32::try_from(second).unwrap_or(-1);
        match self.place.number {
            libc::SYS_futex => match second & libc::FUTEX_CMD_MASK {
                libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => &[Errno::EINTR, Errno::EAGAIN],
                _ => &[],
            },
            libc::SYS_fcntl => match second {
                libc::F_DUPFD_CLOEXEC | libc::F_DUPFD => &[Errno::EMFILE],
                libc::F_OFD_SETLK => &[Errno::ENOLCK],
                libc::F_OFD_SETLKW => &[Errno::EINTR, Errno::ENOLCK],
                _ => &[],
            },
            // The allocator's are private.
            libc::SYS_mmap if fourth & libc::MAP_SHARED as u64 != 0 => &[Errno::ENOMEM],
            libc::SYS_memfd_create => &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM],
            libc::SYS_ftruncate => &[Errno::EINTR, Errno::ENOSPC],
            libc::SYS_fallocate => &[Errno::EINTR, Errno::ENOSPC, Errno::ENOMEM],
            libc::SYS_openat => &[Errno::EINTR, Errno::EMFILE, Errno::ENFILE],
            libc::SYS_socket | libc::SYS_socketpair | libc::SYS_pipe2 | libc::SYS_pidfd_open => {
                &[Errno::EMFILE, Errno::ENFILE]
            }
            libc::SYS_accept4 => &[Errno::EINTR, Errno::EMFILE, Errno::ECONNABORTED],
            libc::SYS_connect => &[Errno::ECONNREFUSED],
            libc::SYS_sendmsg | libc::SYS_sendto => &[Errno::EINTR, Errno::EPIPE, Errno::ENOBUFS],
            libc::SYS_write | libc::SYS_pwrite64 => &[Errno::EINTR, Errno::EPIPE, Errno::ENOSPC],
            libc::SYS_recvmsg | libc::SYS_recvfrom => &[Errno::EINTR, Errno::ECONNRESET],
            libc::SYS_read | libc::SYS_pread64 => &[Errno::EINTR, Errno::EIO],
            libc::SYS_ppoll => &[Errno::EINTR, Errno::ENOMEM],
            libc::SYS_wait4 | libc::SYS_waitid | libc::SYS_clock_nanosleep => &[Errno::EINTR],
            libc::SYS_clone | libc::SYS_clone3 => &[Errno::EAGAIN, Errno::ENOMEM],
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => &[Errno::EINTR, Errno::ENOMEM],
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork | libc::SYS_vfork => &[Errno::EAGAIN, Errno::ENOMEM],
            _ => &[],
        }
    }
}

/// What is special to the processor: the registers of a system call.
#[cfg(target_arch = "x86_64")]
mod registers {
    use nix::{errno::Errno, sys::ptrace, unistd::Pid};

    /// At the entry: the kernel does nothing.
    pub(super) fn skip_call(pid: Pid) {
        let mut registers = ptrace::getregs(pid).expect("victim is stopped");
        registers.orig_rax = u64::MAX; // no such call
        ptrace::setregs(pid, registers).expect("victim is stopped");
    }

    /// At the return: what the victim sees.
    pub(super) fn set_result(pid: Pid, errno: Errno) {
        let mut registers = ptrace::getregs(pid).expect("victim is stopped");
        registers.rax = -i64::from(errno as i32) as u64;
        ptrace::setregs(pid, registers).expect("victim is stopped");
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use nix::{errno::Errno, unistd::Pid};

    pub(super) fn skip_call(_: Pid) {
        unimplemented_here()
    }

    pub(super) fn set_result(_: Pid, _: Errno) {
        unimplemented_here()
    }

    fn unimplemented_here() {
        panic!("calls are failed on x86_64 only: ask `is_available` first");
    }
}
