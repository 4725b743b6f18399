//! The frame reader without a socket, in pieces of any size and moved between them, against a parser
//! that has all bytes at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mp_pipe::{RecvError, fuzzing::frames};

const LIMIT: u64 = 1 << 20;

/// What the format says, in the plainest way: the payloads, and whether the end is a clean one.
fn expected(mut rest: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut payloads = Vec::new();
    loop {
        if rest.is_empty() {
            return (payloads, true);
        }
        let Some((short, tail)) = rest.split_first_chunk::<4>() else {
            return (payloads, false);
        };
        let (len, tail) = match i32::from_be_bytes(*short) {
            -1 => match tail.split_first_chunk::<8>() {
                Some((long, tail)) => (i64::from_be_bytes(*long), tail),
                None => return (payloads, false),
            },
            len => (i64::from(len), tail),
        };
        let Ok(len) = usize::try_from(len) else {
            return (payloads, false);
        };
        if len as u64 > LIMIT || len > tail.len() {
            return (payloads, false);
        }
        payloads.push(tail[..len].to_vec());
        rest = &tail[len..];
    }
}

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (sizes, stream) = input;
    let (payloads, end) = frames(stream, &sizes, LIMIT);
    let (wanted, clean) = expected(stream);
    assert!(payloads == wanted);
    assert_eq!(matches!(end, RecvError::Disconnected), clean, "{end:?}");
});
