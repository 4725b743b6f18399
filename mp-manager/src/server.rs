//! The server: accepts clients, answers each of their channels in a thread of its own.
//!
//! ```text
//! serve        accepts (mp-pipe shakes hands), starts a thread for each connection
//! channel      hello, then: receive, dispatch, send; several requests in, one send out
//! monitor      is told by the kernel when a client's end closes, also while its thread is busy
//! ```
//!
//! A method that never returns costs its own thread and no other; a client that does not read its
//! answers as well. What a client held comes back when its last channel closes, which the monitor
//! sees even then.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use mp_core::{
    deadline::Deadline,
    duplex::Duplex,
    primitive::{AtomicU64, Ordering},
};
use mp_pipe::{AcceptError, Address, AuthKey, Listener};
use parking_lot::{Condvar, Mutex};

use crate::{
    channel::{Channel, begin_frame, end_frame},
    client::Client,
    link::Link,
    protocol::{self, Hello, MAGIC, MAX_HELLO, VERSION, Welcome},
    referent::Caller,
    registry::Registry,
    server::{limits::Limits, monitor::Monitor, peer::Peer, peer::Presence, state::State},
    transport,
};

pub(crate) mod dispatch;
pub(crate) mod info;
pub(crate) mod limits;
pub(crate) mod line;
mod monitor;
pub(crate) mod peer;
pub(crate) mod state;

/// How long an authenticated client may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// How long the end of serving waits for the threads of its clients.
const FAREWELL: Duration = Duration::from_secs(1);
/// Answers are sent when they have become so many bytes, also before the last request of a batch.
const BATCH: usize = 64 << 10;
/// A buffer for answers that has become larger is freed.
const KEPT: usize = 1 << 20;

/// Serves managed objects from this process: [`Builder::server`](crate::Builder::server).
///
/// [`Manager::start`](crate::Manager::start) does it in a child process; here the program itself
/// serves, and its own code can use the objects without a connection by
/// [`client`](Self::client).
///
/// # Process death
///
/// What a client held is given back within 100 ms of its death; a client that is busy, mute or
/// wrong costs the others nothing.
///
/// # Examples
///
/// ```
/// use mp_manager::Manager;
///
/// let server = Manager::builder().server()?;
/// let (address, key) = (server.address().clone(), server.authkey());
/// server.client().share("list", &server.client().list::<u32>()?)?;
/// let handle = server.handle();
/// std::thread::scope(|scope| {
///     let serving = scope.spawn(|| server.serve());
///     let manager = Manager::connect(&address, key).unwrap();
///     manager.find::<mp_manager::List<u32>>("list").unwrap().push(7).unwrap();
///     handle.stop();
///     serving.join().unwrap()
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    key: AuthKey,
}

/// Stops a [`Server`] from another thread.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    listener: Listener,
    state: Arc<State>,
    monitor: Monitor,
    connections: Mutex<usize>,
    closed: Condvar,
}

impl Server {
    pub(crate) fn bind(
        address: Option<Address>,
        key: AuthKey,
        registry: Registry,
        limits: Limits,
    ) -> io::Result<Self> {
        let builder = Listener::builder().authkey(key.clone());
        let listener = match address {
            Some(address) => builder.bind(address)?,
            None => builder.bind_private()?,
        };
        let state = State::new(listener.address().clone(), registry, limits);
        Ok(Self {
            shared: Arc::new(Shared {
                listener,
                monitor: Monitor::new(Arc::downgrade(&state))?,
                state,
                connections: Mutex::new(0),
                closed: Condvar::new(),
            }),
            key,
        })
    }

    /// Lets a client end the server that knows this.
    pub(crate) fn set_shutdown_token(&self, token: u128) {
        let _ = self.shared.state.shutdown_token.set(token); // set once
    }

    /// Where it serves, with the port or path that was chosen. Clients can connect from now on;
    /// they are answered once it [serves](Self::serve).
    #[must_use]
    pub fn address(&self) -> &Address {
        self.shared.listener.address()
    }

    /// The key that clients have to know.
    #[must_use]
    pub fn authkey(&self) -> AuthKey {
        self.key.clone()
    }

    /// Makes and finds objects for this process's own code, without a connection.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(Link::Local(self.shared.state.clone()), self.key.clone())
    }

    /// Stops it from another thread.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            shared: self.shared.clone(),
        }
    }

    /// Serves until it is [stopped](ServerHandle::stop).
    ///
    /// It starts a thread for each connection, one that sees clients go, and for each client that has
    /// gone one that lets go of what it held.
    ///
    /// # Errors
    ///
    /// The system has no thread left for the monitor.
    pub fn serve(self) -> io::Result<()> {
        let watching = self.shared.clone();
        let monitor = std::thread::Builder::new()
            .name("mp-monitor".to_owned())
            .spawn(move || watching.monitor.run())?;
        loop {
            match self.shared.listener.accept::<(), ()>() {
                Ok(connection) => {
                    // Without a descriptor or a thread for it, the client sees its connection end.
                    let started = transport::socket(connection)
                        .and_then(|socket| Shared::start(&self.shared, socket));
                    if let Err(error) = started {
                        tracing::warn!(%error, "a client of the manager was turned away");
                    }
                }
                Err(AcceptError::Closed) => break,
                Err(error) => {
                    tracing::warn!(%error, "the manager cannot accept clients");
                    // Out of descriptors, most likely: they come back when clients go.
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
        self.shared.monitor.close_all();
        let until = Deadline::after(FAREWELL);
        let mut connections = self.shared.connections.lock();
        while *connections > 0 && !until.is_over() {
            self.shared
                .closed
                .wait_for(&mut connections, until.remaining());
        }
        drop(connections);
        self.shared.monitor.stop();
        let _ = monitor.join(); // it does not panic
        while !self.shared.monitor.is_quiet() && !until.is_over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shared.state.clear();
        Ok(())
    }
}

impl ServerHandle {
    /// Stops serving: connections are closed, calls in flight are `ServerDied` for their clients.
    pub fn stop(&self) {
        self.shared.listener.close();
    }
}

/// One of the connections, from inside its thread.
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.connections.lock() -= 1;
        self.0.closed.notify_all();
    }
}

