//! `Queue<T>`.

use std::{
    cell::Cell,
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{
    codec::{self, Bytes, DecodeError},
    deadline::Deadline,
    shm::Mapping,
    transfer,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};

use crate::{
    Builder, Claimed, Corrupt, Drained, GetError, Iter, Lost, PutError, PutManyError, TryGetError,
    TryPutError,
    claimed::Claim,
    error::Refusal,
    ring::{Batch, Patience, Ring},
};

/// A first-in, first-out queue of `T`, shared by any number of processes and threads.
///
/// A clone is another handle to the same queue; it can be an argument of a child under every start
/// method, and a part of any value that travels with its descriptors. When `put` has returned, the
/// value lies in shared memory, encoded: it no longer needs its producer, who may exit before
/// anybody reads it, and be joined first.
///
/// Items come out in the order in which they were put, whoever put them. Of several that wait, none
/// is overtaken by the others for more than some milliseconds. A queue without bounds
/// still has an [area](Builder::area) (1 GiB); when that is used up, `put` waits.
///
/// # Process death
///
/// * A value is in the queue wholly or not at all. What a process that dies inside `put` had begun
///   is overwritten; what it had put is there.
/// * A process that dies inside `get` leaves the item in the queue, unless it had taken it already;
///   then the item is gone with it. [`get_claimed`](Self::get_claimed) lets others find out which.
/// * Nobody else notices: locks of the dead pass on at once, and a wake-up that was lost with its
///   sender is made up for within a quarter of a second.
/// * The queue lives as long as any handle in any process; its creator is nothing special. With the
///   last handle the kernel frees it, with what is in it.
///
/// # Examples
///
/// ```
/// let queue = mp_queue::Queue::new()?;
/// queue.put("first".to_owned())?;
/// queue.put("second".to_owned())?;
/// assert_eq!(queue.get()?, "first");
/// assert_eq!(queue.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.Queue")]
pub struct Queue<T> {
    ring: Arc<Ring>,
    /// Values go in and come out; none is kept.
    item: PhantomData<fn(T) -> T>,
}

impl<T> Queue<T> {
    /// A queue without bounds but its area.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors. Where limits of this process leave no room for the usual
    /// area, the queue gets a smaller one.
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// A queue of at most `items` items (at least 1): `put` waits while it is full.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// let queue = mp_queue::Queue::bounded(1)?;
    /// queue.put(1)?;
    /// assert!(queue.is_full());
    /// assert_eq!(queue.try_put(2).unwrap_err().into_value(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "maxsize")]
    pub fn bounded(items: usize) -> io::Result<Self> {
        Self::builder().max_items(items).build()
    }

    /// A queue with limits of one's own.
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    pub(crate) fn from_ring(ring: Ring) -> Self {
        Self {
            ring: Arc::new(ring),
            item: PhantomData,
        }
    }

    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The queue behind a descriptor that [`as_fd`](Self::as_fd) gave, in this process or another.
    ///
    /// # Errors
    ///
    /// The descriptor is not a queue's, or cannot be mapped.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        attach(fd).map(Self::from_ring)
    }

    /// Items in the queue: exactly those put and not taken at one moment of the call.
    #[doc(alias = "qsize")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether nothing is in the queue.
    #[doc(alias = "empty")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether the queue holds as many items as it may; one without a bound never does.
    #[doc(alias = "full")]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.ring.max_items()
    }

    /// Most bytes that one item may take, encoded.
    #[must_use]
    pub fn max_item_bytes(&self) -> usize {
        self.ring.max_record()
    }

    /// Closes the queue for everybody: nothing can be put any more; what is in it can be taken, and
    /// after that `get` is [`GetError::Closed`]. Wakes all who wait.
    ///
    /// Closing again does nothing. A process that dies in here has closed the queue or not; if it
    /// has, those who wait know within a quarter of a second.
    ///
    /// # Examples
    ///
    /// ```
    /// let queue = mp_queue::Queue::new()?;
    /// queue.put(1)?;
    /// queue.close();
    /// assert!(queue.put(2).is_err());
    /// assert_eq!(queue.get()?, 1);
    /// assert!(matches!(queue.get(), Err(mp_queue::GetError::Closed)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        // A queue whose locks are damaged is as good as closed: every operation says so.
        let _ = self.ring.close();
    }

    /// Whether [`close`](Self::close) was called, by any process.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// Names the items that were in claiming hands ([`get_claimed`](Self::get_claimed)) when those
    /// died. Each is named once, to one caller; the dead are known from the instant of their death.
    ///
    /// # Errors
    ///
    /// This process has no descriptor left to find out who lives.
    pub fn take_lost(&self) -> io::Result<Vec<Lost>> {
        self.ring.take_lost()
    }
}

