//! The test binary once more as another process, for one case.
#![allow(unsafe_code)] // leaves one descriptor open across `exec`, and takes it up again

use std::{
    env,
    io::{ErrorKind, IoSlice, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{self, Command, ExitStatus, Stdio},
    thread,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec,
    fd::{self, Mode, SockKind},
    transfer,
};

use super::procfs;

/// Marks the child, and tells it the number of its socket.
const CASE: &str = "MP_TEST_CASE";

/// No value that a test sends is longer; below what a socket buffer takes at once.
const MAX_VALUE: usize = 128 << 10;

/// Values, with the handles in them, in both directions.
#[derive(Debug)]
struct Channel(OwnedFd);

impl Channel {
    fn send<T: Serialize + ?Sized>(&self, value: &T) {
        let mut bytes = vec![0]; // never an empty message, which would read as end of file
        let (result, outgoing) = transfer::collect(|| codec::encode_into(value, &mut bytes));
        result.expect("the value of a test cannot be encoded");
        let fds: Vec<BorrowedFd<'_>> = outgoing.fds().iter().map(AsFd::as_fd).collect();
        fd::send(
            self.0.as_fd(),
            &[IoSlice::new(&bytes)],
            &fds,
            Mode::Blocking,
        )
        .expect("the other side of a test is gone");
        outgoing.commit();
    }

    /// `None`: the other side is gone.
    fn recv<T: DeserializeOwned>(&self) -> Option<T> {
        let (mut bytes, mut fds) = (vec![0; MAX_VALUE], Vec::new());
        let mut receive = || fd::recv(self.0.as_fd(), &mut bytes, &mut fds, Mode::Blocking);
        let len = match receive() {
            // The other side ended without having read all; what it sent before comes after this.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => receive(),
            received => received,
        };
        let len = len.expect("the socket of a test is broken");
        if len == 0 {
            return None;
        }
        let value = transfer::attach(fds, || codec::decode(&bytes[1..len]));
        Some(value.expect("the other side of a test sent something else"))
    }
}

/// Another process that runs one case of this test binary.
///
/// A case is a test that returns at once unless it finds itself to be such a child. The child is
/// killed and reaped when this is dropped.
///
/// ```no_run
/// // no_run: a documentation test is no binary that could be run again
/// use mp_core::testing::{Case, Child};
///
/// # let queue = 0;
/// #[test]
/// fn case_holds_a_queue() {
///     let Some(case) = Case::get() else { return };
///     let queue: u32 = case.args();
///     case.ready();
///     case.hold()
/// }
///
/// let mut child = Child::case("case_holds_a_queue", &queue).wait_ready();
/// child.kill();
/// ```
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    channel: Channel,
    name: String,
}

impl Child {
    /// Starts the case `name` (its full path: `module::case`), and gives it `args`. Handles among
    /// them travel as they would to a child of `mp-process`.
    ///
    /// # Panics
    ///
    /// When it cannot be started or `args` cannot be encoded.
    pub fn case<T: Serialize + ?Sized>(name: &str, args: &T) -> Child {
        ChildCommand::new(name).start(args)
    }

    /// Waits until the case has called [`Case::ready`].
    ///
    /// # Panics
    ///
    /// When it ends before.
    #[must_use]
    #[track_caller]
    pub fn wait_ready(mut self) -> Child {
        if self.channel.recv::<()>().is_none() {
            let status = self.wait();
            panic!(
                "case {:?} ended before it was ready, with {status}; is there a test of that name?",
                self.name
            );
        }
        self
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Gives `value` to the child's [`Case::recv`].
    ///
    /// # Panics
    ///
    /// When the child is gone, or the value cannot be encoded.
    pub fn send<T: Serialize + ?Sized>(&self, value: &T) {
        self.channel.send(value);
    }

    /// Waits for what the child sends; `None` when it has ended.
    ///
    /// # Panics
    ///
    /// When it sent something else than a `T`.
    pub fn recv<T: DeserializeOwned>(&self) -> Option<T> {
        self.channel.recv()
    }

    /// Sends `signal` to the child. That it has ended is no error.
    pub fn signal(&self, signal: Signal) {
        // Not reaped yet, or `process` would know: the number is still the child's.
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
    }

    /// Kills the child, and reaps it.
    pub fn kill(&mut self) -> ExitStatus {
        let _ = self.process.kill(); // it may have ended
        self.wait()
    }

    /// Waits for the child's end: status 0 when the case passed, 101 when it panicked.
    ///
    /// # Panics
    ///
    /// When somebody else has reaped it.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait().expect("somebody else reaped the child")
    }

