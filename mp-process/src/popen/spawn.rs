//! `Spawn`: this executable once more, from its beginning. The child's half is [`crate::bootstrap`].
//!
//! A child is born as `posix_spawn` does it: it borrows its parent's memory until it executes, so
//! its start takes as long as the executable needs, however large the parent is. Unlike with
//! `posix_spawn`, the parent has the pidfd before the child's first instruction, and learns which
//! step failed.
#![allow(unsafe_code)] // clone, and what a child may do that shares our memory

use std::{
    ffi::{CStr, c_int, c_void},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    ptr,
};

use nix::{errno::Errno, libc, sys::signal};

use super::{
    Failure, Setup, Started, StatusSource,
    setup::{Descriptors, LINE},
};
use crate::{bootstrap::MP_BOOTSTRAP, error::Step, init::Launch, pidfd::Pidfd};

/// Executes this program again; `line` becomes the child's descriptor 3.
pub(crate) fn start(setup: &Setup, launch: &Launch, line: &OwnedFd) -> Result<Started, Failure> {
    let argv = arguments(launch).map_err(|error| (Step::Exec, error))?;
    let environment = environment().map_err(|error| (Step::Exec, error))?;
    let birth = Birth {
        setup,
        line: line.as_raw_fd(),
        program: launch.program(),
        argv: argv.as_ptr(),
        environment: environment.as_ptr(),
        failure: None,
    };
    clone_and_exec(birth)
}

/// What the child needs, in the memory that it shares with its parent until it executes.
struct Birth<'a> {
    setup: &'a Setup,
    line: RawFd,
    program: &'a CStr,
    argv: *const *const libc::c_char,
    environment: *const *const libc::c_char,
    /// Written by the child, read by the parent once the child is gone.
    failure: Option<(Step, Errno)>,
}

fn clone_and_exec(mut birth: Birth<'_>) -> Result<Started, Failure> {
    /// The child makes a few calls without large buffers; glibc's `posix_spawn` takes as much.
    const STACK: usize = 32 << 10;
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK / size_of::<u128>());
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let mut pidfd: c_int = -1;
    // A handler of ours that ran in the child would write into our memory.
    let blocked = Blocked::all();
    // SAFETY:
    // * `top` is the end of a stack that outlives the child's use of it: CLONE_VFORK returns once
    //   the child has executed or is gone.
    // * `born` only touches `birth`, which nothing else uses meanwhile, and makes system calls.
    // * CLONE_PIDFD writes to `pidfd`.
    let pid = unsafe {
        libc::clone(
            born,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD,
            (&raw mut birth).cast(),
            &raw mut pidfd,
        )
    };
    let made = Errno::result(pid);
    drop(blocked);
    let pid = made.map_err(|errno| (Step::Process, errno.into()))?;
    // SAFETY: the kernel made it for us.
    let pidfd = Pidfd::from(unsafe { OwnedFd::from_raw_fd(pidfd) });
    // SAFETY: the child wrote it, if it did, before this thread went on.
    let failure = unsafe { (&raw const birth.failure).read_volatile() };
    if let Some((step, errno)) = failure {
        pidfd.reap();
        return Err((step, errno.into()));
    }
    Ok(Started {
        pid: pid.unsigned_abs(),
        pidfd,
        source: StatusSource::Kernel { borrowed_peak: 0 },
    })
}

/// The child's life before its program. It may only make system calls.
extern "C" fn born(birth: *mut c_void) -> c_int {
    // SAFETY: `clone_and_exec` passes its `birth`, and waits.
    let birth = unsafe { &mut *birth.cast::<Birth<'_>>() };
    // SAFETY: this is that child, and all signals are blocked.
    let prepared = unsafe { birth.setup.apply(Descriptors::Only(birth.line)) };
    let step = match prepared {
        Err(step) => step,
        Ok(()) => {
            reset_signals(libc::SIGRTMAX(), 0);
            // SAFETY: strings and arrays of them that the parent made and keeps.
            unsafe { libc::execve(birth.program.as_ptr(), birth.argv, birth.environment) };
            Step::Exec
        }
    };
    birth.failure = Some((step, Errno::last()));
    // SAFETY: ends this process without running anything of its parent's.
    unsafe { libc::_exit(127) }
}

/// Default dispositions up to that of signal `last` (also for what the parent ignores, which
/// executing would keep), but for those whose bits are set in `kept`, and an empty mask.
///
/// By the raw calls, which all lie on one page of the C library: a forked child pays for each other
/// page of code that it is the first to touch.
pub(crate) fn reset_signals(last: c_int, kept: u64) {
    /// More than the kernel's `sigaction` has on any machine; all zeros is the default disposition
    /// with an empty mask.
    const DEFAULT: [u64; 8] = [0; 8];
    const MASK_BYTES: usize = size_of::<u64>();
    let (default, empty) = (DEFAULT, 0_u64); // on the stack, which is there
    for number in (1..=last).filter(|number| *number > 63 || kept >> number & 1 == 0) {
        // SAFETY: a disposition that outlives the call; numbers that cannot be set are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                ptr::null_mut::<c_void>(),
                MASK_BYTES,
            )
        };
    }
    // SAFETY: a set that outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            ptr::null_mut::<c_void>(),
            MASK_BYTES,
        )
    };
}

/// While it lives, no signal is delivered to this thread.
pub(crate) struct Blocked(signal::SigSet);

impl Blocked {
    pub(crate) fn all() -> Self {
        let mut before = signal::SigSet::empty();
        let all = signal::SigSet::all();
        let _ = signal::pthread_sigmask(
            signal::SigmaskHow::SIG_SETMASK,
            Some(&all),
            Some(&mut before),
        );
        Self(before)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = signal::pthread_sigmask(signal::SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// The environment of this process, and the mark of a child.
fn environment() -> io::Result<Strings> {
    let mut strings = Strings::default();
    for (name, value) in std::env::vars_os() {
        if name != MP_BOOTSTRAP {
            strings.push(&[name.as_bytes(), b"=", value.as_bytes()])?;
        }
    }
    strings.push(&[MP_BOOTSTRAP.as_bytes(), b"=", LINE.to_string().as_bytes()])?;
    Ok(strings.finish())
}

fn arguments(launch: &Launch) -> io::Result<Strings> {
    let mut strings = Strings::default();
    for argument in launch.arguments() {
        strings.push(&[&argument])?;
    }
    Ok(strings.finish())
}

/// Strings as `execve` takes them: all in one piece of memory, each with a NUL behind it.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    fn push(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let start = self.bytes.len();
        self.starts.push(start);
        parts
            .iter()
            .for_each(|part| self.bytes.extend_from_slice(part));
        if self.bytes[start..].contains(&0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an argument or a variable of the environment has a NUL byte in it",
            ));
        }
        self.bytes.push(0);
        Ok(())
    }

    /// The pointers, now that the bytes will not move any more.
    fn finish(mut self) -> Self {
        let at = |start: &usize| self.bytes[*start..].as_ptr().cast();
        self.pointers = self.starts.iter().map(at).chain([ptr::null()]).collect();
        self
    }

    fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}
