//! What a process is started with.

use std::{ffi::OsString, fmt, fs::File, io, os::fd::OwnedFd, path::PathBuf};

use mp_core::{authkey, codec::Bytes};
use nix::libc;
use std::os::unix::ffi::OsStrExt;

use crate::{
    bootstrap::{Identity, TravellingKey},
    current::Current,
    log,
    start_method::StartMethod,
};

/// What one of a child's standard streams is.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stdio {
    /// `/dev/null`: nothing to read, and what is written is lost.
    Null,
    /// The stream of this process.
    Inherit,
    /// This file, pipe or socket.
    Fd(File),
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Self::Fd(file)
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd.into())
    }
}

impl From<std::io::PipeReader> for Stdio {
    fn from(pipe: std::io::PipeReader) -> Self {
        OwnedFd::from(pipe).into()
    }
}

impl From<std::io::PipeWriter> for Stdio {
    fn from(pipe: std::io::PipeWriter) -> Self {
        OwnedFd::from(pipe).into()
    }
}

/// A resource that can be limited, for [`Process::limit`](crate::Process::limit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Memory of its own in bytes: heap, stacks of threads and private mappings (`RLIMIT_DATA`).
    /// Shared memory does not count.
    Memory,
    /// Seconds of CPU time: SIGXCPU ends it then (`RLIMIT_CPU`).
    CpuTime,
    /// Open descriptors (`RLIMIT_NOFILE`).
    OpenFiles,
    /// Size of files that it writes, in bytes (`RLIMIT_FSIZE`).
    FileSize,
    /// Size of a core dump in bytes (`RLIMIT_CORE`).
    CoreSize,
    /// Stack of the main thread, in bytes (`RLIMIT_STACK`).
    Stack,
    /// Processes and threads of its user (`RLIMIT_NPROC`).
    Processes,
}

impl Limit {
    fn resource(self) -> libc::__rlimit_resource_t {
        match self {
            Self::Memory => libc::RLIMIT_DATA,
            Self::CpuTime => libc::RLIMIT_CPU,
            Self::OpenFiles => libc::RLIMIT_NOFILE,
            Self::FileSize => libc::RLIMIT_FSIZE,
            Self::CoreSize => libc::RLIMIT_CORE,
            Self::Stack => libc::RLIMIT_STACK,
            Self::Processes => libc::RLIMIT_NPROC,
        }
    }
}

/// Everything that the builder collects.
pub(crate) struct Options {
    pub(crate) name: String,
    /// The number of this child, and those of its parents before it.
    pub(crate) path: Vec<u32>,
    pub(crate) daemon: bool,
    pub(crate) end_with_parent: bool,
    pub(crate) quiet_panics: bool,
    pub(crate) start_method: Option<StartMethod>,
    pub(crate) clear_environment: bool,
    pub(crate) environment: Vec<(OsString, Option<OsString>)>,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) stdio: [Stdio; 3],
    pub(crate) limits: Vec<(libc::__rlimit_resource_t, libc::rlimit)>,
    pub(crate) affinity: Option<Vec<usize>>,
    pub(crate) nice: Option<libc::c_int>,
    pub(crate) process_group: Option<libc::pid_t>,
}

impl Options {
    /// The next child of `parent`, named after `kind`.
    pub(crate) fn new(kind: &str, parent: &Current) -> Self {
        let path = parent.next_child();
        let numbers: Vec<_> = path.iter().map(ToString::to_string).collect();
        Self {
            path,
            ..Self::plain(&format!("{kind}-{}", numbers.join(":")))
        }
    }

    /// What a child has of which nothing is said but the name.
    pub(crate) fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: Vec::new(),
            daemon: false,
            end_with_parent: false,
            quiet_panics: false,
            start_method: None,
            clear_environment: false,
            environment: Vec::new(),
            current_dir: None,
            stdio: [Stdio::Null, Stdio::Inherit, Stdio::Inherit],
            limits: Vec::new(),
            affinity: None,
            nice: None,
            process_group: None,
        }
    }

    pub(crate) fn limit(&mut self, limit: Limit, value: u64) {
        let limit = (
            limit.resource(),
            libc::rlimit {
                rlim_cur: value,
                rlim_max: value,
            },
        );
        self.limits.push(limit);
    }

    pub(crate) fn memory_limit(&self) -> Option<u64> {
        let is_memory = |(resource, _): &&(libc::__rlimit_resource_t, libc::rlimit)| {
            *resource == libc::RLIMIT_DATA
        };
        self.limits
            .iter()
            .rfind(is_memory)
            .map(|(_, limit)| limit.rlim_cur)
    }

    /// Whether a process can have the environment: std panics at names and values that none can have.
    pub(crate) fn check_environment(&self) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        for (name, value) in &self.environment {
            if name.is_empty() || name.as_bytes().iter().any(|byte| b"=\0".contains(byte)) {
                return Err(invalid(format!(
                    "{name:?} cannot be the name of an environment variable"
                )));
            }
            if value
                .as_ref()
                .is_some_and(|value| value.as_bytes().contains(&0))
            {
                return Err(invalid(format!(
                    "the environment variable {name:?} cannot have a NUL byte in its value"
                )));
            }
        }
        Ok(())
    }

    /// What the child is told about itself.
    pub(crate) fn identity(&self, parent: &Current, start_method: StartMethod) -> Identity {
        let bytes = |text: &OsString| Bytes::from(text.as_bytes());
        Identity {
            name: self.name.clone(),
            path: self.path.clone(),
            daemon: self.daemon,
            end_with_parent: self.daemon || self.end_with_parent,
            quiet_panics: self.quiet_panics,
            start_method,
            parent_name: parent.name().to_owned(),
            parent_pid: parent.pid(),
            authkey: TravellingKey(authkey::current()),
            log_level: log::stored(),
            clear_environment: self.clear_environment,
            environment: self
                .environment
                .iter()
                .map(|(name, value)| (bytes(name), value.as_ref().map(bytes)))
                .collect(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("daemon", &self.daemon)
            .finish_non_exhaustive()
    }
}
