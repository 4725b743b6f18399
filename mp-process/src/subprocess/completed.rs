use std::{borrow::Cow, fmt, os::unix::process::ExitStatusExt, process::ExitStatus};

use super::SubprocessError;

/// A program, or a pipeline of them, that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedProcess {
    /// What was run, as one would type it.
    pub command: String,
    /// How each program of the pipeline ended, in its order; one for a single program.
    pub statuses: Vec<ExitStatus>,
    /// What was written to the standard output, if that was a pipe.
    pub stdout: Vec<u8>,
    /// What was written to the standard error of all its programs, if that was a pipe.
    pub stderr: Vec<u8>,
}

impl CompletedProcess {
    /// How the program ended; of a pipeline, the last program that failed, or else the last.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        let last = self.statuses.len().saturating_sub(1);
        let failed = (0..=last).rev().find(|&stage| self.failed(stage));
        self.statuses
            .get(failed.unwrap_or(last))
            .copied()
            .unwrap_or_default()
    }

    /// The exit code of [`status`](Self::status); −N if signal N ended it.
    #[must_use]
    pub fn returncode(&self) -> i32 {
        returncode(self.status())
    }

    /// Whether it ended well, and all programs of a pipeline did.
    ///
    /// A program whose reader had enough, and which `SIGPIPE` ended for that, did well.
    #[must_use]
    pub fn success(&self) -> bool {
        (0..self.statuses.len()).all(|stage| !self.failed(stage))
    }

    /// Itself, if it ended well.
    ///
    /// # Errors
    ///
    /// [`SubprocessError::Failed`] with all of it, if not.
    #[doc(alias = "check_returncode")]
    pub fn check(self) -> Result<Self, SubprocessError> {
        if self.success() {
            Ok(self)
        } else {
            Err(SubprocessError::Failed(Box::new(self)))
        }
    }

    /// The standard output as text; what is not UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn stdout_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// The standard error as text; what is not UTF-8 becomes U+FFFD.
    #[must_use]
    pub fn stderr_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }

    fn failed(&self, stage: usize) -> bool {
        let status = self.statuses[stage];
        let has_reader = stage + 1 < self.statuses.len();
        let reader_had_enough = has_reader && status.signal() == Some(nix::libc::SIGPIPE);
        !status.success() && !reader_had_enough
    }
}

/// "`grep x` exited with code 1: no such file", as errors tell it.
impl fmt::Display for CompletedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        match (status.code(), status.signal()) {
            (Some(code), _) => write!(f, "`{}` exited with code {code}", self.command)?,
            (None, Some(signal)) => {
                let name = nix::sys::signal::Signal::try_from(signal);
                let name = name.map_or("a real-time signal", |name| name.as_str());
                write!(
                    f,
                    "`{}` was ended by signal {signal} ({name})",
                    self.command
                )?;
            }
            (None, None) => write!(f, "`{}` ended with {status}", self.command)?,
        }
        match self.stderr_text().trim_end().lines().last() {
            Some(line) => write!(f, ": {line}"),
            None => Ok(()),
        }
    }
}

/// Python's one number for both ways to end.
pub(super) fn returncode(status: ExitStatus) -> i32 {
    status
        .code()
        .or(status.signal().map(|signal| -signal))
        .unwrap_or(-1)
}
