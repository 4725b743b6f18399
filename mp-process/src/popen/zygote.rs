//! The fork server itself: a process of this image that does nothing but fork.
//!
//! The other half is [`super::forkserver`]. It is executed by the program, so it is small however
//! large the program is; it has one thread, so that what it forks is whole. Its children are born
//! ahead of time and wait, each at its own bootstrap socket, for something to do.
//!
//! Where the kernel remembers the status of a process that was reaped, nobody has to collect it:
//! `SIGCHLD` is ignored, children vanish as they end, and the program reads their status through
//! the pidfd. Otherwise, and for children that are [watched](Order::Watch), the zygote tells how they
//! ended, then reaps them.
#![allow(unsafe_code)] // fork, and what has to be undone in the child

use std::{
    collections::HashMap,
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    process::ExitStatus,
};

use mp_core::{
    deadline::Deadline,
    fd::{self, SockKind, socketpair},
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        prctl,
        signal::{SigHandler, SigSet, Signal, signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{self, AddressFamily, SockFlag, SockType},
    },
};

use super::{
    Orders, Setup,
    control::{self, News, Order},
    fork,
    setup::{self, Descriptors, LINE},
};
use crate::{
    bootstrap,
    pidfd::{self, Ended, Pidfd},
    wire,
};

struct Zygote {
    /// Our end of the socket to the program; when the other is gone, so is the program.
    control: OwnedFd,
    /// Readable when a child has ended, unless `SIGCHLD` is ignored.
    ends: SignalFd,
    /// Whether `SIGCHLD` is ignored, once that was said.
    ignores: Option<bool>,
    keeps_status: bool,
    /// How many children were parked, and so the number of the next one.
    parked: u64,
    /// Whose end has to be told: pids of children that are not reaped, and their numbers. All, if the
    /// kernel does not keep their status, else those that are [watched](Order::Watch).
    told: HashMap<u32, u64>,
}

/// Serves the program at the other end of `control` until it is gone, and then ends.
///
/// It returns in the children that it forks, once they have something to do, each with its own
/// bootstrap socket.
pub(crate) fn serve(control: OwnedFd) -> OwnedFd {
    let served = Zygote::new(control).and_then(|mut zygote| {
        loop {
            if let Some(line) = zygote.turn()? {
                become_child(zygote, line)?;
                return park();
            }
        }
    });
    match served {
        Ok(line) => line,
        // The program is gone, or this process cannot work; the program then sees it gone.
        // SAFETY: ends this process; what constructors registered to run at exit is not for it.
        Err(_) => unsafe { libc::_exit(0) },
    }
}

