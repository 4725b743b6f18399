//! Ends a test that hangs, and says where.
#![allow(unsafe_code)] // a process of its own, where a thread would change what is tested: `fork`, `_exit`

use std::{
    io::{self, Write},
    process, thread,
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork, getppid},
};
use parking_lot::{Condvar, Mutex};

use super::{
    helpers::{factor, patience, usable_cpus},
    procfs::{self, Stat},
};

/// How finely time is counted.
const TICK: Duration = Duration::from_millis(50);

/// Ends the test, with all of its processes, when this guard lives too long.
///
/// The time given is multiplied by [`patience`](super::patience), and only time counts during which
/// the watchdog itself could run, so that a stopped or overloaded machine is no hang. When the time is
/// up it prints, for every thread of this process and of all its descendants, the name, the state and
/// the system call it sits in; then it kills the descendants and aborts this process.
///
/// One thread watches for all guards of a process; no [`Census`](super::Census) counts it.
///
/// ```
/// let _dog = mp_core::testing::Watchdog::secs(10);
/// ```
#[derive(Debug)]
#[must_use = "it watches until it is dropped"]
pub struct Watchdog {
    watcher: Watcher,
}

#[derive(Debug)]
enum Watcher {
    Thread { id: u64 },
    Process { pid: Pid },
}

struct Watched {
    id: u64,
    test: String,
    limit: Duration,
    spent: Duration,
}

impl Watched {
    /// Counts `time`; true if the limit is reached.
    fn spend(&mut self, time: Duration) -> bool {
        self.spent += time.min(TICK * 2);
        // The load is asked for only when it matters: it opens a file.
        self.spent > self.limit.mul_f64(factor()) && self.spent > self.limit.mul_f64(patience())
    }
}

struct Kennel {
    watched: Vec<Watched>,
    next_id: u64,
    has_thread: bool,
}

static KENNEL: Mutex<Kennel> = Mutex::new(Kennel {
    watched: Vec::new(),
    next_id: 0,
    has_thread: false,
});
static CHANGED: Condvar = Condvar::new();

impl Watchdog {
    /// Watches from now on for `secs` seconds.
    pub fn secs(secs: u64) -> Watchdog {
        let mut kennel = KENNEL.lock();
        if !kennel.has_thread {
            kennel.has_thread = true;
            let thread = thread::Builder::new().name(procfs::WATCHDOG.into());
            thread.spawn(watch).expect("no thread for the watchdog");
        }
        let id = kennel.next_id;
        kennel.next_id += 1;
        kennel.watched.push(Watched {
            id,
            test: test_name(),
            limit: Duration::from_secs(secs),
            spent: Duration::ZERO,
        });
        CHANGED.notify_one();
        Watchdog {
            watcher: Watcher::Thread { id },
        }
    }

    /// The same by a forked process instead of a thread: for tests of what depends on this process
    /// having no second thread. To be called while it has none.
    pub fn secs_without_thread(secs: u64) -> Watchdog {
        let watched = Watched {
            id: 0,
            test: test_name(),
            limit: Duration::from_secs(secs),
            spent: Duration::ZERO,
        };
        let root = Pid::this();
        // SAFETY:
        // * The caller has no other thread (see above), so the child may do whatever this process may.
        match unsafe { fork() }.expect("no process for the watchdog") {
            ForkResult::Parent { child } => Watchdog {
                watcher: Watcher::Process { pid: child },
            },
            ForkResult::Child => watch_as_process(root, watched),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        match self.watcher {
            Watcher::Thread { id } => KENNEL.lock().watched.retain(|one| one.id != id),
            Watcher::Process { pid } => {
                let _ = kill(pid, Signal::SIGKILL); // it has nothing to tidy up
                let _ = waitpid(pid, None);
            }
        }
    }
}

/// libtest names its threads after their tests.
fn test_name() -> String {
    thread::current().name().unwrap_or("(unnamed)").to_owned()
}

fn watch() {
    // Signals are the test's business, none is to be handled here.
    let _ = SigSet::all().thread_block();
    let mut kennel = KENNEL.lock();
    loop {
        if kennel.watched.is_empty() {
            CHANGED.wait(&mut kennel);
        }
        let begin = Instant::now();
        CHANGED.wait_for(&mut kennel, TICK);
        let time = begin.elapsed();
        if let Some(late) = kennel
            .watched
            .iter_mut()
            .find_map(|one| one.spend(time).then_some(&*one))
        {
            bite(Pid::this(), late);
            process::abort();
        }
    }
}

fn watch_as_process(root: Pid, mut watched: Watched) -> ! {
    // SAFETY:
    // * No owner of these descriptors runs in this process again: it only ever leaves by `_exit`.
    //   Held open, they would hide the end of a pipe from the test.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let _ = prctl::set_name(&std::ffi::CString::new(procfs::WATCHDOG).unwrap_or_default());
    while getppid() == root {
        let begin = Instant::now();
        thread::sleep(TICK);
        if watched.spend(begin.elapsed()) {
            bite(root, &watched);
            let _ = kill(root, Signal::SIGABRT);
            break;
        }
    }
    // SAFETY:
    // * `_exit` takes any status; nothing of the parent's is flushed or dropped a second time.
    unsafe { libc::_exit(0) }
}

/// Prints where everything stands, and kills all but `root`.
fn bite(root: Pid, late: &Watched) {
    let mut report = format!(
        "watchdog: test {:?} did not end within {:?} (patience {:.1} on {} CPUs); its processes:\n",
        late.test,
        late.limit,
        patience(),
        usable_cpus(),
    );
    let own = Stat::of_process(root.as_raw());
    for process in own.into_iter().chain(procfs::descendants(root.as_raw())) {
        report.push_str(&describe(&process));
    }
    let _ = io::stderr().write_all(report.as_bytes()); // not by `eprint`, which a test captures
    kill_descendants(root);
}

fn describe(process: &Stat) -> String {
    let mut text = format!(
        "  process {} {:?} state {} parent {}\n",
        process.pid, process.comm, process.state, process.parent
    );
    for thread in procfs::threads(process.pid) {
        text.push_str(&procfs::describe_thread(process.pid, &thread));
    }
    text
}

/// Again and again, because a process may fork while it is looked for.
fn kill_descendants(root: Pid) {
    for _ in 0..20 {
        let mut living = procfs::descendants(root.as_raw());
        living.retain(|one| !one.is_zombie());
        if living.is_empty() {
            return;
        }
        for process in living {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}
