//! A client's handshake with a listener that does not know the key: it never believes it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mp_pipe::fuzzing::handshake;

fuzz_target!(|input: (bool, &[u8])| {
    let (result, output) = handshake(false, input.0, input.1);
    assert!(result.is_err(), "a listener without the key was believed");
    // One answer of at most a digest with its name, one challenge, one verdict.
    assert!(output.len() <= 4 + 58 + 63 + 13);
});
