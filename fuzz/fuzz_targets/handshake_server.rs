//! A listener's handshake with a peer that does not know the key: it is never let in, and told nothing
//! but the challenge and `#FAILURE#`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mp_pipe::fuzzing::handshake;

fuzz_target!(|input: (bool, &[u8])| {
    let (result, output) = handshake(true, input.0, input.1);
    assert!(result.is_err(), "a peer without the key was let in");
    assert!(output.starts_with(b"\0\0\0\x3b#CHALLENGE#{sha256}"));
    let told = &output[63..];
    assert!(told.is_empty() || told == b"\0\0\0\x09#FAILURE#");
});
