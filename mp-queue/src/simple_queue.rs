//! `put` and `get`, nothing else.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{Builder, GetError, PutError, Queue, ring::Ring};

/// A [`Queue`] with the face of Python's `SimpleQueue`: `put` and `get` that wait, nothing else.
///
/// # Process death
///
/// As a [`Queue`]'s.
///
/// # Examples
///
/// ```
/// let queue = mp_queue::SimpleQueue::new()?;
/// queue.put(1)?;
/// assert_eq!(queue.get()?, 1);
/// assert!(queue.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.SimpleQueue")]
pub struct SimpleQueue<T>(Queue<T>);

impl<T> SimpleQueue<T> {
    /// A queue without bounds but its area.
    ///
    /// # Errors
    ///
    /// As [`Queue::new`].
    pub fn new() -> io::Result<Self> {
        Queue::new().map(Self)
    }

    /// A queue with limits of one's own.
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    pub(crate) fn from_ring(ring: Ring) -> Self {
        Self(Queue::from_ring(ring))
    }

    /// The queue behind a descriptor that [`as_fd`](Self::as_fd) gave, in this process or another.
    ///
    /// # Errors
    ///
    /// As [`Queue::from_fd`].
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Queue::from_fd(fd).map(Self)
    }

    /// Whether nothing is in the queue.
    #[doc(alias = "empty")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Closes the queue for everybody; see [`Queue::close`]. Twice is fine.
    pub fn close(&self) {
        self.0.close();
    }

    /// Whether [`close`](Self::close) was called, by any process.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T: Serialize> SimpleQueue<T> {
    /// Puts `value` at the back.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::put`].
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.0.put(value)
    }
}

impl<T: DeserializeOwned> SimpleQueue<T> {
    /// Takes the value at the front; waits while the queue is empty.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::get`].
    pub fn get(&self) -> Result<T, GetError> {
        self.0.get()
    }
}

impl<T> Clone for SimpleQueue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for SimpleQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimpleQueue").field(&self.0).finish()
    }
}

impl<T> AsFd for SimpleQueue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T> Serialize for SimpleQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for SimpleQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Queue::deserialize(deserializer).map(Self)
    }
}
