//! A queue that knows what is unfinished.

use std::{
    collections::VecDeque,
    fmt, io, iter,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mp_core::{codec, deadline::Deadline, hooks};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    Builder, Corrupt, GetError, Lost, PutError, PutManyError, Queue, TryGetError, TryPutError,
    claimed::Claim,
    ring::{Finished, Patience, Ring},
};

/// A [`Queue`] that counts unfinished tasks: one more with each `put`, one less with each
/// [`task_done`](Self::task_done).
///
/// # Process death
///
/// As a [`Queue`]'s; and a task that was in the hands of a process when it died, taken and not
/// done, can be found: [`join`](Self::join) reports it instead of waiting for ever, and
/// [`take_lost`](Self::take_lost) names it and counts it as done. Up to 4096 tasks in hand at a
/// time are followed in this way. The count itself cannot drift: it is the difference of what was
/// put and what was done.
///
/// The same goes for a process that lets go of the queue with a task in hand, because its function
/// panicked or returned early: what was taken by a handle or its clones is lost with the last of
/// them. As long as one is left, in any thread, the task is in hand, and `task_done` can be called
/// there.
///
/// # Examples
///
/// ```
/// let tasks = mp_queue::JoinableQueue::new()?;
/// tasks.put("wash".to_owned())?;
/// let task = tasks.get()?;
/// assert_eq!((&*task, tasks.unfinished()), ("wash", 1));
/// tasks.task_done()?;
/// tasks.join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.JoinableQueue")]
pub struct JoinableQueue<T> {
    queue: Queue<T>,
    /// Of this handle and its clones.
    in_hand: Arc<Mutex<Hands>>,
}

/// What was taken and is not done, the longest in hand first. `None` where it could not be claimed.
struct Hands {
    ring: Arc<Ring>,
    claims: VecDeque<Option<Claim>>,
    /// In a forked child these are copies: the parent has its tasks in hand, the child has none.
    generation: u64,
}

impl Hands {
    fn new(ring: Arc<Ring>) -> Self {
        Self {
            ring,
            claims: VecDeque::new(),
            generation: hooks::fork_generation(),
        }
    }

    /// The claims of this process.
    fn claims(&mut self) -> &mut VecDeque<Option<Claim>> {
        let generation = hooks::fork_generation();
        if self.generation != generation {
            self.generation = generation;
            self.claims.clear();
        }
        &mut self.claims
    }
}

impl Drop for Hands {
    /// Nobody is left here to say that they are done.
    fn drop(&mut self) {
        let claims = self.claims.drain(..).flatten();
        let ids: Vec<_> = claims.filter_map(Claim::forget).collect();
        self.ring.let_go(&ids);
    }
}

/// Why a task was not counted as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskDoneError {
    /// More calls than items were ever put, by all processes together.
    #[error(
        "task_done was called more often than items were put; call it once for each that was taken"
    )]
    TooMany,
    /// The shared memory was damaged.
    #[error(transparent)]
    Corrupt(Corrupt),
}

/// Why [`JoinableQueue::join`] did not wait until everything was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Processes died, or let go of the queue, with tasks in hand, so this would be waiting for ever.
    #[error(
        "{tasks} tasks were in the hands of processes that died or let go of the queue: `take_lost` names them and counts them as done"
    )]
    Lost {
        /// How many tasks.
        tasks: usize,
    },
    /// Something was still unfinished at the deadline.
    #[error("{unfinished} tasks were unfinished at the deadline")]
    TimedOut {
        /// How many tasks.
        unfinished: u64,
    },
}

impl<T> JoinableQueue<T> {
    /// A queue without bounds but its area.
    ///
    /// # Errors
    ///
    /// As [`Queue::new`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// A queue of at most `items` items (at least 1): `put` waits while it is full.
    ///
    /// # Errors
    ///
    /// As [`Queue::new`].
    #[doc(alias = "maxsize")]
    pub fn bounded(items: usize) -> io::Result<Self> {
        Self::builder().max_items(items).build()
    }

    /// A queue with limits of one's own.
    pub fn builder() -> Builder<Self> {
        Builder::new()
    }

    pub(crate) fn from_ring(ring: Ring) -> Self {
        Self::from_queue(Queue::from_ring(ring))
    }

    fn from_queue(queue: Queue<T>) -> Self {
        Self {
            in_hand: Arc::new(Mutex::new(Hands::new(Arc::clone(queue.ring())))),
            queue,
        }
    }

