//! A client process's side of a server: its channels, and the calls over them.
//!
//! A call takes a channel for itself, so that a call that waits (for a lock, for an item) holds up
//! no other thread; the channel that was used last is taken first. All channels of a process
//! belong to one session, which is what the server counts references for. The last channel stays
//! open as long as the session: its end is the end of the session.

use std::{
    collections::HashMap,
    fmt,
    os::fd::{AsRawFd, RawFd},
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use mp_core::{
    authkey::{self, AuthKey},
    codec,
    deadline::Deadline,
    duplex::Duplex,
    fd,
    hooks::fork_generation,
    primitive::{AtomicBool, Ordering},
};
use mp_pipe::HANDSHAKE_TIMEOUT;
use nix::{
    libc,
    sys::socket::{Shutdown, shutdown},
};
use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    channel::{Channel, ReceiveError, begin_frame, end_frame},
    error::{CallError, ConnectError},
    protocol::{self, Fault, Hello, MAGIC, MAX_HELLO, Reply, Request, VERSION, Welcome},
    transport::{self, Address},
};

/// Channels that a session keeps open while nobody uses them.
const KEPT_CHANNELS: usize = 16;

/// The sessions of this process, for proxies that are decoded in it.
static SESSIONS: Mutex<Vec<Weak<Session>>> = Mutex::new(Vec::new());
/// The keys that this process has proved, by address.
static KEYS: LazyLock<Mutex<HashMap<Address, AuthKey>>> = LazyLock::new(Mutex::default);

pub(crate) struct Session {
    address: Address,
    key: AuthKey,
    server: u128,
    token: u128,
    max_message: usize,
    /// The process that it belongs to: a forked child makes its own.
    generation: u64,
    dead: AtomicBool,
    channels: Mutex<Channels>,
    /// References to give back with the next message.
    released: Mutex<Vec<u64>>,
    any_released: AtomicBool,
}

#[derive(Default)]
struct Channels {
    idle: Vec<Channel>,
    /// A descriptor is in here until whoever uses its channel begins to close it.
    busy: Vec<RawFd>,
}

impl Channels {
    fn take_idle(&mut self) -> Option<Channel> {
        let channel = self.idle.pop()?;
        self.busy.push(channel.fd().as_raw_fd());
        Some(channel)
    }
}

