//! Small things that tests need and that have no other place.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// How many times as long as on an idle machine things may take: `MP_WATCHDOG_FACTOR` (default 1)
/// times the load per CPU, at least 1 and at most 8.
pub fn patience() -> f64 {
    factor() * (load() / usable_cpus() as f64).clamp(1.0, 8.0)
}

/// What `MP_WATCHDOG_FACTOR` says.
pub(super) fn factor() -> f64 {
    let factor = env::var("MP_WATCHDOG_FACTOR").ok();
    factor.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

/// Mean number of runnable processes over the last minute.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// CPUs this process may use: affinity mask and cgroup quota, at least 1.
pub fn usable_cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The CPUs of this thread's affinity mask, by their numbers.
pub fn cpus() -> Vec<usize> {
    let mask = sched_getaffinity(Pid::from_raw(0)).expect("a thread may ask for its own");
    let usable = |cpu: &usize| mask.is_set(*cpu).expect("below the count");
    (0..CpuSet::count()).filter(usable).collect()
}

/// Has this thread run on `cpu`, one of [`cpus`], and nowhere else.
pub fn stay_on(cpu: usize) {
    let mut mask = CpuSet::new();
    mask.set(cpu).expect("below the count");
    sched_setaffinity(Pid::from_raw(0), &mask).expect("a CPU that may be used");
}

/// Waits until `condition` holds, looking often at first and every 10 ms later.
///
/// # Panics
///
/// When it does not hold within `secs` seconds (times [`patience`]).
#[track_caller]
pub fn eventually(secs: u64, mut condition: impl FnMut() -> bool) {
    let limit = Duration::from_secs(secs).mul_f64(patience());
    let begin = Instant::now();
    let mut pause = Duration::from_micros(50);
    while !condition() {
        assert!(
            begin.elapsed() < limit,
            "condition did not hold within {limit:?}"
        );
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// The program `name` on the `PATH`, if this machine has it. See [`skip`].
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut candidates = env::split_paths(&path).map(|folder| folder.join(name));
    candidates.find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether the sources of std are installed, of which the compiler shows lines in its messages.
pub fn has_sources_of_std() -> bool {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = String::from_utf8(output.unwrap().stdout).unwrap();
    Path::new(sysroot.trim_end())
        .join("lib/rustlib/src/rust/library")
        .exists()
}

/// Tells that the test `name` does nothing because this machine lacks `tool`.
///
/// The line goes past libtest's capture, so that `.ci/run` sees it and fails.
///
/// ```
/// use mp_core::testing;
///
/// let Some(python) = testing::tool("python3") else {
///     return testing::skip("speaks_python", "python3");
/// };
/// assert!(python.is_absolute());
/// ```
pub fn skip(name: &str, tool: &str) {
    let line = format!("skipped: {name} needs {tool}\n");
    let _ = io::stderr().write_all(line.as_bytes()); // nobody to tell if stderr is gone
}

/// Bytes of memory this process has in RAM.
pub fn memory_rss() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<usize>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eventually_returns_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        eventually(60, || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }

    #[test]
    #[should_panic(expected = "condition did not hold")]
    fn eventually_gives_up() {
        eventually(0, || false);
    }

    #[test]
    fn tools_are_found_by_name_only_if_they_can_run() {
        assert!(tool("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(tool("no-such-program-anywhere"), None);
    }

    #[test]
    fn touched_memory_is_resident() {
        // Not by how much it grows: other tests of this process take and free memory meanwhile.
        let block = std::hint::black_box(vec![1u8; 32 << 20]);
        let resident = memory_rss();
        assert!(resident >= block.len(), "{resident} bytes");
    }
}