    /// The queue behind a descriptor that [`as_fd`](Self::as_fd) gave, in this process or another.
    ///
    /// # Errors
    ///
    /// As [`Queue::from_fd`].
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Queue::from_fd(fd).map(Self::from_queue)
    }

    /// Items in the queue; see [`Queue::len`].
    #[doc(alias = "qsize")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is in the queue; something may still be unfinished.
    #[doc(alias = "empty")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the queue holds as many items as it may.
    #[doc(alias = "full")]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// Closes the queue for everybody; see [`Queue::close`]. What is unfinished stays so.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Whether [`close`](Self::close) was called, by any process.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Tasks put and not done, whether taken or not.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.queue.ring().unfinished()
    }

    /// Tells that a task which this process took is done: the one that this handle and its clones
    /// have had in hand longest; if that is none, the one that any handle of this process has.
    ///
    /// # Errors
    ///
    /// [`TaskDoneError::TooMany`]: more calls than items were ever put, by all processes together.
    pub fn task_done(&self) -> Result<(), TaskDoneError> {
        let mut hands = self.hands();
        let claims = hands.claims();
        let finished = match claims.front() {
            Some(Some(claim)) => claim.id().map_or(Finished::Unclaimed, Finished::Claimed),
            Some(None) => Finished::Unclaimed,
            None => Finished::Elsewhere,
        };
        let ring = self.queue.ring();
        if !ring.finish(finished).map_err(TaskDoneError::Corrupt)? {
            return Err(TaskDoneError::TooMany);
        }
        if let Some(Some(claim)) = claims.pop_front() {
            claim.forget();
        }
        Ok(())
    }

    /// Waits until everything that was put is done.
    ///
    /// # Errors
    ///
    /// [`JoinError::Lost`]: tasks went down with processes, or last handles, that had taken them.
    pub fn join(&self) -> Result<(), JoinError> {
        self.join_until(None)
    }

    /// As [`join`](Self::join), at most for `timeout`.
    ///
    /// # Errors
    ///
    /// Those of [`join`](Self::join), and [`JoinError::TimedOut`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), JoinError> {
        self.join_until(Some(Deadline::after(timeout)))
    }

    fn join_until(&self, until: Option<Deadline>) -> Result<(), JoinError> {
        loop {
            let unfinished = self.unfinished();
            if unfinished == 0 {
                return Ok(());
            }
            // A process that cannot ask waits; others may.
            match self.queue.ring().count_lost() {
                Ok(tasks) if tasks > 0 => return Err(JoinError::Lost { tasks }),
                _ => {}
            }
            if !self.queue.ring().wait_finished(until) {
                return Err(JoinError::TimedOut { unfinished });
            }
        }
    }

    /// Names the tasks that were in the hands of processes when they died, or let go of the queue,
    /// and counts them as done. Each is named once, to one caller.
    ///
    /// # Errors
    ///
    /// This process has no descriptor left to find out who lives.
    pub fn take_lost(&self) -> io::Result<Vec<Lost>> {
        self.queue.ring().finish_lost()
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Serialize> JoinableQueue<T> {
    /// Puts `value` at the back, one more unfinished task; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::put`].
    pub fn put(&self, value: T) -> Result<(), PutError<T>> {
        self.queue.put(value)
    }

    /// As [`put`](Self::put), and tells the task's number; see [`Queue::put_numbered`].
    ///
    /// # Errors
    ///
    /// Those of [`Queue::put`].
    pub fn put_numbered(&self, value: T) -> Result<u64, PutError<T>> {
        self.queue.put_numbered(value)
    }

    /// Puts `value` at the back if there is room now.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::try_put`].
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, value: T) -> Result<(), TryPutError<T>> {
        self.queue.try_put(value)
    }

    /// Puts `value` at the back, waiting at most `timeout` for room.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::put_timeout`].
    pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), TryPutError<T>> {
        self.queue.put_timeout(value, timeout)
    }

    /// Puts all `values` at the back, each an unfinished task; see [`Queue::put_many`].
    ///
    /// # Errors
    ///
    /// Those of [`Queue::put_many`]. The tasks that were put count as unfinished, the others do not.
    pub fn put_many(&self, values: impl Into<Vec<T>>) -> Result<(), PutManyError<T>> {
        self.queue.put_many(values)
    }
}

impl<T: DeserializeOwned> JoinableQueue<T> {
    /// Takes the task at the front; waits while the queue is empty. It is in the hands of this
    /// process until [`task_done`](Self::task_done).
    ///
    /// # Errors
    ///
    /// Those of [`Queue::get`]. A task that cannot be decoded is in hand all the same, and is to be
    /// done.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_within(Patience::Forever).map_err(GetError::from)
    }

    /// Takes the task at the front if there is one now.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::try_get`].
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, TryGetError> {
        self.get_within(Patience::Never)
    }

    /// Takes the task at the front, waiting at most `timeout` for one.
    ///
    /// # Errors
    ///
    /// Those of [`Queue::get_timeout`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, TryGetError> {
        self.get_within(Patience::Until(Deadline::after(timeout)))
    }

    /// The tasks as they come, until the queue is closed and drained; each is to be
    /// [done](Self::task_done). One at a time, since each is noted as in hand: there is no `get_many`
    /// here.
    ///
    /// # Examples
    ///
    /// ```
    /// let tasks = mp_queue::JoinableQueue::new()?;
    /// tasks.put_many([1, 2, 3])?;
    /// tasks.close();
    /// for task in tasks.iter() {
    ///     println!("{}", task?);
    ///     tasks.task_done()?;
    /// }
    /// tasks.join()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = Result<T, GetError>> + '_ {
        iter::from_fn(|| match self.get() {
            Err(GetError::Closed) => None,
            task => Some(task),
        })
    }

    fn get_within(&self, patience: Patience) -> Result<T, TryGetError> {
        codec::with_buffer(|buffer| {
            let ring = self.queue.ring();
            let (_, claim) = ring.get_claimed(buffer, patience, false)?;
            let claim = claim.map(|id| Claim::new(Arc::clone(ring), id));
            self.hands().claims().push_back(claim);
            Ok(codec::decode(buffer)?)
        })
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            in_hand: Arc::clone(&self.in_hand),
        }
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinableQueue")
            .field("queue", &self.queue)
            .field("unfinished", &self.unfinished())
            .finish_non_exhaustive()
    }
}

impl<T> AsFd for JoinableQueue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl<T> Serialize for JoinableQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.queue.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Queue::deserialize(deserializer).map(Self::from_queue)
    }
}
