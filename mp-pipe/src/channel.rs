//! What all ends of connections stand on: one stream socket, a lock for each direction.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::ThreadId,
    time::{Duration, Instant},
};

use mp_core::{
    codec::{self, Bytes, EncodeError},
    deadline::Deadline,
    fd::{self, Mode, SockKind},
    primitive::{AtomicU8, AtomicU64, Ordering, may_spin, spin_loop},
    transfer::{self, Outgoing},
};
use nix::{
    libc,
    sys::socket::{
        AddressFamily, Shutdown, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt,
        setsockopt, shutdown, sockopt,
    },
};
use parking_lot::{Mutex, MutexGuard};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::DeserializeOwned,
    ser::{Error as _, SerializeTuple},
};

use crate::{
    RecvError, SendError,
    frame::{self, DIRECT, Delivered, FrameReader, Limits, MAX_HEADER, Sink},
    ready,
};

/// How long a receiver looks again and again before it sleeps, if its process has two CPUs.
const SPIN: Duration = Duration::from_micros(50);

/// A peer that is awake answers within this time; one that has to be woken takes longer, and waking
/// goes faster if this process makes room for it.
const SOON: Duration = Duration::from_micros(10);

/// So many slow answers in a row are followed by so many waits asleep. Both sides try now and then, so
/// that two that are busy with each other find out.
const MAX_SLOW: u32 = 8;
const SHORT_REST: u32 = 32;

/// After spinning in vain, at most this many waits begin asleep before spinning is tried again.
const MAX_REST: u32 = 256;

/// Socket buffers, as far as the system allows (`net.core.wmem_max`): a sender of large messages
/// sleeps once per buffer.
pub(crate) const SOCKET_BUFFER: usize = 4 << 20;

/// Room for a header in front of an encoded value, which so begins on a cache line of its own.
const FRONT: usize = 64;

/// Received messages of connections made by address are limited to 1 GiB unless the builder says
/// otherwise.
pub const DEFAULT_MAX_MESSAGE_LEN: u64 = 1 << 30;

/// The end is in use here.
const HERE: u8 = 0;
/// It is part of a value that is on its way, not yet sent.
const LEAVING: u8 = 1;
/// It lives on in another process.
const MOVED: u8 = 2;

/// A connected stream socket that carries frames.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
    place: AtomicU8,
    /// Who is encoding the value that this end is part of.
    leaving: Mutex<Option<ThreadId>>,
    tx: Mutex<Writing>,
    rx: Mutex<Reading>,
    /// Descriptors can ride along: a Unix socket.
    carries_fds: bool,
    max_len: AtomicU64,
    /// The peer is not one of our own processes.
    cautious: bool,
}

#[derive(Debug, Default)]
struct Writing {
    /// A frame was begun and not finished; the next one would be taken for the rest of it.
    torn: bool,
}

#[derive(Debug)]
struct Reading {
    frames: FrameReader,
    spin: Spin,
    /// What the table in `ready` says.
    buffered: bool,
}

/// Whether to spin: as long as it pays off. A peer that sleeps itself, that takes longer, or that
/// cannot run because this process spins in its place, makes it rare.
#[derive(Debug, Default)]
struct Spin {
    /// Waits that begin asleep before the next try.
    resting: u32,
    /// What `resting` starts from; doubled by each try in vain.
    rest: u32,
    /// Tries in a row that found something, but not soon.
    slow: u32,
}

impl Spin {
    fn is_due(&mut self) -> bool {
        if self.resting > 0 {
            self.resting -= 1;
            return false;
        }
        may_spin()
    }

    /// Something came after this time.
    fn found(&mut self, after: Duration) {
        self.slow = if after < SOON { 0 } else { self.slow + 1 };
        self.rest = match self.slow {
            MAX_SLOW => SHORT_REST,
            _ => 0,
        };
        if self.slow == MAX_SLOW {
            self.slow = 0;
        }
        self.resting = self.rest;
    }

    fn in_vain(&mut self) {
        self.rest = (self.rest * 2 + 1).min(MAX_REST);
        self.resting = self.rest;
    }
}

