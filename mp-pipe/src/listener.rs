use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{
    fd, hooks,
    primitive::{AtomicBool, Ordering},
};
use nix::{
    libc,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
        eventfd::{EfdFlags, EventFd},
        socket::{Shutdown, shutdown},
    },
};
use parking_lot::Mutex;

use self::{
    alarm::Alarm,
    half_open::{ALARM, Accepting, CLOSER, LISTENING},
    rejections::Counts,
    socket::{Created, Socket},
};
use crate::{
    Address, Connection, Credentials,
    channel::{Channel, Until, lock},
    stream::Stream,
};

mod alarm;
mod builder;
mod half_open;
mod rejections;
mod socket;

pub use self::{
    builder::{Builder, DEFAULT_BACKLOG, MAX_HALF_OPEN},
    rejections::Rejections,
};

/// Waits for connections at an address, and makes each peer prove that it knows the key.
///
/// [`Listener::new`] listens on a fresh Unix socket that only this user can open (mode 0600, in a
/// directory of its own with mode 0700). [`bind`](Self::bind) takes an [`Address`]. With a
/// [`builder`](Self::builder) the key, the digest and the limits can be chosen. Python's `Client` can
/// be the peer, with `send_bytes` and `recv_bytes`.
///
/// # Handshakes
///
/// This crate starts no thread: handshakes go on while some thread is inside [`accept`](Self::accept)
/// (or [`accept_timeout`](Self::accept_timeout)), all of them at the same time, and the first peer
/// that is through is returned. A mute, slow or wrong peer therefore delays nobody; it is dropped at
/// its deadline ([`HANDSHAKE_TIMEOUT`](crate::HANDSHAKE_TIMEOUT)), and when [`MAX_HALF_OPEN`] are open the oldest that has not
/// answered goes. Nothing that a peer sends before it has proved the key is decoded, and nothing above
/// 256 bytes is kept for it. A program that does something long between two calls of `accept` makes
/// its new peers wait meanwhile: hand connections to threads.
///
/// # Process death
///
/// When the process of the listener ends, clients are refused from then on. A Unix path stays in the
/// file system after a kill (as Python's does) until somebody removes it; one that [`Listener::new`]
/// chose is never chosen again.
///
/// # Forks
///
/// The copy in a child that this process forked may [`accept`](Self::accept) as well, and each client
/// is served by whoever takes it from the system first. What the parent took before the fork stays the
/// parent's, whether its handshake goes on or it only waits to be accepted. If another thread was in
/// `accept` at the fork, the copy waits for that thread for ever: it accepts nothing.
///
/// # Examples
///
/// ```
/// use mp_pipe::{AuthKey, Client, Listener};
///
/// let listener = Listener::builder()
///     .authkey("a key that both know")
///     .bind("127.0.0.1:0".parse::<mp_pipe::Address>()?)?;
/// let address = listener.address().clone();
/// let client = std::thread::spawn(move || {
///     let client = Client::new().authkey("a key that both know");
///     let connection = client.connect::<u32, ()>(&address).unwrap();
///     connection.send(&7).unwrap();
/// });
/// let connection = listener.accept::<(), u32>()?;
/// assert_eq!(connection.recv()?, 7);
/// client.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.connection.Listener")]
#[derive(Debug)]
pub struct Listener {
    builder: Builder,
    address: Address,
    /// Of the listening socket, the half-open connections, their alarm, and `closer`: readable when
    /// `accept` has something to do.
    epoll: Arc<Epoll>,
    /// Readable once the listener is closed. As an event counter it is always writable, which
    /// `epoll` tells while a connection is ready.
    closer: EventFd,
    closed: AtomicBool,
    accepting: Mutex<Accepting>,
    last_accepted: Mutex<Option<Peer>>,
    counts: Counts,
    /// What to remove from the file system, in the end.
    created: Mutex<Option<Created>>,
    /// A forked child has a copy of the listener, and must not end what its parent uses.
    generation: u64,
}

/// Why no connection was accepted. What peers do wrong is not among it: see
/// [`Listener::rejections`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// [`Listener::close`] was called.
    #[error("the listener is closed")]
    Closed,
    /// The time was over first.
    #[error("no connection came in time")]
    TimedOut,
    /// The system refused. The listener goes on: the next call tries again.
    #[error("cannot accept a connection: {0}")]
    Io(#[source] io::Error),
}

/// Who connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its address; the empty Unix path for a client on a Unix socket.
    pub address: Address,
    /// Its process and user, on a Unix socket.
    pub credentials: Option<Credentials>,
}

impl Listener {
    /// Listens on a fresh Unix socket that only this user can open, with the key of this program.
    ///
    /// # Errors
    ///
    /// Its directory cannot be made; out of descriptors.
    pub fn new() -> io::Result<Self> {
        Self::builder().bind_private()
    }

    /// Listens at `address`, with the key of this program.
    ///
    /// # Errors
    ///
    /// The address is in use (for a path: something exists there), not allowed, or too long.
    pub fn bind(address: impl Into<Address>) -> io::Result<Self> {
        Self::builder().bind(address)
    }

