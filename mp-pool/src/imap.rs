//! Values one by one, with bounded look-ahead.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use mp_core::deadline::Deadline;
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    arguments::{Blocks, encode_item},
    dispatch::{Means, State},
    error::TaskError,
    job::Job,
    outcome::{Effects, Sink, decode_outcome, guard_decoding},
    parker::Parker,
    progress::Progress,
    shared::{Awaited, Haste, Shared},
    wire,
};

/// The values of [`imap`](crate::PoolHandle::imap) and
/// [`imap_unordered`](crate::PoolHandle::imap_unordered).
///
/// Items are taken from the input only in [`next`](Iterator::next), so an endless input is fine.
/// Each item that was taken has one outcome, and an error concerns its item alone; the next call goes on
/// with the next item. Only a pool that takes no more (closed, terminated, or
/// [broken](TaskError::PoolBroken)) ends it early: it says so in the place of the items that it
/// refused, and the rest of the input is not taken. A panic of the input comes out of `next` after the
/// values of all items before it. Dropping it takes no more items; those in flight are finished and
/// forgotten.
///
/// In a callback of the same pool it gives the values that are there, then ends with
/// [`TaskError::WouldDeadlock`].
#[must_use = "nothing is begun before values are asked for"]
pub struct Imap<I, R> {
    shared: Arc<Shared>,
    /// `None` once it is used up.
    items: Option<I>,
    job: Result<Arc<Job>, TaskError>,
    stream: Arc<Stream>,
    chunk: usize,
    buffer: u64,
    sent: u64,
    taken: u64,
    /// What the input died of.
    panic: Option<Box<dyn Any + Send>>,
    body: Vec<u8>,
    progress: Option<Progress>,
    values: PhantomData<fn() -> R>,
}

/// No value yet; see [`Imap::next_timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the next value did not come in time; it can be asked for again")]
pub struct NotYet;

/// Takes outcomes until they are asked for.
struct Stream {
    ordered: bool,
    inner: Mutex<StreamInner>,
}

#[derive(Default)]
struct StreamInner {
    /// By number of task; in order of arrival if the stream is not ordered.
    ready: BTreeMap<u64, Outcome>,
    arrived: u64,
    next: u64,
    waiters: Vec<Arc<Parker>>,
}

enum Outcome {
    /// A record, and the worker's process id.
    Record(Vec<u8>, u32),
    Failed(TaskError),
}

impl Stream {
    fn put(&self, first: u64, outcomes: impl Iterator<Item = Outcome>, effects: &mut Effects) {
        let mut inner = self.inner.lock();
        for (number, outcome) in (first..).zip(outcomes) {
            let key = if self.ordered { number } else { inner.arrived };
            inner.arrived += 1;
            inner.ready.insert(key, outcome);
        }
        effects.completed = true;
        effects.waiters.append(&mut inner.waiters);
    }

    fn take(&self) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = match self.ordered {
            true => {
                let next = inner.next;
                inner.ready.remove(&next)
            }
            false => inner.ready.pop_first().map(|(_, outcome)| outcome),
        }?;
        inner.next += 1;
        Some(outcome)
    }
}

impl StreamInner {
    fn is_ready(&self, ordered: bool) -> bool {
        match ordered {
            true => self.ready.contains_key(&self.next),
            false => !self.ready.is_empty(),
        }
    }
}

impl Sink for Stream {
    fn records(&self, first: u64, count: u64, records: &[u8], pid: u32, effects: &mut Effects) {
        let mut rest = records;
        let outcomes = (0..count).map_while(|_| {
            let (record, next) = rest.split_at_checked(wire::skip_records(rest, 1)?)?;
            rest = next;
            Some(Outcome::Record(record.to_vec(), pid))
        });
        self.put(first, outcomes, effects);
    }

    fn large_record(&self, number: u64, record: Vec<u8>, pid: u32, effects: &mut Effects) {
        self.put(
            number,
            std::iter::once(Outcome::Record(record, pid)),
            effects,
        );
    }

    fn failed(&self, first: u64, count: u64, error: TaskError, effects: &mut Effects) {
        let outcomes = (0..count).map(|_| Outcome::Failed(error.clone()));
        self.put(first, outcomes, effects);
    }
}

impl Awaited for Stream {
    fn is_over(&self) -> bool {
        self.inner.lock().is_ready(self.ordered)
    }

    fn register(&self, parker: &Arc<Parker>) -> bool {
        let mut inner = self.inner.lock();
        let wait = !inner.is_ready(self.ordered);
        if wait {
            inner.waiters.push(parker.clone());
        }
        wait
    }

    fn unregister(&self, parker: &Arc<Parker>) {
        let mut inner = self.inner.lock();
        inner.waiters.retain(|waiter| !Arc::ptr_eq(waiter, parker));
    }
}

