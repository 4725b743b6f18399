//! Internal base of the `mp` crates: what must exist once per process, and the kernel.
//!
//! Not meant for direct use; the crates above re-export what a user needs. There is no stability
//! promise on this crate.
//!
//! * [`primitive`], [`deadline`], [`futex`]: atomics, time and sleeping, for words that other
//!   processes see.
//! * [`robust`], [`liveness`]: locks that survive their owner, and who is still there.
//! * [`shm`], [`duplex`], [`fd`]: shared mappings, streams of bytes in them, and descriptors that
//!   travel.
//! * [`transfer`], [`codec`]: values as bytes, with the descriptors of the handles inside them;
//!   [`recycle`]: large blocks for them.
//! * [`hooks`], [`authkey`]: what runs after a fork and at exit, and the secret of a program.

#![deny(unsafe_code)] // opened in the modules that talk to the kernel or to shared memory

#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_env = "gnu")))]
compile_error!(
    "mp needs 64-bit Linux with glibc 2.30 or newer: memfd, pidfd, futexes and robust mutexes that time out by the monotonic clock"
);

pub mod authkey;
pub mod codec;
pub mod deadline;
pub mod duplex;
pub mod fd;
pub mod futex;
pub mod hooks;
pub mod liveness;
pub mod primitive;
pub mod recycle;
pub mod robust;
pub mod shm;
pub mod transfer;

#[cfg(feature = "test-util")]
pub mod testing;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
