//! The handle of a process: first what it will be, then what it is.
#![allow(unsafe_code)] // passes on one promise of the caller

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    child::Child,
    current::current_process,
    end::End,
    error::{ExitError, ExitStatus, StartError},
    options::Options,
    outcome::{Call, Closure, Job},
    popen::{self, MayFork},
    start_method::StartMethod,
    target::{Target, assert_captures_nothing},
};

/// A function in a child process, that gives an `R`.
///
/// It is built, [started](Process::start) and [joined](Process::join); what makes no sense, such as
/// joining what was not started, does not compile.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # mp_process::init();
/// use mp_process::Process;
///
/// let child = Process::new(|a: u32, b: u32| a + b, (40, 2)).name("adder").start()?;
/// assert_eq!(child.join()?, 42);
/// # Ok(())
/// # }
/// ```
///
/// Dropping a handle does not end the child. At the exit of this process it is waited for, unless
/// it was [detached](Process::detach) or is a [daemon](Process::daemon).
///
/// # Process death
///
/// The child's, by whatever cause, ends [`join`](Process::join) at once, with the exit status in
/// the error. When this process dies, children go on, but for those that were built to
/// [end with their parent](Process::end_with_parent).
#[doc(alias = "multiprocessing.Process")]
pub struct Process<R = (), S = Started> {
    state: S,
    result: PhantomData<fn() -> R>,
}

/// A process that was built and not started; `'a` is what a closure to [fork](Process::fork) borrows.
pub struct Ready<'a> {
    job: Box<dyn Job + 'a>,
    options: Options,
}

/// A process that was started.
pub struct Started {
    child: Child,
}

/// What a type of one's own does in a process: its fields are the arguments.
///
/// ```
/// use mp_process::{Process, Run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greeter {
///     name: String,
/// }
///
/// impl Run for Greeter {
///     type Output = String;
///
///     fn run(self) -> String {
///         format!("Hello, {}", self.name)
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mp_process::init();
/// let child = Process::run(Greeter { name: "dad".to_owned() }).start()?;
/// assert_eq!(child.join()?, "Hello, dad");
/// # Ok(())
/// # }
/// ```
pub trait Run: Serialize + DeserializeOwned + 'static {
    /// What it gives.
    type Output: Serialize + DeserializeOwned;

    /// Does it, in the child.
    fn run(self) -> Self::Output;
}

impl<R> Process<R, Ready<'static>>
where
    R: Serialize + DeserializeOwned,
{
    /// A process that will call `target` with `args`, the tuple of its arguments.
    ///
    /// `target` is a `fn` or a closure that captures nothing. Arguments and results are anything
    /// that serde knows, and the handles of this library: queues, locks, connections…
    ///
    /// A closure that captures does not compile; what it says is in [`Target`].
    pub fn new<F, A>(target: F, args: A) -> Self
    where
        F: Target<A, Output = R>,
        A: Serialize + DeserializeOwned + 'static,
    {
        const { assert_captures_nothing::<F>() };
        Self::build("Process", Call { target, args })
    }

    /// A process that will [run](Run::run) `value`. It is named after the type.
    pub fn run<T>(value: T) -> Self
    where
        T: Run<Output = R>,
    {
        let name = std::any::type_name::<T>();
        let name = name.split('<').next().unwrap_or(name);
        let name = name.rsplit("::").next().unwrap_or(name);
        Self::build(
            name,
            Call {
                target: T::run,
                args: (value,),
            },
        )
    }
}

impl<'a, R> Process<R, Ready<'a>>
where
    R: Serialize + DeserializeOwned,
{
    /// A process that will call `closure`, in a copy of this process: it may use anything that is
    /// here. The start method is [`StartMethod::Fork`].
    ///
    /// What the closure changes, it changes in the copy. Only what it returns comes back.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # mp_process::init();
    /// use mp_process::{Process, StartError};
    ///
    /// let words = vec!["what", "is", "here"];
    /// match Process::fork(|| words.len()).start() {
    ///     Ok(child) => assert_eq!(child.join()?, 3),
    ///     // In a program with threads it is refused.
    ///     Err(error) => assert!(matches!(error, StartError::Threads { .. })),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn fork<F>(closure: F) -> Self
    where
        F: FnOnce() -> R + 'a,
    {
        Self::build("Process", Closure(closure)).set(|options| {
            options.start_method = Some(StartMethod::Fork);
        })
    }

    fn build(kind: &str, job: impl Job + 'a) -> Self {
        Self {
            state: Ready {
                job: Box::new(job),
                options: Options::new(kind, &current_process()),
            },
            result: PhantomData,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing of the child is left then.
    pub fn start(self) -> Result<Process<R>, StartError> {
        self.start_if(None)
    }

    /// Starts it by `Fork` even if this process has other threads.
    ///
    /// # Safety
    ///
    /// In the child the other threads are missing, and what they were doing is half done for ever:
    /// a lock that one of them held is never released. Until the child ends it may only do what
    /// needs none of that; the memory allocator of glibc works, and so does standard output.
    ///
    /// What the child does before its function takes locks, too: no other thread may be inside this
    /// library meanwhile, or be panicking or setting a panic hook, or use the environment of this
    /// process if that of the child is [another](Self::env).
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), but for [`StartError::Threads`].
    pub unsafe fn start_despite_threads(self) -> Result<Process<R>, StartError> {
        // SAFETY:
        // * the caller promises just this.
        let may_fork = unsafe { MayFork::promised() };
        self.start_if(Some(may_fork))
    }

    fn start_if(self, may_fork: Option<MayFork>) -> Result<Process<R>, StartError> {
        let Ready { job, options } = self.state;
        let child = popen::start(job, options, may_fork)?;
        Ok(Process {
            state: Started { child },
            result: PhantomData,
        })
    }
}

impl<R> Process<R, Ready<'_>> {
    pub(crate) fn set(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.state.options);
        self
    }
}

