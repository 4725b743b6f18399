//! `Fork`: a copy of this process. The child's half goes on in [`crate::bootstrap`].
#![allow(unsafe_code)] // fork, and what has to be put right in the child

use std::{
    fs,
    io::{self, Write},
    mem,
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
    ptr,
};

use mp_core::{
    hooks,
    primitive::{AtomicBool, Ordering},
    transfer,
};
use nix::{errno::Errno, libc};

use super::{
    Failure, Setup, Started, StatusSource,
    setup::{self, Descriptors},
    spawn::{Blocked, reset_signals},
};
use crate::{
    error::Step,
    pidfd::{self, Pidfd},
    wire,
};

/// That this process may be forked and go on in the child.
#[derive(Debug)]
pub(crate) struct MayFork(());

/// Why it may not.
#[derive(Debug)]
pub(crate) enum NotForked {
    /// It has other threads.
    Threads(u32),
    /// Nobody knows how many it has.
    System(io::Error),
}

impl MayFork {
    /// It may, if this thread is the only one.
    pub(crate) fn unless_threads() -> Result<Self, NotForked> {
        if is_single_threaded() {
            return Ok(Self(()));
        }
        match count_threads().map_err(NotForked::System)? {
            1 => Ok(Self(())),
            threads => Err(NotForked::Threads(threads)),
        }
    }

    /// It may, says the caller.
    ///
    /// # Safety
    ///
    /// The child has none of the other threads, but the locks that they hold, locked for ever: what
    /// it does must not need any of those, the memory allocator's own apart, which glibc takes care of,
    /// and that of the standard output, which [`fork`] does.
    pub(crate) unsafe fn promised() -> Self {
        Self(())
    }
}

/// Whether the kernel says that this thread is the only one: a tenth of the way over `/proc`. It does
/// not say so where the call is forbidden.
fn is_single_threaded() -> bool {
    // SAFETY: an integer. What only a process with one thread may ask for, and has already, so that
    // nothing changes.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// How many threads this process has.
pub(crate) fn count_threads() -> io::Result<u32> {
    // A directory for each thread, and a directory has a link from each one in it, and two more.
    let links = fs::metadata("/proc/self/task")?.nlink();
    Ok(u32::try_from(links.saturating_sub(2)).unwrap_or(u32::MAX))
}

/// Which of the two processes this is after a fork.
pub(crate) enum Forked {
    /// The one that forked.
    Parent(Started),
    /// The new one.
    Child,
}

/// Forks this process. What it has buffered for its standard output is written before, once.
pub(crate) fn fork(_: MayFork) -> Result<Forked, Failure> {
    flush();
    // Of other threads that print, none holds it at the fork: the child's end would wait for that one.
    let mut stdout = io::stdout().lock();
    let _ = stdout.flush(); // what they have printed meanwhile
    // What a thread does once, in the parent: the child would do it anew each time.
    let _ = transfer::is_collecting();
    // A signal for the child waits there until its dispositions are in place.
    let blocked = Blocked::all();
    // SAFETY:
    // * glibc's own fork, never a bare clone: the child gets a thread id and a list of robust locks
    //   of its own.
    // * other threads are not there or do no harm, says `MayFork`.
    let pid =
        Errno::result(unsafe { libc::fork() }).map_err(|errno| (Step::Process, errno.into()))?;
    drop(stdout); // in the child as well, where its thread is the same to std
    if pid == 0 {
        mem::forget(blocked); // until `begin`
        return Ok(Forked::Child);
    }
    drop(blocked);
    let pid = pid.cast_unsigned();
    // The child waits for our word, so it is still there.
    let pidfd = Pidfd::open(pid).map_err(|error| {
        pidfd::end_unheld(pid);
        (Step::Process, error)
    })?;
    Ok(Forked::Parent(Started {
        pid,
        pidfd,
        source: StatusSource::Kernel { borrowed_peak: 0 },
    }))
}

/// In the child: waits until the parent holds its pidfd, then does what `setup` says; if the parent
/// wants to know how that went, it is told.
pub(crate) fn begin(line: BorrowedFd<'_>, setup: &Setup, answers: bool) -> io::Result<()> {
    /// What Rust has set up before `main`: it ignores the first, and tells stack overflows by the others.
    // (Handlers of real-time signals stay: who sends those to a copy means them.)
    const RUST: u64 = 1 << libc::SIGPIPE | 1 << libc::SIGSEGV | 1 << libc::SIGBUS;
    note();
    reset_signals(libc::SIGSYS, RUST);
    if !wire::await_go(line)? {
        leave_at_once(1); // the parent is gone
    }
    // SAFETY:
    // * this process was forked just now, and has a descriptor table of its own.
    // * what it does to the standard streams is meant for whoever uses them.
    let done = unsafe { setup.apply(Descriptors::All) };
    let failed = done.is_err();
    if answers {
        setup::tell(line, done)?;
    }
    if failed {
        leave_at_once(1);
    }
    Ok(())
}

/// Ends a forked child: its own exit hooks run and what it wrote is written, but nothing that its
/// parent has registered for its exit.
pub(crate) fn leave(code: i32) -> ! {
    hooks::run_exit_hooks();
    flush();
    leave_at_once(code)
}

/// Whether this process was forked by this library, as others are executed.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Notes that this process was forked.
pub(crate) fn note() {
    FORKED.store(true, Ordering::Relaxed); // before it has a second thread
}

/// Whether this process was forked.
pub(crate) fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

fn leave_at_once(code: i32) -> ! {
    // SAFETY: ends this process.
    unsafe { libc::_exit(code) }
}

/// Writes what this process has buffered for its streams.
pub(crate) fn flush() {
    // A standard output that is closed, or full, is no reason to stop.
    let _ = io::stdout().flush();
    // SAFETY:
    // * null means all of C's output streams.
    unsafe { libc::fflush(ptr::null_mut()) };
}
