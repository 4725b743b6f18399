//! A copy of this process that runs one closure.
#![allow(unsafe_code)] // `fork` and `_exit`

use std::{
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process,
    sync::Once,
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};

/// Exit status of a child whose body panicked, as of any Rust program.
const PANICKED: i32 = 101;

/// A child made by [`fork_child`]; killed and reaped when dropped.
#[derive(Debug)]
pub struct Forked {
    pid: Pid,
    status: Option<WaitStatus>,
}

impl Forked {
    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Sends `signal`, unless the child has been reaped.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill(self.pid, signal); // it may have ended
        }
    }

    /// Kills the child, and reaps it.
    pub fn kill(&mut self) -> WaitStatus {
        self.signal(Signal::SIGKILL);
        self.wait()
    }

    /// Waits for the child's end: `Exited` with 0, with 101 after a panic, or `Signaled`.
    pub fn wait(&mut self) -> WaitStatus {
        while self.status.is_none() {
            self.look(WaitPidFlag::empty());
        }
        self.status.expect("the loop ended")
    }

    /// The child's end, if it has come.
    pub fn try_wait(&mut self) -> Option<WaitStatus> {
        self.look(WaitPidFlag::WNOHANG);
        self.status
    }

    fn look(&mut self, flags: WaitPidFlag) {
        if self.status.is_some() {
            return;
        }
        match waitpid(self.pid, Some(flags)) {
            Ok(end @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => {
                self.status = Some(end);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => panic!("cannot wait for the child {}: {errno}", self.pid),
        }
    }

    /// Waits for the child's end.
    ///
    /// # Panics
    ///
    /// Unless its body returned.
    #[track_caller]
    pub fn wait_success(mut self) {
        let status = self.wait();
        assert!(
            matches!(status, WaitStatus::Exited(_, 0)),
            "the forked child ended with {status:?}"
        );
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
        }
    }
}

/// Runs `body` in a copy of this process, which then ends by `_exit`: no destructor, no exit hook of
/// the test runs twice.
///
/// libtest runs other threads. Of those the copy has only the memory, so `body` must not wait for
/// what one of them may have held at that moment: a lock of the test, stdout's (captured or not),
/// `std::env`'s. glibc itself keeps its allocator usable. Good for a few calls on shared memory;
/// anything larger is a [`Child`](super::Child).
///
/// # Panics
///
/// When the system makes no further process.
pub fn fork_child(body: impl FnOnce()) -> Forked {
    show_panics_of_copies();
    // SAFETY:
    // * The copy runs `body` alone and never returns into the test; a lock that another thread held
    //   can make it hang, which the test's watchdog ends, but never makes two owners of one thing
    //   within a process: all threads but this one are gone there.
    match unsafe { fork() }.expect("cannot fork") {
        ForkResult::Parent { child } => Forked {
            pid: child,
            status: None,
        },
        ForkResult::Child => exit_after(body),
    }
}

/// A panic message in a copy would go to where libtest captures, and end with the copy: such go to
/// stderr instead. To be called before the fork, because a hook cannot be set while another thread
/// panics.
pub(super) fn show_panics_of_copies() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let own = process::id();
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if process::id() == own {
                return usual(info);
            }
            let text = format!("in a forked child: {info}\n");
            let _ = io::stderr().write_all(text.as_bytes());
        }));
    });
}

/// Runs `body`, and ends this process whatever comes of it.
pub(super) fn exit_after(body: impl FnOnce()) -> ! {
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    let status = if result.is_ok() { 0 } else { PANICKED };
    // SAFETY:
    // * `_exit` takes any status, and leaves the parent's buffers and hooks alone.
    unsafe { libc::_exit(status) }
}

/// Runs `body` in a [forked child](fork_child) that has `limit` of `resource`, and waits for its end.
///
/// # Panics
///
/// When `body` panicked there (its message is on stderr), or the child died.
#[track_caller]
pub fn with_rlimit(resource: Resource, limit: u64, body: impl FnOnce()) {
    let child = fork_child(|| {
        setrlimit(resource, limit, limit).expect("cannot set the limit");
        body();
    });
    child.wait_success();
}