impl<T: Serialize> Queue<T> {
    /// Puts `value` at the back; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// Hand `value` back; nothing was put. [`PutError::Closed`], also while waiting;
    /// [`PutError::Encode`]; [`PutError::TooLarge`]; [`PutError::NoSpace`].
    #[inline]
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        match self.encode_and_put(&value, Patience::Forever) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(PutError::new(value, refusal)),
        }
    }

    /// Puts `value` at the back if there is room now.
    ///
    /// # Errors
    ///
    /// [`TryPutError::Full`], and those of [`put`](Self::put).
    #[doc(alias = "put_nowait")]
    #[inline]
    pub fn try_put(&self, value: T) -> Result<(), TryPutError<T>> {
        self.put_within(value, Patience::Never)
    }

    /// Puts `value` at the back, waiting at most `timeout` for room.
    ///
    /// # Errors
    ///
    /// [`TryPutError::Full`] after the timeout, and those of [`put`](Self::put).
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// let queue = mp_queue::Queue::bounded(1)?;
    /// queue.put("first")?;
    /// let full = queue.put_timeout("second", Duration::from_millis(5)).unwrap_err();
    /// assert_eq!(full.into_value(), "second");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), TryPutError<T>> {
        self.put_within(value, Patience::Until(Deadline::after(timeout)))
    }

    /// Puts `value` at the back, and tells its number: how many were put before it.
    ///
    /// The number names the item should its consumer die; see [`get_claimed`](Self::get_claimed).
    ///
    /// # Errors
    ///
    /// Those of [`put`](Self::put).
    pub fn put_numbered(&self, value: T) -> Result<u64, PutError<T>> {
        match self.encode_and_put(&value, Patience::Forever) {
            Ok(number) => Ok(number),
            Err(refusal) => Err(PutError::new(value, refusal)),
        }
    }

    /// Puts all `values` at the back, in order and as far as there is room with one commit and one
    /// wake-up; waits for more room while the queue is full.
    ///
    /// # Errors
    ///
    /// Tells how many were put, and hands the others back.
    ///
    /// # Process death
    ///
    /// Killed in here, some of the values are in the queue: the first ones, each of them wholly.
    ///
    /// # Examples
    ///
    /// ```
    /// let queue = mp_queue::Queue::new()?;
    /// queue.put_many([1, 2, 3])?;
    /// assert_eq!(queue.len(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_many(&self, values: impl Into<Vec<T>>) -> Result<(), PutManyError<T>> {
        /// Encoded at a time: half of the second-level cache is left for the rest.
        const PORTION_BYTES: usize = 64 << 10;
        const PORTION_ITEMS: usize = 1024;
        let mut values: Vec<T> = values.into();
        let mut batch = Batch::default();
        let mut put = 0;
        while put < values.len() {
            batch.clear();
            let mut refused = None;
            for value in values[put..].iter().take(PORTION_ITEMS) {
                if let Err(error) = batch.push(|out| codec::encode_into(value, out)) {
                    refused = Some(Refusal::Encode(error));
                    break;
                }
                if batch.bytes() >= PORTION_BYTES {
                    break;
                }
            }
            let (count, failure) = self.put_whole(&batch);
            put += count;
            if let Some(refusal) = failure.or(refused) {
                let rest = values.split_off(put);
                let cause = PutError::new((), refusal);
                return Err(PutManyError { put, rest, cause });
            }
        }
        Ok(())
    }

    fn put_whole(&self, batch: &Batch) -> (usize, Option<Refusal>) {
        let mut put = 0;
        while put < batch.len() {
            match self.ring.put_batch(batch, put, Patience::Forever) {
                Ok(count) => put += count,
                Err(failure) => return (put, Some(failure.into())),
            }
        }
        (put, None)
    }

    #[inline]
    fn put_within(&self, value: T, patience: Patience) -> Result<(), TryPutError<T>> {
        match self.encode_and_put(&value, patience) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(TryPutError::new(value, refusal)),
        }
    }

    /// Encoded before the lock is taken: no user code runs under it.
    #[inline]
    fn encode_and_put(&self, value: &T, patience: Patience) -> Result<u64, Refusal> {
        codec::with_buffer(|buffer| {
            codec::encode_into(value, buffer)?;
            Ok(self.ring.put(&[buffer], patience)?)
        })
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// Takes the value at the front; waits while the queue is empty.
    ///
    /// With nobody left to put anything it waits until somebody [closes](Self::close) the queue.
    ///
    /// # Errors
    ///
    /// [`GetError::Closed`] once the queue is closed and drained; [`GetError::Decode`]: the item
    /// was taken, but was none of type `T`.
    #[inline]
    pub fn get(&self) -> Result<T, GetError> {
        self.get_within(Patience::Forever).map_err(GetError::from)
    }

    /// Takes the value at the front if there is one now.
    ///
    /// # Errors
    ///
    /// [`TryGetError::Empty`], and those of [`get`](Self::get).
    #[doc(alias = "get_nowait")]
    #[inline]
    pub fn try_get(&self) -> Result<T, TryGetError> {
        self.get_within(Patience::Never)
    }

    /// Takes the value at the front, waiting at most `timeout` for one.
    ///
    /// # Errors
    ///
    /// [`TryGetError::Empty`] after the timeout, and those of [`get`](Self::get).
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, TryGetError> {
        self.get_within(Patience::Until(Deadline::after(timeout)))
    }

    /// Takes the value at the front with a note in the queue that this process has it in hand, until
    /// the guard is dropped. Waits while the queue is empty.
    ///
    /// If this process dies with it, or a panic drops the guard, [`take_lost`](Self::take_lost) names it
    /// to the others. Somebody has to call that from time to time: until then the note stays, and there
    /// is room for 4096 of them.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get), and [`GetError::Unclaimable`].
    ///
    /// # Examples
    ///
    /// ```
    /// use mp_queue::{Claimed, Queue};
    ///
    /// let queue = Queue::new()?;
    /// let number = queue.put_numbered("parcel".to_owned())?;
    /// let parcel = queue.get_claimed()?;
    /// assert_eq!((&**parcel, Claimed::number(&parcel)), ("parcel", number));
    /// drop(parcel); // delivered
    /// assert!(queue.take_lost()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn get_claimed(&self) -> Result<Claimed<T>, GetError> {
        self.get_claimed_within(Patience::Forever)
            .map_err(GetError::from)
    }

    /// As [`get_claimed`](Self::get_claimed), waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// Those of [`get_timeout`](Self::get_timeout), and [`TryGetError::Unclaimable`].
    pub fn get_claimed_timeout(&self, timeout: Duration) -> Result<Claimed<T>, TryGetError> {
        self.get_claimed_within(Patience::Until(Deadline::after(timeout)))
    }

    fn get_claimed_within(&self, patience: Patience) -> Result<Claimed<T>, TryGetError> {
        codec::with_buffer(|buffer| {
            let (number, id) = self.ring.get_claimed(buffer, patience, true)?;
            let id = id.ok_or(TryGetError::Corrupt(Corrupt("an item was not claimed")))?;
            let claim = Claim::new(Arc::clone(&self.ring), id);
            Ok(Claimed::new(codec::decode(buffer)?, number, claim))
        })
    }

    /// Takes up to `most` values at once; waits while the queue is empty, but not for more.
    ///
    /// # Errors
    ///
    /// [`GetError::Closed`]. A value that cannot be decoded is an error of its own among the
    /// others.
    ///
    /// # Process death
    ///
    /// All that were taken at once are in the hands of this process.
    pub fn get_many(&self, most: usize) -> Result<Drained<T>, GetError> {
        Drained::take(&self.ring, most, Patience::Forever)
            .map_err(|failure| GetError::from(TryGetError::from(failure)))
    }

    /// Takes everything that is in the queue now, which may be nothing.
    ///
    /// # Errors
    ///
    /// [`GetError::Corrupt`], [`GetError::OutOfMemory`].
    ///
    /// # Examples
    ///
    /// ```
    /// let queue = mp_queue::Queue::new()?;
    /// queue.put_many([1, 2, 3])?;
    /// let all = queue.drain()?.collect::<Result<Vec<i32>, _>>()?;
    /// assert_eq!(all, [1, 2, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn drain(&self) -> Result<Drained<T>, GetError> {
        Drained::take_all(&self.ring).map_err(|failure| GetError::from(TryGetError::from(failure)))
    }

    /// The values as they come, until the queue is closed and drained.
    ///
    /// # Examples
    ///
    /// ```
    /// let queue = mp_queue::Queue::new()?;
    /// queue.put_many([1, 2, 3])?;
    /// queue.close();
    /// let sum: i32 = queue.iter().map(|n| n.unwrap()).sum();
    /// assert_eq!(sum, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter::new(self)
    }

    #[inline]
    fn get_within(&self, patience: Patience) -> Result<T, TryGetError> {
        codec::with_buffer(|buffer| {
            self.ring.get(buffer, patience)?;
            Ok(codec::decode(buffer)?)
        })
    }
}

