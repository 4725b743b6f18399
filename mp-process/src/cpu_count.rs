use std::{num::NonZeroUsize, thread};

/// How many CPUs this process may use, at least one: those of its affinity mask, and no more than
/// its control group's quota pays for.
///
/// # Examples
///
/// ```
/// assert!(mp_process::cpu_count() >= 1);
/// ```
#[doc(alias = "process_cpu_count")]
#[must_use]
pub fn cpu_count() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
