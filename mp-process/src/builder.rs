//! What can be said about a process before it is started.

use std::{ffi::OsStr, path::PathBuf};

use crate::{
    options::{Limit, Stdio},
    process::{Process, Ready},
    start_method::StartMethod,
};

impl<R> Process<R, Ready<'_>> {
    /// Its name, instead of `Process-1`, `Process-1:2`…
    ///
    /// Also the first 15 bytes of it in `/proc/PID/comm`, where `ps` and `top` show them.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set(|options| options.name = name.into())
    }

    /// A daemon is terminated when this process exits, killed when it dies by any other means,
    /// and may have no children.
    #[must_use]
    pub fn daemon(self, daemon: bool) -> Self {
        self.set(|options| options.daemon = daemon)
    }

    /// The kernel kills it as soon as this process is gone, by whatever cause and whatever it is
    /// doing then.
    ///
    /// A normal exit of this process waits for it first, as for any other child, unless it was
    /// [detached](Process::detach). A [daemon](Self::daemon) always ends with its parent.
    #[must_use]
    pub fn end_with_parent(self, yes: bool) -> Self {
        self.set(|options| options.end_with_parent = yes)
    }

    /// Does not print its panics on stderr; the one that ends it is still told by `join`.
    #[must_use]
    pub fn quiet_panics(self, yes: bool) -> Self {
        self.set(|options| options.quiet_panics = yes)
    }

    /// Sets a variable of its environment, which otherwise is that of this process.
    ///
    /// A name that is empty or holds `=` or NUL is an error at the start, and so is a value with NUL.
    #[must_use]
    pub fn env(self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let variable = (name.as_ref().into(), Some(value.as_ref().into()));
        self.set(|options| options.environment.push(variable))
    }

    /// Removes a variable from its environment.
    ///
    /// A name that no variable can have is an error at the start, as for [`env`](Self::env).
    #[must_use]
    pub fn env_remove(self, name: impl AsRef<OsStr>) -> Self {
        let variable = (name.as_ref().into(), None);
        self.set(|options| options.environment.push(variable))
    }

    /// Removes every variable from its environment, but for those set afterwards.
    #[must_use]
    pub fn env_clear(self) -> Self {
        self.set(|options| {
            options.clear_environment = true;
            options.environment.clear();
        })
    }

    /// Its working directory.
    #[must_use]
    #[doc(alias = "cwd")]
    pub fn current_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.set(|options| options.current_dir = Some(dir.into()))
    }

    /// Its standard input; `/dev/null` unless set.
    #[must_use]
    pub fn stdin(self, stdio: impl Into<Stdio>) -> Self {
        self.set(|options| options.stdio[0] = stdio.into())
    }

    /// Its standard output; that of this process unless set.
    #[must_use]
    pub fn stdout(self, stdio: impl Into<Stdio>) -> Self {
        self.set(|options| options.stdio[1] = stdio.into())
    }

    /// Its standard error; that of this process unless set.
    #[must_use]
    pub fn stderr(self, stdio: impl Into<Stdio>) -> Self {
        self.set(|options| options.stdio[2] = stdio.into())
    }

    /// How it is made, instead of by the [default](crate::start_method()).
    ///
    /// A closure that [captures](Self::fork) can only be forked: another method is an error at the
    /// start.
    #[must_use]
    pub fn start_method(self, method: StartMethod) -> Self {
        self.set(|options| options.start_method = Some(method))
    }

    /// Limits what it may use.
    #[must_use]
    #[doc(alias = "rlimit")]
    pub fn limit(self, limit: Limit, value: u64) -> Self {
        self.set(|options| options.limit(limit, value))
    }

    /// Limits the memory of its own to `bytes`: an allocation beyond it fails, which ends a Rust
    /// program, and [`ExitError`](crate::ExitError) tells that the limit was the likely reason.
    #[must_use]
    pub fn memory_limit(self, bytes: u64) -> Self {
        self.limit(Limit::Memory, bytes)
    }

    /// The CPUs it may use, by number.
    #[must_use]
    pub fn affinity(self, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.set(|options| options.affinity = Some(cpus.into_iter().collect()))
    }

    /// How nice it is to others, from -20 to 19.
    #[must_use]
    pub fn nice(self, nice: i32) -> Self {
        self.set(|options| options.nice = Some(nice))
    }

    /// The process group it joins; 0 for one of its own, which Ctrl-C does not reach.
    #[must_use]
    pub fn process_group(self, group: i32) -> Self {
        self.set(|options| options.process_group = Some(group))
    }
}
