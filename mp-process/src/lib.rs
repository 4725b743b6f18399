//! Functions in child processes, and the whole life of a child.

#![deny(unsafe_code)] // opened in the modules that talk to the kernel

mod bootstrap;
mod child;
mod cpu_count;
mod current;
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

/// For the expansion of [`init_in_tests!`].
#[doc(hidden)]
pub mod __private {
    pub use crate::init::{min_stack, register_test, run_test_child};
}
