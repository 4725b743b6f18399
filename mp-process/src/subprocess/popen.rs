use std::{
    io::{self, PipeReader, PipeWriter},
    process::ExitStatus,
    time::Duration,
};

use mp_core::deadline::Deadline;
use nix::sys::signal::Signal;

use super::{
    CompletedProcess, SubprocessError,
    child::Child,
    completed::returncode,
    exchange::{CHUNK, Exchange, Streams},
};

/// What a pipe holds at most, unless an administrator says otherwise: `fs.pipe-max-size`.
const FULL_PIPE: usize = 1024 * 1024;

/// A program, or a pipeline of them, that was started.
///
/// The pipes asked for are in [`stdin`](Self::stdin), [`stdout`](Self::stdout) and
/// [`stderr`](Self::stderr): take one to use it by hand, or leave all to
/// [`communicate`](Self::communicate).
///
/// Dropping it closes the pipes; the program goes on, and is reaped when the next one is started.
///
/// # Examples
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
///
/// use mp_process::subprocess::{Program, Redirect};
///
/// let mut cat = Program::new("cat").stdin(Redirect::Pipe).stdout(Redirect::Pipe).start()?;
/// cat.stdin.as_mut().expect("asked for").write_all(b"hello\n")?;
/// let mut line = String::new();
/// BufReader::new(cat.stdout.take().expect("asked for")).read_line(&mut line)?;
/// assert_eq!(line, "hello\n");
/// assert!(cat.wait()?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Popen {
    /// Our end of the first program's standard input, if that is a pipe.
    pub stdin: Option<PipeWriter>,
    /// Our end of the last program's standard output, if that is a pipe.
    pub stdout: Option<PipeReader>,
    /// Our end of the programs' standard error, if that is a pipe.
    pub stderr: Option<PipeReader>,
    command: String,
    children: Vec<Child>,
    exchange: Exchange,
}

impl Popen {
    pub(super) fn new(command: String) -> Self {
        Self {
            stdin: None,
            stdout: None,
            stderr: None,
            command,
            children: Vec::new(),
            exchange: Exchange::default(),
        }
    }

    pub(super) fn push(&mut self, child: Child) {
        self.children.push(child);
    }

    pub(super) fn set_input(&mut self, input: Vec<u8>) {
        self.exchange.set_input(input);
    }

