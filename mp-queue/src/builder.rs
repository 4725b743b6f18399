//! Sizes of a queue.

use std::{io, marker::PhantomData, sync::Arc};

use mp_core::shm::Mapping;

use crate::{
    JoinableQueue, Queue, SimpleQueue,
    queue::MAX_PREFIX,
    ring::{Config, MAX_AREA, Ring, USUAL_AREA, word::UNIT},
};

/// Address space for the items of a queue that was not told otherwise: almost 1 GiB.
pub const DEFAULT_AREA: usize = USUAL_AREA;
/// The least a queue makes do with when limits of the process leave no more.
const LEAST_AREA: usize = 1 << 20;

/// What an item takes beside its bytes: a mark, and their length.
const AROUND_ITEM: usize = UNIT + MAX_PREFIX;

/// Makes a queue with limits of one's own.
///
/// # Examples
///
/// ```
/// let queue = mp_queue::Queue::<String>::builder()
///     .max_items(1000)
///     .max_bytes(1 << 20)
///     .build()?;
/// queue.put("hello".to_owned())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct Builder<Q> {
    max_items: Option<usize>,
    max_bytes: Option<usize>,
    area: Option<usize>,
    queue: PhantomData<fn() -> Q>,
}

impl<Q> Builder<Q> {
    pub(crate) fn new() -> Self {
        Self {
            max_items: None,
            max_bytes: None,
            area: None,
            queue: PhantomData,
        }
    }

    /// At most this many items at a time; a `put` beyond them waits. At least 1.
    #[doc(alias = "maxsize")]
    pub fn max_items(mut self, items: usize) -> Self {
        self.max_items = Some(items);
        self
    }

    /// At most this many bytes at a time; a `put` beyond them waits.
    ///
    /// What counts are encoded bytes, 8 more for each item, the rounding of each to 8, and what
    /// stays unused where an item did not fit into the rest of a chunk (less than one item each).
    /// A queue that is empty takes any item of up to that size.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Address space for the items, by default [`DEFAULT_AREA`], at most 64 GiB. Also the limit for one
    /// item: one of so many bytes fits, encoded or as [`Bytes`](crate::Bytes), but none beyond 4 GiB.
    /// What the limit is after rounding tells [`max_item_bytes`](Queue::max_item_bytes).
    ///
    /// Costs nothing while it is not used: memory is allocated as the queue grows. What is beyond
    /// 16 MiB and was not needed for a second is given back by the next call that finds the queue
    /// empty.
    pub fn area(mut self, bytes: usize) -> Self {
        self.area = Some(bytes);
        self
    }

    fn config(&self, area: usize) -> Config {
        let default = Config::default();
        Config {
            area,
            max_items: self
                .max_items
                .map_or(default.max_items, |n| n.try_into().unwrap_or(u32::MAX)),
            max_bytes: self.max_bytes.map_or(default.max_bytes, |n| n as u64),
        }
    }

    /// Without an area of the user's choice, the largest that the limits of this process allow.
    fn ring(&self) -> io::Result<Ring> {
        if let Some(area) = self.area {
            if area > MAX_AREA {
                return Err(too_large());
            }
            return create(&self.config(area + AROUND_ITEM));
        }
        let mut area = DEFAULT_AREA;
        loop {
            match create(&self.config(area)) {
                Err(error) if area > LEAST_AREA && is_for_want_of_room(&error) => area /= 2,
                result => return result,
            }
        }
    }
}

/// `RLIMIT_FSIZE` or `RLIMIT_AS` may leave room for less.
fn is_for_want_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::FileTooLarge | io::ErrorKind::OutOfMemory
    )
}

#[cold]
fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the area of a queue is 64 GiB at most",
    )
}

fn create(config: &Config) -> io::Result<Ring> {
    let mapping = Mapping::create("mp-queue", config.footprint(), 0)?;
    Ring::create(Arc::new(mapping), config)
}

impl<T> Builder<Queue<T>> {
    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors, or an area beyond 64 GiB, `RLIMIT_FSIZE` or `RLIMIT_AS`.
    pub fn build(self) -> io::Result<Queue<T>> {
        self.ring().map(Queue::from_ring)
    }
}

impl<T> Builder<SimpleQueue<T>> {
    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors, or an area beyond 64 GiB, `RLIMIT_FSIZE` or `RLIMIT_AS`.
    pub fn build(self) -> io::Result<SimpleQueue<T>> {
        self.ring().map(SimpleQueue::from_ring)
    }
}

impl<T> Builder<JoinableQueue<T>> {
    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors, or an area beyond 64 GiB, `RLIMIT_FSIZE` or `RLIMIT_AS`.
    pub fn build(self) -> io::Result<JoinableQueue<T>> {
        self.ring().map(JoinableQueue::from_ring)
    }
}
