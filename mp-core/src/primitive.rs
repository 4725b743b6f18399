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

/// A line of its own for what has one kind of writer: two cache lines, because the processor fetches
/// neighbours in pairs.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Line<T>(pub T);

impl<T> std::ops::Deref for Line<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

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

/// Moves this thread to another one of the CPUs that it may use, if there is one; the scheduler may
/// move it back at any time. For threads of ours only: CPUs that are allowed to the process later
/// are not for a thread whose mask was set once.
pub fn leave_cpu() {
    use nix::{
        sched::{sched_getaffinity, sched_setaffinity},
        unistd::Pid,
    };
    let this_thread = Pid::from_raw(0);
    let (Some(here), Ok(all)) = (current_cpu(), sched_getaffinity(this_thread)) else {
        return;
    };
    let mut others = all;
    // Fails, and then moves nothing, where this was the only one.
    if others.unset(here as usize).is_ok() && sched_setaffinity(this_thread, &others).is_ok() {
        let _ = sched_setaffinity(this_thread, &all); // as it was
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use nix::{sched::sched_getaffinity, unistd::Pid};

    use super::*;
    use crate::testing::{cpus, stay_on};

    #[test]
    fn a_thread_leaves_its_cpu_and_may_come_back() {
        let this_thread = Pid::from_raw(0);
        let all = sched_getaffinity(this_thread).unwrap();
        leave_cpu();
        assert_eq!(sched_getaffinity(this_thread).unwrap(), all);
        if cpus().len() > 1 {
            // The scheduler may have had ideas of its own in between.
            let left = (0..20).any(|_| {
                let here = current_cpu();
                leave_cpu();
                current_cpu() != here
            });
            assert!(left);
        }
        let here = current_cpu().unwrap() as usize;
        stay_on(here);
        leave_cpu(); // there is no other
        assert_eq!(cpus(), [here]);
    }
}
