//! One authenticated connection, as both sides use it: frames in, frames out.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd},
    time::{Duration, Instant},
};

use mp_core::{
    hooks::{ForkClosed, close_after_fork},
    primitive::{may_spin, thread::yield_now},
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};

/// How long a receiver looks for more before it sleeps: a little longer than waking one takes.
const SPIN: Duration = Duration::from_micros(50);
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
    /// The peer announced more than the limit, or no length at all.
    Invalid,
}

#[derive(Debug)]
pub(crate) struct Channel {
    socket: Option<OwnedFd>,
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
    /// Others need the CPU that polling would take.
    crowded: bool,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd, limit: usize) -> Self {
        Self {
            fork: close_after_fork(socket.as_raw_fd()),
            socket: Some(socket),
            input: vec![0; FIRST],
            start: 0,
            end: 0,
            limit,
            last: Instant::now(),
            waited: Duration::ZERO,
            crowded: false,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether to sleep at once instead of polling, since others need the CPU.
    pub(crate) fn set_crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
    }

    /// Whether the peer sends one message after the other.
    pub(crate) fn is_busy(&self) -> bool {
        self.waited < 4 * SPIN
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("taken only by drop").as_fd()
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match send(self.fd().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whether the next frame is here already.
    pub(crate) fn has_frame(&self) -> bool {
        matches!(self.next(), Ok(Some((header, len))) if self.end - self.start >= header + len)
    }

    /// The next frame, waiting for it.
    pub(crate) fn receive(&mut self) -> Result<&[u8], ReceiveError> {
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
            let received = self.receive_some()?;
            self.end += received;
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
        let socket = self.socket.as_ref().ok_or(ReceiveError::Gone)?.as_raw_fd();
        let buffer = &mut self.input[self.end..];
        let begin = Instant::now();
        // A peer polls for a moment after its last message. When that is over it sleeps, and the
        // fastest way to its answer is to leave it this CPU.
        let polls = may_spin() && !self.crowded && self.waited < SPIN && begin - self.last < SPIN;
        let received = if polls {
            match poll_for(socket, buffer, begin + SPIN) {
                Err(Errno::EAGAIN) => sleep_for(socket, buffer),
                result => result,
            }
        } else {
            sleep_for(socket, buffer)
        };
        self.last = Instant::now();
        self.waited = self.last - begin;
        match received {
            Ok(0) | Err(_) => Err(ReceiveError::Gone),
            Ok(received) => Ok(received),
        }
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

fn sleep_for(socket: i32, buffer: &mut [u8]) -> nix::Result<usize> {
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
            let sender = Channel::new(peer, 0);
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