impl Zygote {
    fn new(control: OwnedFd) -> io::Result<Self> {
        // First of all: an end with something unread would hide from the program what is sent here.
        let message = wire::receive(control.as_fd(), wire::ZYGOTE)?;
        let threads = fork::count_threads()?;
        if threads > 1 {
            control::send(control.as_fd(), &News::Threaded { threads }, &[])?;
            return Err(io::ErrorKind::Unsupported.into());
        }
        let _ = prctl::set_name(c"mp-forkserver");
        // Blocked rather than ignored: one that is meant for a child is never lost, however early.
        let interrupt = SigSet::from_iter([Signal::SIGINT]);
        interrupt.thread_block()?;
        let child_ended = SigSet::from_iter([Signal::SIGCHLD]);
        child_ended.thread_block()?;
        let ends =
            SignalFd::with_flags(&child_ended, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

        let mut zygote = Self {
            control,
            ends,
            ignores: None,
            keeps_status: true,
            parked: 0,
            told: HashMap::new(),
        };
        let tells = message.is_some_and(|message| message.body == [1]);
        zygote.choose_handler()?;
        zygote.keeps_status = !tells && kernel_keeps_status()?;
        zygote.choose_handler()?;
        let ready = News::Ready {
            keeps_status: zygote.keeps_status,
        };
        control::send(zygote.control.as_fd(), &ready, &[])?;
        bootstrap::rehearse(); // what is done once in a process, its children find done
        Ok(zygote)
    }

    /// Waits for something to do and does it; in a child that it forks, the child's socket.
    fn turn(&mut self) -> io::Result<Option<OwnedFd>> {
        let readable = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut wakers = [
            readable(self.control.as_raw_fd()),
            readable(self.ends.as_raw_fd()),
        ];
        fd::poll(&mut wakers, None)?;
        if wakers[1].revents != 0 {
            while self.ends.read_signal()?.is_some() {}
            self.reap()?;
        }
        if wakers[0].revents == 0 {
            return Ok(None);
        }
        let (order, _) =
            control::receive(self.control.as_fd())?.ok_or(io::ErrorKind::BrokenPipe)?;
        match order {
            Order::Fork { count } => self.fork(count),
            Order::Watch { pid, number } => self.watch(pid, number).map(|()| None),
        }
    }

    fn fork(&mut self, count: u32) -> io::Result<Option<OwnedFd>> {
        for _ in 0..count {
            match self.fork_living() {
                Ok(None) => {}
                Ok(line) => return Ok(line),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EAGAIN);
                    control::send(self.control.as_fd(), &News::Refused { errno }, &[])?;
                }
            }
        }
        Ok(None)
    }

    /// Forks a child; another one, if something killed it before we could hold it.
    fn fork_living(&mut self) -> io::Result<Option<OwnedFd>> {
        const TRIES: usize = 10;
        let is_gone = |forked: &io::Result<_>| {
            let error = forked.as_ref().err();
            error.and_then(io::Error::raw_os_error) == Some(libc::ESRCH)
        };
        let mut forked = self.fork_one();
        for _ in 1..TRIES {
            if !is_gone(&forked) {
                break;
            }
            forked = self.fork_one();
        }
        forked
    }

    fn fork_one(&mut self) -> io::Result<Option<OwnedFd>> {
        // Not that of `fd`, whose errors are words: the program is told a number.
        let (theirs, line) = socket::socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // SAFETY:
        // * this process has one thread, so the child is whole: it may do all that we may.
        match Errno::result(unsafe { libc::fork() })? {
            0 => {
                drop(theirs);
                Ok(Some(line))
            }
            pid => {
                let pid = pid.cast_unsigned();
                let pidfd = Pidfd::open(pid)?;
                let fds = [theirs.as_fd(), pidfd.as_fd()];
                let number = self.parked;
                control::send(self.control.as_fd(), &News::Parked { pid, number }, &fds)?;
                self.parked += 1;
                if !self.keeps_status {
                    self.told.insert(pid, number);
                }
                Ok(None)
            }
        }
    }

    /// Has the end of `pid` told; too late if it has ended.
    fn watch(&mut self, pid: u32, number: u64) -> io::Result<()> {
        if !self.keeps_status {
            return Ok(()); // all are told
        }
        self.told.insert(pid, number);
        self.choose_handler()?;
        if pidfd::is_child(pid) {
            return Ok(());
        }
        self.told.remove(&pid);
        self.choose_handler()
    }

    /// Tells of the children that have ended, and reaps them.
    fn reap(&mut self) -> io::Result<()> {
        while let Some((pid, ended)) = pidfd::next_ended()? {
            if let Some(number) = self.told.remove(&pid) {
                let Ended { status, peak_rss } = ended;
                let status = status.map_or(0, raw_status);
                control::send(
                    self.control.as_fd(),
                    &News::Ended {
                        number,
                        status,
                        peak_rss,
                    },
                    &[],
                )?;
            }
            pidfd::reap(pid);
        }
        self.choose_handler()
    }

    /// Whether children stay until they are reaped.
    fn reaps(&self) -> bool {
        !self.keeps_status || !self.told.is_empty()
    }

    /// Lets children vanish by themselves, if nobody has to be told of their end.
    ///
    /// Says so only when it changes: to say `SigDfl` once more would discard a `SIGCHLD` that is pending,
    /// and nobody would see to that child's end.
    fn choose_handler(&mut self) -> io::Result<()> {
        let ignores = !self.reaps();
        if self.ignores == Some(ignores) {
            return Ok(());
        }
        self.ignores = Some(ignores);
        if !ignores {
            return set_handler(Signal::SIGCHLD, SigHandler::SigDfl);
        }
        set_handler(Signal::SIGCHLD, SigHandler::SigIgn)?;
        // Those that ended just before are still there.
        while let Some((pid, _)) = pidfd::next_ended()? {
            pidfd::reap(pid);
        }
        Ok(())
    }
}

