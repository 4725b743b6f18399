use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, ErrorKind, PipeReader, PipeWriter},
    ops::BitOr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use mp_core::fd;

use super::{
    CompletedProcess, Popen, SubprocessError,
    child::{Child, reap_abandoned},
};
use crate::pass_fds;

/// A program to run, or several joined by `|`, and how.
///
/// Made from a name, from a list of name and arguments, from a shell line, or from a
/// [`Command`] for what `std` has and this has not. What is said after joining is said of the
/// whole (`input`, outputs, `timeout`, `check`) or of the last program (arguments, environment,
/// directory, [`stderr`](Self::stderr)).
///
/// # Examples
///
/// ```
/// use mp_process::subprocess::Program;
///
/// let words = Program::new("tr").args([" ", "\n"]) | Program::new("sort") | Program::from(["uniq", "-d"]);
/// let done = words.input("to be or not to be\n").capture_output().check().run()?;
/// assert_eq!(done.stdout, b"be\nto\n");
/// # Ok::<(), mp_process::subprocess::SubprocessError>(())
/// ```
#[derive(Debug)]
#[must_use = "a program does nothing until it is run or started"]
pub struct Program {
    /// The programs of the pipeline before the last.
    before: Vec<Stage>,
    last: Stage,
    stdin: Option<Redirect>,
    stdout: Option<Redirect>,
    input: Vec<u8>,
    capture: bool,
    check: bool,
    timeout: Option<Duration>,
    own_group: bool,
}

/// One program of a pipeline.
#[derive(Debug)]
struct Stage {
    command: Command,
    stderr: Option<Stderr>,
    passed: Vec<OwnedFd>,
    bad_variable: Option<OsString>,
}

#[derive(Debug)]
enum Stderr {
    To(Redirect),
    Stdout,
}

/// Where a standard stream of a program goes to or comes from.
#[derive(Debug)]
#[non_exhaustive]
pub enum Redirect {
    /// The same as this process has.
    Inherit,
    /// Nowhere: `/dev/null`.
    #[doc(alias = "DEVNULL")]
    Null,
    /// A pipe to this process.
    #[doc(alias = "PIPE")]
    Pipe,
    /// This file, socket or end of a pipe.
    Fd(OwnedFd),
}

impl From<OwnedFd> for Redirect {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd)
    }
}

impl From<File> for Redirect {
    fn from(file: File) -> Self {
        Self::Fd(file.into())
    }
}

impl From<PipeReader> for Redirect {
    fn from(pipe: PipeReader) -> Self {
        Self::Fd(pipe.into())
    }
}

impl From<PipeWriter> for Redirect {
    fn from(pipe: PipeWriter) -> Self {
        Self::Fd(pipe.into())
    }
}

