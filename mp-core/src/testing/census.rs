//! What a test must not leave behind.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{Uid, gettid};
use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};

use super::{
    helpers::patience,
    procfs::{self, Stat, WATCHDOG},
};

/// What ends asynchronously (threads unwinding, processes being reaped by others) gets this long.
const GRACE: Duration = Duration::from_secs(10);

/// Names of ours, and of Python's shared memory, in the folders that all processes share.
const PREFIXES: [&str; 2] = ["mp-", "psm_"];

static SERIAL: ReentrantMutex<()> = ReentrantMutex::new(());
/// Threads that wait for [`SERIAL`]: other tests, which are no leak of the one that runs.
static WAITING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Held by one test of a process at a time; see [`serial`].
#[derive(Debug)]
pub struct Serial {
    _guard: ReentrantMutexGuard<'static, ()>,
}

/// Waits until no other thread holds this: tests that look at the whole process run one by one.
///
/// [`Census::take`] holds one; the same thread may hold several.
pub fn serial() -> Serial {
    let tid = gettid().as_raw();
    WAITING.lock().push(tid);
    let guard = SERIAL.lock();
    WAITING.lock().retain(|&waiting| waiting != tid);
    Serial { _guard: guard }
}

/// What kind of thing a test left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LeakKind {
    /// An open descriptor of this process.
    Descriptor,
    /// A shared mapping of this process.
    Mapping,
    /// A thread of this process.
    Thread,
    /// A living child, a child's child, or one of those without a parent.
    Process,
    /// A dead child nobody has waited for.
    Zombie,
    /// A named segment in `/dev/shm`.
    Segment,
    /// A file or folder in the folder for temporary ones.
    TempFile,
}

/// One thing that was not there when the census was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// What kind of thing.
    pub kind: LeakKind,
    /// Which one: number and name, as `/proc` has it.
    pub what: String,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// Looks at the process before a test, and once more when dropped: what is left over fails the test.
///
/// Take it first, so that it is dropped last, and in every test of a binary that has one: it holds
/// [`serial`], and what another test opened meanwhile would be taken for this one's.
///
/// Things that end by themselves soon have ten seconds (times [`patience`](super::patience)) for it.
/// A test that panics is not looked at.
///
/// # Panics
///
/// On drop, with a list of what is left over: descriptors, shared mappings, threads, children (living
/// and zombies, their children, and processes of this executable that lost their parent), segments
/// below `/dev/shm` and temporary files named `mp-…` or `psm_…`. A name that a process outside of this
/// one's tree holds, or that has such a process's pid in it, is another run's.
#[derive(Debug)]
#[must_use = "it looks again when it is dropped"]
pub struct Census {
    before: Snapshot,
    allowed: Vec<String>,
    done: bool,
    _serial: Serial,
}

impl Census {
    /// Waits for its [turn](serial), and looks.
    pub fn take() -> Census {
        let serial = serial();
        Census {
            before: Snapshot::take(),
            allowed: Vec::new(),
            done: false,
            _serial: serial,
        }
    }

    /// Overlooks what has `text` in its description: what exists once per process, from its first
    /// use on.
    pub fn allow(mut self, text: &str) -> Census {
        self.allowed.push(text.to_owned());
        self
    }

    /// Looks again now.
    ///
    /// # Panics
    ///
    /// As on drop.
    #[track_caller]
    pub fn check(mut self) {
        self.complain();
    }

    /// What is left over and stays so for all of `grace`.
    pub fn leaks_after(&self, grace: Duration) -> Vec<Leak> {
        let begin = Instant::now();
        let mut leaks = self.new_since(Snapshot::take());
        let mut pause = Duration::from_micros(200);
        while !leaks.is_empty() && begin.elapsed() < grace {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
            // What is gone once is no leak; what comes meanwhile is not looked at any more.
            let mut now = Snapshot::take().0;
            let keys = leaks.into_keys();
            leaks = keys.filter_map(|key| now.remove_entry(&key)).collect();
        }
        let mut leaks: Vec<Leak> = leaks.into_values().collect();
        leaks.retain(|leak| !is_foreign(leak));
        leaks
    }

    fn new_since(&self, now: Snapshot) -> BTreeMap<Key, Leak> {
        let mut leaks = now.0;
        leaks.retain(|key, _| !self.before.0.contains_key(key));
        leaks.retain(|_, leak| !self.allowed.iter().any(|text| leak.what.contains(text)));
        leaks
    }

    #[track_caller]
    fn complain(&mut self) {
        self.done = true;
        let leaks = self.leaks_after(GRACE.mul_f64(patience()));
        let lines: Vec<String> = leaks.iter().map(|leak| format!("\n  {leak}")).collect();
        assert!(leaks.is_empty(), "the test left behind:{}", lines.concat());
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        if !self.done && !thread::panicking() {
            self.complain();
        }
    }
}

