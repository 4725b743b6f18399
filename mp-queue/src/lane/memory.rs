//! Headers and bytes in shared memory. Every offset is checked here, but for those of a [`Ring`],
//! which are masked.
#![allow(unsafe_code)] // copies bytes to and from memory that another process maps

use std::{io, mem::size_of, ptr, sync::Arc};

use mp_core::shm::{Mapping, ShmSafe};

use super::layout::{HubHeader, LaneHeader, PAGE};

// SAFETY: `repr(C)`, atomics, every bit pattern valid.
unsafe impl ShmSafe for LaneHeader {}
// SAFETY: as above.
unsafe impl ShmSafe for HubHeader {}

/// A header at the front of a mapping.
pub(super) struct At<H> {
    pub(super) mapping: Arc<Mapping>,
    header: *const H,
}

// SAFETY: a pointer to atomics inside a mapping that lives as long, in any thread.
unsafe impl<H: ShmSafe> Send for At<H> {}
// SAFETY: as above.
unsafe impl<H: ShmSafe> Sync for At<H> {}

impl<H> Clone for At<H> {
    fn clone(&self) -> Self {
        Self {
            mapping: self.mapping.clone(),
            header: self.header,
        }
    }
}

impl<H: ShmSafe> At<H> {
    pub(super) fn new(mapping: Arc<Mapping>) -> io::Result<Self> {
        if mapping.len() < PAGE || size_of::<H>() > PAGE {
            return Err(corrupt("too small"));
        }
        let header = mapping.as_ptr().cast::<H>().cast_const();
        Ok(Self { mapping, header })
    }

    #[inline]
    pub(super) fn words(&self) -> &H {
        // SAFETY:
        // * Page-aligned, inside the mapping (checked in `new`), which lives as long as `self`.
        // * Valid whatever other processes write, and with no lock beside it only atomics, as
        //   `ShmSafe` promises: so a reference is allowed.
        unsafe { &*self.header }
    }
}

pub(super) fn corrupt(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a pool's shared memory is damaged: {what}"),
    )
}

/// A ring of bytes in a mapping, addressed by positions that only grow.
#[derive(Clone)]
pub(super) struct Ring {
    mapping: Arc<Mapping>,
    start: usize,
    pub(super) len: usize,
}

impl Ring {
    pub(super) fn new(mapping: &Arc<Mapping>, start: usize, len: usize) -> io::Result<Self> {
        let end = start.checked_add(len).filter(|end| *end <= mapping.len());
        if !len.is_power_of_two() || end.is_none() {
            return Err(corrupt("a ring lies outside of it"));
        }
        Ok(Self {
            mapping: mapping.clone(),
            start,
            len,
        })
    }

    /// Where `pos` lies, and how many bytes follow it before the ring wraps.
    #[inline]
    fn locate(&self, pos: u64) -> (*mut u8, usize) {
        let offset = pos as usize & (self.len - 1);
        let at = self.mapping.as_ptr().wrapping_add(self.start + offset);
        (at, self.len - offset)
    }

    /// Copies `bytes` (at most the ring's length) to `pos`.
    #[inline]
    pub(super) fn write(&self, pos: u64, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.len);
        let (at, room) = self.locate(pos);
        let (first, second) = bytes.split_at(bytes.len().min(room));
        // SAFETY:
        // * `at` and the `first.len() <= room` bytes after it lie in the mapping.
        // * The range is unpublished: only its one writer, this one, may touch it.
        unsafe { copy_in(first, at) };
        if !second.is_empty() {
            let (at, _) = self.locate(pos + first.len() as u64);
            // SAFETY: as above, from the start of the ring.
            unsafe { copy_in(second, at) };
        }
    }

    /// Appends `len` bytes (at most the ring's length) from `pos` to `out`.
    #[inline]
    pub(super) fn read(&self, pos: u64, len: usize, out: &mut Vec<u8>) {
        let len = len.min(self.len);
        out.reserve(len);
        let (at, room) = self.locate(pos);
        let first = len.min(room);
        append(out, at, first);
        if first < len {
            let (at, _) = self.locate(pos + first as u64);
            append(out, at, len - first);
        }
    }
}

/// Copies `bytes` to shared memory. Most are few, for which a call of `memcpy` costs more than the copy.
///
/// # Safety
///
/// `at` is valid for writes of `bytes.len()` bytes, which nobody else touches meanwhile.
#[inline]
unsafe fn copy_in(bytes: &[u8], at: *mut u8) {
    if let (4..=8, Some(first), Some(last)) = (bytes.len(), bytes.first_chunk(), bytes.last_chunk())
    {
        // SAFETY: as the caller promised.
        unsafe { copy_ends::<4>(first, last, at, bytes.len()) }
    } else if let (9..=16, Some(first), Some(last)) =
        (bytes.len(), bytes.first_chunk(), bytes.last_chunk())
    {
        // SAFETY: as the caller promised.
        unsafe { copy_ends::<8>(first, last, at, bytes.len()) }
    } else {
        // SAFETY: as the caller promised; a private slice and shared memory do not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }
}

/// Copies `len` bytes, of which these are the first and the last `N`; where those overlap, they agree.
///
/// # Safety
///
/// `at` is valid for writes of `len >= N` bytes.
#[inline]
unsafe fn copy_ends<const N: usize>(first: &[u8; N], last: &[u8; N], at: *mut u8, len: usize) {
    // SAFETY: an array of bytes needs no alignment, and `N <= len`.
    unsafe { at.cast::<[u8; N]>().write(*first) };
    // SAFETY: ends where the `len` bytes end.
    unsafe { at.wrapping_add(len - N).cast::<[u8; N]>().write(*last) };
}

/// Appends `len` bytes from shared memory; the caller has reserved the room.
#[inline]
fn append(out: &mut Vec<u8>, from: *const u8, len: usize) {
    debug_assert!(out.capacity() - out.len() >= len);
    let end = out.len();
    let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY:
    // * Both ranges are valid for `len` bytes: the callers locate `from` inside a mapping and have
    //   reserved the room in `out`. They cannot overlap.
    // * What another process writes there meanwhile can damage the value, not this process: it is
    //   parsed from the private copy.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
    // SAFETY: these bytes have just been written.
    unsafe { out.set_len(end + len) };
}

/// Copies `bytes` to `at` in the mapping, to a part of it that only the caller uses.
///
/// # Panics
///
/// Outside the mapping.
pub(super) fn write_at(mapping: &Mapping, at: usize, bytes: &[u8]) {
    assert!(holds(mapping, at, bytes.len()), "outside the mapping");
    let to = mapping.as_ptr().wrapping_add(at);
    // SAFETY: inside the mapping, as just checked; nobody else writes there, as the caller says.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

/// Appends `len` bytes at `at` in the mapping to `out`.
///
/// # Errors
///
/// Outside the mapping.
pub(super) fn read_at(
    mapping: &Mapping,
    at: usize,
    len: usize,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    if !holds(mapping, at, len) {
        return Err(corrupt("a frame lies outside the area"));
    }
    out.reserve(len);
    append(out, mapping.as_ptr().wrapping_add(at), len);
    Ok(())
}

fn holds(mapping: &Mapping, at: usize, len: usize) -> bool {
    at.checked_add(len).is_some_and(|end| end <= mapping.len())
}