/// A value on its way by pieces.
#[cfg(feature = "tokio")]
pub(crate) enum Encoded {
    /// Its whole frame.
    Plain(Vec<u8>),
    /// It holds handles, and has to be sent in one piece.
    WithHandles,
}

/// How long an operation may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Now,
    At(Deadline),
    Forever,
}

impl From<Duration> for Until {
    fn from(timeout: Duration) -> Self {
        Self::At(Deadline::after(timeout))
    }
}

/// A connected pair of Unix sockets with large buffers.
pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
    let (a, b) = fd::socketpair(SockKind::Stream)?;
    for end in [&a, &b] {
        // A smaller buffer is slower for large messages, and no error.
        let _ = setsockopt(end, sockopt::SndBuf, &SOCKET_BUFFER);
    }
    let new = |fd| Channel::new(fd, FrameReader::default(), true, u64::MAX, false);
    Ok((new(a), new(b)))
}

impl Channel {
    fn new(
        fd: OwnedFd,
        frames: FrameReader,
        carries_fds: bool,
        max_len: u64,
        cautious: bool,
    ) -> Self {
        ready::register(fd.as_fd());
        let channel = Self {
            fd,
            place: AtomicU8::new(HERE),
            leaving: Mutex::new(None),
            tx: Mutex::default(),
            rx: Mutex::new(Reading {
                frames,
                spin: Spin::default(),
                buffered: false,
            }),
            carries_fds,
            max_len: AtomicU64::new(max_len),
            cautious,
        };
        channel.note_buffered(&mut channel.rx.lock());
        channel
    }

