use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        linux::fs::MetadataExt as _,
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use mp_core::{
    authkey::{self, AuthKey},
    deadline::Deadline,
    fd, hooks,
    primitive::{AtomicBool, AtomicU64, Ordering},
};
use nix::{
    libc,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
        socket::{
            AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, bind, listen, shutdown,
            socket,
        },
        stat::{Mode, fchmod},
    },
    unistd::{geteuid, mkdtemp},
};
use parking_lot::Mutex;

use crate::{
    Address, AuthError, Connection, Credentials, Digest,
    address::too_long,
    auth::Policy,
    channel::{Channel, DEFAULT_MAX_MESSAGE_LEN, Until, lock},
    handshake::{Exchange, Progress, Role},
    stream::Stream,
};

/// How long a peer may take to prove that it knows the key, from its connect to its last byte.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many peers a listener shakes hands with at the same time.
pub const MAX_HALF_OPEN: usize = 256;

/// How many connections wait in the kernel until they are accepted; `net.core.somaxconn` caps it.
pub const DEFAULT_BACKLOG: u32 = 4096;

/// A peer that has not proved the key may be dropped for a newer one after this time, when the most
/// are open.
const GRACE: Duration = Duration::from_millis(10);

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
/// its deadline ([`HANDSHAKE_TIMEOUT`]), and when [`MAX_HALF_OPEN`] are open the oldest that has not
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
    options: Builder,
    address: Address,
    /// Of the listening socket, the half-open connections, and `closer`: readable when `accept` has
    /// something to do.
    epoll: Epoll,
    closer: EventFd,
    closed: AtomicBool,
    accepting: Mutex<Accepting>,
    last_accepted: Mutex<Option<Peer>>,
    counts: Counts,
    /// What to remove from the file system.
    created: Mutex<Option<Created>>,
}

/// What a listener may be told before it listens. See [`Listener::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing listens before `bind` or `bind_private`"]
pub struct Builder {
    policy: Option<Policy>,
    backlog: u32,
    mode: u32,
    handshake_timeout: Duration,
    max_half_open: usize,
    max_message_len: u64,
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

/// How many connections were dropped instead of accepted, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejections {
    /// The peer does not know the key, or says that we do not.
    pub wrong_key: u64,
    /// The peer did not keep to the protocol, or asked for a digest that is not allowed.
    pub protocol: u64,
    /// The peer went away during the handshake.
    pub disconnected: u64,
    /// The peer took too long.
    pub timed_out: u64,
    /// The peer had proved nothing yet and made room for newer ones.
    pub evicted: u64,
    /// The peer runs as another user, on an abstract address.
    pub foreign: u64,
}

impl Rejections {
    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.wrong_key
            + self.protocol
            + self.disconnected
            + self.timed_out
            + self.evicted
            + self.foreign
    }
}

#[derive(Debug, Default)]
struct Counts {
    wrong_key: AtomicU64,
    protocol: AtomicU64,
    disconnected: AtomicU64,
    timed_out: AtomicU64,
    evicted: AtomicU64,
    foreign: AtomicU64,
}

#[derive(Debug)]
struct Accepting {
    socket: Option<Socket>,
    /// Whether `epoll` tells of new connections; not while too many are half open.
    listening: bool,
    /// By number, so the first is the oldest.
    half_open: BTreeMap<u64, HalfOpen>,
    next: u64,
    ready: VecDeque<(Stream, Peer)>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

#[derive(Debug)]
struct HalfOpen {
    stream: Stream,
    peer: Peer,
    exchange: Exchange,
    since: Deadline,
    until: Deadline,
}

/// The numbers in `epoll` of what is no half-open connection.
const LISTENING: u64 = 0;
const CLOSER: u64 = 1;
const FIRST: u64 = 2;

impl Builder {
    fn new() -> Self {
        Self {
            policy: Some(Policy {
                key: authkey::current(),
                digest: Digest::default(),
                legacy_md5: false,
            }),
            backlog: DEFAULT_BACKLOG,
            mode: 0o600,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_half_open: MAX_HALF_OPEN,
            max_message_len: DEFAULT_MAX_MESSAGE_LEN,
        }
    }

