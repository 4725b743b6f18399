//! Functions in child processes, and the whole life of a child.
//!
//! * [`init`] first in `main`, or [`init_in_tests!`] in a test binary: where children begin.
//! * [`Process`]: a function and its arguments; built, started, joined. [`Run`]: the same with a type.
//! * [`StartMethod`]: `Spawn`, `ForkServer`, `Fork`; a [`Context`] carries one.
//! * [`ExitError`]: how a child ended that brought no value. [`StartError`]: why there is none.
//! * [`Child`], [`active_children`], [`current_process`], [`parent_process`]: the tree of processes.
//! * [`subprocess`]: programs instead of functions.
//!
//! ```
//! use mp_process::Process;
//!
//! fn shout(text: String) -> String {
//!     text.to_uppercase()
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mp_process::init();
//!
//!     let child = Process::new(shout, ("hello".to_owned(),)).start()?;
//!     assert_eq!(child.join()?, "HELLO");
//!     Ok(())
//! }
//! ```
//!
//! # How it works
//!
//! A child is this executable once more (or a fork of it), with one end of a socket pair. In its
//! `init` it takes the name of its function from there, which is an offset in the image that both
//! have, and the encoded arguments, with the descriptors that belong to them; calls the function;
//! and sends back what it returned, or the panic. The parent waits on the child's pidfd, and looks
//! into the socket when that is ready. The kernel closes that socket when either dies, so both
//! know of the other's end, whatever the cause.
//!
//! # Process death
//!
//! The end of a child, by whatever cause, is an [`ExitError`] of its `join`, at once, and costs
//! nobody else anything. No signal handler is installed and nobody else's child is waited for. When
//! the parent dies, the kernel kills its daemons and those built to
//! [end with it](Process::end_with_parent).

#![allow(clippy::needless_doctest_main, reason = "where in `main` is the point")]
#![deny(unsafe_code)] // opened in the modules that talk to the kernel

mod bootstrap;
mod builder;
mod child;
mod cpu_count;
mod current;
mod end;
mod error;
mod exit;
mod image;
mod init;
mod life;
mod log;
mod options;
mod outcome;
mod pass_fds;
mod passed_fd;
mod pidfd;
mod popen;
mod private_fd;
mod process;
mod start_method;
pub mod subprocess;
pub mod target;
mod wire;

pub use crate::{
    child::{Child, active_children},
    cpu_count::cpu_count,
    current::{Current, ParentProcess, current_process, parent_process},
    error::{ExitError, ExitStatus, MemoryUse, NotInitialized, StartError, Step},
    exit::exit_with,
    init::{init, init_with, set_executable},
    log::{log_level, log_to_stderr},
    options::{Limit, Stdio},
    passed_fd::Fd,
    process::{Process, Ready, Run, Started, StillRunning},
    start_method::{Context, StartMethod, UnknownStartMethod, set_start_method, start_method},
    target::Target,
};
#[doc(inline)]
pub use mp_core::{
    authkey::AuthKey,
    codec::{Bytes, DecodeError, EncodeError},
    hooks::{ExitHook, at_exit},
};
#[doc(no_inline)]
pub use tracing::Level;

/// For the expansion of [`init_in_tests!`], and for a test of what older kernels need.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        init::{min_stack, register_test, run_test_child},
        popen::forkserver::fork_server_tells,
    };
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
