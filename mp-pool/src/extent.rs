//! Who has which part of the hub's area: arguments too large for a worker's ring lie there, and so do
//! the blocks of bytes among arguments.
//!
//! The bookkeeping is the pool's alone, so a worker's death cannot damage it. The extent freed last is
//! used next: its pages are allocated and warm in the cache.

use std::{io, sync::Arc};

use mp_queue::lane::Hub;

use crate::share;

/// Sizes are powers of two from this one up.
const SMALLEST: usize = 64 << 10;
/// Memory that is kept for the next large arguments; what is freed beyond it goes back to the system.
const KEPT: usize = 64 << 20;

/// A part of the area that holds one body.
#[derive(Debug)]
pub(crate) struct Extent {
    offset: usize,
    class: usize,
    /// How much of it is, from its start.
    allocated: usize,
}

impl Extent {
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Makes sure that `len` bytes of it can be written.
    pub(crate) fn allocate(&mut self, hub: &Hub, len: usize) -> io::Result<()> {
        let place = self.offset..self.offset + len;
        if self.allocated >= len {
            return Ok(());
        }
        let result = hub.allocate(place.clone());
        if result.is_err() {
            hub.punch(place); // parts may have been
        }
        self.allocated = if result.is_ok() { len } else { 0 };
        result
    }
}

/// The extents that some tasks need. Tasks that were cut in two share them, and all tasks with a shared value
/// share that one's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Option<Arc<Holding>>);

#[derive(Debug)]
struct Holding {
    extents: Vec<Extent>,
    others: Vec<Held>,
    /// They begin with a number, to be erased when they are free.
    numbered: bool,
}

impl Held {
    pub(crate) fn new(extents: Vec<Extent>, others: Vec<Self>) -> Self {
        let any = !extents.is_empty() || !others.is_empty();
        let holding = Holding {
            extents,
            others,
            numbered: false,
        };
        Self(any.then(|| Arc::new(holding)))
    }

    /// That of a shared value.
    pub(crate) fn numbered(extents: Vec<Extent>) -> Self {
        Self(Some(Arc::new(Holding {
            extents,
            others: Vec::new(),
            numbered: true,
        })))
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
    /// Finds room for `len` bytes; [`Extent::allocate`] follows.
    pub(crate) fn take(&mut self, hub: &Hub, len: usize) -> io::Result<Extent> {
        let size = len.next_power_of_two().max(SMALLEST);
        let class = (size / SMALLEST).trailing_zeros() as usize;
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        if let Some(Free { offset, allocated }) = self.free[class].pop() {
            self.kept -= allocated;
            return Ok(Extent {
                offset,
                class,
                allocated,
            });
        }
        let offset = self.end;
        if size > hub.area_len().saturating_sub(offset) {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the arguments of all tasks in flight are larger than the pool's shared memory",
            ));
        }
        self.end += size;
        Ok(Extent {
            offset,
            class,
            allocated: 0,
        })
    }

    /// Takes extents back, if this was their last user.
    pub(crate) fn release(&mut self, hub: &Hub, held: Held) {
        let Some(holding) = held.0.and_then(Arc::into_inner) else {
            return;
        };
        for extent in &holding.extents {
            if holding.numbered {
                share::erase(hub, extent.offset());
            }
            self.free(hub, extent);
        }
        for other in holding.others {
            self.release(hub, other);
        }
    }

    /// Takes an extent back.
    pub(crate) fn free(&mut self, hub: &Hub, extent: &Extent) {
        self.give(hub, extent.offset, extent.class, extent.allocated);
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
