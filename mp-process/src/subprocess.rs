//! Programs as children, over [`std::process`].
//!
//! A [`Program`] says what to run and how; [`Program::run`] runs it to its end, [`Program::start`]
//! gives a [`Popen`] to talk to. Two programs joined by `|` are a program again, as in a shell.
//!
//! What this adds to `std`: input and both outputs without a deadlock, timeouts that leave nothing
//! behind, pipelines, and errors that carry the status and what was written.
//!
//! ```
//! use std::time::Duration;
//!
//! use mp_process::subprocess::{self, Program};
//!
//! let done = Program::new("sort")
//!     .arg("-r")
//!     .input("a\nc\nb\n")
//!     .capture_output()
//!     .timeout(Duration::from_secs(10))
//!     .run()?;
//! assert!(done.success());
//! assert_eq!(done.stdout, b"c\nb\na\n");
//!
//! let lines = Program::from(["printf", "1\n2\n3\n"]) | Program::from(["wc", "-l"]);
//! assert_eq!(subprocess::check_output(lines)?.trim_ascii(), b"3");
//!
//! // A failure says which program it was, how it ended, and what it had to say.
//! let error = subprocess::check_output(Program::shell("echo no such luck >&2; exit 3")).unwrap_err();
//! assert_eq!(error.returncode(), Some(3));
//! assert_eq!(error.stderr(), b"no such luck\n");
//! # Ok::<(), subprocess::SubprocessError>(())
//! ```
//!
//! # Descriptors and signals
//!
//! A program gets the three standard streams and what [`Program::pass_fd`] names. Everything that
//! Rust opens is close-on-exec; a descriptor that C code left inheritable is inherited. As with
//! [`std::process::Command`], `SIGPIPE` has its default action in the program and its signal mask
//! is empty.
//!
//! # Process death
//!
//! A program is not a `Process`: it knows nothing of its parent, and goes on when
//! the parent dies. What ends it is the end of its input, a signal, or a [`timeout`](Program::timeout).

mod child;
mod completed;
mod error;
mod exchange;
mod popen;
mod program;

pub use completed::CompletedProcess;
pub use error::SubprocessError;
pub use popen::Popen;
pub use program::{Program, Redirect};

/// Runs a program to its end; [`Program::run`] for what can be written as one value.
///
/// # Errors
///
/// As [`Program::run`].
///
/// # Examples
///
/// ```
/// use mp_process::subprocess;
///
/// assert!(subprocess::run("true")?.success());
/// assert_eq!(subprocess::run(["sh", "-c", "exit 7"])?.returncode(), 7);
/// # Ok::<(), subprocess::SubprocessError>(())
/// ```
#[doc(alias = "subprocess.run")]
pub fn run(program: impl Into<Program>) -> Result<CompletedProcess, SubprocessError> {
    program.into().run()
}

/// Runs a program and returns its code: −N if signal N ended it.
///
/// # Errors
///
/// As [`Program::run`].
#[doc(alias = "subprocess.call")]
pub fn call(program: impl Into<Program>) -> Result<i32, SubprocessError> {
    Ok(run(program)?.returncode())
}

/// Runs a program that has to succeed.
///
/// # Errors
///
/// [`SubprocessError::Failed`] if it did not; otherwise as [`Program::run`].
#[doc(alias = "subprocess.check_call")]
pub fn check_call(program: impl Into<Program>) -> Result<(), SubprocessError> {
    program.into().check().run().map(drop)
}

/// Runs a program that has to succeed, and returns what it wrote to its standard output.
///
/// Its standard error is captured too, unless the program says where it goes: an error then can
/// tell it.
///
/// # Errors
///
/// [`SubprocessError::Failed`] if it did not; otherwise as [`Program::run`].
///
/// # Examples
///
/// ```
/// use mp_process::subprocess;
///
/// assert_eq!(subprocess::check_output(["echo", "hello"])?, b"hello\n");
/// # Ok::<(), subprocess::SubprocessError>(())
/// ```
#[doc(alias = "subprocess.check_output")]
pub fn check_output(program: impl Into<Program>) -> Result<Vec<u8>, SubprocessError> {
    Ok(program.into().capture_output().check().run()?.stdout)
}

/// What a shell line writes to both outputs, without one newline at its end; how it ended is not told.
///
/// # Errors
///
/// As [`Program::run`].
///
/// # Examples
///
/// ```
/// use mp_process::subprocess;
///
/// assert_eq!(subprocess::getoutput("echo hello | tr a-z A-Z")?, "HELLO");
/// # Ok::<(), subprocess::SubprocessError>(())
/// ```
pub fn getoutput(line: &str) -> Result<String, SubprocessError> {
    Ok(getstatusoutput(line)?.1)
}

/// The code of a shell line, and what it writes to both outputs without one newline at its end.
///
/// # Errors
///
/// As [`Program::run`].
///
/// # Examples
///
/// ```
/// use mp_process::subprocess;
///
/// let (code, text) = subprocess::getstatusoutput("ls /no/such/place; exit 2")?;
/// assert_eq!(code, 2);
/// assert!(text.contains("/no/such/place"));
/// # Ok::<(), subprocess::SubprocessError>(())
/// ```
pub fn getstatusoutput(line: &str) -> Result<(i32, String), SubprocessError> {
    let done = Program::shell(line)
        .stdout(Redirect::Pipe)
        .stderr_to_stdout()
        .run()?;
    let mut text = done.stdout_text().into_owned();
    if text.ends_with('\n') {
        text.pop();
    }
    Ok((done.returncode(), text))
}
