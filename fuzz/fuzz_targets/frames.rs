//! A connection whose peer writes what it likes: values, errors, and an end; never a panic, and no
//! more memory than the limit.
#![no_main]

use std::{
    io::Write,
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use libfuzzer_sys::fuzz_target;
use mp_pipe::Connection;

const LIMIT: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    // The socket takes this much without a reader.
    let Some((how, bytes)) = bytes.split_first().filter(|(_, rest)| rest.len() < 1 << 16) else {
        return;
    };
    let (mut peer, ours) = UnixStream::pair().expect("descriptors are left");
    peer.write_all(bytes).expect("the socket has room");
    peer.shutdown(Shutdown::Write).expect("it is open");
    let ours =
        Connection::<(), (String, Vec<u16>)>::from_fd(OwnedFd::from(ours)).expect("a socket");
    ours.set_max_message_len(LIMIT);
    let mut buffer = vec![0; 64];
    // Each call consumes a frame or is the end; more calls than bytes there cannot be.
    for turn in 0..=bytes.len() + 1 {
        let ended = match (usize::from(*how) + turn) % 4 {
            0 => ours
                .recv_bytes()
                .inspect(|got| assert!(got.len() as u64 <= LIMIT))
                .is_err_and(|e| e.is_final()),
            1 => ours.recv().is_err_and(|error| error.is_final()),
            2 => ours
                .recv_bytes_into(&mut buffer)
                .is_err_and(|error| error.is_final()),
            _ => ours.try_recv().is_err_and(|error| error.is_final()),
        };
        if ended {
            return;
        }
    }
    panic!("the stream ended and the connection did not say so");
});
