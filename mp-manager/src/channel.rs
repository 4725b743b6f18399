//! One authenticated connection, as both sides use it: frames in, frames out.
//!
//! On one machine the frames go through shared memory, which the server makes and sends with its
//! welcome; the socket is then only what a side sleeps on for long, and how it learns that the other
//! is gone.
//! Between machines, or when there is no memory for it, they go through the socket.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd},
    time::{Duration, Instant},
};

use mp_core::{
    deadline::Deadline,
    duplex::{Duplex, Want},
    fd,
    hooks::{ForkClosed, close_after_fork},
    primitive::{leave_cpu, may_spin, spin_loop, thread::yield_now},
};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, SockaddrLike, SockaddrStorage, getsockname, recv, send,
    },
};

use crate::crowd::Crowd;

/// How long a receiver looks for more before it sleeps: a little longer than waking one takes.
const SPIN: Duration = Duration::from_micros(50);
/// How long of that it keeps a CPU for a peer that seems to run on another one. An answer takes a
/// microsecond or two; if it is late, the peer most likely waits for a CPU, and maybe for this one.
const ALONE: Duration = Duration::from_micros(5);
/// Looks at the memory between two looks at the clock, a fraction of a microsecond.
const PAUSES: u32 = 16;
/// Memory for a frame grows by as much as has arrived, at most this much at a time.
const STEP: usize = 1 << 20;
/// What a quiet channel keeps.
const KEPT: usize = 1 << 20;
const FIRST: usize = 16 << 10;
const HEADER: usize = 4;

/// Reserves the header of a frame at the end of `out`.
pub(crate) fn begin_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend([0; HEADER]);
    start
}

/// Writes the header of the frame that began at `start`; its length.
pub(crate) fn end_frame(out: &mut [u8], start: usize) -> usize {
    let len = out.len() - start - HEADER;
    // The limit of a message is far below what the header can say.
    out[start..start + HEADER].copy_from_slice(&(len as u32).to_be_bytes());
    len
}

#[derive(Debug)]
pub(crate) enum ReceiveError {
    /// End of file, or an error of the connection.
    Gone,
    /// Nothing, or not all, until the deadline.
    TimedOut,
    /// The peer announced more than the limit, or no length at all.
    Invalid,
}

