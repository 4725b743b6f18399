//! Who has which part of the hub's area: arguments too large for a worker's ring lie there.
//!
//! The bookkeeping is the pool's alone, so a worker's death cannot damage it. The extent freed last is
//! used next: its pages are allocated and warm in the cache.

use std::io;

use mp_queue::lane::Hub;

/// Sizes are powers of two from this one up.
const SMALLEST: usize = 64 << 10;
/// Memory that is kept for the next large arguments; what is freed beyond it goes back to the system.
const KEPT: usize = 64 << 20;

/// A part of the area that holds one body.
#[derive(Debug)]
pub(crate) struct Extent {
    offset: usize,
    class: usize,
    pub(crate) len: usize,
}

impl Extent {
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

/// What of an extent is allocated from the system.
#[derive(Debug)]
struct Free {
    offset: usize,
    allocated: usize,
}

/// The allocator.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// Free extents by class (log2 of the size above [`SMALLEST`]), the last one the warmest.
    free: Vec<Vec<Free>>,
    /// Where the part begins that was never used.
    end: usize,
    kept: usize,
}

impl Extents {
    /// Finds room for `len` bytes, allocated.
    pub(crate) fn take(&mut self, hub: &Hub, len: usize) -> io::Result<Extent> {
        let size = len.next_power_of_two().max(SMALLEST);
        let class = (size / SMALLEST).trailing_zeros() as usize;
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        let Free { offset, allocated } = match self.free[class].pop() {
            Some(free) => {
                self.kept -= free.allocated;
                free
            }
            None => {
                let offset = self.end;
                if size > hub.area_len().saturating_sub(offset) {
                    return Err(io::Error::new(
                        io::ErrorKind::OutOfMemory,
                        "the arguments of all tasks in flight are larger than the pool's shared memory",
                    ));
                }
                self.end += size;
                Free {
                    offset,
                    allocated: 0,
                }
            }
        };
        if allocated < len
            && let Err(error) = hub.allocate(offset..offset + len)
        {
            hub.punch(offset..offset + len); // parts may have been allocated
            self.free[class].push(Free {
                offset,
                allocated: 0,
            });
            return Err(error);
        }
        Ok(Extent {
            offset,
            class,
            len: len.max(allocated),
        })
    }

    /// Takes an extent back.
    pub(crate) fn free(&mut self, hub: &Hub, extent: &Extent) {
        self.give(hub, extent.offset, extent.class, extent.len);
    }

    fn give(&mut self, hub: &Hub, offset: usize, class: usize, mut allocated: usize) {
        if self.kept + allocated > KEPT {
            hub.punch(offset..offset + allocated);
            allocated = 0;
        }
        self.kept += allocated;
        self.free[class].push(Free { offset, allocated });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extent_freed_last_is_used_next() {
        let hub = Hub::create(1 << 30).unwrap();
        let mut extents = Extents::default();
        let first = extents.take(&hub, 100_000).unwrap();
        let second = extents.take(&hub, 100_000).unwrap();
        assert_ne!(first.offset(), second.offset());
        extents.free(&hub, &first);
        extents.free(&hub, &second);
        assert_eq!(
            extents.take(&hub, 70_000).unwrap().offset(),
            second.offset()
        );
        assert_eq!(
            extents.take(&hub, 131_072).unwrap().offset(),
            first.offset()
        );
    }

    #[test]
    fn more_than_the_area_is_an_error() {
        let hub = Hub::create(1 << 20).unwrap();
        let mut extents = Extents::default();
        assert!(extents.take(&hub, 2 << 20).is_err());
        let half = extents.take(&hub, 512 << 10).unwrap();
        assert!(extents.take(&hub, 1 << 20).is_err());
        extents.free(&hub, &half);
        assert!(extents.take(&hub, 512 << 10).is_ok());
    }
}
