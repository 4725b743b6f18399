//! How children are made.

use std::{fmt, str::FromStr};

use mp_core::primitive::{AtomicU8, Ordering};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    process::{Process, Ready, Run},
    target::Target,
};

/// How a child process is made.
///
/// | | `Spawn` | `ForkServer` | `Fork` |
/// |---|---|---|---|
/// | the child is | this executable, once more | a fork of a small server | a copy of this process |
/// | it has of this process | what is passed | what is passed | everything |
/// | with a large parent it takes | the same time | the same time | longer |
/// | with threads in the parent | works | works | is refused |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StartMethod {
    /// This executable is executed once more. Nothing is shared but what is passed: the safe one.
    #[default]
    Spawn,
    /// A server, which is this executable with nothing in its memory yet, forks the child. Quick,
    /// however large this process is.
    ///
    /// The server is started with the first such child, and again should it die. Environment and
    /// standard outputs of the children are those that this process had then, unless a child is
    /// told otherwise; their working directory is the present one, and so is the standard input of
    /// a child that is to have [that of this process](crate::Stdio::Inherit).
    ForkServer,
    /// This process is forked: the child begins with a copy of its memory and all its descriptors.
    /// Refused while this process has other threads, because what they were doing, and the locks
    /// they hold, would never be finished in the child.
    Fork,
}

impl StartMethod {
    /// All of them, the default first.
    #[must_use]
    #[doc(alias = "get_all_start_methods")]
    pub const fn all() -> [Self; 3] {
        [Self::Spawn, Self::ForkServer, Self::Fork]
    }

    /// Python's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::ForkServer => "forkserver",
            Self::Fork => "fork",
        }
    }
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Of a text that names no start method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no start method {0:?}; there are spawn, forkserver and fork")]
pub struct UnknownStartMethod(String);

impl FromStr for StartMethod {
    type Err = UnknownStartMethod;

    fn from_str(name: &str) -> Result<Self, UnknownStartMethod> {
        let found = Self::all().into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| UnknownStartMethod(name.to_owned()))
    }
}

/// The index in [`StartMethod::all`] of what processes are started by that say nothing else.
static DEFAULT: AtomicU8 = AtomicU8::new(0);

/// How children are made that do not say otherwise: [`StartMethod::Spawn`], or what was
/// [set](set_start_method) here or in the parent.
#[must_use]
#[doc(alias = "get_start_method")]
pub fn start_method() -> StartMethod {
    let index = DEFAULT.load(Ordering::Relaxed); // stands for itself
    StartMethod::all()[usize::from(index)]
}

/// Sets how children are made that do not say otherwise, and returns what it was.
///
/// The children inherit it. A library leaves it alone and uses a [`Context`].
pub fn set_start_method(method: StartMethod) -> StartMethod {
    let before = start_method();
    let index = StartMethod::all().iter().position(|known| *known == method);
    DEFAULT.store(index.unwrap_or(0) as u8, Ordering::Relaxed); // stands for itself
    before
}

/// A start method, to make processes with, whatever the default is.
///
/// ```
/// use mp_process::{Context, StartMethod};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # mp_process::init();
/// let context = Context::new(StartMethod::ForkServer);
/// let child = context.process(|a: u32, b: u32| a + b, (40, 2)).start()?;
/// assert_eq!(child.join()?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "get_context")]
pub struct Context {
    method: StartMethod,
}

impl Context {
    /// The context of `method`.
    #[must_use]
    pub const fn new(method: StartMethod) -> Self {
        Self { method }
    }

    /// Its start method.
    #[must_use]
    pub const fn start_method(self) -> StartMethod {
        self.method
    }

    /// As [`Process::new`], with this start method.
    pub fn process<F, A, R>(self, target: F, args: A) -> Process<R, Ready<'static>>
    where
        F: Target<A, Output = R>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned,
    {
        Process::new(target, args).start_method(self.method)
    }

    /// As [`Process::run`], with this start method.
    pub fn run<T: Run>(self, value: T) -> Process<T::Output, Ready<'static>> {
        Process::run(value).start_method(self.method)
    }
}

/// The context of the [default](start_method) start method.
impl Default for Context {
    fn default() -> Self {
        Self::new(start_method())
    }
}
