//! A queue whose memory another process has scribbled over, except for the words of glibc's locks:
//! items, errors, but no crash and no hang.
#![no_main]

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
};

use libfuzzer_sys::fuzz_target;
use mp_queue::Queue;

/// Where the two mutexes are, as `mp-queue/src/ring/memory.rs` lays out the header.
const LOCKS: [std::ops::Range<u64>; 2] = [128..168, 512..552];

type Item = (u32, String);

/// Takes what is there and puts something; every outcome is fine.
fn use_it(queue: &Queue<Item>) {
    let _ = queue.len();
    for _ in 0..16 {
        let _ = queue.try_get();
    }
    for number in 0..3 {
        let _ = queue.try_put((number, "after".to_owned()));
    }
    let _ = queue.try_get();
    let _ = queue.is_full();
}

fuzz_target!(|bytes: &[u8]| {
    let queue = Queue::<Item>::builder()
        .max_items(4)
        .area(1 << 16)
        .build()
        .expect("memory is left");
    for number in 0..3 {
        let item = (number, "before".to_owned());
        queue.put(item).expect("there is room");
    }
    let memory = queue
        .as_fd()
        .try_clone_to_owned()
        .expect("descriptors are left");
    let file = File::from(memory.try_clone().expect("descriptors are left"));
    for change in bytes.chunks_exact(4) {
        let at = u64::from(u16::from_le_bytes([change[0], change[1]]) & 0x3fff);
        let scribble = &change[2..3 + usize::from(change[3] % 2)];
        let end = at + scribble.len() as u64;
        if LOCKS.iter().all(|lock| end <= lock.start || lock.end <= at) {
            let _ = file.write_at(scribble, at);
        }
    }
    use_it(&queue); // attached before
    if let Ok(attached) = Queue::<Item>::from_fd(memory) {
        use_it(&attached);
    }
});