impl<I, R> Imap<I, R> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        items: I,
        ordered: bool,
        chunk: usize,
        buffer: usize,
        job: impl FnOnce(Arc<dyn Sink>) -> Result<Arc<Job>, TaskError>,
    ) -> Self {
        let stream = Arc::new(Stream {
            ordered,
            inner: Mutex::default(),
        });
        Self {
            shared,
            items: Some(items),
            job: job(stream.clone()),
            stream,
            chunk: chunk.min(buffer).min(u32::MAX as usize), // as many as a frame can hold
            buffer: buffer as u64,
            sent: 0,
            taken: 0,
            panic: None,
            body: Vec::new(),
            progress: None,
            values: PhantomData,
        }
    }

    /// Has it shown how many values were given out.
    pub(crate) fn with_progress(mut self, progress: Option<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Takes no more items, and stops those in flight as [`AsyncResult::cancel`] does: the values that
    /// still come are those that are there, and [`TaskError::Cancelled`] for the others.
    ///
    /// [`AsyncResult::cancel`]: crate::AsyncResult::cancel
    pub fn cancel(&mut self) {
        self.stop(State::cancel);
    }

    /// As [`cancel`](Self::cancel), but leaves those that run to their end.
    pub fn cancel_waiting(&mut self) {
        self.stop(State::cancel_waiting);
    }

    fn stop(&mut self, stop: fn(&mut State, &Arc<Job>, Means<'_>, &mut Effects) -> bool) {
        self.items = None;
        if let Ok(job) = &self.job {
            let stop = |state: &mut State, means: Means<'_>, effects: &mut Effects| {
                stop(state, job, means, effects)
            };
            self.shared.with(stop);
        }
    }
}

impl<I, R> Imap<I, R>
where
    I: Iterator<Item: Serialize>,
    R: DeserializeOwned,
{
    /// As [`next`](Iterator::next), but waits for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`NotYet`]; the value can be asked for again.
    pub fn next_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Result<R, TaskError>>, NotYet> {
        self.next_until(Some(Deadline::after(timeout)))
    }

    fn next_until(
        &mut self,
        until: Option<Deadline>,
    ) -> Result<Option<Result<R, TaskError>>, NotYet> {
        if self.would_deadlock() {
            // Of an input whose end is not known yet, one item tells.
            let has_next = self.sent > self.taken || self.pull().is_some();
            self.items = None;
            self.sent = self.taken; // nobody can wait for them here
            if has_next {
                return Ok(Some(Err(TaskError::WouldDeadlock)));
            }
        }
        if let (Some(_), Err(error)) = (&self.items, &self.job) {
            let error = error.clone();
            self.items = None; // nothing was taken from them
            return Ok(Some(Err(error)));
        }
        self.fill();
        if self.sent == self.taken {
            if let Some(panic) = self.panic.take() {
                resume_unwind(panic);
            }
            return Ok(None);
        }
        if !self.shared.wait(&*self.stream, until, Haste::Each) {
            return Err(NotYet);
        }
        self.taken += 1;
        if let Some(progress) = &self.progress {
            progress.show(self.taken);
        }
        Ok(self.stream.take().map(|outcome| match outcome {
            Outcome::Record(record, pid) => match wire::split_record(&record) {
                Some((kind, payload, _)) => guard_decoding(|| decode_outcome(kind, payload, pid)),
                None => unreachable!("records are checked when they are taken from the lane"),
            },
            Outcome::Failed(error) => Err(error),
        }))
    }

    /// Whether the next value, if there is one, is not there, and this is a callback of the pool.
    fn would_deadlock(&self) -> bool {
        let is_used_up = self.items.is_none() && self.sent == self.taken;
        !is_used_up && self.shared.is_in_callback() && !self.stream.is_over()
    }

    /// Takes items while there is room for another chunk in the buffer.
    fn fill(&mut self) {
        let Ok(job) = self.job.clone() else { return };
        let chunk = self.chunk as u64;
        while self.items.is_some() && (self.sent - self.taken).saturating_add(chunk) <= self.buffer
        {
            self.send_chunk(&job);
        }
    }

    fn send_chunk(&mut self, job: &Arc<Job>) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let shared = self.shared.clone();
        let mut blocks = Blocks::new(&shared);
        let mut count = 0;
        let mut refused = None;
        while (count as usize) < self.chunk {
            let Some(item) = self.pull() else { break };
            if let Err(error) = encode_item(&item, &mut body, &mut blocks) {
                refused = Some(error);
                break;
            }
            count += 1;
        }
        if self.panic.is_some() && self.chunk > 1 {
            count = 0; // the chunk that was being built goes with its input
        }
        let sent = match count {
            0 => Ok(()),
            _ => shared.submit(job, self.sent, count, &body, blocks),
        };
        self.body = body;
        match sent {
            Ok(()) => self.sent += u64::from(count),
            Err(error) => {
                if !matches!(error, TaskError::Encode { .. }) {
                    self.items = None; // the pool takes no more
                }
                self.fail(count, error);
            }
        }
        if let Some(error) = refused {
            self.fail(1, error);
        }
    }

    /// The next `count` items end with `error`, where their values would have come.
    fn fail(&mut self, count: u32, error: TaskError) {
        let (first, count) = (self.sent, u64::from(count));
        // Nobody else waits for this stream.
        self.stream
            .failed(first, count, error, &mut Effects::default());
        self.sent += count;
    }

    fn pull(&mut self) -> Option<I::Item> {
        let items = self.items.as_mut()?;
        let item = catch_unwind(AssertUnwindSafe(|| items.next()));
        let item = item.unwrap_or_else(|panic| {
            self.panic = Some(panic);
            None
        });
        if item.is_none() {
            self.items = None;
        }
        item
    }
}

impl<I, R> Iterator for Imap<I, R>
where
    I: Iterator<Item: Serialize>,
    R: DeserializeOwned,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None).unwrap_or(None) // without a deadline there is no `NotYet`
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let flying = (self.sent - self.taken) as usize;
        let items = self
            .items
            .as_ref()
            .map_or((0, Some(0)), Iterator::size_hint);
        // A refusal of the pool can end it early.
        (flying, items.1.and_then(|most| most.checked_add(flying)))
    }
}

impl<I, R> fmt::Debug for Imap<I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap")
            .field("sent", &self.sent)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}
