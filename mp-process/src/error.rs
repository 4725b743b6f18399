//! Errors of starting and of joining, and how a process ended.

use std::{fmt, io};

use mp_core::codec::{DecodeError, EncodeError};
use serde::{Deserialize, Serialize};

use crate::target::AddressError;

/// Why a process was not started. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// `init()` was not called, or not where it has to be.
    #[error("{0}")]
    NotInitialized(#[from] NotInitialized),
    /// The function cannot be named to a child.
    #[error("cannot start {name}: {source}")]
    Target {
        /// The process that was to be started.
        name: String,
        /// Why not.
        source: AddressError,
    },
    /// An argument has no encoding.
    #[error("cannot start {name}: an argument does not travel: {source}")]
    Encode {
        /// The process that was to be started.
        name: String,
        /// Why not.
        source: EncodeError,
    },
    /// This process is a daemon; it could not wait for children when it is ended.
    #[error(
        "cannot start {name}: its parent {parent} is a daemon, and daemons have no children; \
         build the parent without `.daemon(true)`"
    )]
    Daemon {
        /// The process that was to be started.
        name: String,
        /// This process.
        parent: String,
    },
    /// This process has other threads, and the start method is `Fork`.
    #[error(
        "cannot start {name} by fork: this process has {threads} threads, and what the others are \
         doing would never be finished in the child; use `StartMethod::Spawn` or `ForkServer`, or \
         start it before the threads"
    )]
    Threads {
        /// The process that was to be started.
        name: String,
        /// How many threads there are.
        threads: u32,
    },
    /// The system refused one step on the way to the new process.
    #[error("cannot start {name}: {step} failed: {source}")]
    System {
        /// The process that was to be started.
        name: String,
        /// What was tried.
        step: Step,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// Whether the child was dead before it was told what to do.
    pub(crate) fn is_of_a_dead_child(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        matches!(self, Self::System { source, .. }
            if matches!(source.kind(), BrokenPipe | ConnectionReset))
    }
}

/// Where `init()` is missing.
///
/// `{:?}` has the text, too: it is among the first errors that one meets, by an `unwrap`.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotInitialized {
    /// Nobody called it.
    #[error(
        "no process can be started yet: call `mp::init()` first in `main`, or put \
         `mp::init_in_tests!();` at the top of the test file"
    )]
    Missing,
    /// It was called, but not by the main thread, whose place a child would take.
    #[error(
        "no process can be started: `mp::init()` was called in a thread, where a child could not \
         begin; call it first in `main`, or in a test put `mp::init_in_tests!();` at the top of \
         the file instead"
    )]
    InThread,
    /// It was called by a library that somebody else's program loaded.
    #[error(
        "no process can be started: `mp::init()` was called in a shared library, but children \
         begin in the main executable; call it there"
    )]
    InSharedLibrary,
}

impl fmt::Debug for NotInitialized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Missing => "Missing",
            Self::InThread => "InThread",
            Self::InSharedLibrary => "InSharedLibrary",
        };
        f.debug_tuple(name).field(&self.to_string()).finish()
    }
}

/// One step of starting a process, for [`StartError::System`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// Making the channel to the child.
    Channel,
    /// Handing over the arguments.
    Arguments,
    /// Preparing its environment variables.
    Environment,
    /// Making the process itself: `clone` or `fork`.
    Process,
    /// Joining its process group.
    ProcessGroup,
    /// Entering its working directory.
    CurrentDir,
    /// Setting a resource limit.
    Limit,
    /// Setting the usable CPUs.
    Affinity,
    /// Setting the nice value.
    Nice,
    /// Arranging its standard streams and descriptors.
    Descriptors,
    /// Executing the program.
    Exec,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Channel => "making its channel",
            Self::Arguments => "handing over its arguments",
            Self::Environment => "preparing its environment",
            Self::Process => "making a process",
            Self::ProcessGroup => "joining its process group",
            Self::CurrentDir => "entering its working directory",
            Self::Limit => "setting a resource limit",
            Self::Affinity => "setting its usable CPUs",
            Self::Nice => "setting its nice value",
            Self::Descriptors => "arranging its descriptors",
            Self::Exec => "executing the program",
        })
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited, with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Other code in this program took the status (`wait(-1)` in a thread, or `SIGCHLD` is
    /// ignored), and this kernel (before Linux 6.15) does not remember it. Or it is told to a forked copy
    /// of the parent.
    Unknown,
}

