//! What a client of a manager may say: answers and faults; never a panic, never an object that stays
//! when the client is gone.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| mp_manager::fuzzing::requests(bytes));
