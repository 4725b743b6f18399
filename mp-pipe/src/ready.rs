//! Which descriptors of this process have a message read ahead.
//!
//! A receiver takes from the kernel all there is, so a descriptor may have nothing to read while
//! its next message is already here. [`wait`](crate::wait()) takes any descriptor, also borrowed,
//! boxed, or mixed with others; so what was read ahead is found by the number of the descriptor.

use std::{
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::OnceLock,
};

use mp_core::primitive::{AtomicU64, Ordering};

const WORDS: usize = 1 << 10;
const CHUNKS: usize = 1 << 9; // 2^9 chunks * 2^10 words * 32 descriptors: more than fs.nr_open allows

type Chunk = Box<[AtomicU64]>;
static TABLE: [OnceLock<Chunk>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];

/// A receiver of this process uses the descriptor.
const RECEIVER: u64 = 0b01;
/// The next message has been read ahead.
const BUFFERED: u64 = 0b10;

fn place(fd: RawFd) -> (usize, usize, u32) {
    let fd = usize::try_from(fd).unwrap_or(0);
    (fd / 32 / WORDS, fd / 32 % WORDS, (fd % 32 * 2) as u32)
}

fn get(fd: RawFd) -> u64 {
    let (chunk, word, shift) = place(fd);
    let chunk = TABLE.get(chunk).and_then(OnceLock::get);
    // Acquire meets the Release of `change`: who sees the bit will find the message.
    chunk.map_or(0, |words| {
        words[word].load(Ordering::Acquire) >> shift & 0b11
    })
}

/// Clears bits, then sets bits; what is among neither stays as it is at every moment.
fn change(fd: RawFd, clear: u64, set: u64) {
    let (chunk, word, shift) = place(fd);
    let Some(chunk) = TABLE.get(chunk) else {
        return;
    };
    let words = chunk.get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect());
    // (Only the receiver itself writes its two bits.)
    if clear != 0 {
        words[word].fetch_and(!(clear << shift), Ordering::Release);
    }
    if set != 0 {
        words[word].fetch_or(set << shift, Ordering::Release);
    }
}

pub(crate) fn register(fd: BorrowedFd<'_>) {
    change(fd.as_raw_fd(), BUFFERED, RECEIVER);
}

pub(crate) fn unregister(fd: BorrowedFd<'_>) {
    change(fd.as_raw_fd(), RECEIVER | BUFFERED, 0);
}

/// It stays a receiver meanwhile: `wait` looks for that once, and sleeps without slices if it is none.
pub(crate) fn set_buffered(fd: BorrowedFd<'_>, buffered: bool) {
    match buffered {
        true => change(fd.as_raw_fd(), 0, BUFFERED),
        false => change(fd.as_raw_fd(), BUFFERED, 0),
    }
}

pub(crate) fn is_receiver(fd: RawFd) -> bool {
    get(fd) & RECEIVER != 0
}

pub(crate) fn is_buffered(fd: RawFd) -> bool {
    get(fd) & BUFFERED != 0
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, thread};

    use mp_core::primitive::AtomicBool;

    use super::*;

    #[test]
    fn a_receiver_is_one_at_every_moment_whatever_it_reads_ahead() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_fd();
        register(fd);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..1_000_000 {
                    set_buffered(fd, turn % 2 == 0);
                }
                done.store(true, Ordering::Release); // meets the Acquire below
            });
            while !done.load(Ordering::Acquire) {
                assert!(is_receiver(fd.as_raw_fd()));
            }
        });
        unregister(fd);
        assert!(!is_receiver(fd.as_raw_fd()));
    }
}