/// What tells one thing from all others of its kind, also while its description changes (a thread
/// names itself only once it runs).
type Key = (LeakKind, String);

/// Everything of interest.
#[derive(Debug, Default)]
struct Snapshot(BTreeMap<Key, Leak>);

impl Snapshot {
    fn take() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add_descriptors();
        snapshot.add_mappings();
        snapshot.add_threads();
        snapshot.add_processes();
        snapshot.add_names(LeakKind::Segment, Path::new("/dev/shm"));
        snapshot.add_names(LeakKind::TempFile, &env::temp_dir());
        snapshot
    }

    fn add(&mut self, kind: LeakKind, key: String, what: String) {
        self.0.insert((kind, key), Leak { kind, what });
    }

    fn add_descriptors(&mut self) {
        let own = format!("/proc/{}/fd", procfs::own_pid()); // the look itself
        for (number, target) in links_in("/proc/self/fd") {
            if target != own {
                let key = format!("{number} -> {target}");
                let what = format!("{key}{}", socket_name(&target));
                self.add(LeakKind::Descriptor, key, what);
            }
        }
    }

    fn add_mappings(&mut self) {
        for line in fs::read_to_string("/proc/self/maps")
            .unwrap_or_default()
            .lines()
        {
            if is_shared_memory(line) {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                self.add(LeakKind::Mapping, line.to_owned(), words.join(" "));
            }
        }
    }

    fn add_threads(&mut self) {
        let waiting = WAITING.lock().clone();
        for thread in procfs::threads(procfs::own_pid()) {
            if thread.comm != WATCHDOG && !waiting.contains(&thread.pid) {
                self.add(LeakKind::Thread, key(&thread), name(&thread));
            }
        }
    }

    fn add_processes(&mut self) {
        for process in procfs::descendants(procfs::own_pid()) {
            let kind = match process.is_zombie() {
                true => LeakKind::Zombie,
                false => LeakKind::Process,
            };
            let what = format!("{}, child of {}", name(&process), process.parent);
            self.add(kind, key(&process), what);
        }
    }

    fn add_names(&mut self, kind: LeakKind, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            let ours = PREFIXES.iter().any(|prefix| file_name.starts_with(prefix));
            let own = |meta: fs::Metadata| meta.uid() == Uid::current().as_raw();
            if ours && fs::symlink_metadata(entry.path()).is_ok_and(own) {
                let path = entry.path().to_string_lossy().into_owned();
                self.add(kind, path.clone(), path);
            }
        }
    }
}

/// The start time tells a process from another one that got the same number later.
fn key(stat: &Stat) -> String {
    format!("{} {}", stat.pid, stat.started)
}

fn name(stat: &Stat) -> String {
    format!("{} {:?}", stat.pid, stat.comm)
}

/// The links in a folder of `/proc`, with their targets.
fn links_in(folder: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().to_string_lossy().into_owned();
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The address of a Unix socket that has one.
fn socket_name(target: &str) -> String {
    let inode = target
        .strip_prefix("socket:[")
        .and_then(|rest| rest.strip_suffix(']'));
    let Some(inode) = inode else {
        return String::new();
    };
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace());
    let found = lines.find_map(|mut line| (line.nth(6) == Some(inode)).then(|| line.next())?);
    found
        .map(|address| format!(" {address}"))
        .unwrap_or_default()
}

fn is_shared_memory(line: &str) -> bool {
    line.contains("/memfd:") || line.contains("/dev/shm/") || line.contains("/dev/zero")
}

/// Whether a process that is none of ours has the file open or mapped, a socket bound there, or its
/// pid in the name.
fn is_foreign(leak: &Leak) -> bool {
    if !matches!(leak.kind, LeakKind::Segment | LeakKind::TempFile) {
        return false;
    }
    let mut ours: Vec<i32> = procfs::descendants(procfs::own_pid())
        .iter()
        .map(|one| one.pid)
        .collect();
    ours.push(procfs::own_pid());
    let numbers = leak.what.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<i32> = numbers.filter_map(|word| word.parse().ok()).collect();
    let others = procfs::processes().into_iter().map(|one| one.pid);
    others
        .filter(|pid| !ours.contains(pid))
        .any(|pid| numbers.contains(&pid) || holds(pid, &leak.what))
}

fn holds(pid: i32, path: &str) -> bool {
    let base = format!("/proc/{pid}");
    let maps = fs::read_to_string(format!("{base}/maps")).unwrap_or_default();
    maps.contains(path)
        || links_in(&format!("{base}/fd"))
            .iter()
            .any(|(_, target)| target.starts_with(path) || socket_name(target).contains(path))
}