    /// A listener with a key of one's own, or none, and other limits.
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn over(
        builder: Builder,
        socket: Socket,
        address: Address,
        created: Option<Created>,
    ) -> io::Result<Self> {
        socket.set_nonblocking()?;
        let explain = |errno: nix::Error| fd::explain(errno.into());
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(explain)?);
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let closer = EventFd::from_flags(flags).map_err(explain)?;
        epoll.add(&closer, EpollEvent::new(EpollFlags::EPOLLIN, CLOSER))?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENING))?;
        let alarm = Alarm::new()?;
        epoll.add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM))?;
        Ok(Self {
            builder,
            address,
            accepting: Mutex::new(Accepting::new(Arc::clone(&epoll), socket, alarm)),
            epoll,
            closer,
            closed: AtomicBool::new(false),
            last_accepted: Mutex::new(None),
            counts: Counts::default(),
            created: Mutex::new(created),
            generation: hooks::fork_generation(),
        })
    }

    /// Where it listens; with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for the next peer that proves the key.
    ///
    /// What the peer sends is `R`, what it is sent is `S`; whether it sees that the same way is not
    /// checked. Several threads may accept from one listener.
    ///
    /// # Errors
    ///
    /// [`AcceptError::Closed`], and what the system refuses (out of descriptors). What peers do wrong
    /// is no error here: see [`rejections`](Self::rejections).
    pub fn accept<S, R>(&self) -> Result<Connection<S, R>, AcceptError> {
        self.accept_until(Until::Forever)
    }

    /// Waits for the next peer at most `timeout`. [`Duration::ZERO`] does what can be done at once.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept), and [`AcceptError::TimedOut`].
    pub fn accept_timeout<S, R>(&self, timeout: Duration) -> Result<Connection<S, R>, AcceptError> {
        self.accept_until(timeout.into())
    }

    /// The peer of the connection that was accepted last.
    #[must_use]
    pub fn last_accepted(&self) -> Option<Peer> {
        self.last_accepted.lock().clone()
    }

    /// How many connections were dropped so far, by reason.
    #[must_use]
    pub fn rejections(&self) -> Rejections {
        self.counts.get()
    }

    /// Stops listening: clients are refused, half-open connections dropped, every `accept` returns
    /// [`AcceptError::Closed`], and a Unix path is removed. Dropping the listener does it as well, but
    /// for a copy in a child that this process forked: that one only lets go.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) || !self.is_ours() {
            return;
        }
        let _ = self.closer.write(1); // wakes who is in `accept`; a full counter woke them already
        let mut accepting = self.accepting.lock();
        if let Some(socket) = accepting.socket.take() {
            // A copy in a forked child would else keep the address.
            let _ = shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
        }
        for half_open in mem::take(&mut accepting.half_open).values() {
            accepting.hang_up(&half_open.stream);
        }
        for (stream, _) in mem::take(&mut accepting.ready) {
            accepting.hang_up(&stream);
        }
        drop(accepting);
        self.created.lock().take();
    }

    /// Not the copy that a forked child has.
    fn is_ours(&self) -> bool {
        self.generation == hooks::fork_generation()
    }

    fn accept_until<S, R>(&self, until: Until) -> Result<Connection<S, R>, AcceptError> {
        let mut accepting = lock(&self.accepting, until).ok_or(AcceptError::TimedOut)?;
        accepting.part_from_parent().map_err(AcceptError::Io)?;
        let next = self.next(&mut accepting, until);
        self.announce(&mut accepting);
        drop(accepting);
        let (stream, peer) = next?;
        let max_len = self.builder.options.max_message_len;
        let channel = Channel::from_fd(stream.into(), max_len, true).map_err(AcceptError::Io)?;
        *self.last_accepted.lock() = Some(peer);
        Ok(Connection::new(channel))
    }

    fn next(&self, accepting: &mut Accepting, until: Until) -> Result<(Stream, Peer), AcceptError> {
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(AcceptError::Closed);
            }
            if let Some(ready) = accepting.ready.pop_front() {
                return Ok(ready);
            }
            let over = match until {
                Until::Now => true,
                Until::At(deadline) => deadline.is_over(),
                Until::Forever => false,
            };
            self.expire(accepting);
            let end = accepting.next_look(until);
            let any = fd::poll_one(accepting.epoll.0.as_fd(), libc::POLLIN, end);
            if any.map_err(AcceptError::Io)? {
                self.progress(accepting)?;
            }
            if over && accepting.ready.is_empty() {
                return Err(AcceptError::TimedOut);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Readable when [`accept_timeout`](Listener::accept_timeout) has something to do, which need not be
/// enough for a connection: somebody connects, a peer answers or its time is over, a connection is
/// ready, or the listener was closed. (The copy in a child that this process forked is for `accept`
/// only: what it is readable for stays its parent's, while what it accepts is its own.)
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // It tells by itself of the listening socket and of those in `half_open`, and as of the last
        // `announce`, which every `accept` does at its end, of `ready` and of deadlines.
        self.epoll.0.as_fd()
    }
}