    /// What was started, as one would type it.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The process id; of a pipeline, that of its last program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.children.last().map_or(0, Child::id)
    }

    /// The process ids of a pipeline's programs, in its order.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// The code as far as it is known here, −N if signal N ended the program. `None` until
    /// [`poll`](Self::poll), [`wait`](Self::wait) or [`communicate`](Self::communicate) saw it end.
    #[must_use]
    pub fn returncode(&self) -> Option<i32> {
        self.children.last()?.ended()?.map(returncode)
    }

    /// How the program ended, of a pipeline the last; `None` while one of them runs.
    ///
    /// # Errors
    ///
    /// [`SubprocessError::StatusUnknown`] if other code in this program took its status.
    #[doc(alias = "try_wait")]
    pub fn poll(&mut self) -> Result<Option<ExitStatus>, SubprocessError> {
        let ended = self.wait_until(Some(Deadline::now()))?;
        ended.then(|| self.last_status()).transpose()
    }

    /// Waits for the end, and closes [`stdin`](Self::stdin) before, for programs that read to its end.
    ///
    /// A program that fills a pipe that nobody reads never ends: see
    /// [`communicate`](Self::communicate).
    ///
    /// # Errors
    ///
    /// [`SubprocessError::StatusUnknown`] if other code in this program took its status.
    pub fn wait(&mut self) -> Result<ExitStatus, SubprocessError> {
        self.stdin = None;
        self.wait_until(None)?;
        self.last_status()
    }

    /// Waits at most `timeout` for the end; the pipes stay as they are.
    ///
    /// # Errors
    ///
    /// [`SubprocessError::TimedOut`] if it still runs then; otherwise as [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<ExitStatus, SubprocessError> {
        if self.wait_until(Some(Deadline::after(timeout)))? {
            self.last_status()
        } else {
            Err(self.timed_out(timeout))
        }
    }

    /// Writes `input`, reads both outputs to their ends, and waits for the end, all at once.
    ///
    /// With a timeout it may be called again after [`SubprocessError::TimedOut`], with empty input:
    /// what is left of the first is written, and what was read before is not lost. Or go on by hand: the
    /// pipes that have not ended are there as before.
    ///
    /// The outputs end when nobody holds their pipes any more: a program that leaves another one
    /// behind is waited for until that closes them.
    ///
    /// # Errors
    ///
    /// [`SubprocessError::TimedOut`] with the outputs so far; [`SubprocessError::InputTwice`];
    /// [`SubprocessError::StatusUnknown`] with the outputs.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mp_process::subprocess::{Program, Redirect, SubprocessError};
    ///
    /// let mut slow = Program::shell("read line; sleep 0.5; echo got $line")
    ///     .stdin(Redirect::Pipe)
    ///     .stdout(Redirect::Pipe)
    ///     .start()?;
    /// let first = slow.communicate("one\n", Some(Duration::ZERO));
    /// assert!(matches!(first, Err(SubprocessError::TimedOut { .. })));
    /// assert_eq!(slow.communicate("", None)?.stdout, b"got one\n");
    /// # Ok::<(), SubprocessError>(())
    /// ```
    pub fn communicate(
        &mut self,
        input: impl Into<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Result<CompletedProcess, SubprocessError> {
        let (input, until) = (input.into(), Deadline::from_timeout(timeout));
        if !input.is_empty() {
            if self.exchange.has_input() {
                return Err(SubprocessError::InputTwice {
                    command: self.command.clone(),
                });
            }
            self.exchange.set_input(input);
        }
        let Self {
            stdin,
            stdout,
            stderr,
            exchange,
            ..
        } = self;
        let streams = &mut Streams {
            stdin,
            stdout,
            stderr,
        };
        let done = exchange.run(streams, until);
        if done.map_err(|source| self.io(source))? && self.wait_until(until)? {
            self.completed()
        } else {
            Err(self.timed_out(timeout.unwrap_or_default()))
        }
    }

    /// Sends a signal to the program; of a pipeline, to each. One that has ended gets none.
    ///
    /// If it was started in a [group of its own](super::Program::own_group), the whole group gets
    /// it, also what the program has started and left behind.
    ///
    /// # Errors
    ///
    /// `EPERM`, if the program is another user's now.
    pub fn send_signal(&self, signal: Signal) -> Result<(), SubprocessError> {
        let group = self.children.first().filter(|first| first.leads_group());
        let sent = match group {
            Some(leader) => leader.signal(signal),
            None => self
                .children
                .iter()
                .try_for_each(|child| child.signal(signal)),
        };
        sent.map_err(|source| self.io(source))
    }

    /// Asks the program to end: SIGTERM.
    ///
    /// # Errors
    ///
    /// As [`send_signal`](Self::send_signal).
    pub fn terminate(&self) -> Result<(), SubprocessError> {
        self.send_signal(Signal::SIGTERM)
    }

    /// Ends the program: SIGKILL.
    ///
    /// # Errors
    ///
    /// As [`send_signal`](Self::send_signal).
    pub fn kill(&self) -> Result<(), SubprocessError> {
        self.send_signal(Signal::SIGKILL)?;
        // Again by itself each, because a program may have left the group; twice does no harm.
        let killed = self
            .children
            .iter()
            .try_for_each(|child| child.signal_alone(Signal::SIGKILL));
        killed.map_err(|source| self.io(source))
    }

    /// Kills everything, takes what is still in the pipes, and tells that it took too long.
    ///
    /// Whoever left the group and holds a pipe open does not delay this.
    pub(super) fn kill_for(mut self, timeout: Duration) -> SubprocessError {
        let killed = self.kill().and_then(|()| self.wait_until(None));
        if let Err(error) = killed {
            return error;
        }
        let Self {
            stdout,
            stderr,
            exchange,
            ..
        } = &mut self;
        let streams = &mut Streams {
            stdin: &mut None,
            stdout,
            stderr,
        };
        if streams.set_blocking(false).is_ok() {
            // As much as a pipe holds, and not for ever, should somebody outside the group go on writing.
            for _ in 0..FULL_PIPE / CHUNK {
                if !matches!(exchange.step(streams), Ok(true)) {
                    break;
                }
            }
        }
        self.timed_out(timeout)
    }

    /// Kills and reaps what there is of a pipeline that could not be started whole.
    pub(super) fn undo(mut self) {
        if self.kill().is_ok() {
            // What cannot be waited for goes to the list that the next start looks at.
            let _ = self.wait_until(None);
        }
    }

    fn wait_until(&mut self, until: Option<Deadline>) -> Result<bool, SubprocessError> {
        for child in &mut self.children {
            match child.wait(until) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(source) => return Err(self.io(source)),
            }
        }
        Ok(true)
    }

    fn last_status(&mut self) -> Result<ExitStatus, SubprocessError> {
        let last = self.children.last().and_then(Child::ended).flatten();
        last.ok_or_else(|| self.status_unknown())
    }

    fn completed(&mut self) -> Result<CompletedProcess, SubprocessError> {
        let statuses: Option<Vec<_>> = self
            .children
            .iter()
            .map(|child| child.ended().flatten())
            .collect();
        let statuses = statuses.ok_or_else(|| self.status_unknown())?;
        Ok(CompletedProcess {
            command: self.command.clone(),
            statuses,
            stdout: std::mem::take(&mut self.exchange.stdout),
            stderr: std::mem::take(&mut self.exchange.stderr),
        })
    }

    fn timed_out(&self, timeout: Duration) -> SubprocessError {
        SubprocessError::TimedOut {
            command: self.command.clone(),
            timeout,
            stdout: self.exchange.stdout.clone(),
            stderr: self.exchange.stderr.clone(),
        }
    }

    fn status_unknown(&mut self) -> SubprocessError {
        SubprocessError::StatusUnknown {
            command: self.command.clone(),
            stdout: std::mem::take(&mut self.exchange.stdout),
            stderr: std::mem::take(&mut self.exchange.stderr),
        }
    }

    fn io(&self, source: io::Error) -> SubprocessError {
        SubprocessError::Io {
            command: self.command.clone(),
            source,
        }
    }
}