impl ExitStatus {
    /// Python's convention: the code, or the signal as a negative number.
    #[must_use]
    pub fn exitcode(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(signal) => Some(-signal),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {}", signal_name(*signal)),
            Self::Unknown => f.write_str("a status that other code took"),
        }
    }
}

/// `9 (SIGKILL)`.
fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => format!("{signal} ({known})"),
        Err(_) => signal.to_string(),
    }
}

/// Why a child gave no value. Each tells which child it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExitError {
    /// Its function panicked, or before it the hook of [`init_with`](crate::init_with).
    #[error("process {name} (pid {pid}) panicked{}: {message}", at(location))]
    #[non_exhaustive]
    Panic {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
        /// What the panic said.
        message: String,
        /// `file:line:column`, where it is known.
        location: Option<String>,
        /// The stack, if the child ran with `RUST_BACKTRACE`.
        backtrace: Option<String>,
    },
    /// It exited by itself, without a value.
    #[error("process {name} (pid {pid}) exited with code {code}{}", hint(memory))]
    #[non_exhaustive]
    Code {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
        /// The exit code.
        code: i32,
        /// Its memory limit, if it had one.
        memory: Option<MemoryUse>,
    },
    /// A signal ended it.
    #[error(
        "process {name} (pid {pid}) was ended by signal {}{}",
        signal_name(*signal),
        hint(memory)
    )]
    #[non_exhaustive]
    Signal {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
        /// The number of the signal.
        signal: i32,
        /// Its memory limit, if it had one.
        memory: Option<MemoryUse>,
    },
    /// It ended without a value, and nobody can tell how.
    #[error(
        "process {name} (pid {pid}) ended, but other code in this program took its exit status \
         (`wait(-1)` in a thread, or SIGCHLD is ignored)"
    )]
    #[non_exhaustive]
    Unknown {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
    },
    /// The value it returned has no encoding.
    #[error("process {name} (pid {pid}) could not return its value: {reason}")]
    #[non_exhaustive]
    Encode {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
        /// Why not.
        reason: String,
    },
    /// What it returned could not be decoded. (If that is so of what it was given, it did not begin:
    /// [`Bootstrap`](Self::Bootstrap).)
    #[error("the value of process {name} (pid {pid}) is not understood: {source}")]
    #[non_exhaustive]
    Decode {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
        /// Why not.
        source: DecodeError,
    },
    /// It never ran its function: its start failed in the child.
    #[error("process {name} (pid {pid}) did not begin: {reason}")]
    #[non_exhaustive]
    Bootstrap {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
        /// Why not.
        reason: String,
    },
    /// The system refused to tell.
    #[error("cannot wait for process {name} (pid {pid}): {source}")]
    #[non_exhaustive]
    System {
        /// Its name.
        name: String,
        /// Its pid.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
}

fn at(location: &Option<String>) -> String {
    location
        .as_ref()
        .map_or_else(String::new, |location| format!(" at {location}"))
}

fn hint(memory: &Option<MemoryUse>) -> String {
    match memory {
        Some(memory) if memory.is_probable_cause() => format!(
            ", probably by its memory limit ({} of {} MiB used)",
            memory.peak >> 20,
            memory.limit >> 20
        ),
        _ => String::new(),
    }
}

/// The memory limit of a process, and what it had used of it when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// The limit in bytes.
    pub limit: u64,
    /// The most that it had resident, in bytes; 0 where that is not known.
    ///
    /// The kernel tells it of a child that was [spawned](crate::StartMethod::Spawn) only if it is more
    /// than the process that started it ever had.
    pub peak: u64,
}

impl MemoryUse {
    pub(crate) fn new(limit: u64, peak: u64) -> Self {
        Self { limit, peak }
    }

    /// Whether the limit is the likely reason of a bad end: nine tenths of it had been used.
    #[must_use]
    pub fn is_probable_cause(&self) -> bool {
        self.peak >= self.limit / 10 * 9
    }
}

impl ExitError {
    /// The name of the child.
    #[must_use]
    pub fn name(&self) -> &str {
        self.who().0
    }

    /// The pid of the child; it may be another process's by now.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.who().1
    }

    fn who(&self) -> (&str, u32) {
        match self {
            Self::Panic { name, pid, .. }
            | Self::Code { name, pid, .. }
            | Self::Signal { name, pid, .. }
            | Self::Unknown { name, pid }
            | Self::Encode { name, pid, .. }
            | Self::Decode { name, pid, .. }
            | Self::Bootstrap { name, pid, .. }
            | Self::System { name, pid, .. } => (name, *pid),
        }
    }
}