impl Program {
    /// The program of this name, looked for in `PATH` unless it has a slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Command::new(program).into()
    }

    /// A line for `/bin/sh`. Anything in it that comes from outside is a way to run other programs:
    /// pass such things as arguments of [`new`](Self::new) instead.
    #[doc(alias = "shell=True")]
    pub fn shell(line: impl AsRef<OsStr>) -> Self {
        Self::new("/bin/sh").arg("-c").arg(line)
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.last.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.last.command.args(args);
        self
    }

    /// Sets a variable of its environment, which otherwise is that of this process.
    ///
    /// A name that is empty or holds `=` is an error at the start.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        if name.is_empty() || name.as_encoded_bytes().contains(&b'=') {
            self.last.bad_variable = Some(name.to_owned());
        } else {
            self.last.command.env(name, value);
        }
        self
    }

    /// Removes a variable from its environment.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.last.command.env_remove(name);
        self
    }

    /// Starts with an empty environment instead of that of this process.
    pub fn env_clear(mut self) -> Self {
        self.last.command.env_clear();
        self
    }

    /// Sets its working directory.
    #[doc(alias = "cwd")]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.last.command.current_dir(directory);
        self
    }

    /// Lets it have this descriptor, under the number that it has here.
    ///
    /// A program that is passed descriptors is started by fork and exec instead of `posix_spawn`:
    /// with a large parent that takes longer.
    #[doc(alias = "pass_fds")]
    pub fn pass_fd(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.last.passed.push(fd.into());
        self
    }

    /// Sets where the standard input comes from; of a pipeline, that of the first program.
    ///
    /// Whatever of this and [`input`](Self::input) is said last holds.
    pub fn stdin(mut self, from: impl Into<Redirect>) -> Self {
        self.stdin = Some(from.into());
        self.input.clear();
        self
    }

    /// Bytes for its standard input, which then ends. [`run`](Self::run) and
    /// [`Popen::communicate`] write them.
    ///
    /// Whatever of this and [`stdin`](Self::stdin) is said last holds.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(Redirect::Pipe);
        self.input = bytes.into();
        self
    }

    /// Sets where the standard output goes; of a pipeline, that of the last program.
    pub fn stdout(mut self, to: impl Into<Redirect>) -> Self {
        self.stdout = Some(to.into());
        self
    }

    /// Sets where the standard error goes.
    pub fn stderr(mut self, to: impl Into<Redirect>) -> Self {
        self.last.stderr = Some(Stderr::To(to.into()));
        self
    }

    /// Lets the standard error go where the standard output goes.
    #[doc(alias = "STDOUT")]
    pub fn stderr_to_stdout(mut self) -> Self {
        self.last.stderr = Some(Stderr::Stdout);
        self
    }

    /// Keeps both outputs, as far as nothing else was said of them. A pipeline's programs
    /// have one standard error together, as in a shell.
    pub fn capture_output(mut self) -> Self {
        self.capture = true;
        self
    }

    /// Makes a bad end an error of [`run`](Self::run): [`SubprocessError::Failed`].
    pub fn check(mut self) -> Self {
        self.check = true;
        self
    }

    /// Gives [`run`](Self::run) a time limit, after which everything that was started is killed.
    ///
    /// For that the program runs in a [group of its own](Self::own_group).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self.own_group()
    }

    /// Runs it in a process group of its own, with what it will start itself: a signal from
    /// [`Popen`] reaches them all. Ctrl-C at the terminal then does not, and neither can they read
    /// from the terminal.
    #[doc(alias = "process_group")]
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Runs it to its end: writes the [`input`](Self::input), reads what is to be captured, waits.
    ///
    /// # Errors
    ///
    /// * [`SubprocessError::Start`], [`SubprocessError::Directory`]: the program was not started;
    ///   of a pipeline, those that were are dead again.
    /// * [`SubprocessError::Failed`]: [`check`](Self::check) was asked, and it ended badly.
    /// * [`SubprocessError::TimedOut`]: it took longer than the [`timeout`](Self::timeout). It is
    ///   dead, with its whole group, also if that includes processes that hold its pipes.
    /// * [`SubprocessError::StatusUnknown`]: other code in this program took the status.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use mp_process::subprocess::{Program, SubprocessError};
    ///
    /// let slow = Program::shell("echo begun; sleep 60").capture_output();
    /// match slow.timeout(Duration::from_millis(50)).run() {
    ///     Err(SubprocessError::TimedOut { stdout, .. }) => assert!(stdout.is_empty() || stdout == b"begun\n"),
    ///     other => unreachable!("{other:?}"),
    /// }
    /// # Ok::<(), SubprocessError>(())
    /// ```
    pub fn run(self) -> Result<CompletedProcess, SubprocessError> {
        let (check, timeout) = (self.check, self.timeout);
        let mut program = self.start()?;
        match program.communicate([], timeout) {
            Ok(done) if check => done.check(),
            Err(SubprocessError::TimedOut { timeout, .. }) => Err(program.kill_for(timeout)),
            other => other,
        }
    }

    /// Starts it, and returns what to talk to it with.
    ///
    /// # Errors
    ///
    /// [`SubprocessError::Start`], [`SubprocessError::Directory`]: the program was not started;
    /// of a pipeline, those that were are dead again.
    #[doc(alias = "Popen")]
    pub fn start(self) -> Result<Popen, SubprocessError> {
        reap_abandoned();
        let mut started = Popen::new(self.command_line());
        match self.start_into(&mut started) {
            Ok(()) => Ok(started),
            Err(error) => {
                started.undo();
                Err(error)
            }
        }
    }

    fn start_into(mut self, started: &mut Popen) -> Result<(), SubprocessError> {
        started.set_input(self.input);
        let mut errors = Errors::new(self.capture);
        let mut stdin = self.stdin;
        let mut leader = self.own_group.then_some(0);
        for mut stage in self.before {
            let (reader, writer) = io::pipe().map_err(|source| stage.start_error(source))?;
            let pipes = stage.spawn(
                stdin.take(),
                Some(writer.into()),
                &mut errors,
                &mut leader,
                started,
            )?;
            started.stdin = started.stdin.take().or(pipes.stdin);
            stdin = Some(reader.into());
        }
        if self.capture {
            self.stdout.get_or_insert(Redirect::Pipe);
        }
        let pipes = self
            .last
            .spawn(stdin, self.stdout, &mut errors, &mut leader, started)?;
        started.stdin = started.stdin.take().or(pipes.stdin);
        started.stdout = pipes.stdout;
        started.stderr = pipes.stderr.or(errors.ours);
        Ok(())
    }

    fn command_line(&self) -> String {
        let stages = self.before.iter().chain([&self.last]);
        stages
            .map(Stage::command_line)
            .collect::<Vec<_>>()
            .join(" | ")
    }
}

