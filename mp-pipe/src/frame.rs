//! Messages in a stream of bytes: Python's framing, byte for byte.
//!
//! ```text
//! frame  := header payload
//! header := i32 big-endian n, n >= 0            payload of n bytes
//!         | ff ff ff ff  u64 big-endian n       the same; written only beyond i32
//! ```
//!
//! Nothing here knows of sockets: bytes come from a closure, so that the reader is tested and
//! fuzzed without one.

use std::{collections::VecDeque, io, mem, os::fd::OwnedFd};

use mp_core::{fd::MAX_FDS, recycle};

use crate::RecvError;

/// The longest header.
pub(crate) const MAX_HEADER: usize = 12;

/// What one system call may bring beyond the frame that is wanted.
const AHEAD: usize = 64 << 10;

/// Longer payloads go straight to their destination instead of through the read-ahead buffer.
pub(crate) const DIRECT: usize = 16 << 10;

/// How far the buffer for a payload of a stranger is ahead of what has arrived, at first.
const STEP: usize = 1 << 20;

/// The most descriptors that wait for their frames. Those of a frame come with its first bytes, and
/// each read brings those of one: of the frame that is incomplete before it, and of the next.
const MAX_WAITING: usize = 2 * MAX_FDS;

/// The header of a payload of `len` bytes, at the end of the array: the header is the last `n`.
pub(crate) fn header(len: usize) -> ([u8; MAX_HEADER], usize) {
    let mut bytes = [0; MAX_HEADER];
    match i32::try_from(len) {
        Ok(short) => {
            bytes[8..].copy_from_slice(&short.to_be_bytes());
            (bytes, 4)
        }
        Err(_) => {
            bytes[..4].fill(0xff);
            bytes[4..].copy_from_slice(&(len as u64).to_be_bytes());
            (bytes, MAX_HEADER)
        }
    }
}

/// The start of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// More bytes are needed to tell.
    Incomplete,
    /// A header of `header` bytes, and `len` bytes to follow.
    Frame { header: usize, len: u64 },
    /// A length that no peer of ours writes.
    Invalid(i64),
}

fn parse(bytes: &[u8]) -> Start {
    let Some((short, rest)) = bytes.split_first_chunk::<4>() else {
        return Start::Incomplete;
    };
    match (i32::from_be_bytes(*short), rest.first_chunk::<8>()) {
        (len @ 0.., _) => Start::Frame {
            header: 4,
            len: len as u64,
        },
        (-1, None) => Start::Incomplete,
        (-1, Some(long)) => match i64::from_be_bytes(*long) {
            len @ 0.. => Start::Frame {
                header: MAX_HEADER,
                len: len as u64,
            },
            negative => Start::Invalid(negative),
        },
        (negative, _) => Start::Invalid(negative.into()),
    }
}

/// How much a reader believes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest payload of the connection; a longer one ends it.
    pub(crate) connection: u64,
    /// The longest payload of this call; a longer one stays in the stream.
    pub(crate) call: u64,
    /// Whether room is made only as bytes arrive, not as the header promises.
    pub(crate) cautious: bool,
}

