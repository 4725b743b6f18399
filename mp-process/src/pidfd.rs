//! A process held by a descriptor: waiting, reaping and signalling that cannot hit a stranger.
//!
//! A pid is a number that the kernel gives away again once its owner was reaped, maybe by other
//! code in this program; a pidfd stays what it was. Readable means ended.
#![allow(unsafe_code)] // pidfd_open, pidfd_send_signal and waitid with P_PIDFD have no safe wrapper

use std::{
    fs, io, mem,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::ExitStatus,
    ptr,
};

use mp_core::{deadline::Deadline, fd};
use nix::{
    errno::Errno,
    libc,
    sys::{signal, wait::waitpid},
    unistd::Pid,
};

use crate::private_fd::above_streams;

/// A process, held by its pidfd.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

/// How a child ended, and what it had used when it was reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// `None`: somebody else reaped it, and the kernel does not keep the status.
    pub(crate) status: Option<ExitStatus>,
    /// Its largest resident set in bytes, where it was reaped here.
    pub(crate) peak_rss: Option<u64>,
}

/// To whom a signal goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The process alone.
    Process,
    /// Every member of the process group that it leads, or led until it ended.
    Group,
}

impl Pidfd {
    /// Opens `pid`, which must have been a child of this process a moment ago.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it is gone: other code in this program reaped it.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY:
        // * the call takes two integers and touches no memory.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        // SAFETY:
        // * the kernel has just made this descriptor for us (close-on-exec); nobody else owns it.
        let pidfd = Self::from(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) });
        if pidfd.is_a_strangers()? {
            return Err(Errno::ESRCH.into());
        }
        Ok(pidfd)
    }

    /// Whether the pid of a child that others reaped was given to another process since.
    fn is_a_strangers(&self) -> io::Result<bool> {
        Ok(!self.is_unreaped() && !self.wait(Some(Deadline::now()))?)
    }

    /// Whether it is a child, running or not, that nobody has reaped: its pid is its own.
    pub(crate) fn is_unreaped(&self) -> bool {
        self.waitid(libc::WEXITED | libc::WNOWAIT) != Err(Errno::ECHILD)
    }

    /// Waits until the process has ended; `false` if the deadline came first.
    pub(crate) fn wait(&self, until: Option<Deadline>) -> io::Result<bool> {
        fd::poll_one(self.as_fd(), libc::POLLIN, until)
    }

    /// Waits until the process was reaped, by whomever; `false` if the deadline came first, or if
    /// the kernel (before Linux 6.9) does not show it.
    pub(crate) fn wait_reaped(&self, until: Deadline) -> io::Result<bool> {
        fd::poll_one(self.as_fd(), 0, Some(until)) // a hang-up is always looked for
    }

    /// Reaps the child if it has ended; `None` while it runs.
    ///
    /// A child that others reaped (`wait(-1)` in another thread, `SIGCHLD` ignored) has ended too:
    /// its status then comes from the kernel's record behind the pidfd, on Linux 6.15 and later.
    pub(crate) fn try_reap(&self) -> io::Result<Option<Ended>> {
        match self.waitid(libc::WEXITED) {
            Err(Errno::ECHILD) => Ok(self.wait(Some(Deadline::now()))?.then(|| Ended {
                status: self.recorded_status(),
                peak_rss: None,
            })),
            other => Ok(other?.map(|(_, ended)| ended)),
        }
    }

    fn waitid(&self, options: libc::c_int) -> Result<Option<(u32, Ended)>, Errno> {
        waitid(libc::P_PIDFD, self.0.as_raw_fd().cast_unsigned(), options)
    }

    /// Waits until the child has ended, and reaps it.
    pub(crate) fn reap(&self) {
        loop {
            match self.wait(None).and_then(|_| self.try_reap()) {
                Ok(None) => std::thread::yield_now(), // a tracer hears of the end first
                _ => return,
            }
        }
    }

    /// Sends `signal`; `false` if there is nobody left to get it.
    pub(crate) fn signal(&self, signal: libc::c_int, scope: Scope) -> io::Result<bool> {
        /// From `linux/pidfd.h`, since Linux 6.9.
        const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
        let flags = match scope {
            Scope::Process => 0,
            Scope::Group => PIDFD_SIGNAL_PROCESS_GROUP,
        };
        // SAFETY:
        // * the descriptor is open, because it is borrowed.
        // * a null `siginfo_t` is allowed and means the one `kill(2)` would send.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                ptr::null::<libc::siginfo_t>(),
                flags,
            )
        };
        match Errno::result(sent) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The status of a process that was reaped, where the kernel keeps it.
    pub(crate) fn recorded_status(&self) -> Option<ExitStatus> {
        const PIDFD_INFO_EXIT: u64 = 1 << 3;
        let info = self.info(PIDFD_INFO_EXIT)?;
        (info.mask & PIDFD_INFO_EXIT != 0).then(|| ExitStatus::from_raw(info.exit_code))
    }

    /// The status of a process with this `pid` that has ended and that nobody has reaped yet: so whoever
    /// is not its parent can know it, too.
    ///
    /// `None` also if the kernel does not let us look at it.
    pub(crate) fn unreaped_status(&self, pid: u32) -> Option<ExitStatus> {
        // Asks for the same permission; without it `stat` would show a zero.
        fs::read_link(format!("/proc/{pid}/ns/user")).ok()?;
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // A number that is still its own was its own before.
        if !self.signal(0, Scope::Process).ok()? {
            return None;
        }
        exit_code_of(&stat).map(ExitStatus::from_raw)
    }

    /// Whether the kernel tells anything about a process behind a pidfd: since Linux 6.13, and how it
    /// ended since 6.15.
    pub(crate) fn has_info(&self) -> bool {
        self.info(0).is_some()
    }

    fn info(&self, mask: u64) -> Option<PidfdInfo> {
        /// `_IOWR(0xFF, 11, struct pidfd_info)`.
        const PIDFD_GET_INFO: libc::c_ulong =
            3 << 30 | (size_of::<PidfdInfo>() << 16 | 0xFF << 8 | 11) as libc::c_ulong;
        let mut info = PidfdInfo {
            mask,
            ..PidfdInfo::default()
        };
        // SAFETY:
        // * the request writes at most the size encoded in it, which is that of `info`.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        (result == 0).then_some(info)
    }
}