fn raw_status(status: ExitStatus) -> i32 {
    std::os::unix::process::ExitStatusExt::into_raw(status)
}

/// Undoes in a child what makes a zygote, and leaves it its standard streams and `line`, as [`LINE`].
fn become_child(zygote: Zygote, line: OwnedFd) -> io::Result<()> {
    set_handler(Signal::SIGCHLD, SigHandler::SigDfl)?;
    SigSet::empty().thread_set_mask()?;
    let Zygote { control, ends, .. } = zygote;
    mem::forget((control, ends)); // closed with all the others
    setup::keep_only(line.into_raw_fd()).map_err(|_| io::Error::last_os_error())
}

/// Waits, in a child, for something to do. Before that there may be orders.
fn park() -> io::Result<OwnedFd> {
    fork::note();
    let _ = prctl::set_name(c"mp-parked");
    bootstrap::rehearse();
    // SAFETY:
    // * `become_child` has just put it there, and nobody else in this process knows of it.
    let line = unsafe { OwnedFd::from_raw_fd(LINE) };
    loop {
        match wire::wait(line.as_fd()) {
            Some(wire::PRELUDE) => return Ok(line),
            Some(wire::ORDERS) => carry_out(line.as_fd())?,
            _ => return Err(io::ErrorKind::BrokenPipe.into()), // the program is gone
        }
    }
}

/// The other side of [`Orders::carry_out`].
fn carry_out(line: BorrowedFd<'_>) -> io::Result<()> {
    let message = wire::receive(line, wire::ORDERS)?.ok_or(io::ErrorKind::BrokenPipe)?;
    let orders = Orders::receive(message)?;
    let setup = Setup::try_from(orders).map_err(|(_, error)| error)?;
    // SAFETY:
    // * this process owns all its descriptors, and none is in use but `line`.
    let done = unsafe { setup.apply(Descriptors::Only(line.as_raw_fd())) };
    mem::forget(setup); // what it held is closed
    setup::tell(line, done)?;
    match done {
        Ok(()) => Ok(()),
        Err(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn set_handler(which: Signal, handler: SigHandler) -> io::Result<()> {
    // SAFETY:
    // * no function of ours becomes a handler: the signal is ignored, or has its default action.
    unsafe { signal(which, handler) }?;
    Ok(())
}

/// Whether the status of a process can still be read after it was reaped: asked of the kernel
/// itself, with a process that ends at once while `SIGCHLD` is ignored.
fn kernel_keeps_status() -> io::Result<bool> {
    /// How long a process that has ended may take to be gone.
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(100);
    let (hold, held) = socketpair(SockKind::SeqPacket)?;
    // SAFETY:
    // * this process has one thread, and the child only makes system calls.
    let pid = match Errno::result(unsafe { libc::fork() })? {
        0 => {
            drop(hold);
            let _ = fd::poll_one(held.as_fd(), libc::POLLIN, None);
            // SAFETY: ends this process, which has nothing to clean up.
            unsafe { libc::_exit(0) }
        }
        pid => pid.cast_unsigned(),
    };
    let pidfd = Pidfd::open(pid)?;
    let has_info = pidfd.has_info(); // while it lives: afterwards there is no more than its end
    drop((hold, held));
    pidfd.wait(None)?;
    if !has_info {
        return Ok(false);
    }
    pidfd.wait_reaped(Deadline::after(PATIENCE))?;
    Ok(pidfd.recorded_status().is_some())
}