impl Queue<Bytes> {
    /// Puts a copy of `bytes` at the back, without a detour through a buffer; waits while the queue
    /// is full. To the other end it is a [`Bytes`] like any other.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), with nothing to hand back.
    ///
    /// # Examples
    ///
    /// ```
    /// use mp_queue::{Bytes, Queue};
    ///
    /// let queue = Queue::<Bytes>::new()?;
    /// queue.put_bytes(b"one copy in")?;
    /// let mut buffer = Vec::new();
    /// queue.get_bytes_into(&mut buffer)?;
    /// assert_eq!(buffer, b"one copy in");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<(), PutError<()>> {
        let (prefix, len) = write_length(bytes.len());
        let put = self.ring.put(&[&prefix[..len], bytes], Patience::Forever);
        put.map(|_| ())
            .map_err(|failure| PutError::new((), failure.into()))
    }

    /// Takes the bytes at the front into `buffer`, which is emptied first and used again: one copy,
    /// and no allocation once it is large enough. Waits while the queue is empty.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_bytes_into(&self, buffer: &mut Vec<u8>) -> Result<(), GetError> {
        self.bytes_within(buffer, Patience::Forever)
            .map_err(GetError::from)
    }

    /// As [`get_bytes_into`](Self::get_bytes_into), waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Self::get_timeout).
    pub fn get_bytes_into_timeout(
        &self,
        buffer: &mut Vec<u8>,
        timeout: Duration,
    ) -> Result<(), TryGetError> {
        self.bytes_within(buffer, Patience::Until(Deadline::after(timeout)))
    }

    fn bytes_within(&self, buffer: &mut Vec<u8>, patience: Patience) -> Result<(), TryGetError> {
        let told = Cell::new(None);
        buffer.clear();
        self.ring.get_without(buffer, patience, |first| {
            told.set(read_length(first));
            told.get().map_or(0, |(_, prefix)| prefix)
        })?;
        match told.get() {
            Some((len, _)) if len == buffer.len() as u64 => Ok(()),
            _ => Err(DecodeError::new::<Bytes>("the length is not that of the item").into()),
        }
    }
}