    /// The key that both sides prove to know; the empty one is a key. By default it is the key of
    /// this program, which its child processes inherit.
    pub fn authkey(mut self, key: impl Into<AuthKey>) -> Self {
        let policy = self.policy.get_or_insert_with(|| Policy {
            key: AuthKey::new(""),
            digest: Digest::default(),
            legacy_md5: false,
        });
        policy.key = key.into();
        self
    }

    /// Without any handshake: whoever can reach the address is let in.
    pub fn unauthenticated(mut self) -> Self {
        self.policy = None;
        self
    }

    /// The digest for challenges of this side. (The peer chooses the one for its own.)
    pub fn digest(mut self, digest: Digest) -> Self {
        if let Some(policy) = &mut self.policy {
            policy.digest = digest;
        }
        self
    }

    /// Whether MD5 is good enough, for clients in Python up to 3.11. Off by default.
    pub fn legacy_md5(mut self, allowed: bool) -> Self {
        if let Some(policy) = &mut self.policy {
            policy.legacy_md5 = allowed;
        }
        self
    }

    /// How many connections wait in the kernel; [`DEFAULT_BACKLOG`] by default.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// The permissions of a Unix path; 0600 by default.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// How long the handshake of one peer may take; [`HANDSHAKE_TIMEOUT`] by default.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How many handshakes go on at the same time, at least one; [`MAX_HALF_OPEN`] by default.
    pub fn max_half_open(mut self, max: usize) -> Self {
        self.max_half_open = max.max(1);
        self
    }

    /// The longest message an accepted connection receives; [`DEFAULT_MAX_MESSAGE_LEN`] by default.
    pub fn max_message_len(mut self, len: u64) -> Self {
        self.max_message_len = len;
        self
    }

    /// Listens at `address`.
    ///
    /// # Errors
    ///
    /// The address is in use (for a path: something exists there), not allowed, or too long.
    pub fn bind(self, address: impl Into<Address>) -> io::Result<Listener> {
        let address = address.into();
        match address {
            Address::Unix(path) => {
                let socket = bind_unix(&path, self.mode, self.backlog)?;
                let created = Created::new(&path, None)?;
                Listener::over(
                    self,
                    Socket::Unix(socket),
                    Address::Unix(path),
                    Some(created),
                )
            }
            Address::Abstract(name) => {
                let unix = UnixAddr::new_abstract(&name).map_err(|_| too_long(Path::new("@")))?;
                let socket = listen_unix(&unix, None, self.backlog)?;
                Listener::over(self, Socket::Unix(socket), Address::Abstract(name), None)
            }
            Address::Tcp(address) => {
                let socket = TcpListener::bind(address)?; // sets SO_REUSEADDR
                listen(&socket, backlog(self.backlog))?; // again, for our backlog
                let address = Address::Tcp(socket.local_addr()?);
                Listener::over(self, Socket::Tcp(socket), address, None)
            }
        }
    }

