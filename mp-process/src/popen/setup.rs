//! What a new process does to itself between its birth and its first own instruction.
//!
//! Everything is prepared here, in the parent; [`Setup::apply`] then only makes system calls, for
//! it runs where nothing else is allowed: in a child that shares its parent's memory, or is a copy
//! of a process whose other threads are gone.
#![allow(unsafe_code)] // system calls only, by their plain C interface

use std::{
    ffi::CString,
    io,
    mem::{size_of, zeroed},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    ptr,
};

use mp_core::fd;
use nix::libc;

use super::Failure;
use crate::{
    error::Step,
    init::Launch,
    options::{Options, Stdio},
};

/// The descriptor at which a child finds its end of the bootstrap socket.
pub(crate) const LINE: RawFd = 3;

/// What a child does to itself.
pub(crate) struct Setup {
    /// Standard input, output and error: what to put there, or leave what is there.
    stdio: [Option<Source>; 3],
    current_dir: Option<CString>,
    limits: Vec<(libc::__rlimit_resource_t, libc::rlimit)>,
    affinity: Option<libc::cpu_set_t>,
    nice: Option<libc::c_int>,
    process_group: Option<libc::pid_t>,
    pub(crate) launch: Launch,
}

enum Source {
    Null,
    Fd(OwnedFd),
}

impl Setup {
    pub(crate) fn new(options: &Options, launch: &Launch) -> Result<Self, Failure> {
        let current_dir = options
            .current_dir
            .as_ref()
            .map(|dir| CString::new(dir.as_os_str().as_bytes()))
            .transpose()
            .map_err(|error| (Step::CurrentDir, io::Error::from(error)))?;
        let [stdin, stdout, stderr] = &options.stdio;
        let mut stdio = [source(stdin)?, source(stdout)?, source(stderr)?];
        if launch.hides_stdout() {
            stdio[1] = Some(Source::Null); // the child puts the right one back in its bootstrap
        }
        Ok(Self {
            stdio,
            current_dir,
            limits: options.limits.clone(),
            affinity: options.affinity.as_deref().map(cpu_set).transpose()?,
            nice: options.nice,
            process_group: options.process_group,
            launch: launch.clone(),
        })
    }

    /// Makes the calling process what its parent asked for; only system calls.
    ///
    /// Afterwards it has descriptors 0 to 2, `line` as descriptor [`LINE`], and no others. On
    /// failure the step, and `errno` says why.
    ///
    /// # Safety
    ///
    /// * Called in a child that has a descriptor table of its own, and owns all that is in it.
    /// * All signals are blocked, if it shares memory with its parent.
    pub(crate) unsafe fn apply(&self, line: RawFd) -> Result<(), Step> {
        if let Some(group) = self.process_group {
            // SAFETY: two integers.
            check(unsafe { libc::setpgid(0, group) }, Step::ProcessGroup)?;
        }
        if let Some(dir) = &self.current_dir {
            // SAFETY: a string that ends in NUL and outlives the call.
            check(unsafe { libc::chdir(dir.as_ptr()) }, Step::CurrentDir)?;
        }
        if let Some(cpus) = &self.affinity {
            // SAFETY: a set of the size that is given.
            let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) };
            check(result, Step::Affinity)?;
        }
        if let Some(nice) = self.nice {
            // SAFETY: three integers.
            let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
            check(result, Step::Nice)?;
        }
        self.arrange_descriptors(line)?;
        for (resource, limit) in &self.limits {
            // SAFETY: a limit that outlives the call; the old one is not asked for.
            let result = unsafe { libc::prlimit(0, *resource, limit, ptr::null_mut()) };
            check(result, Step::Limit)?;
        }
        Ok(())
    }

    fn arrange_descriptors(&self, line: RawFd) -> Result<(), Step> {
        // First out of the way of the numbers that are written below.
        let line = above_stdio(line)?;
        let mut sources = [None; 3];
        for (source, wanted) in sources.iter_mut().zip(&self.stdio) {
            *source = match wanted {
                None => None,
                Some(Source::Fd(fd)) => Some(above_stdio(fd.as_raw_fd())?),
                Some(Source::Null) => {
                    // SAFETY: a string that ends in NUL.
                    let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
                    check(fd, Step::Descriptors)?;
                    Some(above_stdio(fd)?)
                }
            };
        }
        for (target, source) in (0..).zip(sources) {
            if let Some(source) = source {
                // SAFETY: two integers.
                check(unsafe { libc::dup2(source, target) }, Step::Descriptors)?;
            }
        }
        // SAFETY: two integers.
        check(unsafe { libc::dup2(line, LINE) }, Step::Descriptors)?;
        // SAFETY: closes what this process inherited and nobody in it knows.
        let result = unsafe { libc::syscall(libc::SYS_close_range, LINE + 1, u32::MAX, 0) };
        check(result as libc::c_int, Step::Descriptors)
    }
}

/// `fd`, or a duplicate of it that is larger than all the numbers that children are given.
fn above_stdio(fd: RawFd) -> Result<RawFd, Step> {
    if fd > LINE {
        return Ok(fd);
    }
    // SAFETY: integers.
    let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, LINE + 1) };
    check(fd, Step::Descriptors).map(|()| fd)
}

fn check(result: libc::c_int, step: Step) -> Result<(), Step> {
    if result < 0 { Err(step) } else { Ok(()) }
}

fn source(stdio: &Stdio) -> Result<Option<Source>, Failure> {
    match stdio {
        Stdio::Inherit => Ok(None),
        Stdio::Null => Ok(Some(Source::Null)),
        Stdio::Fd(file) => match file.try_clone() {
            Ok(file) => Ok(Some(Source::Fd(file.into()))),
            Err(error) => Err((Step::Descriptors, fd::explain(error))),
        },
    }
}

fn cpu_set(cpus: &[usize]) -> Result<libc::cpu_set_t, Failure> {
    // SAFETY: the empty set is all zeros.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    for &cpu in cpus {
        if cpu >= 8 * size_of::<libc::cpu_set_t>() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, format!("no CPU {cpu}"));
            return Err((Step::Affinity, error));
        }
        // SAFETY: the number is in range, as just checked.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    Ok(set)
}