impl Shared {
    /// Starts the thread of a connection.
    fn start(shared: &Arc<Self>, socket: OwnedFd) -> io::Result<()> {
        let mut connections = shared.connections.lock();
        let place = *connections;
        // Those beyond the limit are told so, which takes a moment each; there is a limit to that.
        if place >= shared.state.limits.connections.saturating_mul(2) {
            return Err(io::Error::other("too many connections"));
        }
        let allowed = place < shared.state.limits.connections;
        let served = shared.clone();
        std::thread::Builder::new()
            .name("mp-client".to_owned())
            .spawn(move || {
                let place = Place(served);
                place
                    .0
                    .serve_channel(Channel::new(socket, MAX_HELLO), allowed);
            })?;
        *connections += 1;
        Ok(())
    }

    fn serve_channel(&self, mut channel: Channel, allowed: bool) {
        /// Never used twice.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed); // only has to differ
        let presence = Presence::of_this_thread();
        if !self.monitor.expect(number, channel.fd()) {
            return;
        }
        let Some(peer) = self.greet(&mut channel, number, &presence, allowed) else {
            self.monitor.remove(number, channel.fd());
            return;
        };
        let caller = Caller::client(peer.clone(), presence);
        if self.monitor.add(number, channel.fd(), &peer).is_ok() {
            // A panic that nothing else has caught costs its connection, and not what comes after.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                self.answer_all(&mut channel, &caller);
            }));
        }
        self.monitor.remove(number, channel.fd());
        if peer.closed(number) {
            peer.end(&self.state);
        }
    }

    /// Hello and welcome; the session that this is a channel of.
    fn greet(
        &self,
        channel: &mut Channel,
        number: u64,
        presence: &Arc<Presence>,
        allowed: bool,
    ) -> Option<Arc<Peer>> {
        let (hello, _) = channel.receive_greeting(Deadline::after(HELLO)).ok()?;
        let hello: Hello = protocol::parse(hello).ok()?;
        if hello.magic != MAGIC {
            return None;
        }
        let limits = &self.state.limits;
        let outcome = if hello.version != VERSION {
            Err(format!(
                "it speaks version {VERSION}, not {}",
                hello.version
            ))
        } else if !allowed {
            Err(format!(
                "it has {} connections, its limit",
                limits.connections
            ))
        } else {
            self.session(&hello, number, presence)
        };
        // Without memory or a descriptor for it, the socket does.
        let memory = if hello.memory && channel.is_local() && outcome.is_ok() {
            Duplex::create().ok()
        } else {
            None
        };
        let welcome = match &outcome {
            Ok(peer) => Welcome::Served {
                server: self.state.id(),
                session: peer.token(),
                max_message: limits.message as u64,
                memory: memory.is_some(),
            },
            Err(reason) => Welcome::Denied(reason.clone()),
        };
        channel.set_limit(limits.message);
        channel.may_move();
        let mut out = Vec::new();
        let start = begin_frame(&mut out);
        mp_core::codec::encode_into(&welcome, &mut out).ok()?;
        end_frame(&mut out, start);
        let sent = match memory {
            None => channel.send(&out),
            Some((memory, fd)) => {
                channel.use_memory(memory);
                channel.send_with(&out, fd.as_fd())
            }
        };
        let peer = outcome.ok()?;
        if sent.is_err() {
            if peer.closed(number) {
                peer.end(&self.state);
            }
            return None;
        }
        Some(peer)
    }

    /// Opens a channel of a session that goes on, or of a new one.
    fn session(
        &self,
        hello: &Hello,
        number: u64,
        presence: &Arc<Presence>,
    ) -> Result<Arc<Peer>, String> {
        let most = self.state.limits.connections_per_client;
        let peer = match hello.session {
            Some(token) => {
                let known = self.state.peers.lock().get(&token).cloned();
                known.ok_or(protocol::SESSION_ENDED)?
            }
            None => {
                let peer = Arc::new(Peer::new(hello.pid));
                self.state.peers.lock().insert(peer.token(), peer.clone());
                peer
            }
        };
        peer.open(number, presence.clone(), most)?;
        Ok(peer)
    }

    fn answer_all(&self, channel: &mut Channel, caller: &Caller) {
        let mut out = Vec::new();
        let mut unsent = Vec::new();
        while let Ok(frame) = channel.receive() {
            let Ok(after) = dispatch::handle(&self.state, caller, frame, &mut out) else {
                // No client of ours: it hears nothing, and is not listened to any more.
                tracing::warn!(client = caller.number(), "a request could not be read");
                break;
            };
            unsent.extend(after.unsent);
            // The answers to requests that came together leave together.
            if !after.shutdown && out.len() < BATCH && channel.has_frame() {
                continue;
            }
            // Who was hung up on hears nothing more, also where memory would still carry it: its
            // references may be gone by now, and the answer be wrong.
            if caller.is_gone() || channel.send(&out).is_err() {
                while let Some(undo) = unsent.pop() {
                    undo();
                }
                break;
            }
            unsent.clear();
            out.clear();
            if out.capacity() > KEPT {
                out = Vec::new();
            }
            if after.shutdown {
                self.listener.close();
            }
        }
    }
}