#[derive(Debug)]
pub(crate) struct Channel {
    socket: Option<OwnedFd>,
    /// Carries the bytes instead of the socket.
    memory: Option<Duplex>,
    /// A forked child must not keep its parent's connections open.
    fork: ForkClosed,
    input: Vec<u8>,
    /// What has been received and not been consumed.
    start: usize,
    end: usize,
    limit: usize,
    /// When the last bytes came.
    last: Instant,
    /// How long they were waited for.
    waited: Duration,
    /// If the thread that uses it is one of ours.
    crowd: Option<Crowd>,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd, limit: usize) -> Self {
        Self {
            fork: close_after_fork(socket.as_raw_fd()),
            socket: Some(socket),
            memory: None,
            input: vec![0; FIRST],
            start: 0,
            end: 0,
            limit,
            last: Instant::now(),
            waited: Duration::ZERO,
            crowd: None,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The thread that uses it is one of ours, and may move to another CPU.
    pub(crate) fn may_move(&mut self) {
        self.crowd = Some(Crowd::new(Instant::now()));
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("taken only by drop").as_fd()
    }

    /// Whether the peer is on this machine, and descriptors can be sent to it.
    pub(crate) fn is_local(&self) -> bool {
        let name = getsockname::<SockaddrStorage>(self.fd().as_raw_fd());
        name.is_ok_and(|name| name.family() == Some(AddressFamily::Unix))
    }

    /// From now on all bytes go through `memory`.
    pub(crate) fn use_memory(&mut self, memory: Duplex) {
        self.memory = Some(memory);
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = match &mut self.memory {
                Some(memory) => memory.write(bytes).map_err(io::Error::other)?,
                None => send_some(self.fd(), bytes)?,
            };
            bytes = &bytes[sent..];
            if self.memory.is_some() {
                self.ring(Want::Bytes);
                if !bytes.is_empty() {
                    self.await_peer(Want::Room)?;
                }
            }
        }
        Ok(())
    }

    /// Sends all of `bytes` over the socket, with a descriptor.
    pub(crate) fn send_with(&self, bytes: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
        let parts = [IoSlice::new(bytes)];
        let sent = fd::send(self.fd(), &parts, &[fd], fd::Mode::Blocking)?;
        match bytes.get(sent..) {
            None | Some([]) => Ok(()),
            Some(_) => Err(io::ErrorKind::WriteZero.into()), // it is far smaller than the buffer
        }
    }

    /// Whether the next frame is here already.
    pub(crate) fn has_frame(&self) -> bool {
        matches!(self.next(), Ok(Some((header, len))) if self.end - self.start >= header + len)
    }

    /// The next frame, waiting for it.
    pub(crate) fn receive(&mut self) -> Result<&[u8], ReceiveError> {
        self.receive_by(Self::receive_some)
    }

    /// A frame that is no call or answer yet: it comes over the socket and before the deadline,
    /// maybe with a descriptor.
    pub(crate) fn receive_greeting(
        &mut self,
        until: Deadline,
    ) -> Result<(&[u8], Option<OwnedFd>), ReceiveError> {
        let mut fds = Vec::new();
        let frame = self.receive_by(|channel| {
            let socket = channel.socket.as_ref().ok_or(ReceiveError::Gone)?;
            match fd::poll_one(socket.as_fd(), libc::POLLIN, Some(until)) {
                Ok(true) => {}
                Ok(false) => return Err(ReceiveError::TimedOut),
                Err(_) => return Err(ReceiveError::Gone),
            }
            let buffer = &mut channel.input[channel.end..];
            match fd::recv(socket.as_fd(), buffer, &mut fds, fd::Mode::Blocking) {
                Ok(0) | Err(_) => Err(ReceiveError::Gone),
                Ok(received) => Ok(received),
            }
        })?;
        Ok((frame, fds.pop()))
    }

    fn receive_by(
        &mut self,
        mut some: impl FnMut(&mut Self) -> Result<usize, ReceiveError>,
    ) -> Result<&[u8], ReceiveError> {
        loop {
            let needed = match self.next()? {
                Some((header, len)) if self.end - self.start >= header + len => {
                    let begin = self.start + header;
                    self.start = begin + len;
                    return Ok(&self.input[begin..begin + len]);
                }
                Some((header, len)) => header + len,
                None => HEADER,
            };
            self.make_room(needed);
            self.end += some(self)?;
        }
    }

    /// Header size and length of the frame at the front.
    fn next(&self) -> Result<Option<(usize, usize)>, ReceiveError> {
        let bytes = &self.input[self.start..self.end];
        let Some((header, rest)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let (header, len) = match i32::from_be_bytes(*header) {
            -1 => match rest.first_chunk::<8>() {
                None => return Ok(None),
                Some(len) => (12, u64::from_be_bytes(*len)),
            },
            len => (
                HEADER,
                u64::try_from(len).map_err(|_| ReceiveError::Invalid)?,
            ),
        };
        match usize::try_from(len) {
            Ok(len) if len <= self.limit => Ok(Some((header, len))),
            _ => Err(ReceiveError::Invalid),
        }
    }

    /// Makes room for more of the frame at the front, which is `needed` bytes long.
    fn make_room(&mut self, needed: usize) {
        let here = self.end - self.start;
        if here == 0 {
            (self.start, self.end) = (0, 0);
            if self.input.len() > KEPT && needed <= FIRST {
                self.input = vec![0; FIRST];
            }
        } else if self.start > 0 && self.input.len() - self.start < needed {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, here);
        }
        let wanted = needed.min(self.end + STEP);
        if self.input.len() < wanted {
            self.input.resize(wanted, 0);
        } else if self.end == self.input.len() {
            self.input.resize(self.end + HEADER, 0);
        }
    }

    fn receive_some(&mut self) -> Result<usize, ReceiveError> {
        let Some(memory) = &mut self.memory else {
            return self.receive_from_socket();
        };
        let corrupt = |_| ReceiveError::Invalid;
        let mut received = memory.read(&mut self.input[self.end..]).map_err(corrupt)?;
        if received == 0 {
            // What a peer wrote before it went is read first.
            let gone = self.await_peer(Want::Bytes).is_err();
            let memory = self.memory.as_mut().ok_or(ReceiveError::Gone)?;
            received = memory.read(&mut self.input[self.end..]).map_err(corrupt)?;
            if received == 0 && gone {
                return Err(ReceiveError::Gone);
            }
        }
        self.ring(Want::Room);
        Ok(received)
    }

    /// Wakes the peer if it sleeps until bytes have moved as they just did.
    fn ring(&self, moved: Want) {
        if self
            .memory
            .as_ref()
            .is_some_and(|memory| memory.wake(moved))
        {
            // A peer that is gone shows when it is waited for. A full socket is full of bells.
            let _ = send(
                self.fd().as_raw_fd(),
                &[0],
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            );
        }
    }

    /// Waits until the memory has what is wanted.
    fn await_peer(&mut self, want: Want) -> io::Result<()> {
        let begin = Instant::now();
        let found = self.polls(begin) && self.look_for(want, begin);
        if found {
            self.make_way();
        }
        let result = if found { Ok(()) } else { self.sleep_for(want) };
        self.waited(begin);
        result
    }

    /// Looks for a moment without sleeping; whether it is there.
    fn look_for(&self, want: Want, begin: Instant) -> bool {
        let Some(memory) = &self.memory else {
            return false;
        };
        loop {
            for _ in 0..PAUSES {
                if memory.is_ready(want) {
                    return true;
                }
                spin_loop();
            }
            let looked = begin.elapsed();
            if looked >= SPIN {
                return false;
            }
            // Not always: two that run side by side would lose a microsecond with each.
            if looked >= ALONE || memory.peer_was_here() {
                yield_now();
            }
        }
    }

    /// Leaves the CPU to a peer that is always found on it.
    fn make_way(&mut self) {
        if let (Some(crowd), Some(memory)) = (&mut self.crowd, &self.memory)
            && crowd.is_time_to_move(memory.peer_was_here(), Instant::now)
        {
            leave_cpu();
        }
    }

    fn sleep_for(&self, want: Want) -> io::Result<()> {
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        if memory.nap(want) {
            return Ok(());
        }
        while memory.may_sleep(want) {
            if receive_blocking(self.fd().as_raw_fd(), &mut [0; 16])? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn receive_from_socket(&mut self) -> Result<usize, ReceiveError> {
        let socket = self.socket.as_ref().ok_or(ReceiveError::Gone)?.as_raw_fd();
        let begin = Instant::now();
        let polls = self.polls(begin);
        let buffer = &mut self.input[self.end..];
        let received = if polls {
            match poll_for(socket, buffer, begin + SPIN) {
                Err(Errno::EAGAIN) => receive_blocking(socket, buffer),
                result => result,
            }
        } else {
            receive_blocking(socket, buffer)
        };
        self.waited(begin);
        match received {
            Ok(0) | Err(_) => Err(ReceiveError::Gone),
            Ok(received) => Ok(received),
        }
    }

    /// A peer polls for a moment after its last message. When that is over it sleeps, and the
    /// fastest way to its answer is to leave it this CPU.
    fn polls(&self, now: Instant) -> bool {
        may_spin() && self.waited < SPIN && now - self.last < SPIN
    }

    /// Something has come, which was waited for since `begin`.
    fn waited(&mut self, begin: Instant) {
        self.last = Instant::now();
        self.waited = self.last - begin;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take()
            && !self.fork.forget()
        {
            let _closed_by_the_fork = socket.into_raw_fd();
        }
    }
}

fn send_some(socket: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    loop {
        match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Receives without sleeping, until then; EAGAIN if nothing came.
fn poll_for(socket: i32, buffer: &mut [u8], until: Instant) -> nix::Result<usize> {
    loop {
        match recv(socket, buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                if Instant::now() >= until {
                    return Err(Errno::EAGAIN);
                }
                // The peer may be waiting for this very CPU.
                yield_now();
            }
            result => return result,
        }
    }
}

fn receive_blocking(socket: i32, buffer: &mut [u8]) -> nix::Result<usize> {
    loop {
        match recv(socket, buffer, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use mp_core::fd::{SockKind, socketpair};

    use super::*;

    fn pair(limit: usize) -> (Channel, OwnedFd) {
        let (here, there) = socketpair(SockKind::Stream).unwrap();
        (Channel::new(here, limit), there)
    }

    fn write(peer: &OwnedFd, bytes: &[u8]) {
        assert_eq!(
            send(peer.as_raw_fd(), bytes, MsgFlags::empty()),
            Ok(bytes.len())
        );
    }

    #[test]
    fn frames_come_out_however_they_were_cut() {
        let (mut channel, peer) = pair(100);
        write(&peer, b"\0\0\0\x03abc\0\0\0\0\0\0\0\x02d");
        assert_eq!(channel.receive().unwrap(), b"abc");
        assert!(channel.has_frame());
        assert_eq!(channel.receive().unwrap(), b"");
        assert!(!channel.has_frame());
        write(&peer, b"e");
        assert_eq!(channel.receive().unwrap(), b"de");
        write(&peer, b"\xff\xff\xff\xff\0\0\0\0\0\0\0\x01x");
        assert_eq!(channel.receive().unwrap(), b"x");
        drop(peer);
        assert!(matches!(channel.receive(), Err(ReceiveError::Gone)));
    }

    #[test]
    fn lengths_beyond_the_limit_are_refused_before_memory_is_taken() {
        for header in [
            &b"\0\0\0\x65"[..],
            b"\x7f\xff\xff\xff",
            b"\x80\0\0\0",
            b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0",
        ] {
            let (mut channel, peer) = pair(100);
            write(&peer, header);
            assert!(matches!(channel.receive(), Err(ReceiveError::Invalid)));
            assert!(channel.input.len() <= FIRST);
        }
    }

    #[test]
    fn a_long_frame_takes_memory_as_it_arrives_and_gives_it_back() {
        let (mut channel, peer) = pair(64 << 20);
        let len = 3 * STEP;
        let writer = std::thread::spawn(move || {
            let mut out = Vec::new();
            let start = begin_frame(&mut out);
            out.resize(HEADER + len, 7);
            end_frame(&mut out, start);
            let mut sender = Channel::new(peer, 0);
            sender.send(&out).unwrap();
            sender.send(b"\0\0\0\x01x").unwrap();
        });
        assert_eq!(channel.receive().unwrap().len(), len);
        assert_eq!(channel.receive().unwrap(), b"x");
        writer.join().unwrap();
        assert!(matches!(channel.receive(), Err(ReceiveError::Gone)));
        assert!(channel.input.len() <= KEPT);
    }
}
