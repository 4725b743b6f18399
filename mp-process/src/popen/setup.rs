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
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
    ptr,
};

use mp_core::{codec, fd};
use nix::{errno::Errno, libc};
use serde::{Deserialize, Serialize};

use super::Failure;
use crate::{
    error::Step,
    options::{Options, Stdio},
    pidfd::Pidfd,
    wire::{self, Message},
};

/// The descriptor at which a child finds its end of the bootstrap socket.
pub(crate) const LINE: RawFd = 3;

/// What a child is to do to itself, as it travels to one that is there already.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Standard input, output and error.
    streams: [Stream; 3],
    pub(crate) current_dir: Option<PathBuf>,
    limits: Vec<(libc::__rlimit_resource_t, u64, u64)>,
    affinity: Option<Vec<usize>>,
    nice: Option<libc::c_int>,
    process_group: Option<libc::pid_t>,
    /// What the streams are, as many as are passed.
    #[serde(skip)]
    passed: Vec<OwnedFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stream {
    /// What is there.
    Kept,
    Null,
    /// The next of the passed descriptors.
    Passed,
}

/// What a child does to itself.
pub(crate) struct Setup {
    /// Standard input, output and error: what to put there, or leave what is there.
    stdio: [Option<Source>; 3],
    current_dir: Option<CString>,
    limits: Vec<(libc::__rlimit_resource_t, libc::rlimit)>,
    affinity: Option<libc::cpu_set_t>,
    nice: Option<libc::c_int>,
    process_group: Option<libc::pid_t>,
}

enum Source {
    Null,
    Fd(OwnedFd),
}

/// Which descriptors a child keeps, beside its standard streams.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Descriptors {
    /// All that it has.
    All,
    /// This one, which becomes [`LINE`].
    Only(RawFd),
}

impl Orders {
    /// What `options` say; if the standard output `is_hidden`, the child puts the right one back in
    /// its bootstrap.
    pub(crate) fn new(options: &Options, is_hidden: bool) -> Result<Self, Failure> {
        let mut passed = Vec::new();
        let mut streams = [Stream::Kept; 3];
        for (stream, wanted) in streams.iter_mut().zip(&options.stdio) {
            *stream = match wanted {
                Stdio::Inherit => Stream::Kept,
                Stdio::Null => Stream::Null,
                Stdio::Fd(file) => {
                    let copy = file.as_fd().try_clone_to_owned();
                    passed.push(copy.map_err(|error| (Step::Descriptors, fd::explain(error)))?);
                    Stream::Passed
                }
            };
        }
        if is_hidden {
            if streams[1] == Stream::Passed {
                passed.remove(usize::from(streams[0] == Stream::Passed));
            }
            streams[1] = Stream::Null;
        }
        let limits = options.limits.iter();
        Ok(Self {
            streams,
            current_dir: options.current_dir.clone(),
            limits: limits
                .map(|(resource, limit)| (*resource, limit.rlim_cur, limit.rlim_max))
                .collect(),
            affinity: options.affinity.clone(),
            nice: options.nice,
            process_group: options.process_group,
            passed,
        })
    }

    /// Whether they ask for no more than every child gets: no input, and the outputs as they are.
    pub(crate) fn is_plain(&self) -> bool {
        let Self {
            streams,
            current_dir,
            limits,
            affinity,
            nice,
            process_group,
            passed: _,
        } = self;
        *streams == [Stream::Null, Stream::Kept, Stream::Kept]
            && current_dir.is_none()
            && limits.is_empty()
            && affinity.is_none()
            && nice.is_none()
            && process_group.is_none()
    }

    /// For a child that is not born of this process: its input, if it is to be this process's own,
    /// is passed. Nothing changes if this process has none.
    pub(crate) fn pass_stdin(&mut self) -> Result<(), Failure> {
        if self.streams[0] != Stream::Kept {
            return Ok(());
        }
        match io::stdin().as_fd().try_clone_to_owned() {
            Ok(copy) => {
                self.passed.insert(0, copy);
                self.streams[0] = Stream::Passed;
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(()),
            Err(error) => Err((Step::Descriptors, fd::explain(error))),
        }
    }

    /// For a child whose standard output is hidden already.
    pub(crate) fn keep_stdout(&mut self) {
        self.streams[1] = Stream::Kept;
    }

    /// Has the child at the other end of `line` carry them out, which waits for them there. One
    /// that waits has no input already.
    pub(crate) fn carry_out(&self, line: BorrowedFd<'_>, pidfd: &Pidfd) -> Result<(), Failure> {
        if self.is_plain() {
            return Ok(());
        }
        let sent = codec::with_buffer(|body| {
            codec::encode_into(self, body).map_err(io::Error::other)?;
            let fds: Vec<_> = self.passed.iter().map(AsFd::as_fd).collect();
            wire::send(line, wire::ORDERS, body, &fds)
        });
        sent.map_err(|error| (Step::Channel, error))?;
        answer(line, pidfd)
    }

    /// The other side of [`carry_out`](Self::carry_out), in the child.
    pub(crate) fn receive(message: Message) -> io::Result<Self> {
        let mut orders: Self = codec::decode(&message.body).map_err(io::Error::other)?;
        orders.passed = message.fds;
        Ok(orders)
    }
}

/// Waits for what a child says of its setup.
pub(crate) fn answer(line: BorrowedFd<'_>, pidfd: &Pidfd) -> Result<(), Failure> {
    let failed = |error| (Step::Process, error);
    let readable = |fd: BorrowedFd<'_>| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    fd::poll(&mut [readable(line), readable(pidfd.as_fd())], None).map_err(failed)?;
    let message = wire::receive(line, wire::ANSWER).map_err(failed)?;
    let Some(message) = message else {
        return Err(failed(io::Error::other("it ended before it began")));
    };
    match codec::decode::<Answer>(&message.body) {
        Ok(None) => Ok(()),
        Ok(Some((step, errno))) => Err((step, fd::explain(io::Error::from_raw_os_error(errno)))),
        Err(error) => Err(failed(io::Error::other(error))),
    }
}

/// The step that failed in the child, and its `errno`.
type Answer = Option<(Step, i32)>;

/// Tells the parent how its orders were carried out.
pub(crate) fn tell(line: BorrowedFd<'_>, result: Result<(), Step>) -> io::Result<()> {
    let answer: Answer = result.err().map(|step| (step, Errno::last_raw()));
    let mut body = Vec::new();
    codec::encode_into(&answer, &mut body).map_err(io::Error::other)?;
    wire::send(line, wire::ANSWER, &body, &[])
}

impl TryFrom<Orders> for Setup {
    type Error = Failure;

