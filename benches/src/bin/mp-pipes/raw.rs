//! The kernel alone.

use std::{
    io::{ErrorKind, Read},
    os::unix::net::UnixStream,
};

use nix::sys::socket::{setsockopt, sockopt};

/// A socket pair with buffers as large as those of mp.
pub(crate) fn socketpair() -> (UnixStream, UnixStream) {
    let pair = UnixStream::pair().expect("a socket pair");
    for end in [&pair.0, &pair.1] {
        let _ = setsockopt(end, sockopt::SndBuf, &(4 << 20)); // smaller is slower, not wrong
    }
    pair
}

/// Fills the buffer; asks again and again when the descriptor does not block.
pub(crate) fn read_exact(mut from: impl Read, buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => panic!("the peer went away"),
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
}