impl Session {
    /// Begins a session of its own.
    pub(crate) fn open(address: &Address, key: &AuthKey) -> Result<Arc<Self>, ConnectError> {
        let (channel, welcome) = dial(address, key, None, HANDSHAKE_TIMEOUT)?;
        let session = Arc::new(Self {
            address: address.clone(),
            key: key.clone(),
            server: welcome.server,
            token: welcome.session,
            max_message: welcome.max_message,
            generation: fork_generation(),
            dead: AtomicBool::new(false),
            channels: Mutex::new(Channels {
                idle: vec![channel],
                busy: Vec::new(),
            }),
            released: Mutex::default(),
            any_released: AtomicBool::new(false),
        });
        KEYS.lock().insert(address.clone(), key.clone());
        let mut sessions = SESSIONS.lock();
        sessions.retain(|known| known.strong_count() > 0);
        sessions.push(Arc::downgrade(&session));
        Ok(session)
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn server(&self) -> u128 {
        self.server
    }

    pub(crate) fn max_message(&self) -> usize {
        self.max_message
    }

    pub(crate) fn is_of_another_process(&self) -> bool {
        self.generation != fork_generation()
    }

    /// The server is gone, or closed a connection of this session in the middle of something: it
    /// ends, or could not go on with it.
    ///
    /// Nothing can be given back over a dead session, so the server is to see its end at once: the
    /// calls that still wait end, too.
    pub(crate) fn died(&self) -> CallError {
        let mut channels = self.channels.lock();
        self.dead.store(true, Ordering::Relaxed); // ordered by the lock of `channels`
        let closed = std::mem::take(&mut channels.idle);
        // A forked child has nothing to do with the calls of its parent.
        if !self.is_of_another_process() {
            for fd in &channels.busy {
                let _ = shutdown(*fd, Shutdown::Both); // it may be over already
            }
        }
        drop(channels);
        drop(closed);
        CallError::died(&self.address)
    }

    /// A request without arguments.
    pub(crate) fn ask<R>(
        &self,
        kind: &str,
        method: &str,
        request: &Request<'_>,
        read: impl FnOnce(&[u8]) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        self.ask_with(kind, method, request, &(), read)
    }

    /// One request, one answer.
    pub(crate) fn ask_with<A: Serialize, R>(
        &self,
        kind: &str,
        method: &str,
        request: &Request<'_>,
        args: &A,
        read: impl FnOnce(&[u8]) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        codec::with_buffer(|out| {
            self.write(request, args, out)?;
            let answer = self.channel()?.ask(out, read)?;
            answer.unwrap_or_else(|fault| Err(CallError::from_fault(fault, kind, method)))
        })
    }

    /// A request that gives back what the server holds for this session. If there is no channel
    /// for it, also for want of a descriptor or for a quota, the session ends: so the server gives
    /// all back, and nothing stays taken that nobody has any more.
    pub(crate) fn give_back<A: Serialize>(&self, request: &Request<'_>, args: &A) {
        codec::with_buffer(|out| {
            if self.write(request, args, out).is_err() {
                return;
            }
            match self.channel() {
                // The server is gone, or has taken it back already.
                Ok(mut channel) => drop(channel.ask(out, |_| ())),
                Err(CallError::ServerDied { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "a session with a manager ends to give back a guard");
                    self.died();
                }
            }
        });
    }

    /// A request whose answer nobody waits for, sent to a server that may be unable to give one.
    /// It is listened to as long as what this gives back lives.
    pub(crate) fn tell(
        &self,
        request: &Request<'_>,
        timeout: Duration,
    ) -> Result<impl Drop + use<'_>, CallError> {
        codec::with_buffer(|out| {
            self.write(request, &(), out)?;
            let mut channel = self.channel_within(timeout)?;
            channel.send(out)?;
            Ok(channel)
        })
    }

    /// Appends a request as a frame.
    fn write<A: Serialize>(
        &self,
        request: &Request<'_>,
        args: &A,
        out: &mut Vec<u8>,
    ) -> Result<(), CallError> {
        let start = begin_frame(out);
        codec::encode_into(request, out)?;
        codec::encode_into(args, out)?;
        let len = out.len() - start;
        if len > self.max_message {
            return Err(CallError::TooLarge {
                len: len as u64,
                limit: self.max_message as u64,
            });
        }
        end_frame(out, start);
        Ok(())
    }

    /// Waits until the server closes a channel that nobody uses; whether it has.
    pub(crate) fn wait_for_end(&self, timeout: Duration) -> std::io::Result<bool> {
        let busy = match self.channel() {
            Ok(busy) => busy,
            Err(CallError::ServerDied { .. }) => return Ok(true),
            Err(other) => return Err(std::io::Error::other(other)),
        };
        let channel = busy.channel.as_ref().expect("taken only by drop");
        let until = Deadline::after(timeout);
        let ended = fd::poll_one(channel.fd(), libc::POLLRDHUP, Some(until))?;
        if ended {
            self.died();
        }
        Ok(ended)
    }