    fn try_from(orders: Orders) -> Result<Self, Failure> {
        let Orders {
            streams,
            current_dir,
            limits,
            affinity,
            nice,
            process_group,
            passed,
        } = orders;
        let current_dir = current_dir
            .map(|dir| CString::new(dir.into_os_string().into_vec()))
            .transpose()
            .map_err(|error| (Step::CurrentDir, io::Error::from(error)))?;
        let mut passed = passed.into_iter();
        let limits = limits
            .into_iter()
            .map(|(resource, rlim_cur, rlim_max)| (resource, libc::rlimit { rlim_cur, rlim_max }));
        Ok(Self {
            stdio: streams.map(|stream| match stream {
                Stream::Kept => None,
                Stream::Null => Some(Source::Null),
                Stream::Passed => passed.next().map(Source::Fd),
            }),
            current_dir,
            limits: limits.collect(),
            affinity: affinity.as_deref().map(cpu_set).transpose()?,
            nice,
            process_group,
        })
    }
}

impl Setup {
    /// Makes the calling process what its parent asked for; only system calls.
    ///
    /// On failure the step, and `errno` says why.
    ///
    /// # Safety
    ///
    /// * Called in a child that has a descriptor table of its own, and owns all that is in it.
    /// * All signals are blocked, if it shares memory with its parent.
    pub(crate) unsafe fn apply(&self, descriptors: Descriptors) -> Result<(), Step> {
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
        match descriptors {
            Descriptors::All => self.arrange_streams()?,
            Descriptors::Only(line) => self.arrange_descriptors(line)?,
        }
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
        self.arrange_streams()?;
        keep_only(line)
    }

    fn arrange_streams(&self) -> Result<(), Step> {
        let mut sources = [None; 3];
        for (source, wanted) in sources.iter_mut().zip(&self.stdio) {
            *source = match wanted {
                None => None,
                Some(Source::Fd(fd)) => Some(above_stdio(fd.as_raw_fd())?),
                Some(Source::Null) => {
                    let fd = open_null();
                    check(fd, Step::Descriptors)?;
                    Some(above_stdio(fd)?)
                }
            };
        }
        for (target, source) in (0..).zip(sources) {
            if let Some(source) = source {
                check(replace(source, target), Step::Descriptors)?;
            }
        }
        Ok(())
    }
}

/// `open("/dev/null")`, as a raw call for the sake of [forked children](super::spawn::reset_signals).
fn open_null() -> libc::c_int {
    let flags = libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: a string that ends in NUL.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat,
            libc::AT_FDCWD,
            c"/dev/null".as_ptr(),
            flags,
        )
    };
    fd as libc::c_int
}

/// `dup2(source, target)` of two that differ, as a raw call for the same reason.
fn replace(source: RawFd, target: RawFd) -> libc::c_int {
    // SAFETY: integers.
    unsafe { libc::syscall(libc::SYS_dup3, source, target, 0) as libc::c_int }
}

/// Makes `line` descriptor [`LINE`], and closes all that this process has but that and its standard
/// streams. Only system calls; whoever owned what is closed must not touch it any more.
pub(crate) fn keep_only(line: RawFd) -> Result<(), Step> {
    if line != LINE {
        // SAFETY: two integers.
        check(unsafe { libc::dup2(line, LINE) }, Step::Descriptors)?;
    }
    // SAFETY: closes what this process inherited and nobody in it knows.
    let result = unsafe { libc::syscall(libc::SYS_close_range, LINE + 1, u32::MAX, 0) };
    check(result as libc::c_int, Step::Descriptors)
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

/// Sets the name of the thread, and so of the process, in `ps` and `/proc`.
pub(crate) fn set_name(name: &str) {
    /// As the kernel has it, with a NUL at the end.
    const LEN: usize = 16;
    let mut text = [0_u8; LEN];
    for (to, from) in text[..LEN - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: a text that ends in NUL and outlives the call. Raw for the sake of forked children.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, text.as_ptr()) };
}

fn check(result: libc::c_int, step: Step) -> Result<(), Step> {
    if result < 0 { Err(step) } else { Ok(()) }
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