/// Where a payload goes.
pub(crate) enum Sink<'a> {
    /// Replaces the content; what is allocated is used again.
    Vec(&'a mut Vec<u8>),
    /// Into the front of the slice, or whole into [`RecvError::BufferTooShort`].
    Slice(&'a mut [u8]),
}

/// A payload that was delivered: its length, and the descriptors that came along.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Bytes from the peer: 0 is end of file, `WouldBlock` nothing for now.
pub(crate) trait Source {
    fn receive(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize>;
}

impl<F: FnMut(&mut [u8], &mut Vec<OwnedFd>) -> io::Result<usize>> Source for F {
    fn receive(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        self(buffer, fds)
    }
}

/// Cuts a stream into frames. Can stop anywhere and go on later.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// Allocated with the first read. `ahead[start..end]` was received and not yet delivered.
    ahead: Box<[u8]>,
    start: usize,
    end: usize,
    /// A long payload on its way; then nothing is in `ahead`.
    body: Option<Body>,
    /// The last payload was long: of the next frame only the header is read first, so that a long
    /// payload goes to its destination as a whole.
    long: bool,
    /// Bytes received since the beginning.
    received: u64,
    /// Descriptors, with the position behind the bytes that they came with. The kernel never gives
    /// bytes behind those of a message with descriptors in one piece with it, so a group belongs
    /// to the first frame that ends there or later.
    arrived: VecDeque<(u64, Vec<OwnedFd>)>,
    /// Nothing more can be read.
    closed: bool,
    /// It was closed though the peer may have more to send.
    refused: bool,
}

#[derive(Debug)]
struct Body {
    bytes: Vec<u8>,
    filled: usize,
    len: usize,
}

impl FrameReader {
    /// Goes on where another reader stopped: see [`leftover`](Self::leftover).
    pub(crate) fn resume(bytes: &[u8], arrived: VecDeque<(u64, Vec<OwnedFd>)>) -> Self {
        let mut reader = Self {
            arrived,
            ..Self::default()
        };
        if !bytes.is_empty() {
            reader.ahead = vec![0; bytes.len().max(AHEAD)].into();
            reader.ahead[..bytes.len()].copy_from_slice(bytes);
            reader.end = bytes.len();
            reader.received = bytes.len() as u64;
        }
        reader
    }

    /// The bytes that were received and not delivered, and the descriptors that came with them.
    pub(crate) fn leftover(&self) -> (Vec<u8>, Vec<(u64, &[OwnedFd])>) {
        let mut bytes = Vec::new();
        if let Some(body) = &self.body {
            let (header, n) = header(body.len);
            bytes.extend_from_slice(&header[MAX_HEADER - n..]);
            bytes.extend_from_slice(&body.bytes[..body.filled]);
        }
        bytes.extend_from_slice(&self.ahead[self.start..self.end]);
        let origin = self.received - bytes.len() as u64;
        let fds = self.arrived.iter();
        // A longer header than is needed is not kept: what came with its first part is before `origin`.
        let fds = fds.map(|(end, fds)| (end.saturating_sub(origin), &**fds));
        (bytes, fds.collect())
    }

    /// Whether this reader takes no more, whatever the peer sends.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether the next frame can be delivered, or refused, without another byte.
    pub(crate) fn is_ready(&self) -> bool {
        self.body.is_none()
            && match parse(&self.ahead[self.start..self.end]) {
                Start::Incomplete => false,
                Start::Frame { header, len } => len <= (self.end - self.start - header) as u64,
                Start::Invalid(_) => true,
            }
    }

    /// Delivers the next frame to `sink`.
    pub(crate) fn read(
        &mut self,
        source: &mut impl Source,
        limits: Limits,
        mut sink: Sink<'_>,
    ) -> Result<Delivered, RecvError> {
        if self.closed {
            return Err(RecvError::Disconnected);
        }
        loop {
            if let Some(body) = &self.body {
                check_call(body.len as u64, limits)?;
                return self.read_body(source, limits, sink);
            }
            let buffered = self.end - self.start;
            match parse(&self.ahead[self.start..self.end]) {
                Start::Incomplete if self.long => {
                    let header = if buffered < 4 { 4 } else { MAX_HEADER };
                    self.fill(source, header, header - buffered)?;
                }
                Start::Incomplete => self.fill(source, MAX_HEADER, AHEAD)?,
                Start::Invalid(len) => return Err(self.close(RecvError::InvalidFrame(len))),
                Start::Frame { header, len } => {
                    let len = self.check(len, limits)?;
                    if header + len <= buffered {
                        return self.deliver(header, len, sink);
                    }
                    if len <= DIRECT {
                        self.fill(source, header + len, AHEAD)?;
                    } else {
                        self.begin_body(header, len, &mut sink);
                    }
                }
            }
        }
    }

    fn check(&mut self, len: u64, limits: Limits) -> Result<usize, RecvError> {
        let limit = limits.connection.min(isize::MAX as u64);
        if len > limit {
            return Err(self.close(RecvError::TooLarge { len, limit }));
        }
        check_call(len, limits)?;
        Ok(len as usize)
    }

    /// Ends the stream for good.
    fn close(&mut self, error: RecvError) -> RecvError {
        *self = Self {
            closed: true,
            refused: !matches!(error, RecvError::Disconnected | RecvError::EndOfFile),
            ..Self::default()
        };
        error
    }

    /// One read of at most `most` bytes into the read-ahead buffer, after making room for a frame of
    /// `total` bytes.
    fn fill(
        &mut self,
        source: &mut impl Source,
        total: usize,
        most: usize,
    ) -> Result<(), RecvError> {
        if self.ahead.is_empty() {
            self.ahead = vec![0; AHEAD].into();
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.ahead.len() - self.start < total {
            self.ahead.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut fds = Vec::new();
        let room = &mut self.ahead[self.end..];
        let most = most.min(room.len());
        let got = source.receive(&mut room[..most], &mut fds);
        let got = self.account(got, fds)?;
        self.end += got;
        Ok(())
    }

    /// Books what `source` gave; end of file and errors become ours.
    fn account(&mut self, got: io::Result<usize>, fds: Vec<OwnedFd>) -> Result<usize, RecvError> {
        match got {
            Ok(0) => Err(self.ended()),
            Ok(got) => {
                self.received += got as u64;
                if !fds.is_empty() {
                    let waiting: usize = self.arrived.iter().map(|(_, fds)| fds.len()).sum();
                    if waiting + fds.len() > MAX_WAITING {
                        let text = "the peer sent more descriptors than a message can hold";
                        return Err(self.close(RecvError::Io(io::Error::other(text))));
                    }
                    self.arrived.push_back((self.received, fds));
                }
                Ok(got)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Err(RecvError::Empty),
                // The last: a peer whose machine is gone.
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::TimedOut => Err(self.ended()),
                // Bytes may be lost with it, and what comes next would be taken for their rest.
                _ => Err(self.close(RecvError::Io(error))),
            },
        }
    }

    fn ended(&mut self) -> RecvError {
        if self.body.is_some() || self.start < self.end {
            self.close(RecvError::EndOfFile)
        } else {
            self.close(RecvError::Disconnected)
        }
    }

    /// Delivers a frame that lies in the read-ahead buffer.
    fn deliver(
        &mut self,
        header: usize,
        len: usize,
        sink: Sink<'_>,
    ) -> Result<Delivered, RecvError> {
        let payload = &self.ahead[self.start + header..][..len];
        let result = match sink {
            Sink::Vec(out) => {
                out.clear();
                out.extend_from_slice(payload);
                Ok(())
            }
            Sink::Slice(out) => match out.get_mut(..len) {
                Some(out) => {
                    out.copy_from_slice(payload);
                    Ok(())
                }
                None => Err(RecvError::BufferTooShort {
                    message: payload.to_vec(),
                }),
            },
        };
        self.start += header + len;
        self.long = false;
        let fds = self.take_fds();
        result.map(|()| Delivered { len, fds })
    }

    /// The descriptors of the frame that ends where the undelivered bytes begin.
    fn take_fds(&mut self) -> Vec<OwnedFd> {
        let end = self.received - (self.end - self.start) as u64;
        let mut fds = Vec::new();
        while let Some((_, group)) = self.arrived.pop_front_if(|(at, _)| *at <= end) {
            fds.extend(group);
        }
        fds
    }

    /// Takes what has arrived of a long payload out of the read-ahead buffer.
    fn begin_body(&mut self, header: usize, len: usize, sink: &mut Sink<'_>) {
        let begun = &self.ahead[self.start + header..self.end];
        let mut bytes = match sink {
            Sink::Vec(out) => mem::take(*out),
            Sink::Slice(_) => Vec::new(),
        };
        let filled = begun.len();
        if bytes.len() < filled {
            bytes.resize(filled, 0);
        }
        bytes[..filled].copy_from_slice(begun);
        (self.start, self.end) = (0, 0);
        self.long = true;
        self.body = Some(Body { bytes, filled, len });
    }

    fn read_body(
        &mut self,
        source: &mut impl Source,
        limits: Limits,
        sink: Sink<'_>,
    ) -> Result<Delivered, RecvError> {
        let Some(mut body) = self.body.take() else {
            unreachable!("only called with a body")
        };
        let len = body.len;
        let result = match sink {
            Sink::Slice(out) if out.len() >= len => self.fill_slice(source, &mut body, out),
            Sink::Slice(_) => {
                let filled = self.fill_body(source, &mut body, limits.cautious);
                filled.and_then(|()| {
                    let message = mem::take(&mut body.bytes);
                    Err(RecvError::BufferTooShort { message })
                })
            }
            Sink::Vec(out) => {
                let filled = self.fill_body(source, &mut body, limits.cautious);
                filled.map(|()| *out = mem::take(&mut body.bytes))
            }
        };
        match result {
            Ok(()) => {
                let fds = self.take_fds();
                Ok(Delivered { len, fds })
            }
            Err(error @ RecvError::BufferTooShort { .. }) => {
                self.take_fds();
                Err(error)
            }
            Err(RecvError::Empty) => {
                self.body = Some(body);
                Err(RecvError::Empty)
            }
            Err(RecvError::Disconnected) => Err(self.close(RecvError::EndOfFile)),
            Err(error) => Err(self.close(error)),
        }
    }

    /// The rest of a payload straight to the caller.
    fn fill_slice(
        &mut self,
        source: &mut impl Source,
        body: &mut Body,
        out: &mut [u8],
    ) -> Result<(), RecvError> {
        out[..body.filled].copy_from_slice(&body.bytes[..body.filled]);
        while body.filled < body.len {
            let mut fds = Vec::new();
            let got = source.receive(&mut out[body.filled..body.len], &mut fds);
            match self.account(got, fds) {
                Ok(got) => body.filled += got,
                Err(error) => {
                    body.bytes = out[..body.filled].to_vec();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn fill_body(
        &mut self,
        source: &mut impl Source,
        body: &mut Body,
        cautious: bool,
    ) -> Result<(), RecvError> {
        while body.filled < body.len {
            let room = match cautious {
                true if body.filled < body.bytes.len() => body.len.min(body.bytes.len()),
                true => body.len.min((2 * body.filled).max(STEP)),
                false => body.len,
            };
            make_room(body, room).map_err(|error| self.close(RecvError::Io(error)))?;
            let mut fds = Vec::new();
            let got = source.receive(&mut body.bytes[body.filled..room], &mut fds);
            body.filled += self.account(got, fds)?;
        }
        body.bytes.truncate(body.len);
        Ok(())
    }
}

/// A message over the limit of one call stays where it is, for another.
fn check_call(len: u64, limits: Limits) -> Result<(), RecvError> {
    match limits.call {
        limit if len > limit => Err(RecvError::OverLimit { len, limit }),
        _ => Ok(()),
    }
}

/// Makes `body.bytes` at least `room` bytes long. Memory that is fresh anyway comes zeroed from the
/// system, and is touched only when bytes arrive.
fn make_room(body: &mut Body, room: usize) -> io::Result<()> {
    if body.bytes.len() >= room {
        return Ok(());
    }
    if body.bytes.capacity() >= room {
        body.bytes.resize(room, 0);
        return Ok(());
    }
    let mut larger =
        recycle::bytes(room).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    larger[..body.filled].copy_from_slice(&body.bytes[..body.filled]);
    recycle::give(mem::replace(&mut body.bytes, larger));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_long_message_in_short_pieces_moves_a_few_times_only() {
        const LEN: usize = 40 << 20;
        const PIECE: usize = 10_000;
        let mut reader = FrameReader::default();
        let mut frame = (LEN as u32).to_be_bytes().to_vec();
        frame.extend((0..LEN).map(|index| (index % 251) as u8));
        let (mut sent, mut places) = (0, BTreeSet::new());
        let mut source = |buffer: &mut [u8], _: &mut Vec<OwnedFd>| {
            let piece = PIECE.min(buffer.len()).min(frame.len() - sent);
            if sent > DIRECT {
                places.insert(buffer.as_ptr() as usize - sent); // where the message begins
            }
            buffer[..piece].copy_from_slice(&frame[sent..][..piece]);
            sent += piece;
            Ok(piece)
        };
        let limits = Limits {
            connection: u64::MAX,
            call: u64::MAX,
            cautious: true,
        };
        let mut message = Vec::new();
        reader
            .read(&mut source, limits, Sink::Vec(&mut message))
            .unwrap();
        assert!(message == frame[4..]);
        assert!(places.len() <= 8, "at {} places", places.len());
    }
}
