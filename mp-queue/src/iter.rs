//! Values as they come, and many at once.

use std::{fmt, marker::PhantomData};

use mp_core::codec::{self, DecodeError};
use serde::de::DeserializeOwned;

use crate::{
    GetError, Queue,
    ring::{GetFailure, Patience, Ring},
};

/// The values of a queue as they come; made by [`Queue::iter`].
#[must_use = "an iterator takes nothing until it is used"]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
}

impl<'a, T> Iter<'a, T> {
    pub(crate) fn new(queue: &'a Queue<T>) -> Self {
        Self { queue }
    }
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T, GetError>;

    /// Waits for the next value; `None` once the queue is closed and drained.
    fn next(&mut self) -> Option<Self::Item> {
        match self.queue.get() {
            Err(GetError::Closed) => None,
            result => Some(result),
        }
    }
}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("queue", self.queue).finish()
    }
}

/// Values that were taken from a queue at once and are decoded one by one; made by
/// [`Queue::drain`] and [`Queue::get_many`].
///
/// They have left the queue: dropping this drops them.
pub struct Drained<T> {
    bytes: Vec<u8>,
    ends: std::vec::IntoIter<usize>,
    start: usize,
    item: PhantomData<fn() -> T>,
}

/// What is taken under one lock, unless a single item is larger.
const PORTION_BYTES: usize = 64 << 10;
const PORTION_ITEMS: usize = 1024;

impl<T> Drained<T> {
    pub(crate) fn take(ring: &Ring, most: usize, patience: Patience) -> Result<Self, GetFailure> {
        let (mut bytes, mut ends) = (Vec::with_capacity(PORTION_BYTES), Vec::new());
        ends.reserve(most.min(PORTION_ITEMS));
        ring.get_batch(&mut bytes, &mut ends, most, patience)?;
        while ends.len() < most && take_portion(ring, &mut bytes, &mut ends, most)? {}
        Ok(Self::new(bytes, ends))
    }

    pub(crate) fn take_all(ring: &Ring) -> Result<Self, GetFailure> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let most = ring.len(); // what comes in meanwhile is for the next call
        while ends.len() < most && take_portion(ring, &mut bytes, &mut ends, most)? {}
        Ok(Self::new(bytes, ends))
    }

    fn new(bytes: Vec<u8>, ends: Vec<usize>) -> Self {
        Self {
            bytes,
            ends: ends.into_iter(),
            start: 0,
            item: PhantomData,
        }
    }
}

/// Takes some of what is there; `false` if nothing is.
fn take_portion(
    ring: &Ring,
    bytes: &mut Vec<u8>,
    ends: &mut Vec<usize>,
    most: usize,
) -> Result<bool, GetFailure> {
    let more = most - ends.len();
    bytes.reserve(PORTION_BYTES);
    ends.reserve(more.min(PORTION_ITEMS));
    match ring.get_batch(bytes, ends, more, Patience::Never) {
        Ok(_) => Ok(true),
        Err(GetFailure::Empty | GetFailure::Closed) => Ok(false),
        // What was taken must not be lost; the next call meets the failure.
        Err(_) if !ends.is_empty() => Ok(false),
        Err(failure) => Err(failure),
    }
}

impl<T: DeserializeOwned> Iterator for Drained<T> {
    type Item = Result<T, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.ends.next()?;
        let value = codec::decode(&self.bytes[self.start..end]);
        self.start = end;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ends.size_hint()
    }
}

impl<T: DeserializeOwned> ExactSizeIterator for Drained<T> {}

impl<T> fmt::Debug for Drained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drained")
            .field("len", &self.ends.len())
            .finish_non_exhaustive()
    }
}