    /// Over a socket from elsewhere.
    pub(crate) fn from_fd(fd: OwnedFd, max_len: u64, cautious: bool) -> io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
        match getsockopt(&fd, sockopt::SockType) {
            Ok(SockType::Stream) => {}
            _ => return Err(invalid("a connection needs a connected stream socket")),
        }
        let address = getsockname::<SockaddrStorage>(fd.as_raw_fd())?;
        let unix = address.family() == Some(AddressFamily::Unix);
        Ok(Self::new(
            fd,
            FrameReader::default(),
            unix,
            max_len,
            cautious,
        ))
    }

    /// Encodes `value` and sends it, with the descriptors of the handles inside it.
    pub(crate) fn send<T: Serialize + ?Sized>(
        &self,
        value: &T,
        until: Until,
    ) -> Result<(), SendError> {
        codec::with_buffer(|buffer| {
            buffer.resize(FRONT, 0);
            let (encoded, outgoing) = transfer::collect(|| codec::encode_into(value, buffer));
            encoded?;
            self.check_fds::<T>(&outgoing)?;
            let (header, n) = frame::header(buffer.len() - FRONT);
            buffer[FRONT - MAX_HEADER..FRONT].copy_from_slice(&header);
            let (header, payload) = buffer[FRONT - n..].split_at(n);
            self.write(header, payload, outgoing.fds(), until)?;
            outgoing.commit();
            Ok(())
        })
    }

    fn check_fds<T: ?Sized>(&self, outgoing: &Outgoing) -> Result<(), SendError> {
        let count = outgoing.fds().len();
        if count > 0 && !self.carries_fds {
            let text = "handles cannot travel over TCP, only over Unix sockets";
            return Err(EncodeError::new::<T>(text).into());
        }
        if count > fd::MAX_FDS {
            let max = fd::MAX_FDS;
            let text = format_args!("{count} handles in one message; the kernel takes {max}");
            return Err(EncodeError::new::<T>(text).into());
        }
        Ok(())
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], until: Until) -> Result<(), SendError> {
        let (header, n) = frame::header(bytes.len());
        self.write(&header[MAX_HEADER - n..], bytes, &[], until)
    }

    /// One frame, whole or not at all; if it cannot be finished, nothing can be sent any more.
    fn write(
        &self,
        header: &[u8],
        payload: &[u8],
        fds: &[OwnedFd],
        until: Until,
    ) -> Result<(), SendError> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect(); // no allocation when empty
        let mut tx = lock(&self.tx, until).ok_or(SendError::TimedOut)?;
        if self.place.load(Ordering::Acquire) != HERE {
            return Err(SendError::Moved);
        }
        if tx.torn {
            return Err(SendError::Disconnected);
        }
        let parts = [IoSlice::new(header), IoSlice::new(payload)];
        // A long payload goes on its own: behind the header all of its pages would be shifted, and
        // copied at half the speed.
        let first = if payload.len() > DIRECT { 1 } else { 2 };
        let mut sent = self.write_some(&parts[..first], &borrowed, until)?;
        while sent < header.len() + payload.len() {
            match self.write_some(&remaining(&parts, sent), &[], until) {
                Ok(more) => sent += more,
                Err(error) => {
                    tx.torn = true;
                    let _ = shutdown(raw(&self.fd), Shutdown::Write);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn write_some(
        &self,
        parts: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
        until: Until,
    ) -> Result<usize, SendError> {
        let mode = match until {
            Until::Forever => Mode::Blocking,
            Until::Now | Until::At(_) => Mode::NonBlocking,
        };
        loop {
            let error = match fd::send(self.fd.as_fd(), parts, fds, mode) {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            match (error.kind(), until) {
                (io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _) => {
                    return Err(SendError::Disconnected);
                }
                (io::ErrorKind::WouldBlock, Until::At(deadline)) => {
                    if !fd::poll_one(self.fd.as_fd(), libc::POLLOUT, Some(deadline))
                        .map_err(SendError::Io)?
                    {
                        return Err(SendError::TimedOut);
                    }
                }
                // The descriptor came from elsewhere and is non-blocking by itself.
                (io::ErrorKind::WouldBlock, Until::Forever) => {
                    fd::poll_one(self.fd.as_fd(), libc::POLLOUT, None).map_err(SendError::Io)?;
                }
                (io::ErrorKind::WouldBlock, Until::Now) => return Err(SendError::TimedOut),
                _ => return Err(SendError::Io(error)),
            }
        }
    }

    /// A frame with the encoding of `value`, unless its handles need more than bytes.
    #[cfg(feature = "tokio")]
    pub(crate) fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Encoded, SendError> {
        let mut buffer = vec![0; MAX_HEADER];
        let (encoded, outgoing) = transfer::collect(|| codec::encode_into(value, &mut buffer));
        encoded?;
        if !outgoing.is_empty() {
            return Ok(Encoded::WithHandles); // dropped uncommitted: they stay for now
        }
        let (header, n) = frame::header(buffer.len() - MAX_HEADER);
        buffer[..MAX_HEADER].copy_from_slice(&header);
        buffer.drain(..MAX_HEADER - n);
        Ok(Encoded::Plain(buffer))
    }

    /// A frame with these bytes.
    #[cfg(feature = "tokio")]
    pub(crate) fn frame(&self, bytes: &[u8]) -> Vec<u8> {
        let (header, n) = frame::header(bytes.len());
        [&header[MAX_HEADER - n..], bytes].concat()
    }

    /// What there is room for of a frame; `TimedOut` if there is none. The caller keeps frames apart.
    #[cfg(feature = "tokio")]
    pub(crate) fn send_part(&self, part: &[u8]) -> Result<usize, SendError> {
        let tx = self.tx.lock();
        if self.place.load(Ordering::Acquire) != HERE {
            return Err(SendError::Moved);
        }
        if tx.torn {
            return Err(SendError::Disconnected);
        }
        self.write_some(&[IoSlice::new(part)], &[], Until::Now)
    }

    /// A frame stays unfinished: nothing can be sent any more.
    #[cfg(feature = "tokio")]
    pub(crate) fn tear(&self) {
        self.tx.lock().torn = true;
        let _ = shutdown(raw(&self.fd), Shutdown::Write);
    }

    /// Receives a value.
    pub(crate) fn recv<T: DeserializeOwned>(&self, until: Until) -> Result<T, RecvError> {
        codec::with_buffer(|buffer| {
            let delivered = self.read(Sink::Vec(buffer), u64::MAX, until)?;
            let value = transfer::attach(delivered.fds, || codec::decode(buffer));
            Ok(value?)
        })
    }

    /// Receives a message as it is; descriptors that came along are closed.
    pub(crate) fn recv_bytes(
        &self,
        sink: Sink<'_>,
        limit: u64,
        until: Until,
    ) -> Result<usize, RecvError> {
        Ok(self.read(sink, limit, until)?.len)
    }

    fn read(&self, sink: Sink<'_>, limit: u64, until: Until) -> Result<Delivered, RecvError> {
        let mut rx = lock(&self.rx, until).ok_or(RecvError::Empty)?;
        if self.place.load(Ordering::Acquire) != HERE {
            return Err(RecvError::Moved);
        }
        let Reading { frames, spin, .. } = &mut *rx;
        let limits = Limits {
            connection: self.max_len.load(Ordering::Relaxed), // a number, nothing beside it
            call: limit,
            cautious: self.cautious,
        };
        let mut source =
            |buffer: &mut [u8], fds: &mut Vec<OwnedFd>| self.read_some(buffer, fds, spin, until);
        let result = frames.read(&mut source, limits, sink);
        self.note_buffered(&mut rx);
        if rx.frames.is_refused() {
            let _ = shutdown(raw(&self.fd), Shutdown::Read); // the peer need not send the rest
        }
        result
    }

    fn note_buffered(&self, rx: &mut Reading) {
        let buffered = rx.frames.is_ready();
        if buffered != rx.buffered {
            rx.buffered = buffered;
            ready::set_buffered(self.fd.as_fd(), buffered);
        }
    }

    /// What there is, else waits: by spinning as long as that pays off, then asleep.
    fn read_some(
        &self,
        buffer: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        spin: &mut Spin,
        until: Until,
    ) -> io::Result<usize> {
        let mut look = |mode| match fd::recv(self.fd.as_fd(), buffer, fds, mode) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => Some(result),
        };
        if (spin.resting == 0 || !matches!(until, Until::Forever))
            && let Some(result) = look(Mode::NonBlocking)
        {
            return result;
        }
        if let Until::Now = until {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if spin.is_due() {
            let began = Instant::now();
            while began.elapsed() < SPIN {
                spin_loop(); // once: the system call takes longer
                if let Some(result) = look(Mode::NonBlocking) {
                    spin.found(began.elapsed());
                    return result;
                }
            }
            spin.in_vain();
        }
        loop {
            let deadline = match until {
                Until::Forever => {
                    if let Some(result) = look(Mode::Blocking) {
                        return result;
                    }
                    None // the descriptor came from elsewhere and is non-blocking by itself
                }
                Until::Now => Some(Deadline::now()),
                Until::At(deadline) => Some(deadline),
            };
            if !fd::poll_one(self.fd.as_fd(), libc::POLLIN, deadline)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if let Some(result) = look(Mode::NonBlocking) {
                return result;
            }
        }
    }

    /// Whether a receive would find something, now or within `timeout`.
    pub(crate) fn poll(&self, timeout: Option<Duration>) -> io::Result<bool> {
        Ok(!crate::wait(&[self.fd.as_fd()], timeout)?.is_empty())
    }

    pub(crate) fn set_max_len(&self, len: u64) {
        self.max_len.store(len, Ordering::Relaxed);
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match shutdown(raw(&self.fd), how) {
            Ok(()) | Err(nix::errno::Errno::ENOTCONN) => Ok(()), // the peer was faster
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        ready::unregister(self.fd.as_fd());
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn raw(fd: &OwnedFd) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

/// The lock, unless another thread of this process keeps it too long.
pub(crate) fn lock<T>(mutex: &Mutex<T>, until: Until) -> Option<MutexGuard<'_, T>> {
    match until {
        Until::Forever => Some(mutex.lock()),
        Until::Now => mutex.try_lock(),
        Until::At(deadline) => mutex
            .try_lock()
            .or_else(|| mutex.try_lock_for(deadline.remaining())),
    }
}

/// `parts` without their first `sent` bytes.
fn remaining<'a>(parts: &[IoSlice<'a>], sent: usize) -> Vec<IoSlice<'a>> {
    let mut rest = parts.to_vec();
    let mut slices = rest.as_mut_slice();
    IoSlice::advance_slices(&mut slices, sent);
    let left = slices.len();
    rest.split_off(rest.len() - left)
}

/// The end while a value with it is on its way: it comes back when the value does not leave.
struct Leaving {
    channel: Arc<Channel>,
    /// Takes the place of the socket, so that the number stays valid for who borrows it.
    inert: OwnedFd,
    committed: bool,
}

impl Leaving {
    fn commit(mut self) {
        self.committed = true;
        let channel = &self.channel;
        channel.place.store(MOVED, Ordering::Release); // meets the Acquire of `read` and `write`
        let mut rx = channel.rx.lock();
        rx.frames = FrameReader::default();
        channel.note_buffered(&mut rx);
        fd::replace(&channel.fd, self.inert.as_fd());
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.committed {
            *self.channel.leaving.lock() = None;
            self.channel.place.store(HERE, Ordering::Release);
        }
    }
}

/// Encodes an end so that it moves with the value: descriptor, limits, and what was read ahead.
pub(crate) fn serialize<S: Serializer>(
    channel: &Arc<Channel>,
    type_name: &'static str,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let busy = || S::Error::custom(format_args!("another thread is using this {type_name}"));
    let me = std::thread::current().id();
    let mut leaving = channel.leaving.lock();
    let first = leaving.is_none();
    if !first && !serializer.is_human_readable() {
        // (Whoever looks for the text of an error encodes again, for humans.)
        return Err(S::Error::custom(format_args!(
            "this {type_name} is being sent already: is it in the value twice?"
        )));
    }
    if channel.place.load(Ordering::Acquire) == MOVED {
        return Err(S::Error::custom(format_args!(
            "this {type_name} was sent to another process already"
        )));
    }
    if leaving.is_some_and(|other| other != me) {
        return Err(busy());
    }
    let rx = channel.rx.try_lock().ok_or_else(busy)?;
    let _tx = channel.tx.try_lock().ok_or_else(busy)?;
    if first && transfer::is_collecting() {
        let inert = inert().map_err(S::Error::custom)?;
        *leaving = Some(me);
        channel.place.store(LEAVING, Ordering::Release);
        let guard = Leaving {
            channel: channel.clone(),
            inert,
            committed: false,
        };
        transfer::on_commit(move || guard.commit());
    }
    drop(leaving);
    let (bytes, groups) = rx.frames.leftover();
    let groups: Vec<_> = groups
        .iter()
        .map(|(end, fds)| (*end, fds.iter().map(|fd| Riding(fd.as_fd())).collect()))
        .collect::<Vec<(u64, Vec<_>)>>();
    let mut tuple = serializer.serialize_tuple(5)?;
    tuple.serialize_element(&Handle(channel.fd.as_fd(), type_name))?;
    tuple.serialize_element(&channel.max_len.load(Ordering::Relaxed))?;
    tuple.serialize_element(&channel.cautious)?;
    tuple.serialize_element(&Bytes::from(bytes))?;
    tuple.serialize_element(&groups)?;
    tuple.end()
}

/// A socket whose peer is gone.
fn inert() -> io::Result<OwnedFd> {
    Ok(fd::socketpair(SockKind::Stream)?.0)
}

struct Handle<'a>(BorrowedFd<'a>, &'static str);

impl Serialize for Handle<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd(self.1, self.0, serializer)
    }
}

struct Riding<'a>(BorrowedFd<'a>);

impl Serialize for Riding<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd("message in transit", self.0, serializer)
    }
}

struct Arrived(OwnedFd);

impl<'de> Deserialize<'de> for Arrived {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize_fd("connection", deserializer).map(Self)
    }
}

/// The other half of [`serialize`].
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<Channel>, D::Error> {
    type Parts = (Arrived, u64, bool, Bytes, Vec<(u64, Vec<Arrived>)>);
    let (Arrived(fd), max_len, cautious, bytes, groups) = Parts::deserialize(deserializer)?;
    let groups = groups
        .into_iter()
        .map(|(end, fds)| (end, fds.into_iter().map(|Arrived(fd)| fd).collect()))
        .collect();
    let mut channel = Channel::from_fd(fd, max_len, cautious).map_err(serde::de::Error::custom)?;
    let rx = channel.rx.get_mut();
    rx.frames = FrameReader::resume(&bytes, groups);
    channel.note_buffered(&mut channel.rx.lock());
    Ok(Arc::new(channel))
}