    /// A channel for one call; a new one if all are in use.
    fn channel(&self) -> Result<Busy<'_>, CallError> {
        self.channel_within(HANDSHAKE_TIMEOUT)
    }

    fn channel_within(&self, timeout: Duration) -> Result<Busy<'_>, CallError> {
        if self.dead.load(Ordering::Relaxed) {
            return Err(self.died());
        }
        let idle = self.channels.lock().take_idle();
        match idle {
            Some(channel) => Ok(self.lend(channel)),
            None => self.lend_new(self.dial(timeout)?),
        }
    }

    /// For one call; the channel is listed as busy.
    fn lend(&self, channel: Channel) -> Busy<'_> {
        Busy {
            session: self,
            channel: Some(channel),
            whole: true,
        }
    }

    fn lend_new(&self, channel: Channel) -> Result<Busy<'_>, CallError> {
        let mut channels = self.channels.lock();
        if self.dead.load(Ordering::Relaxed) {
            drop(channels);
            return Err(self.died());
        }
        channels.busy.push(channel.fd().as_raw_fd());
        drop(channels);
        Ok(self.lend(channel))
    }

    /// One more channel. That there is none is no death: what the session holds goes on.
    fn dial(&self, timeout: Duration) -> Result<Channel, CallError> {
        let dial = || dial(&self.address, &self.key, Some(self.token), timeout);
        // A server that is about to end, and one that has too much to do, hang up alike; after the
        // first, nobody listens there any more.
        let dialled = dial().or_else(|error| {
            if is_hang_up(&error) {
                dial()
            } else {
                Err(error)
            }
        });
        match dialled {
            Ok((channel, welcome)) if welcome.server == self.server => Ok(channel),
            Err(ConnectError::Denied { reason, .. }) if reason != protocol::SESSION_ENDED => {
                Err(CallError::Denied { reason })
            }
            Err(error) if !is_death(&error) => Err(CallError::NoConnection(error)),
            _ => Err(self.died()),
        }
    }

    /// Gives a reference back; the server hears of it with the next message at the latest.
    pub(crate) fn release(&self, id: u64) {
        if self.is_of_another_process() || self.dead.load(Ordering::Relaxed) {
            return;
        }
        self.released.lock().push(id);
        // Ordered by the lock of `channels`: whoever puts a channel back later sees it.
        self.any_released.store(true, Ordering::Release);
        let idle = self.channels.lock().take_idle();
        if let Some(channel) = idle {
            drop(self.lend(channel));
        }
    }

    /// Takes a channel back; one that is not `whole` is closed.
    fn put_back(&self, mut channel: Channel, mut whole: bool) {
        let mut channels = self.channels.lock();
        while whole && self.any_released.swap(false, Ordering::Acquire) {
            let objects = std::mem::take(&mut *self.released.lock());
            drop(channels);
            let sent = codec::with_buffer(|out| {
                let start = begin_frame(out);
                let request = Request::Release { objects };
                codec::encode_into(&request, out).expect("protocol types have an encoding");
                end_frame(out, start);
                channel.send(out)
            });
            if sent.is_err() {
                self.died();
                whole = false;
            }
            channels = self.channels.lock();
        }
        let fd = channel.fd().as_raw_fd();
        channels.busy.retain(|busy| *busy != fd);
        let room = channels.idle.len() < KEPT_CHANNELS;
        if whole && room && !self.dead.load(Ordering::Relaxed) {
            channels.idle.push(channel);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("address", &self.address.to_string())
            .finish_non_exhaustive()
    }
}

/// A channel in use. Dropped, it goes back, unless a frame was left in the middle.
struct Busy<'a> {
    session: &'a Session,
    channel: Option<Channel>,
    whole: bool,
}

impl Busy<'_> {
    /// One request, one answer.
    fn ask<R>(
        &mut self,
        request: &[u8],
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Result<R, Fault>, CallError> {
        self.send(request)?;
        Ok(self.receive()?.map(read))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        self.whole = false;
        let sent = self.channel.as_mut().map(|channel| channel.send(bytes));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.session.died()),
        }
    }

    /// The answer to what was sent.
    fn receive(&mut self) -> Result<Result<&[u8], Fault>, CallError> {
        let channel = self.channel.as_mut().expect("taken only by drop");
        let Ok(frame) = channel.receive() else {
            return Err(self.session.died());
        };
        self.whole = true;
        match protocol::split::<Reply>(frame) {
            Ok((Reply::Value, bytes)) => Ok(Ok(bytes)),
            Ok((Reply::Fault(fault), _)) => Ok(Err(fault)),
            Err(_) => Err(self.session.died()),
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.session.put_back(channel, self.whole);
        }
    }
}

