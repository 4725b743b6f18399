//! A board in shared memory that outlives whoever writes on it.

use std::{
    io,
    sync::atomic::{AtomicU8, AtomicU64},
};

use mp::sync::Array;
use serde::{Deserialize, Serialize};

/// Counters, and a byte for each of the last [`BYTES`] items.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Board {
    counters: Array<u64>,
    bytes: Array<u8>,
}

/// Far more than are ever on their way at a time.
pub(crate) const BYTES: u64 = 1 << 24;

impl Board {
    pub(crate) fn new(counters: usize) -> io::Result<Self> {
        Ok(Self {
            counters: Array::zeroed(counters)?,
            bytes: Array::zeroed(BYTES as usize)?,
        })
    }

    pub(crate) fn counter(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.counters.len());
        // SAFETY: inside the array, aligned, mapped as long as `self`, and only used atomically.
        unsafe { AtomicU64::from_ptr(self.counters.as_ptr().wrapping_add(index)) }
    }

    /// The byte of item `number`, which the item [`BYTES`] before it has had.
    pub(crate) fn byte(&self, number: u64) -> &AtomicU8 {
        // SAFETY: as above.
        unsafe { AtomicU8::from_ptr(self.bytes.as_ptr().wrapping_add((number % BYTES) as usize)) }
    }

    /// What the byte says when item `number` was delivered; never 0.
    pub(crate) fn tag(number: u64) -> u8 {
        (number / BYTES % 255) as u8 + 1
    }

    /// What the byte says before that.
    pub(crate) fn previous_tag(number: u64) -> u8 {
        number.checked_sub(BYTES).map_or(0, Self::tag)
    }
}
