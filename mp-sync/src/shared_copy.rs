//! Copying from and to memory that others write at any time.
//!
//! A plain copy there is a data race. These are made of relaxed atomic loads and stores, eight bytes
//! at a time where the shared side is aligned: torn if somebody writes meanwhile.
//!
//! Where others use atomics of fewer bytes, two sizes meet. Rust's memory model has no word on such a
//! race. What is relied on is that each of these is compiled to one load or store of its size, and
//! that the processor defines how it meets one of another size, as x86-64 and AArch64 do. Copies in
//! the size of the elements would take up to eight times as long, and of a `SharedMemory` nobody
//! knows the elements.
#![allow(unsafe_code)] // raw pointers into shared memory

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed}; // bytes of users, not a protocol

const WORD: usize = size_of::<u64>();

/// Copies `len` bytes from shared memory at `from` to private memory at `to`.
///
/// # Safety
///
/// * `from` is valid for `len` bytes of atomic reads.
/// * `to` is valid for `len` bytes of writes, by nobody else.
pub(crate) unsafe fn read(from: *mut u8, to: *mut u8, len: usize) {
    let mut done = 0;
    while done < len {
        let (from, to) = (from.wrapping_add(done), to.wrapping_add(done));
        if len - done >= WORD && from.cast::<u64>().is_aligned() {
            // SAFETY: aligned, and inside what the caller vouches for.
            let word = unsafe { AtomicU64::from_ptr(from.cast()) }.load(Relaxed);
            // SAFETY: inside what the caller vouches for.
            unsafe { to.cast::<u64>().write_unaligned(word) };
            done += WORD;
        } else {
            // SAFETY: inside what the caller vouches for.
            let byte = unsafe { AtomicU8::from_ptr(from) }.load(Relaxed);
            // SAFETY: as above.
            unsafe { to.write(byte) };
            done += 1;
        }
    }
}

/// Copies `len` bytes from private memory at `from` to shared memory at `to`.
///
/// # Safety
///
/// * `from` is valid for `len` bytes of reads, and nobody writes there.
/// * `to` is valid for `len` bytes of atomic writes.
pub(crate) unsafe fn write(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0;
    while done < len {
        let (from, to) = (from.wrapping_add(done), to.wrapping_add(done));
        if len - done >= WORD && to.cast::<u64>().is_aligned() {
            // SAFETY: inside what the caller vouches for.
            let word = unsafe { from.cast::<u64>().read_unaligned() };
            // SAFETY: aligned, and inside what the caller vouches for.
            unsafe { AtomicU64::from_ptr(to.cast()) }.store(word, Relaxed);
            done += WORD;
        } else {
            // SAFETY: inside what the caller vouches for.
            let byte = unsafe { from.read() };
            // SAFETY: as above.
            unsafe { AtomicU8::from_ptr(to) }.store(byte, Relaxed);
            done += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alignment_and_length_arrives() {
        let source: Vec<u8> = (0..64).collect();
        for start in 0..9 {
            for len in 0..40 {
                let (mut there, mut back) = ([0_u8; 64], [0_u8; 64]);
                // SAFETY: both ranges lie inside their arrays, which are nobody else's.
                unsafe { write(source.as_ptr(), there.as_mut_ptr().wrapping_add(start), len) };
                // SAFETY: as above.
                unsafe {
                    read(
                        there.as_mut_ptr().wrapping_add(start),
                        back.as_mut_ptr(),
                        len,
                    )
                };
                assert_eq!(back[..len], source[..len]);
                assert!(
                    back[len..]
                        .iter()
                        .chain(&there[start + len..])
                        .all(|b| *b == 0)
                );
            }
        }
    }
}
