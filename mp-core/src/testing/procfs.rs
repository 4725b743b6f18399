//! Processes and threads as `/proc` shows them.

use std::{
    collections::{BTreeMap, HashSet},
    env, fs, process,
};

use nix::libc;

/// Name of the watchdog's thread or process: no part of the test.
pub(super) const WATCHDOG: &str = "mp-watchdog";

/// Variable of a test's child, and of those that it starts: the pid of the test's process.
pub(super) const RUN: &str = "MP_TEST_RUN";

/// One line of `/proc/PID/stat`, as far as tests need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) comm: String,
    /// `R`, `S`, `D`, `T`, `t` (stopped by a tracer), `Z`…
    pub(super) state: char,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// How many threads the process has.
    pub(super) threads: usize,
    /// In clock ticks since boot; with the pid it names a process once and for all.
    pub(super) started: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name stands in parentheses and may hold any byte, parentheses too.
        let (pid, rest) = text.split_once(" (")?;
        let (comm, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Stat {
            pid: pid.parse().ok()?,
            comm: comm.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// The process `pid`, if there is one (a zombie is one).
    pub(super) fn of_process(pid: i32) -> Option<Stat> {
        read(&format!("/proc/{pid}/stat")).and_then(|text| Stat::parse(&text))
    }

    pub(super) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn read(path: &str) -> Option<String> {
    fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The entries of a directory of `/proc` whose names are numbers.
fn numbers_in(path: &str) -> Vec<i32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// All processes that this one may see.
pub(super) fn processes() -> Vec<Stat> {
    let pids = numbers_in("/proc");
    pids.into_iter().filter_map(Stat::of_process).collect()
}

/// The threads of process `pid`.
///
/// The kernel's list breaks off where a thread ends just then: it is read again until it is as long as
/// the process says that it is, or what several looks have shown is put together.
pub(super) fn threads(pid: i32) -> Vec<Stat> {
    const LOOKS: usize = 20;
    let count = || Stat::of_process(pid).map_or(0, |stat| stat.threads);
    let mut seen = BTreeMap::new();
    for _ in 0..LOOKS {
        let before = count();
        let threads = threads_listed(pid);
        let is_whole = threads.len() == before && before == count();
        seen.extend(threads.into_iter().map(|thread| (thread.pid, thread)));
        if is_whole {
            break;
        }
    }
    seen.into_values().collect()
}

fn threads_listed(pid: i32) -> Vec<Stat> {
    let tids = numbers_in(&format!("/proc/{pid}/task"));
    tids.into_iter()
        .filter_map(|tid| read(&format!("/proc/{pid}/task/{tid}/stat")))
        .filter_map(|text| Stat::parse(&text))
        .collect()
}

/// What [`RUN`] is for children of this process.
pub(super) fn own_run() -> String {
    env::var(RUN).unwrap_or_else(|_| own_pid().to_string())
}

/// Whether the process was started by another run of the same tests, as far as it can be told.
fn is_of_another_run(pid: i32) -> bool {
    let environ = read(&format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environ.split('\0').filter_map(|line| line.split_once('='));
    variables.any(|(name, run)| name == RUN && run != own_run())
}

/// Children of `root`, their children and so on, parents first; and processes of the same
/// executable and session that were started after `root` and have lost their parent, unless they are
/// known to be of another run.
pub(super) fn descendants(root: i32) -> Vec<Stat> {
    let all = processes();
    let mut found: Vec<Stat> = Vec::new();
    let mut known = HashSet::from([root]);
    let orphans = orphans_of(root, &all);
    known.extend(orphans.iter().map(|orphan| orphan.pid));
    loop {
        let more: Vec<Stat> = all
            .iter()
            .filter(|one| known.contains(&one.parent) && !known.contains(&one.pid))
            .cloned()
            .collect();
        if more.is_empty() {
            break;
        }
        known.extend(more.iter().map(|one| one.pid));
        found.extend(more);
    }
    found.extend(orphans);
    found.retain(|one| one.comm != WATCHDOG);
    found
}

fn orphans_of(root: i32, all: &[Stat]) -> Vec<Stat> {
    let Some(own) = all.iter().find(|one| one.pid == root) else {
        return Vec::new();
    };
    let executable = fs::read_link(format!("/proc/{root}/exe")).ok();
    all.iter()
        .filter(|one| one.parent == 1 && one.pid != root)
        .filter(|one| one.session == own.session && one.started >= own.started)
        .filter(|one| {
            executable.is_some()
                && fs::read_link(format!("/proc/{}/exe", one.pid)).ok() == executable
        })
        .filter(|one| !is_of_another_run(one.pid))
        .cloned()
        .collect()
}

/// This process as `/proc` numbers it.
pub(super) fn own_pid() -> i32 {
    process::id().cast_signed()
}

/// What a thread is doing: state, kernel function, system call, and the kernel's stack if it may be read.
pub(super) fn describe_thread(pid: i32, thread: &Stat) -> String {
    let base = format!("/proc/{pid}/task/{}", thread.pid);
    let wchan = read(&format!("{base}/wchan")).filter(|name| name != "0" && !name.is_empty());
    let mut text = format!(
        "    thread {} {:?} state {}",
        thread.pid, thread.comm, thread.state
    );
    if let Some(wchan) = wchan {
        text.push_str(&format!(" in {wchan}"));
    }
    if let Some(syscall) = read(&format!("{base}/syscall")) {
        text.push_str(&format!(" syscall {}", name_syscall(syscall.trim_end())));
    }
    text.push('\n');
    for line in read(&format!("{base}/stack")).unwrap_or_default().lines() {
        text.push_str(&format!("        {line}\n"));
    }
    text
}

/// Puts the call's name before its number.
fn name_syscall(line: &str) -> String {
    let number = line.split(' ').next().and_then(|word| word.parse().ok());
    match number.and_then(syscall_name) {
        Some(name) => format!("{name} ({line})"),
        None => line.to_owned(),
    }
}

/// The name of a system call, of those that tests meet.
pub(super) fn syscall_name(number: i64) -> Option<&'static str> {
    macro_rules! name {
        ($($(#[$attribute:meta])* $constant:ident)*) => {
            match number {
                $($(#[$attribute])* libc::$constant => Some(&stringify!($constant)["SYS_".len()..]),)*
                _ => None,
            }
        };
    }
    name! {
        SYS_accept4 SYS_bind SYS_brk SYS_clock_nanosleep SYS_clone SYS_clone3 SYS_close SYS_connect
        SYS_dup SYS_dup3 SYS_execve SYS_exit_group SYS_fallocate SYS_fcntl SYS_fstat SYS_ftruncate
        SYS_futex SYS_getpid SYS_getrandom SYS_getsockopt SYS_ioctl SYS_kill SYS_listen SYS_lseek
        SYS_madvise SYS_memfd_create SYS_mmap SYS_mprotect SYS_munmap SYS_openat SYS_pidfd_open
        SYS_pidfd_send_signal SYS_pipe2 SYS_ppoll SYS_prctl SYS_pread64 SYS_prlimit64 SYS_pwrite64
        SYS_read SYS_recvfrom SYS_recvmsg SYS_rt_sigaction SYS_rt_sigprocmask SYS_sched_yield
        SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_setsockopt SYS_shutdown SYS_socket
        SYS_socketpair SYS_unlinkat SYS_wait4 SYS_waitid SYS_write SYS_writev
        #[cfg(target_arch = "x86_64")] SYS_fork
        #[cfg(target_arch = "x86_64")] SYS_pause
        #[cfg(target_arch = "x86_64")] SYS_poll
        #[cfg(target_arch = "x86_64")] SYS_unlink
        #[cfg(target_arch = "x86_64")] SYS_vfork
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) (b c) S 3 7 9 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.pid, stat.comm.as_str(), stat.state),
            (7, "a) (b c", 'S')
        );
        assert_eq!((stat.parent, stat.session, stat.started), (3, 9, 4242));
    }

    #[test]
    fn own_process_and_threads_are_found() {
        let own = own_pid();
        assert!(processes().iter().any(|one| one.pid == own));
        assert!(threads(own).iter().any(|one| one.pid == own));
    }

    #[test]
    fn a_thread_is_found_while_others_come_and_go() {
        const LOOKS: u32 = 1000;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let _ = std::thread::spawn(|| ()).join();
                    }
                });
            }
            // A new one each time: behind those in the list that end meanwhile.
            let finds_itself = || {
                let tid = nix::unistd::gettid().as_raw();
                threads(own_pid()).iter().any(|one| one.pid == tid)
            };
            let looks = (0..LOOKS).map(|_| std::thread::spawn(finds_itself).join());
            let missed = looks.filter(|found| !matches!(found, Ok(true))).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(missed, 0);
        });
    }
}