/// Bytes of the longest length prefix.
pub(crate) const MAX_PREFIX: usize = 10;

/// The length as postcard writes it before bytes: seven bits at a time, the last without the mark.
fn write_length(len: usize) -> ([u8; MAX_PREFIX], usize) {
    let (mut prefix, mut rest, mut at) = ([0; MAX_PREFIX], len, 0);
    while rest >= 0x80 {
        prefix[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    prefix[at] = rest as u8;
    (prefix, at + 1)
}

/// The length, and of how many bytes its prefix consists.
fn read_length(bytes: &[u8]) -> Option<(u64, usize)> {
    let prefix = bytes
        .iter()
        .take(MAX_PREFIX)
        .position(|byte| byte & 0x80 == 0)?
        + 1;
    let len = bytes[..prefix].iter().rev().try_fold(0_u64, |len, byte| {
        len.checked_mul(0x80)?.checked_add(u64::from(byte & 0x7f))
    })?;
    Some((len, prefix))
}

pub(crate) fn attach(fd: OwnedFd) -> io::Result<Ring> {
    let mapping = Arc::new(Mapping::attach(fd)?);
    Ring::attach(mapping).map_err(|corrupt| io::Error::new(io::ErrorKind::InvalidData, corrupt))
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            ring: Arc::clone(&self.ring),
            item: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl<T> AsFd for Queue<T> {
    /// The shared memory, to be handed to another process by any means; see
    /// [`from_fd`](Self::from_fd).
    ///
    /// It does not tell when there is an item: to `poll` and its kin it is always ready. To wait for
    /// a queue and for something else at once, let a thread [`get`](Self::get) and pass on what it
    /// gets to where you wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.mapping().fd()
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd("Queue", self.as_fd(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = transfer::deserialize_fd("Queue", deserializer)?;
        Self::from_fd(fd).map_err(D::Error::custom)
    }
}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Queue<T> {
    type Item = Result<T, GetError>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_the_codec_writes_them() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 300_000] {
            let bytes = Bytes::from(vec![0xff; len]);
            let mut encoded = Vec::new();
            codec::encode_into(&bytes, &mut encoded).unwrap();
            let (prefix, prefix_len) = write_length(len);
            assert_eq!(encoded[..prefix_len], prefix[..prefix_len]);
            let shown = encoded.len().min(16);
            assert_eq!(
                read_length(&encoded[..shown]),
                Some((len as u64, prefix_len))
            );
        }
        assert_eq!(read_length(&[0xff; 16]), None);
        assert_eq!(read_length(&[]), None);
    }
}
