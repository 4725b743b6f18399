//! Sees clients go while the threads that serve them are busy.
//!
//! The kernel reports the end of each connection to one epoll instance; nothing is read from the
//! sockets here, and a connection that is only used costs nothing.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{Arc, Weak},
    time::Duration,
};

use mp_core::primitive::{AtomicUsize, Ordering};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
        socket::{Shutdown, shutdown},
    },
};
use parking_lot::Mutex;

use crate::server::{peer::Peer, state::State};

/// The number of the event that ends the monitor; channels have others.
const STOP: u64 = 0;

#[derive(Debug)]
pub(super) struct Monitor {
    epoll: Epoll,
    stop: EventFd,
    channels: Mutex<Channels>,
    state: Weak<State>,
    /// Ends of sessions that go on in threads of their own.
    farewells: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Channels {
    /// A descriptor is in here as long as its thread has not begun to close it; without a peer
    /// until it was greeted.
    open: HashMap<u64, (RawFd, Option<Arc<Peer>>)>,
    /// There will be no others.
    closed: bool,
}

impl Channels {
    fn insert(&mut self, number: u64, fd: BorrowedFd<'_>, peer: Option<&Arc<Peer>>) -> bool {
        if !self.closed {
            self.open.insert(number, (fd.as_raw_fd(), peer.cloned()));
        }
        !self.closed
    }
}

impl Monitor {
    pub(super) fn new(state: Weak<State>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        Ok(Self {
            epoll,
            stop,
            channels: Mutex::default(),
            state,
            farewells: Arc::default(),
        })
    }

    /// A connection that has yet to say hello; `false` if it comes too late for that.
    pub(super) fn expect(&self, number: u64, fd: BorrowedFd<'_>) -> bool {
        self.channels.lock().insert(number, fd, None)
    }

    pub(super) fn add(&self, number: u64, fd: BorrowedFd<'_>, peer: &Arc<Peer>) -> io::Result<()> {
        let mut channels = self.channels.lock();
        if !channels.insert(number, fd, Some(peer)) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
        self.epoll.add(fd, EpollEvent::new(flags, number))?;
        Ok(())
    }

    pub(super) fn remove(&self, number: u64, fd: BorrowedFd<'_>) {
        self.channels.lock().open.remove(&number);
        let _ = self.epoll.delete(fd.as_fd()); // unknown, if it could not be added
    }

    /// Ends every connection, also those to come.
    pub(super) fn close_all(&self) {
        let mut channels = self.channels.lock();
        channels.closed = true;
        for (number, (fd, peer)) in &channels.open {
            let _ = shutdown(*fd, Shutdown::Both); // it may be over already
            if let Some(peer) = peer {
                peer.hang_up(*number);
            }
        }
    }

    /// Whether every session that has ended is done with.
    pub(super) fn is_quiet(&self) -> bool {
        self.farewells.load(Ordering::Acquire) == 0
    }

    pub(super) fn stop(&self) {
        let _ = self.stop.write(1); // cannot overflow: it is written once
    }

    /// Until [`stop`](Self::stop).
    pub(super) fn run(&self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let sleep = self.state.upgrade().map_or(Duration::MAX, |state| {
                // No ticket that is taken meanwhile ends before this.
                let longest = state.limits.ticket;
                let next = state.expire_tickets();
                next.map_or(longest, |next| next.remaining().min(longest))
            });
            // A millisecond late rather than early: then it is over.
            let millis = u64::try_from(sleep.as_millis())
                .unwrap_or(u64::MAX)
                .saturating_add(1);
            let timeout = EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX);
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            };
            for event in &events[..count] {
                if event.data() == STOP {
                    return;
                }
                self.gone(event.data());
            }
        }
    }

    /// The client's end of a channel is closed.
    fn gone(&self, number: u64) {
        let Some((_, Some(peer))) = self.channels.lock().open.remove(&number) else {
            return;
        };
        if !peer.closed(number) {
            return;
        }
        // Dropping its objects may run users' code, which must not hold up the next death.
        let state = self.state.clone();
        let ending = peer.clone();
        let farewells = self.farewells.clone();
        farewells.fetch_add(1, Ordering::Relaxed); // a count; `is_quiet` meets the Release below
        let end = move || {
            if let Some(state) = state.upgrade() {
                ending.end(&state);
            }
            farewells.fetch_sub(1, Ordering::Release);
        };
        let started = std::thread::Builder::new()
            .name("mp-farewell".to_owned())
            .spawn(end);
        if started.is_err() {
            self.farewells.fetch_sub(1, Ordering::Relaxed);
            if let Some(state) = self.state.upgrade() {
                peer.end(&state);
            }
        }
    }
}