/// What `wait` would give, out of the text of `/proc/PID/stat`.
fn exit_code_of(stat: &[u8]) -> Option<i32> {
    /// Its place behind the name: field 52, where the state is field 3.
    const EXIT_CODE: usize = 52 - 3;
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = str::from_utf8(&stat[end_of_name + 1..])
        .ok()?
        .split_ascii_whitespace();
    fields.clone().next().filter(|state| *state == "Z")?;
    fields.nth(EXIT_CODE)?.parse().ok()
}

/// `struct pidfd_info` of `linux/pidfd.h` in its first published size.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

impl From<OwnedFd> for Pidfd {
    /// Takes a pidfd that the kernel or a peer of ours handed out.
    fn from(fd: OwnedFd) -> Self {
        Self(above_streams(fd))
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Some child of this process that has ended, and how; it stays there to be [reaped](reap).
pub(crate) fn next_ended() -> io::Result<Option<(u32, Ended)>> {
    match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOWAIT) {
        Err(Errno::ECHILD) => Ok(None),
        other => Ok(other?),
    }
}

/// Reaps a child that has ended.
pub(crate) fn reap(pid: u32) {
    let _ = waitid(libc::P_PID, pid, libc::WEXITED); // or others did
}

/// Ends and reaps a child that waits for a word of this process, and for which there is no pidfd.
///
/// By its pid, which is its own: it cannot have ended by itself, and so nobody has reaped it.
pub(crate) fn end_unheld(pid: u32) {
    let child = Pid::from_raw(pid.cast_signed());
    if is_child(pid) && signal::kill(child, signal::SIGKILL).is_ok() {
        while waitpid(child, None) == Err(Errno::EINTR) {}
    }
}

/// Whether `pid` is a child of this process that was not reaped yet.
pub(crate) fn is_child(pid: u32) -> bool {
    waitid(libc::P_PID, pid, libc::WEXITED | libc::WNOWAIT).is_ok()
}

/// Looks for a child that has ended, without waiting for one.
fn waitid(
    kind: libc::idtype_t,
    id: libc::id_t,
    options: libc::c_int,
) -> Result<Option<(u32, Ended)>, Errno> {
    // SAFETY:
    // * a plain C structure for which all zeroes is a value.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY:
    // * the same.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY:
    // * a descriptor among the integers is open, because it is borrowed.
    // * both structures outlive the call.
    // The raw call, because only it tells the resources that the child had used.
    let result = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            kind,
            id,
            &raw mut info,
            options | libc::WNOHANG,
            &raw mut usage,
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(ended(&info, &usage)),
        Err(Errno::EINTR) => waitid(kind, id, options),
        Err(errno) => Err(errno),
    }
}