    /// Waits for the child's end, and gives what it wrote to stderr, if that was
    /// [captured](ChildCommand::capture_stderr).
    pub fn wait_with_stderr(&mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            stderr.read_to_string(&mut text).expect("stderr is no text");
        }
        (self.wait(), text)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// How a [`Child`] is started.
#[derive(Debug)]
pub struct ChildCommand {
    command: Command,
    name: String,
}

impl ChildCommand {
    /// The case `name` of this test binary.
    pub fn new(name: &str) -> ChildCommand {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null()); // libtest's report of one test
        ChildCommand {
            command,
            name: name.to_owned(),
        }
    }

    /// Sets a variable of the child's environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> ChildCommand {
        self.command.env(key, value);
        self
    }

    /// Keeps what the child writes to stderr for [`Child::wait_with_stderr`].
    #[must_use]
    pub fn capture_stderr(mut self) -> ChildCommand {
        self.command.stderr(Stdio::piped());
        self
    }

    /// Starts the child with `args`.
    ///
    /// # Panics
    ///
    /// As [`Child::case`].
    pub fn start<T: Serialize + ?Sized>(mut self, args: &T) -> Child {
        let (ours, theirs) = fd::socketpair(SockKind::SeqPacket).expect("no socket for a child");
        let number = theirs.as_raw_fd();
        self.command.env(CASE, number.to_string());
        self.command.env(procfs::RUN, procfs::own_run());
        let leave_open = move || {
            // SAFETY:
            // * `theirs` is open until the child is started, and a fork keeps its number.
            let socket = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        };
        // SAFETY:
        // * The hook makes one system call: async-signal-safe, no allocation.
        unsafe { self.command.pre_exec(leave_open) };
        let process = self.command.spawn().expect("cannot start a child");
        let channel = Channel(ours);
        channel.send(args);
        Child {
            process,
            channel,
            name: self.name,
        }
    }
}

/// The child's side of [`Child`].
#[derive(Debug)]
pub struct Case {
    channel: Channel,
}

impl Case {
    /// `Some` in a process that [`Child::case`] started, the first time.
    pub fn get() -> Option<Case> {
        let number: RawFd = env::var(CASE).ok()?.parse().ok()?;
        // SAFETY:
        // * It is only looked at; if it is not open, the call says so.
        let flags = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD).ok()?;
        if FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC) {
            return None; // taken before, or no descriptor that was meant for us
        }
        // SAFETY:
        // * The parent left this descriptor for us, and the flag tells that nobody took it yet.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        Some(Case {
            channel: Channel(socket),
        })
    }

    /// What the parent gave to [`Child::case`]. Once, and before [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// When it gave something else than a `T`.
    pub fn args<T: DeserializeOwned>(&self) -> T {
        self.channel.recv().expect("the parent of a case is gone")
    }

    /// Lets [`Child::wait_ready`] return.
    pub fn ready(&self) {
        self.channel.send(&());
    }

    /// Gives `value` to [`Child::recv`].
    ///
    /// # Panics
    ///
    /// When the parent is gone, or the value cannot be encoded.
    pub fn send<T: Serialize + ?Sized>(&self, value: &T) {
        self.channel.send(value);
    }

    /// Waits for what the parent [sends](Child::send); `None` when it is gone.
    ///
    /// # Panics
    ///
    /// When it sent something else than a `T`.
    pub fn recv<T: DeserializeOwned>(&self) -> Option<T> {
        self.channel.recv()
    }

    /// Does nothing until the parent kills this process, or ends.
    pub fn hold(&self) -> ! {
        while self.channel.recv::<()>().is_some() {
            thread::yield_now();
        }
        process::exit(0)
    }
}
