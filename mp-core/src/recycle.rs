//! Large blocks of bytes, used again.
//!
//! Up to 32 MiB the C library keeps what is freed. A larger block goes back to the system, and the
//! next one is fresh: zeroed page by page at the first touch, which costs several times the copy
//! into it. So a few large blocks are kept here, and those that have to be fresh ask for huge pages.
//! The kernel may take the pages of a kept block whenever it needs memory.
#![allow(unsafe_code)] // advice about pages goes by address

use std::{collections::TryReserveError, mem};

use nix::libc;
use parking_lot::Mutex;

/// From here on the C library takes every block fresh from the system (its largest `M_MMAP_THRESHOLD`).
const LARGE: usize = 32 << 20;

/// A larger block is freed instead of kept.
const MOST: usize = 128 << 20;

/// One for a buffer and one for what is decoded from it, or the reverse.
const KEPT: usize = 2;

/// Blocks that nobody uses; their length is how much of them was ever written.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A vector of `len` bytes with whatever content.
///
/// # Errors
///
/// Out of memory.
pub fn bytes(len: usize) -> Result<Vec<u8>, TryReserveError> {
    if let Some(mut block) = take(len) {
        block.resize(len, 0);
        return Ok(block);
    }
    Vec::<u8>::new().try_reserve_exact(len)?; // a probe, as `vec!` would abort
    let mut block = vec![0; len]; // zeroed by the system, if it is large
    prefer_huge_pages(&mut block);
    Ok(block)
}

/// `bytes`, copied.
#[must_use]
pub fn copy(bytes: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    extend(&mut block, bytes);
    block
}

/// Appends `bytes` to `block`.
pub fn extend(block: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() > block.capacity() - block.len() && block.len() + bytes.len() > LARGE {
        grow(block, bytes.len());
    }
    block.extend_from_slice(bytes);
}

#[cold]
fn grow(block: &mut Vec<u8>, more: usize) {
    let wanted = block.len() + more;
    let mut larger = take(wanted).unwrap_or_else(|| {
        let mut fresh = Vec::with_capacity(wanted);
        prefer_huge_pages(&mut fresh);
        fresh
    });
    larger.clear();
    larger.extend_from_slice(block);
    give(mem::replace(block, larger));
}

/// Frees `block`, or keeps it for later.
pub fn give(mut block: Vec<u8>) {
    if !(LARGE..=MOST).contains(&block.capacity()) {
        return;
    }
    // Another thread is here, or was when this process was forked off: then it is just freed.
    let Some(mut spare) = SPARE.try_lock() else {
        return;
    };
    let least = (0..spare.len()).min_by_key(|&index| spare[index].capacity());
    match least {
        Some(least) if spare.len() == KEPT => {
            if spare[least].capacity() < block.capacity() {
                advise(&mut block, libc::MADV_FREE);
                spare[least] = block;
            }
        }
        _ => {
            advise(&mut block, libc::MADV_FREE);
            spare.push(block);
        }
    }
}

/// A kept block of a fitting size.
fn take(len: usize) -> Option<Vec<u8>> {
    if !(LARGE..=MOST).contains(&len) {
        return None;
    }
    let mut spare = SPARE.try_lock()?;
    let fits = |block: &Vec<u8>| (len..=2 * len).contains(&block.capacity());
    let index = spare.iter().position(fits)?;
    Some(spare.swap_remove(index))
}

fn prefer_huge_pages(block: &mut Vec<u8>) {
    if block.capacity() >= LARGE {
        advise(block, libc::MADV_HUGEPAGE);
    }
}

/// Tells the kernel about the pages that lie wholly inside `block`. Nothing depends on success.
fn advise(block: &mut Vec<u8>, advice: libc::c_int) {
    const PAGE: usize = 4096;
    let room = block.spare_capacity_mut().len() + block.len();
    let skipped = block.as_ptr().align_offset(PAGE);
    let len = room.saturating_sub(skipped) / PAGE * PAGE;
    let first = block.as_mut_ptr().wrapping_add(skipped);
    // SAFETY: the range lies inside the allocation that `block` owns and nobody else refers to. Huge
    // pages change no content; freed pages read as they were or as zeros, both initialised bytes.
    unsafe { libc::madvise(first.cast(), len, advice) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both tests use the one place where blocks are kept.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_large_block_is_used_again_and_a_small_or_huge_one_is_not() {
        let _alone = ALONE.lock();
        SPARE.lock().clear();
        for (len, kept) in [(1 << 20, 0), (LARGE, 1), (MOST + 1, 0)] {
            let block = bytes(len).unwrap();
            assert_eq!(block.len(), len);
            give(block);
            assert_eq!(SPARE.lock().len(), kept, "{len}");
            if kept > 0 {
                let again = bytes(LARGE).unwrap();
                assert!(SPARE.lock().is_empty());
                assert_eq!(again.len(), LARGE);
            }
        }
        for _ in 0..KEPT + 1 {
            let blocks = [
                copy(&vec![1; LARGE]),
                copy(&vec![2; LARGE]),
                copy(&vec![3; LARGE]),
            ];
            assert!(
                blocks
                    .iter()
                    .zip(1..)
                    .all(|(block, n)| block.iter().all(|byte| *byte == n))
            );
            blocks.into_iter().for_each(give);
            assert_eq!(SPARE.lock().len(), KEPT);
        }
        SPARE.lock().clear();
    }

    #[test]
    fn appending_keeps_what_was_there() {
        let _alone = ALONE.lock();
        give(vec![9; LARGE + 100]);
        let mut block = [1, 2, 3].to_vec();
        extend(&mut block, &vec![4; LARGE]);
        assert_eq!(block[..4], [1, 2, 3, 4]);
        assert_eq!(block.len(), LARGE + 3);
        assert!(block[3..].iter().all(|byte| *byte == 4));
        SPARE.lock().clear();
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(bytes(isize::MAX as usize).is_err());
    }
}
