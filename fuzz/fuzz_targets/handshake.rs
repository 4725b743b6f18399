//! Both roles of the handshake against a peer that does not know the key and says what it likes.
#![no_main]

use std::{
    io::Write,
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use libfuzzer_sys::fuzz_target;
use mp_pipe::{AuthKey, Connection, Digest, answer_challenge, deliver_challenge};

fuzz_target!(|bytes: &[u8]| {
    // The socket takes this much without a reader.
    let Some((role, bytes)) = bytes.split_first().filter(|(_, rest)| rest.len() < 1 << 16) else {
        return;
    };
    let (mut peer, ours) = UnixStream::pair().expect("descriptors are left");
    peer.write_all(bytes).expect("the socket has room");
    peer.shutdown(Shutdown::Write).expect("it is open");
    let ours = Connection::<(), ()>::from_fd(OwnedFd::from(ours)).expect("a socket");
    let key = AuthKey::from("a secret that the peer does not know");
    let digest = [Digest::Md5, Digest::Sha256][usize::from(role >> 1) % 2];
    match role % 2 {
        0 => {
            let proved = deliver_challenge(&ours, &key, digest);
            assert!(
                proved.is_err(),
                "the peer proved a key that it does not know"
            );
        }
        // The peer may say that it is content; that proves nothing, and costs nothing.
        _ => drop(answer_challenge(&ours, &key)),
    }
});
