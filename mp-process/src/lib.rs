//! Functions in child processes, and the whole life of a child.

#![deny(unsafe_code)] // opened in the modules that talk to the kernel

mod pass_fds;
mod pidfd;
pub mod subprocess;
