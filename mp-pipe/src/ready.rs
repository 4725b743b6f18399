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
    // Acquire meets the Release of `set`: who sees the bit will find the message.
    chunk.map_or(0, |words| {
        words[word].load(Ordering::Acquire) >> shift & 0b11
    })
}

fn set(fd: RawFd, bits: u64) {
    let (chunk, word, shift) = place(fd);
    let Some(chunk) = TABLE.get(chunk) else {
        return;
    };
    let words = chunk.get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect());
    // Two steps: only the receiver itself writes its two bits.
    words[word].fetch_and(!(0b11 << shift), Ordering::Release);
    words[word].fetch_or(bits << shift, Ordering::Release);
}

pub(crate) fn register(fd: BorrowedFd<'_>) {
    set(fd.as_raw_fd(), RECEIVER);
}

pub(crate) fn unregister(fd: BorrowedFd<'_>) {
    set(fd.as_raw_fd(), 0);
}

pub(crate) fn set_buffered(fd: BorrowedFd<'_>, buffered: bool) {
    let bits = if buffered { BUFFERED } else { 0 };
    set(fd.as_raw_fd(), RECEIVER | bits);
}

pub(crate) fn is_receiver(fd: RawFd) -> bool {
    get(fd) & RECEIVER != 0
}

pub(crate) fn is_buffered(fd: RawFd) -> bool {
    get(fd) & BUFFERED != 0
}
