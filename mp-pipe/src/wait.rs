use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use mp_core::{deadline::Deadline, fd, futex::SLICE};
use nix::libc;

use crate::ready;

/// Waits until at least one of `objects` is ready to be read, and tells which are.
///
/// Takes anything that is [`AsFd`]: receivers and connections, listeners, processes (ready when they
/// have ended), sockets, files; different ones together as `&dyn AsFd`. A connection whose peer is
/// gone is ready: receiving from it tells so. A sender is ready when its receiver is gone. A listener
/// is ready when something happened to it; [`accept_timeout`](crate::Listener::accept_timeout) tells
/// whether that was enough for a connection. A queue in shared memory is none of these: its descriptor
/// is that of its memory, which can be read at any time.
///
/// The result holds indices into `objects`, in their order, of *all* that are ready at that moment;
/// an object that is listed twice is reported twice. It is empty when `timeout` was over first.
/// `None` waits for ever, [`Duration::ZERO`] only looks. Waiting for nothing sleeps.
///
/// # Errors
///
/// More objects than this process may have descriptors; out of memory; an object that has no open
/// descriptor.
///
/// # Examples
///
/// ```
/// # use std::{os::fd::AsFd, time::Duration};
/// use mp_pipe::{simplex, wait};
///
/// let (numbers, tx) = simplex::<u64>()?;
/// let (words, _tx) = simplex::<String>()?;
/// let both: [&dyn AsFd; 2] = [&words, &numbers];
/// assert_eq!(wait(&both, Duration::ZERO)?, []);
/// tx.send(&7)?;
/// assert_eq!(wait(&both, None)?, [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.connection.wait")]
pub fn wait<T: AsFd>(
    objects: &[T],
    timeout: impl Into<Option<Duration>>,
) -> io::Result<Vec<usize>> {
    let until = Deadline::from_timeout(timeout.into());
    let fds: Vec<BorrowedFd<'_>> = objects.iter().map(AsFd::as_fd).collect();
    let mut entries: Vec<_> = fds.iter().map(entry).collect();
    let receivers = fds.iter().any(|fd| ready::is_receiver(fd.as_raw_fd()));
    loop {
        let buffered = fds.iter().any(|fd| ready::is_buffered(fd.as_raw_fd()));
        let end = match (buffered, receivers) {
            (true, _) => Some(Deadline::now()),
            // Another thread may read a message ahead after we looked and before we sleep.
            (false, true) => Some(slice(until)),
            (false, false) => until,
        };
        let count = fd::poll(&mut entries, end)?;
        if count > 0 || fds.iter().any(|fd| ready::is_buffered(fd.as_raw_fd())) {
            return collect(&entries, &fds);
        }
        if until.is_some_and(Deadline::is_over) {
            return Ok(Vec::new());
        }
    }
}

fn entry(fd: &BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

fn slice(until: Option<Deadline>) -> Deadline {
    let slice = Deadline::after(SLICE);
    until.map_or(slice, |until| until.min(slice))
}

fn collect(entries: &[libc::pollfd], fds: &[BorrowedFd<'_>]) -> io::Result<Vec<usize>> {
    let mut found = Vec::new();
    for (index, (entry, fd)) in entries.iter().zip(fds).enumerate() {
        if entry.revents & libc::POLLNVAL != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if entry.revents != 0 || ready::is_buffered(fd.as_raw_fd()) {
            found.push(index);
        }
    }
    Ok(found)
}