/// What `waitid` tells; `None` if it found the child still running.
fn ended(info: &libc::siginfo_t, usage: &libc::rusage) -> Option<(u32, Ended)> {
    const CORE_DUMPED: i32 = 0x80;
    if info.si_signo == 0 {
        return None;
    }
    // SAFETY:
    // * `waitid` filled the fields of SIGCHLD.
    let status = unsafe { info.si_status() };
    // SAFETY:
    // * the same.
    let pid = unsafe { info.si_pid() }.cast_unsigned();
    let status = match info.si_code {
        libc::CLD_EXITED => status << 8,
        libc::CLD_DUMPED => status | CORE_DUMPED,
        _ => status,
    };
    let ended = Ended {
        status: Some(ExitStatus::from_raw(status)),
        peak_rss: Some(kib(usage.ru_maxrss)),
    };
    Some((pid, ended))
}

/// The largest resident set that the memory of this process has had, in bytes.
///
/// Not that of `getrusage`: there the peak of whoever executed this program counts, too.
pub(crate) fn own_peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok().map(kib)
}

/// So many KiB in bytes.
fn kib(count: libc::c_long) -> u64 {
    u64::try_from(count).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_went_to_a_stranger_is_not_held() {
        let stranger = std::os::unix::process::parent_id();
        let error = Pidfd::open(stranger).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_zombie_tells_how_it_ended() {
        for (script, status) in [("exit 7", 7 << 8), ("kill -9 $$", 9)] {
            let mut child = std::process::Command::new("sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            let pidfd = Pidfd::open(child.id()).unwrap();
            pidfd.wait(None).unwrap();
            let told = pidfd.unreaped_status(child.id());
            assert_eq!(told, Some(ExitStatus::from_raw(status)));
            child.wait().unwrap();
            assert_eq!(pidfd.unreaped_status(child.id()), None);
        }
    }

    #[test]
    fn names_do_not_confuse_the_reading_of_a_status() {
        let rest = " 1".repeat(48);
        let stat = |name: &str, state: &str| format!("12 ({name}) {state}{rest} 256").into_bytes();
        assert_eq!(exit_code_of(&stat("a) Z 1", "Z")), Some(256));
        assert_eq!(exit_code_of(&stat("runs", "S")), None);
        assert_eq!(exit_code_of(b"12 (short) Z 1"), None);
    }

    #[test]
    fn a_child_is_held_also_after_its_end() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = Pidfd::open(child.id()).unwrap();
        pidfd.wait(None).unwrap();
        assert!(Pidfd::open(child.id()).is_ok());
        assert!(child.wait().unwrap().success());
    }
}