    /// Listens on a Unix socket in a fresh directory with mode 0700, below `$XDG_RUNTIME_DIR` or the
    /// directory for temporary files.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub fn bind_private(self) -> io::Result<Listener> {
        let directory = mkdtemp(&runtime_dir().join("mp-XXXXXX"))?;
        let path = directory.join("listener");
        let bound = bind_unix(&path, self.mode, self.backlog);
        let created = bound.and_then(|socket| Ok((socket, Created::new(&path, Some(&directory))?)));
        match created {
            Ok((socket, created)) => Listener::over(
                self,
                Socket::Unix(socket),
                Address::Unix(path),
                Some(created),
            ),
            Err(error) => {
                let _ = fs::remove_dir(&directory);
                Err(error)
            }
        }
    }
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
        options: Builder,
        socket: Socket,
        address: Address,
        created: Option<Created>,
    ) -> io::Result<Self> {
        match &socket {
            Socket::Unix(socket) => socket.set_nonblocking(true)?,
            Socket::Tcp(socket) => socket.set_nonblocking(true)?,
        }
        let explain = |errno: nix::Error| fd::explain(errno.into());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(explain)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let closer = EventFd::from_flags(flags).map_err(explain)?;
        epoll.add(&closer, EpollEvent::new(EpollFlags::EPOLLIN, CLOSER))?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENING))?;
        Ok(Self {
            options,
            address,
            epoll,
            closer,
            closed: AtomicBool::new(false),
            accepting: Mutex::new(Accepting {
                socket: Some(socket),
                listening: true,
                half_open: BTreeMap::new(),
                next: FIRST,
                ready: VecDeque::new(),
            }),
            last_accepted: Mutex::new(None),
            counts: Counts::default(),
            created: Mutex::new(created),
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
        // Relaxed: numbers for people, nothing depends on them.
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        Rejections {
            wrong_key: get(&counts.wrong_key),
            protocol: get(&counts.protocol),
            disconnected: get(&counts.disconnected),
            timed_out: get(&counts.timed_out),
            evicted: get(&counts.evicted),
            foreign: get(&counts.foreign),
        }
    }

    /// Stops listening: clients are refused, half-open connections dropped, every `accept` returns
    /// [`AcceptError::Closed`], and a Unix path is removed. Dropping the listener does it as well.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = self.closer.write(1); // wakes who is in `accept`; a full counter woke them already
        let mut accepting = self.accepting.lock();
        if let Some(socket) = accepting.socket.take() {
            // A copy in a forked child would else keep the address.
            let _ = shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
        }
        accepting.half_open.clear();
        accepting.ready.clear();
        drop(accepting);
        if let Some(created) = self.created.lock().take() {
            created.remove();
        }
    }

    fn accept_until<S, R>(&self, until: Until) -> Result<Connection<S, R>, AcceptError> {
        let mut accepting = lock(&self.accepting, until).ok_or(AcceptError::TimedOut)?;
        let (stream, peer) = loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(AcceptError::Closed);
            }
            if let Some(ready) = accepting.ready.pop_front() {
                break ready;
            }
            let over = match until {
                Until::Now => true,
                Until::At(deadline) => deadline.is_over(),
                Until::Forever => false,
            };
            self.expire(&mut accepting);
            let end = self.next_look(&accepting, until);
            let any = fd::poll_one(self.epoll.0.as_fd(), libc::POLLIN, end);
            if any.map_err(AcceptError::Io)? {
                self.progress(&mut accepting)?;
            }
            if over && accepting.ready.is_empty() {
                return Err(AcceptError::TimedOut);
            }
        };
        drop(accepting);
        let max_len = self.options.max_message_len;
        let channel = Channel::from_fd(stream.into(), max_len, true).map_err(AcceptError::Io)?;
        *self.last_accepted.lock() = Some(peer);
        Ok(Connection::new(channel))
    }

    /// When `accept` has to look even if nothing happens.
    fn next_look(&self, accepting: &Accepting, until: Until) -> Option<Deadline> {
        let own = match until {
            Until::Now => Some(Deadline::now()),
            Until::At(deadline) => Some(deadline),
            Until::Forever => None,
        };
        let oldest = accepting.half_open.values().next();
        let expiry = oldest.map(|half_open| half_open.until);
        let grace = match accepting.listening {
            true => None,
            false => oldest.map(|_| Deadline::after(GRACE)),
        };
        [own, expiry, grace].into_iter().flatten().min()
    }

    /// Drops who took too long, and lets in whom there is room for again.
    fn expire(&self, accepting: &mut Accepting) {
        while let Some(oldest) = accepting.half_open.first_entry() {
            if !oldest.get().until.is_over() {
                break;
            }
            let half_open = oldest.remove();
            self.reject(&half_open.peer, &AuthError::TimedOut);
        }
        if !accepting.listening && self.has_room(accepting) {
            self.listen(accepting, true);
        }
    }

    fn listen(&self, accepting: &mut Accepting, on: bool) {
        let Some(socket) = &accepting.socket else {
            return;
        };
        let flags = match on {
            true => EpollFlags::EPOLLIN,
            false => EpollFlags::empty(),
        };
        let mut event = EpollEvent::new(flags, LISTENING);
        if self.epoll.modify(socket, &mut event).is_ok() {
            accepting.listening = on;
        }
    }

    /// Does what the sockets are ready for.
    fn progress(&self, accepting: &mut Accepting) -> Result<(), AcceptError> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Err(nix::errno::Errno::EINTR) => 0,
            result => result.map_err(|errno| AcceptError::Io(errno.into()))?,
        };
        for event in &events[..count] {
            match event.data() {
                LISTENING => self.take_new(accepting)?,
                CLOSER => {}
                number => self.advance(accepting, number),
            }
        }
        Ok(())
    }

    /// Takes connections from the kernel, as long as there is room for another handshake.
    fn take_new(&self, accepting: &mut Accepting) -> Result<(), AcceptError> {
        /// So that the handshakes go on in between.
        const AT_ONCE: usize = 64;
        for _ in 0..AT_ONCE {
            if !self.has_room(accepting) {
                self.listen(accepting, false);
                break;
            }
            let Some(socket) = &accepting.socket else {
                break;
            };
            match socket.accept() {
                Ok((stream, peer)) => self.begin(accepting, stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        // Mute peers must not use up what the program needs.
                        match accepting.half_open.pop_first() {
                            Some((_, oldest)) => self.evict(&oldest.peer),
                            None => return Err(AcceptError::Io(fd::explain(error))),
                        }
                    }
                    Some(libc::ENOMEM | libc::ENOBUFS | libc::EBADF | libc::EINVAL) => {
                        return Err(AcceptError::Io(error));
                    }
                    _ => {} // of this one connection, which is gone
                },
            }
        }
        Ok(())
    }

    /// Whether one more handshake can begin; drops a peer that has proved nothing for it if there is one.
    fn has_room(&self, accepting: &mut Accepting) -> bool {
        if accepting.half_open.len() < self.options.max_half_open {
            return true;
        }
        let ripe = |half_open: &HalfOpen| half_open.since.is_over();
        let numbers: Vec<u64> = accepting
            .half_open
            .iter()
            .take_while(|(_, half_open)| ripe(half_open))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.advance(accepting, number); // it may have answered meanwhile
            match accepting.half_open.get(&number) {
                None => return true,
                Some(half_open) if half_open.exchange.is_proved() => {}
                Some(half_open) => {
                    self.evict(&half_open.peer);
                    accepting.half_open.remove(&number);
                    return true;
                }
            }
        }
        false
    }

    fn begin(&self, accepting: &mut Accepting, stream: Stream, peer: Peer) {
        if let (Address::Abstract(_), Some(credentials)) = (&self.address, &peer.credentials)
            && !credentials.are_ours()
        {
            self.counts.foreign.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(?peer, "refused a connection from another user");
            return;
        }
        if stream.prepare().is_err() {
            return; // its peer is gone
        }
        let Some(policy) = &self.options.policy else {
            accepting.ready.push_back((stream, peer));
            return;
        };
        let number = accepting.next;
        accepting.next += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        if self.epoll.add(&stream, event).is_err() {
            return; // out of kernel memory: this one is closed, the others go on
        }
        let half_open = HalfOpen {
            stream,
            peer,
            exchange: Exchange::new(Role::Listener, policy.clone()),
            since: Deadline::after(GRACE),
            until: Deadline::after(self.options.handshake_timeout),
        };
        accepting.half_open.insert(number, half_open);
        self.advance(accepting, number); // sends the challenge
    }

    fn advance(&self, accepting: &mut Accepting, number: u64) {
        let Some(half_open) = accepting.half_open.get_mut(&number) else {
            return; // dropped since the event
        };
        let progress = half_open.exchange.advance(&mut &half_open.stream);
        match progress {
            Ok(Progress::Reading | Progress::Writing) => {
                let flags = match progress {
                    Ok(Progress::Writing) => EpollFlags::EPOLLOUT,
                    _ => EpollFlags::EPOLLIN,
                };
                let mut event = EpollEvent::new(flags, number);
                let _ = self.epoll.modify(&half_open.stream, &mut event);
            }
            Ok(Progress::Done) => {
                if let Some(done) = accepting.half_open.remove(&number) {
                    let _ = self.epoll.delete(&done.stream);
                    done.stream.hurry();
                    accepting.ready.push_back((done.stream, done.peer));
                }
            }
            Err(error) => {
                self.reject(&half_open.peer, &error);
                accepting.half_open.remove(&number);
            }
        }
    }

    fn reject(&self, peer: &Peer, error: &AuthError) {
        let count = match error {
            AuthError::WrongKey | AuthError::Rejected => &self.counts.wrong_key,
            AuthError::Digest(_) | AuthError::Protocol(_) => &self.counts.protocol,
            AuthError::Disconnected | AuthError::Io(_) => &self.counts.disconnected,
            AuthError::TimedOut => &self.counts.timed_out,
        };
        count.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(?peer, %error, address = %self.address, "dropped a connection");
    }

    fn evict(&self, peer: &Peer) {
        self.counts.evicted.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(?peer, address = %self.address, "dropped a half-open connection for newer ones");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Readable when [`accept_timeout`](Listener::accept_timeout) has something to do, which need not be
/// enough for a connection.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Socket {
    fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Unix(socket) => {
                let (stream, address) = socket.accept()?;
                let credentials = Credentials::of(stream.as_fd())?;
                let peer = Peer {
                    address: Address::from(&address),
                    credentials: Some(credentials),
                };
                Ok((Stream::Unix(stream), peer))
            }
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                let peer = Peer {
                    address: Address::Tcp(address),
                    credentials: None,
                };
                Ok((Stream::Tcp(stream), peer))
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// A socket in the file system that this listener made, and perhaps its directory.
#[derive(Debug)]
struct Created {
    path: PathBuf,
    /// Device and inode: somebody may have put another file at the path since.
    identity: (u64, u64),
    directory: Option<PathBuf>,
    /// A forked child has a copy of the listener, and must not remove what its parent uses.
    generation: u64,
}

impl Created {
    fn new(path: &Path, directory: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            path: std::path::absolute(path)?,
            identity: identity(path)?,
            directory: directory.map(Path::to_owned),
            generation: hooks::fork_generation(),
        })
    }

    fn remove(&self) {
        if self.generation != hooks::fork_generation() {
            return;
        }
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path); // somebody else was faster
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.st_dev(), metadata.st_ino()))
}

