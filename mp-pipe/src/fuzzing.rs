//! The parsers of foreign bytes without a socket, for the targets in `fuzz/`. Only with `cfg(fuzzing)`.

use std::{cell::Cell, collections::VecDeque, fs::File, io, os::fd::OwnedFd};

use mp_core::authkey::AuthKey;

use crate::{
    AuthError, Digest, RecvError,
    auth::Policy,
    frame::{FrameReader, Limits, Sink},
    handshake::{Exchange, Progress, Role, Wire},
};

/// As many come along with one stream.
const DESCRIPTORS: usize = 8;

/// Cuts `stream` into frames, handed over in pieces of `sizes` (over and over) with a pause after each,
/// and a descriptor with some; the payloads, and whether the stream ended inside a frame or was refused.
pub fn frames(stream: &[u8], sizes: &[u8], limit: u64) -> (Vec<Vec<u8>>, RecvError) {
    let mut reader = FrameReader::default();
    let mut rest = stream;
    let mut sizes = sizes.iter().cycle();
    let mut pause = false;
    let file = OwnedFd::from(File::open("/dev/null").expect("it is there"));
    let (given, mut taken) = (Cell::new(0), 0);
    let mut source = |buffer: &mut [u8], fds: &mut Vec<OwnedFd>| {
        pause = !pause;
        if pause {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = usize::from(*sizes.next().unwrap_or(&0)) + 1;
        let size = size.min(rest.len()).min(buffer.len());
        if size % 2 == 1 && given.get() < DESCRIPTORS {
            fds.push(file.try_clone()?);
            given.set(given.get() + 1);
        }
        buffer[..size].copy_from_slice(&rest[..size]);
        rest = &rest[size..];
        Ok(size)
    };
    let limits = Limits {
        connection: limit,
        call: u64::MAX,
        cautious: true,
    };
    let mut payloads = Vec::new();
    loop {
        let mut payload = Vec::new();
        match reader.read(&mut source, limits, Sink::Vec(&mut payload)) {
            Ok(delivered) => {
                assert_eq!(delivered.len, payload.len());
                taken += delivered.fds.len();
                assert!(taken <= given.get());
                payloads.push(payload);
            }
            Err(RecvError::Empty) => {
                // Moved to another process in the middle of everything.
                let (bytes, groups) = reader.leftover();
                let waiting: usize = groups.iter().map(|(_, fds)| fds.len()).sum();
                assert_eq!(taken + waiting, given.get());
                reader = FrameReader::resume(&bytes, duplicate(&groups));
            }
            Err(end) => return (payloads, end),
        }
    }
}

fn duplicate(groups: &[(u64, &[OwnedFd])]) -> VecDeque<(u64, Vec<OwnedFd>)> {
    let duplicate =
        |fds: &[OwnedFd]| -> io::Result<Vec<_>> { fds.iter().map(OwnedFd::try_clone).collect() };
    let groups = groups.iter();
    groups
        .map(|(end, fds)| (*end, duplicate(fds).expect("a few are left")))
        .collect()
}

/// A handshake with a peer that says `input`; how it ended, and what it was told.
pub fn handshake(
    listener: bool,
    legacy_md5: bool,
    input: &[u8],
) -> (Result<(), AuthError>, Vec<u8>) {
    let role = if listener {
        Role::Listener
    } else {
        Role::Client
    };
    let policy = Policy {
        key: AuthKey::from("a secret that the peer does not know"),
        digest: Digest::default(),
        legacy_md5,
    };
    let mut exchange = Exchange::new(role, policy);
    let mut wire = Memory {
        input,
        output: Vec::new(),
    };
    let result = loop {
        match exchange.advance(&mut wire) {
            Ok(Progress::Done) => break Ok(()),
            Ok(Progress::Reading | Progress::Writing) => {}
            Err(error) => break Err(error),
        }
    };
    (result, wire.output)
}

struct Memory<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl Wire for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = buffer.len().min(self.input.len());
        buffer[..size].copy_from_slice(&self.input[..size]);
        self.input = &self.input[size..];
        Ok(size)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }
}
