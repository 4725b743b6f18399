//! What all ends of connections stand on: one stream socket, a lock for each direction.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    thread::ThreadId,
    time::{Duration, Instant},
};

use mp_core::{
    codec::{self, EncodeError},
    deadline::Deadline,
    fd::{self, Mode, SockKind},
    primitive::{AtomicU8, AtomicU64, Ordering, spin_loop},
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
use serde::{Serialize, de::DeserializeOwned};

use self::spin::{SPIN, Spin};
use crate::{
    RecvError, SendError,
    frame::{self, DIRECT, Delivered, FrameReader, Limits, MAX_HEADER, Sink},
    ready,
};

#[cfg(feature = "tokio")]
mod pieces;
mod spin;
mod travel;

#[cfg(feature = "tokio")]
pub(crate) use self::pieces::Encoded;
pub(crate) use self::travel::{deserialize, serialize};

/// Socket buffers, as far as the system allows (`net.core.wmem_max`): a sender of large messages
/// sleeps once per buffer.
pub(crate) const SOCKET_BUFFER: usize = 4 << 20;

/// Bytes up to here are copied behind their header: one piece is sent faster than two.
const SHORT: usize = 256;

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
            let (encoded, outgoing) =
                transfer::collect_for(self.carries_fds, || codec::encode_into(value, buffer));
            encoded?;
            self.check_fds::<T>(&outgoing)?;
            let (header, n) = frame::header(buffer.len() - FRONT);
            buffer[FRONT - MAX_HEADER..FRONT].copy_from_slice(&header);
            self.write(
                &Frame::Joined(&buffer[FRONT - n..], n),
                outgoing.fds(),
                until,
            )?;
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
        let header = &header[MAX_HEADER - n..];
        if bytes.len() > SHORT {
            return self.write(&Frame::Parts(header, bytes), &[], until);
        }
        let mut joined = [0; MAX_HEADER + SHORT];
        joined[..n].copy_from_slice(header);
        joined[n..][..bytes.len()].copy_from_slice(bytes);
        self.write(&Frame::Joined(&joined[..n + bytes.len()], n), &[], until)
    }

    /// One frame, whole or not at all; if it cannot be finished, nothing can be sent any more.
    fn write(&self, frame: &Frame<'_>, fds: &[OwnedFd], until: Until) -> Result<(), SendError> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect(); // no allocation when empty
        let mut tx = lock(&self.tx, until).ok_or(SendError::TimedOut)?;
        self.check_sending(&tx)?;
        let mut sent = self.write_some(frame.first(), &borrowed, until)?;
        while sent < frame.len() {
            match self.write_some(frame.rest(sent), &[], until) {
                Ok(more) => sent += more,
                Err(error) => {
                    self.tear(&mut tx);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn check_sending(&self, tx: &Writing) -> Result<(), SendError> {
        if self.place.load(Ordering::Acquire) != HERE {
            return Err(SendError::Moved);
        }
        if tx.torn {
            return Err(SendError::Disconnected);
        }
        Ok(())
    }

    /// A frame stays unfinished: nothing can be sent any more.
    fn tear(&self, tx: &mut Writing) {
        tx.torn = true;
        let _ = shutdown(raw(&self.fd), Shutdown::Write);
    }

    fn write_some(
        &self,
        parts: [&[u8]; 2],
        fds: &[BorrowedFd<'_>],
        until: Until,
    ) -> Result<usize, SendError> {
        let mode = match until {
            Until::Forever => Mode::Blocking,
            Until::Now | Until::At(_) => Mode::NonBlocking,
        };
        let slices = parts.map(IoSlice::new);
        let slices = if parts[1].is_empty() {
            &slices[..1]
        } else {
            &slices
        };
        loop {
            let error = match fd::send(self.fd.as_fd(), slices, fds, mode) {
                Ok(sent) => return Ok(sent),
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::WouldBlock => self.wait_for_room(until)?,
                io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::TimedOut => return Err(SendError::Disconnected),
                _ => return Err(SendError::Io(error)),
            }
        }
    }

    fn wait_for_room(&self, until: Until) -> Result<(), SendError> {
        let deadline = match until {
            Until::Now => return Err(SendError::TimedOut),
            Until::At(deadline) => Some(deadline),
            Until::Forever => None, // the descriptor came from elsewhere and is non-blocking by itself
        };
        match fd::poll_one(self.fd.as_fd(), libc::POLLOUT, deadline) {
            Ok(true) => Ok(()),
            Ok(false) => Err(SendError::TimedOut),
            Err(error) => Err(SendError::Io(error)),
        }
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
        if (!spin.rests() || !matches!(until, Until::Forever))
            && let Some(result) = look(Mode::NonBlocking)
        {
            return result;
        }
        if let Until::Now = until {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(result) = spin_for(spin, &mut look) {
            return result;
        }
        self.sleep_for(until, &mut look)
    }

    /// Waits asleep for what `look` finds.
    fn sleep_for(
        &self,
        until: Until,
        look: &mut impl FnMut(Mode) -> Option<io::Result<usize>>,
    ) -> io::Result<usize> {
        let deadline = match until {
            Until::Forever => None,
            Until::Now => Some(Deadline::now()),
            Until::At(deadline) => Some(deadline),
        };
        loop {
            if deadline.is_none()
                && let Some(result) = look(Mode::Blocking)
            {
                return result;
            }
            // With a deadline; or the descriptor came from elsewhere and is non-blocking by itself.
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

/// What `look` finds while it pays off to look again and again.
fn spin_for(
    spin: &mut Spin,
    look: &mut impl FnMut(Mode) -> Option<io::Result<usize>>,
) -> Option<io::Result<usize>> {
    if !spin.is_due() {
        return None;
    }
    let began = Instant::now();
    while began.elapsed() < SPIN {
        spin_loop(); // once: the system call takes longer
        if let Some(result) = look(Mode::NonBlocking) {
            spin.found(began.elapsed());
            return Some(result);
        }
    }
    spin.in_vain();
    None
}

/// Header and payload on their way out.
enum Frame<'a> {
    /// In one piece, of which so many bytes are the header.
    Joined(&'a [u8], usize),
    /// In two.
    Parts(&'a [u8], &'a [u8]),
}

impl Frame<'_> {
    fn parts(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Joined(frame, header) => frame.split_at(*header),
            Self::Parts(header, payload) => (header, payload),
        }
    }

    fn len(&self) -> usize {
        let (header, payload) = self.parts();
        header.len() + payload.len()
    }

    /// What goes out with the first call. A long payload goes on its own: behind the header all of
    /// its pages would be shifted, and copied at half the speed.
    fn first(&self) -> [&[u8]; 2] {
        match self {
            _ if self.len() > DIRECT => [self.parts().0, &[]],
            Self::Joined(frame, _) => [frame, &[]],
            Self::Parts(header, payload) => [header, payload],
        }
    }

    /// What is left after `sent` bytes.
    fn rest(&self, sent: usize) -> [&[u8]; 2] {
        let (header, payload) = self.parts();
        match sent.checked_sub(header.len()) {
            Some(sent) => [&payload[sent..], &[]],
            None => [&header[sent..], payload],
        }
    }
}