fn bind_unix(path: &Path, mode: u32, backlog: u32) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path).map_err(|_| too_long(path))?;
    let socket = listen_unix(&address, Some(mode), backlog)?;
    let made = fs::symlink_metadata(path)?.permissions().mode() & 0o777;
    if made != mode {
        // The umask took bits away that were asked for; it never adds any.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(socket)
}

fn listen_unix(address: &UnixAddr, mode: Option<u32>, depth: u32) -> io::Result<UnixListener> {
    let socket: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| fd::explain(errno.into()))?;
    if let Some(mode) = mode {
        // Before it has a name: there is no moment in which others could connect.
        fchmod(&socket, Mode::from_bits_truncate(mode))?;
    }
    bind(socket.as_raw_fd(), address)?;
    listen(&socket, backlog(depth))?;
    Ok(socket.into())
}

fn backlog(depth: u32) -> Backlog {
    let depth = i32::try_from(depth).unwrap_or(i32::MAX);
    Backlog::new(depth).unwrap_or(Backlog::MAXCONN)
}

/// A directory that this user owns, if the system has one, else the common one.
fn runtime_dir() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .filter(|path| {
            let owner = fs::metadata(path).map(|metadata| metadata.st_uid());
            owner.is_ok_and(|owner| owner == geteuid().as_raw())
        })
        .unwrap_or_else(std::env::temp_dir)
}