impl<R> Process<R> {
    /// The child itself, without the type of its result; it outlives this handle.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.state.child
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.child().name()
    }

    /// Its pid. Once it has ended, the number may be given to another process.
    #[must_use]
    #[doc(alias = "ident")]
    pub fn pid(&self) -> u32 {
        self.child().pid()
    }

    /// Whether it is a daemon.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.child().is_daemon()
    }

    /// Whether it is still running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.child().is_alive()
    }

    /// How it ended; `None` while it runs, which is told at once. For that of one that has ended it
    /// may wait for the fork server that made it, up to 10 s if that is stopped.
    ///
    /// In a forked copy of the handle it is [`ExitStatus::Unknown`], if it ended after the fork.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().exit_status()
    }

    /// Python's exit code: the code, or minus the signal; `None` while it runs, or if it cannot be
    /// known ([`ExitStatus::Unknown`]). A panic is 101.
    #[must_use]
    pub fn exitcode(&self) -> Option<i32> {
        self.child().exitcode()
    }

    /// Waits until it has ended, and leaves its value for [`join`](Self::join).
    ///
    /// # Errors
    ///
    /// The system cannot wait. How the child ended is no error here.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        self.child().wait()
    }

    /// Waits until it has ended, at most `timeout`; whether it has.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn join_timeout(&self, timeout: Duration) -> io::Result<bool> {
        Ok(self.child().wait_timeout(timeout)?.is_some())
    }

    /// Asks it to end, by SIGTERM. Nothing happens if it has ended already.
    ///
    /// It is not waited for, and its own children go on.
    ///
    /// # Errors
    ///
    /// Not permitted: it changed its user.
    pub fn terminate(&self) -> io::Result<()> {
        self.child().terminate()
    }

    /// Ends it, by SIGKILL. Nothing happens if it has ended already.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> io::Result<()> {
        self.child().kill()
    }

    /// Interrupts it as Ctrl-C does, by SIGINT. Nothing happens if it has ended already.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Self::terminate).
    pub fn interrupt(&self) -> io::Result<()> {
        self.child().interrupt()
    }

    /// Lets it go on when this process exits, instead of waiting for it.
    ///
    /// One that [ends with its parent](Process::end_with_parent) still does.
    pub fn detach(self) {
        self.child().detach();
    }

    /// Gives up the handle of a process that has ended.
    ///
    /// # Errors
    ///
    /// It is still running; the handle comes back.
    pub fn close(self) -> Result<(), StillRunning<R>> {
        if self.is_alive() {
            Err(StillRunning(self))
        } else {
            Ok(())
        }
    }
}

impl<R: DeserializeOwned> Process<R> {
    /// Waits until it has ended, and gives what its function returned.
    ///
    /// # Errors
    ///
    /// [`ExitError`] tells how it ended without a value. One that exits with code 0 by itself
    /// gives `()`, if that is its type, and [`ExitError::Code`] if not.
    pub fn join(self) -> Result<R, ExitError> {
        let ended = End::of(self.child())?;
        ended.value()
    }
}

impl<R> AsFd for Process<R> {
    /// The sentinel: readable once the child has ended. It is a pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child().as_fd()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.child.abandon();
    }
}

impl<R> fmt::Debug for Process<R, Ready<'_>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.state.options;
        write!(f, "<Process name={:?} initial", options.name)?;
        f.write_str(if options.daemon { " daemon>" } else { ">" })
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.child().fmt(f)
    }
}

impl fmt::Debug for Ready<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.child.fmt(f)
    }
}

/// [`Process::close`] of a process that is still running; it holds the handle.
#[derive(thiserror::Error)]
#[error(
    "cannot close process {} (pid {}) while it is still running; join or terminate it first",
    .0.name(), .0.pid()
)]
pub struct StillRunning<R>(pub Process<R>);

impl<R> fmt::Debug for StillRunning<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StillRunning").field(&self.0).finish()
    }
}