/// Whether the server that this process has spoken to is there no more: nobody listens, or somebody
/// else.
pub(crate) fn is_death(error: &ConnectError) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match error {
        ConnectError::Unreachable { source, .. } => {
            matches!(source.kind(), ConnectionRefused | NotFound)
        }
        ConnectError::WrongKey { .. } | ConnectError::Protocol { .. } => true,
        ConnectError::Denied { reason, .. } => reason == protocol::SESSION_ENDED,
    }
}

fn is_hang_up(error: &ConnectError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(
        error,
        ConnectError::Unreachable { source, .. }
            if matches!(source.kind(), BrokenPipe | ConnectionReset)
    )
}

struct Welcomed {
    server: u128,
    session: u128,
    max_message: usize,
}

fn dial(
    address: &Address,
    key: &AuthKey,
    session: Option<u128>,
    timeout: Duration,
) -> Result<(Channel, Welcomed), ConnectError> {
    let socket = transport::connect(address, key, timeout)?;
    let mut channel = Channel::new(socket, MAX_HELLO);
    let unreachable = |source| ConnectError::Unreachable {
        address: address.to_string(),
        source,
    };
    let hello = Hello {
        magic: MAGIC,
        version: VERSION,
        session,
        pid: std::process::id(),
        memory: channel.is_local(),
    };
    let mut out = Vec::new();
    let start = begin_frame(&mut out);
    codec::encode_into(&hello, &mut out).expect("protocol types have an encoding");
    end_frame(&mut out, start);
    channel.send(&out).map_err(unreachable)?;
    let foreign = |reason: String| ConnectError::Protocol {
        address: address.to_string(),
        reason,
    };
    let (welcome, memory) = match channel.receive_greeting(Deadline::after(timeout)) {
        Ok((frame, fd)) => (protocol::parse::<Welcome>(frame).map_err(foreign)?, fd),
        Err(ReceiveError::Gone) => {
            return Err(unreachable(std::io::ErrorKind::ConnectionReset.into()));
        }
        Err(ReceiveError::TimedOut) => {
            return Err(unreachable(std::io::ErrorKind::TimedOut.into()));
        }
        Err(ReceiveError::Invalid) => return Err(foreign("its greeting is too long".to_owned())),
    };
    match welcome {
        Welcome::Served {
            server,
            session,
            max_message,
            memory: promised,
        } => {
            if promised {
                // Most likely there was no descriptor left for it.
                let missing = || std::io::Error::other("its shared memory did not come");
                let fd = memory.ok_or_else(|| unreachable(missing()))?;
                channel.use_memory(Duplex::attach(fd).map_err(unreachable)?);
            }
            let max_message = usize::try_from(max_message).unwrap_or(usize::MAX);
            channel.set_limit(max_message);
            let welcomed = Welcomed {
                server,
                session,
                max_message,
            };
            Ok((channel, welcomed))
        }
        Welcome::Denied(reason) => Err(ConnectError::Denied {
            address: address.to_string(),
            reason,
        }),
    }
}

/// The session of this process with a server that a proxy names; a new one if there is none.
///
/// The key is the one that this process has proved at that address, else its own.
pub(crate) fn of_server(server: u128, address: &Address) -> Result<Arc<Session>, ConnectError> {
    let known = SESSIONS
        .lock()
        .iter()
        .filter_map(Weak::upgrade)
        .find(|known| {
            known.server == server
                && !known.is_of_another_process()
                && !known.dead.load(Ordering::Relaxed)
        });
    if let Some(known) = known {
        return Ok(known);
    }
    let key = KEYS.lock().get(address).cloned();
    let session = Session::open(address, &key.unwrap_or_else(authkey::current))?;
    if session.server != server {
        return Err(ConnectError::Unreachable {
            address: address.to_string(),
            source: std::io::Error::new(
                std::io::ErrorKind::NotFound,
                "another manager serves there by now",
            ),
        });
    }
    Ok(session)
}