/// `a | b`: the standard output of `a` is the standard input of `b`.
impl<P: Into<Program>> BitOr<P> for Program {
    type Output = Program;

    /// What was said of either as a whole holds for both; the input is that of the first, the
    /// output that of the last, the time limit the shorter one.
    fn bitor(mut self, next: P) -> Program {
        let next = next.into();
        self.before.push(self.last);
        self.before.extend(next.before);
        Program {
            before: self.before,
            last: next.last,
            stdin: self.stdin,
            stdout: next.stdout,
            input: self.input,
            capture: self.capture || next.capture,
            check: self.check || next.check,
            timeout: self.timeout.into_iter().chain(next.timeout).min(),
            own_group: self.own_group || next.own_group,
        }
    }
}

/// For all that `std` can say of a program; streams that it sets stay as they are.
impl From<Command> for Program {
    fn from(command: Command) -> Self {
        Self {
            before: Vec::new(),
            last: Stage {
                command,
                stderr: None,
                passed: Vec::new(),
                bad_variable: None,
            },
            stdin: None,
            stdout: None,
            input: Vec::new(),
            capture: false,
            check: false,
            timeout: None,
            own_group: false,
        }
    }
}

/// A program without arguments; not a shell line.
impl From<&str> for Program {
    fn from(program: &str) -> Self {
        Self::new(program)
    }
}

/// Name and arguments.
impl<S: AsRef<OsStr>, const N: usize> From<[S; N]> for Program {
    fn from(words: [S; N]) -> Self {
        words.as_slice().into()
    }
}

/// Name and arguments.
impl<S: AsRef<OsStr>> From<Vec<S>> for Program {
    fn from(words: Vec<S>) -> Self {
        words.as_slice().into()
    }
}

/// Name and arguments.
impl<S: AsRef<OsStr>> From<&[S]> for Program {
    fn from(words: &[S]) -> Self {
        let mut words = words.iter().map(AsRef::as_ref);
        // The empty name cannot be started, and the error says so.
        Self::new(words.next().unwrap_or_default()).args(words)
    }
}

/// Our ends of the pipes of one stage.
#[derive(Default)]
struct Pipes {
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
}

/// The one pipe for the standard error of all stages, made when the first needs it.
struct Errors {
    wanted: bool,
    ours: Option<PipeReader>,
    theirs: Option<PipeWriter>,
}

impl Errors {
    fn new(wanted: bool) -> Self {
        Self {
            wanted,
            ours: None,
            theirs: None,
        }
    }

    fn writer(&mut self) -> io::Result<Stdio> {
        if self.theirs.is_none() {
            let (ours, theirs) = io::pipe()?;
            (self.ours, self.theirs) = (Some(ours), Some(theirs));
        }
        let theirs = self
            .theirs
            .as_ref()
            .map(PipeWriter::try_clone)
            .transpose()?;
        Ok(theirs.map_or_else(Stdio::inherit, Stdio::from))
    }
}

