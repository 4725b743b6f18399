use std::{io, path::PathBuf, time::Duration};

use super::CompletedProcess;

/// Why running a program did not give what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubprocessError {
    /// The system did not start the program; nothing of it runs.
    #[error("cannot start `{program}`: {source}")]
    Start {
        /// Which program of the pipeline.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program was not started, because its working directory cannot be entered.
    #[error("cannot start `{program}` in {}: {source}", directory.display())]
    Directory {
        /// Which program of the pipeline.
        program: String,
        /// The directory it should have had.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended badly, and [`check`](super::Program::check) had been asked.
    #[error("{0}")]
    #[doc(alias = "CalledProcessError")]
    Failed(Box<CompletedProcess>),
    /// It did not end in time.
    ///
    /// From [`Program::run`](super::Program::run): it is dead now, and so is its process group.
    /// From [`Popen`](super::Popen): it goes on, and what it wrote so far will be told again.
    #[error("`{command}` had not ended after {timeout:?}")]
    #[doc(alias = "TimeoutExpired")]
    TimedOut {
        /// What was run.
        command: String,
        /// How long it had.
        timeout: Duration,
        /// What it had written to its standard output.
        stdout: Vec<u8>,
        /// What it had written to its standard error.
        stderr: Vec<u8>,
    },
    /// It has ended, but other code in this program took its status: `wait(-1)`, or `SIGCHLD` is
    /// ignored. Linux 6.15 and later remembers it, and this does not happen.
    #[error("`{command}` ended, but other code in this program took its exit status")]
    StatusUnknown {
        /// What was run.
        command: String,
        /// What it had written to its standard output.
        stdout: Vec<u8>,
        /// What it had written to its standard error.
        stderr: Vec<u8>,
    },
    /// [`communicate`](super::Popen::communicate) was given more input after a timeout; what it had
    /// before goes on being written.
    #[error("`{command}` has its input already; go on without")]
    InputTwice {
        /// What was run.
        command: String,
    },
    /// The system refused to go on with a program that runs.
    #[error("`{command}`: {source}")]
    Io {
        /// What was run.
        command: String,
        /// What the system said.
        source: io::Error,
    },
}

impl SubprocessError {
    /// The code of a program that [failed](Self::Failed).
    #[must_use]
    pub fn returncode(&self) -> Option<i32> {
        match self {
            Self::Failed(done) => Some(done.returncode()),
            _ => None,
        }
    }

    /// What the program had written to its standard output, as far as it was captured.
    #[must_use]
    #[doc(alias = "output")]
    pub fn stdout(&self) -> &[u8] {
        self.outputs().0
    }

    /// What the program had written to its standard error, as far as it was captured.
    #[must_use]
    pub fn stderr(&self) -> &[u8] {
        self.outputs().1
    }

    fn outputs(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Failed(done) => (&done.stdout, &done.stderr),
            Self::TimedOut { stdout, stderr, .. } | Self::StatusUnknown { stdout, stderr, .. } => {
                (stdout, stderr)
            }
            _ => (&[], &[]),
        }
    }
}
