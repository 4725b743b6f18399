//! How a ring lies in its memory, and where the next record goes.
//!
//! The area is cut into chunks. Records follow each other in a stream of positions; the stream runs
//! through the chunks in the order of the *table*, which says for each stretch of the stream which
//! chunk it lies in and where in it the stretch ends. A chunk is in use if and only if the table
//! names it between head and tail: there is no free list that a death could damage.

use super::word::UNIT;

/// A stretch of the stream: the chunk it lies in, and its length in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) chunk: u32,
    pub(super) len: u32,
}

impl Stretch {
    #[inline]
    pub(super) fn unpack(entry: u64) -> Self {
        Self {
            chunk: (entry >> 32) as u32,
            len: entry as u32,
        }
    }

    pub(super) fn pack(self) -> u64 {
        (u64::from(self.chunk) << 32) | u64::from(self.len)
    }
}

/// Most chunks of a ring; the table has room for one stretch more.
const MAX_CHUNKS: usize = MAX_STRETCHES - 1;
const MAX_STRETCHES: usize = 8192;
/// Small chunks stay in the second-level cache; larger areas have larger ones.
const USUAL_CHUNK: usize = 128 << 10;
const LEAST_CHUNK: usize = PAGE;
/// Positions are unambiguous up to half of what they can count (256 GiB). The table spans twice this,
/// where chunks have just become larger.
pub(crate) const MAX_AREA: usize = 64 << 30;
/// Also the largest has room for the mark of an item of its size.
const LARGEST: usize = MAX_AREA + PAGE;
/// The largest of usual chunks, just below 1 GiB.
pub(crate) const USUAL_AREA: usize = MAX_CHUNKS * USUAL_CHUNK;
/// A small area still has this many, or the ends of its chunks would waste much of it.
const FEW_CHUNKS: usize = 64;
pub(super) const PAGE: usize = 4096;

/// Sizes that follow from the size of the area; the same in every process that uses the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) chunk_bytes: usize,
    pub(super) chunks: usize,
}

impl Geometry {
    /// For an area of at least `area` bytes.
    pub(super) fn new(area: usize) -> Self {
        let area = area.min(LARGEST);
        let usual = (area / FEW_CHUNKS).clamp(LEAST_CHUNK, USUAL_CHUNK);
        let least = area.div_ceil(MAX_CHUNKS);
        let chunk_bytes = usual.max(least).next_power_of_two();
        Self {
            chunk_bytes,
            chunks: area.div_ceil(chunk_bytes).max(4),
        }
    }

    /// Whether these sizes, read from shared memory, are ones that [`new`](Self::new) makes.
    pub(super) fn is_sound(self) -> bool {
        self.chunk_bytes.is_power_of_two()
            && (LEAST_CHUNK..=MAX_AREA / MAX_STRETCHES * 2).contains(&self.chunk_bytes)
            && (4..=MAX_CHUNKS).contains(&self.chunks)
            && self.area_bytes() <= MAX_AREA + self.chunk_bytes
    }

    /// Entries of the table: a power of two, more than there are chunks.
    pub(super) fn table_len(self) -> usize {
        (self.chunks + 1).next_power_of_two()
    }

    pub(super) fn area_bytes(self) -> usize {
        self.chunks * self.chunk_bytes
    }

    pub(super) fn chunk_units(self) -> u32 {
        (self.chunk_bytes / UNIT) as u32
    }
}

/// Which chunks are in use, as the table tells it between head and tail.
pub(super) struct InUse {
    bits: [u64; MAX_STRETCHES / 64],
    chunks: usize,
}

impl InUse {
    pub(super) fn none(chunks: usize) -> Self {
        Self {
            bits: [0; MAX_STRETCHES / 64],
            chunks,
        }
    }

    /// A chunk that does not exist is ignored: the table lies in shared memory.
    pub(super) fn insert(&mut self, chunk: u32) {
        let chunk = chunk as usize;
        if chunk < self.chunks {
            self.bits[chunk / 64] |= 1 << (chunk % 64);
        }
    }

    fn contains(&self, chunk: usize) -> bool {
        self.bits[chunk / 64] & (1 << (chunk % 64)) != 0
    }

    /// The lowest run of `len` free chunks: the lowest are the ones used last, in the cache and
    /// allocated already.
    pub(super) fn lowest_run(&self, len: usize) -> Option<usize> {
        let mut start = 0;
        while start + len <= self.chunks {
            match (start..start + len)
                .rev()
                .find(|chunk| self.contains(*chunk))
            {
                None => return Some(start),
                Some(taken) => start = taken + 1,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_area_has_a_sound_geometry_that_fits_it() {
        let areas = [
            1,
            4096,
            100_000,
            1 << 20,
            USUAL_AREA,
            1 << 30,
            (1 << 30) + 7,
        ];
        let large = [63 << 30, MAX_AREA - 1, MAX_AREA, LARGEST];
        for area in areas.into_iter().chain(large) {
            let geometry = Geometry::new(area);
            assert!(geometry.is_sound(), "{area}: {geometry:?}");
            assert!(geometry.table_len() > geometry.chunks);
            assert!(geometry.area_bytes() >= area);
            assert!(geometry.area_bytes() < area.max(3 * LEAST_CHUNK + 1) + geometry.chunk_bytes);
        }
        assert_eq!(Geometry::new(LARGEST + 1), Geometry::new(LARGEST));
        assert_eq!(Geometry::new(USUAL_AREA).chunk_bytes, USUAL_CHUNK);
    }

    #[test]
    fn the_lowest_free_run_is_found_around_what_is_in_use() {
        let mut used = InUse::none(10);
        assert_eq!(used.lowest_run(10), Some(0));
        for chunk in [0, 3, 4, 99] {
            used.insert(chunk);
        }
        assert_eq!(used.lowest_run(1), Some(1));
        assert_eq!(used.lowest_run(2), Some(1));
        assert_eq!(used.lowest_run(3), Some(5));
        assert_eq!(used.lowest_run(6), None);
    }
}