impl Stage {
    fn spawn(
        &mut self,
        stdin: Option<Redirect>,
        stdout: Option<Redirect>,
        errors: &mut Errors,
        leader: &mut Option<u32>,
        started: &mut Popen,
    ) -> Result<Pipes, SubprocessError> {
        if let Some(name) = &self.bad_variable {
            let text = format!("{name:?} cannot be the name of an environment variable");
            return Err(self.start_error(io::Error::new(ErrorKind::InvalidInput, text)));
        }
        let mut pipes = Pipes::default();
        let redirected = self.redirect(stdin, stdout, errors, &mut pipes);
        redirected.map_err(|source| self.start_error(source))?;
        if !self.passed.is_empty() {
            pass_fds::pass(&mut self.command, std::mem::take(&mut self.passed));
        }
        if let Some(leader) = *leader {
            self.command.process_group(leader.cast_signed());
        }
        let mut child = self
            .command
            .spawn()
            .map_err(|source| self.start_error(source))?;
        pipes.stdin = child.stdin.take().map(|pipe| OwnedFd::from(pipe).into());
        pipes.stdout = pipes
            .stdout
            .or(child.stdout.take().map(|pipe| OwnedFd::from(pipe).into()));
        pipes.stderr = pipes
            .stderr
            .or(child.stderr.take().map(|pipe| OwnedFd::from(pipe).into()));
        let leads = *leader == Some(0);
        if leads {
            *leader = Some(child.id());
        }
        started.push(Child::new(&mut child, leads).map_err(|source| self.start_error(source))?);
        Ok(pipes)
    }

    /// Hands the command its streams, and keeps our ends of the pipes among them.
    fn redirect(
        &mut self,
        stdin: Option<Redirect>,
        stdout: Option<Redirect>,
        errors: &mut Errors,
        pipes: &mut Pipes,
    ) -> io::Result<()> {
        if let Some(from) = stdin {
            self.command.stdin(from.into_stdio()?);
        }
        let stdout = match stdout {
            Some(Redirect::Pipe) => {
                let (ours, theirs) = io::pipe()?;
                pipes.stdout = Some(ours);
                Some(Redirect::from(theirs))
            }
            other => other,
        };
        match self.stderr.take() {
            Some(Stderr::Stdout) => drop(self.command.stderr(Redirect::copied(stdout.as_ref())?)),
            Some(Stderr::To(Redirect::Pipe)) => drop(self.command.stderr(errors.writer()?)),
            Some(Stderr::To(to)) => drop(self.command.stderr(to.into_stdio()?)),
            None if errors.wanted => drop(self.command.stderr(errors.writer()?)),
            None => {}
        }
        if let Some(to) = stdout {
            self.command.stdout(to.into_stdio()?);
        }
        Ok(())
    }

    fn command_line(&self) -> String {
        let words = [self.command.get_program()]
            .into_iter()
            .chain(self.command.get_args());
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// Tells a missing directory from a missing program: both are "not found".
    fn start_error(&self, source: io::Error) -> SubprocessError {
        let (program, source) = (self.command_line(), fd::explain(source));
        let directory = self
            .command
            .get_current_dir()
            .filter(|directory| !is_usable(directory));
        match directory.map(PathBuf::from) {
            Some(directory) => SubprocessError::Directory {
                program,
                directory,
                source,
            },
            None => SubprocessError::Start { program, source },
        }
    }
}

impl Redirect {
    fn into_stdio(self) -> io::Result<Stdio> {
        Ok(match self {
            Self::Inherit => Stdio::inherit(),
            Self::Null => Stdio::null(),
            Self::Pipe => Stdio::piped(),
            Self::Fd(fd) => fd.into(),
        })
    }

    /// A second way to where the standard output goes.
    fn copied(stdout: Option<&Self>) -> io::Result<Stdio> {
        Ok(match stdout {
            Some(Self::Fd(fd)) => fd.try_clone()?.into(),
            Some(Self::Null) => Stdio::null(),
            _ => io::stdout().as_fd().try_clone_to_owned()?.into(),
        })
    }
}

fn is_usable(directory: &Path) -> bool {
    use nix::unistd::{AccessFlags, access};
    directory.is_dir() && access(directory, AccessFlags::X_OK).is_ok()
}

/// A word as one would type it in a shell.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
