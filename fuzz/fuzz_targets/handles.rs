//! Handles from bytes whose indices need not be true: each descriptor is taken at most once, the
//! rest is closed, none is open twice.
#![no_main]

use std::{
    fs::{self, File},
    os::fd::{AsRawFd, OwnedFd},
};

use libfuzzer_sys::fuzz_target;
use mp_core::{codec, transfer};
use serde::{Deserialize, Deserializer};

struct Handle(OwnedFd);

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize_fd("Handle", deserializer).map(Self)
    }
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fuzz_target!(|bytes: &[u8]| {
    let before = open_descriptors();
    let fds: Vec<OwnedFd> = (0..3)
        .map(|_| {
            File::open("/dev/null")
                .expect("descriptors are left")
                .into()
        })
        .collect();
    let handles: Result<Vec<Handle>, _> = transfer::attach(fds, || codec::decode(bytes));
    if let Ok(handles) = handles {
        let mut numbers: Vec<i32> = handles.iter().map(|one| one.0.as_raw_fd()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(
            numbers.len(),
            handles.len(),
            "one descriptor has two owners"
        );
    }
    assert_eq!(open_descriptors(), before, "a descriptor was left open");
});
