//! Atomics, fences and threads: std's, or loom's models under `cfg(mp_loom)`.
//!
//! Every protocol over a shared word takes its atomics from here, so that the same source runs
//! against the kernel and under the model checker.

#[cfg(not(mp_loom))]
mod imp {
    pub use std::{
        hint::spin_loop,
        sync::atomic::{
            AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU16,
            AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        },
        thread,
    };
}

#[cfg(mp_loom)]
mod imp {
    pub use loom::{
        hint::spin_loop,
        sync::atomic::{
            AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU16,
            AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        },
        thread,
    };
}

pub use imp::*;

/// Whether spinning can help: this process may run on more than one CPU at once.
///
/// Affinity mask and cgroup quota as they were at the first call. With one CPU the process that is
/// waited for cannot run while its waiter spins. Never in a model, which has no time.
#[must_use]
pub fn may_spin() -> bool {
    use std::sync::OnceLock;
    static MAY: OnceLock<bool> = OnceLock::new();
    !cfg!(mp_loom)
        && *MAY.get_or_init(|| std::thread::available_parallelism().is_ok_and(|n| n.get() > 1))
}

/// The CPU that this thread runs on now, as the kernel counts them.
#[must_use]
pub fn current_cpu() -> Option<u32> {
    nix::sched::sched_getcpu().ok().map(|cpu| cpu as u32)
}
