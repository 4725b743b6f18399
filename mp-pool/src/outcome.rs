//! What becomes of tasks: the sinks that take outcomes, and who waits for them.
//!
//! Outcomes arrive as the bytes that the worker committed; they are decoded by whoever asks for
//! them. Nothing here runs user code, and nothing is woken while a lock is held: what is to be done
//! afterwards is noted in [`Effects`].

use std::{
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
};

use mp_core::primitive::{AtomicBool, Ordering};
use mp_queue::lane::Nudge;
use parking_lot::Mutex;

use crate::{
    callback::Callback,
    error::{PanicReport, Part, TaskError},
    parker::Parker,
    roster::Worker,
    wire::{self, Kind},
};

/// What is to be done once the pool's lock is released.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) nudges: Vec<Nudge>,
    pub(crate) waiters: Vec<Arc<Parker>>,
    pub(crate) wakers: Vec<Waker>,
    pub(crate) callbacks: Vec<Callback>,
    /// Outcomes that had callbacks or wakers and are complete now.
    pub(crate) unwatched: usize,
    /// Something is complete that a thread may be waiting for.
    pub(crate) completed: bool,
    /// Workers that are gone; their memory is given back last.
    pub(crate) dead: Vec<Worker>,
    /// The keeper has something to do.
    pub(crate) keeper: bool,
    /// The collector has to look, though no worker will ring for that.
    pub(crate) collector: bool,
    /// Whoever leads has to look again.
    pub(crate) leader: bool,
    /// For the log, whose subscribers are users' code.
    pub(crate) events: Vec<Event>,
}

/// What the log is to tell.
pub(crate) enum Event {
    Damaged {
        pid: u32,
    },
    AsksToLeave {
        pid: u32,
    },
    Ended {
        pid: u32,
        code: Option<i32>,
        signal: Option<i32>,
        expected: bool,
    },
    Broken {
        reason: String,
    },
}

impl Event {
    pub(crate) fn tell(self) {
        match self {
            Self::Damaged { pid } => {
                tracing::error!(pid, "a worker damaged its lane and is ended");
            }
            Self::AsksToLeave { pid } => tracing::debug!(pid, "a worker asks to be replaced"),
            Self::Ended {
                pid,
                code,
                signal,
                expected,
            } => tracing::debug!(pid, code, signal, expected, "a worker ended"),
            Self::Broken { reason } => tracing::error!(reason, "a pool is broken"),
        }
    }
}

/// Takes the outcomes of the tasks of one call.
pub(crate) trait Sink: Send + Sync {
    /// `count` records, those of tasks `first..first + count`, from the worker `pid`.
    fn records(&self, first: u64, count: u64, records: &[u8], pid: u32, effects: &mut Effects);

    /// The record of task `number`, large and on its own.
    fn large_record(&self, number: u64, record: Vec<u8>, pid: u32, effects: &mut Effects);

    /// The same error for tasks `first..first + count`.
    fn failed(&self, first: u64, count: u64, error: TaskError, effects: &mut Effects);
}

/// Who waits until something is complete, and what is to happen then.
///
/// ```text
/// OPEN ──► CALLING (callbacks run on their thread) ◄──► COMPLETE (back for a late callback)
///   └───────────────── no callbacks ─────────────────────►
/// ```
#[derive(Default)]
pub(crate) struct Gate {
    complete: AtomicBool,
    inner: Mutex<GateInner>,
}

#[derive(Default)]
struct GateInner {
    phase: Phase,
    /// Counted as such in the pool's books.
    watched: bool,
    waiters: Vec<Arc<Parker>>,
    /// Of the one handle to an outcome, which is polled or waited for in a group.
    waker: Option<Waker>,
    callbacks: Vec<Box<dyn FnOnce() + Send>>,
    /// Lots of callbacks handed to their thread that have not all run.
    calling: u32,
}

impl GateInner {
    fn is_unwatched(&self) -> bool {
        self.phase == Phase::Open && !self.watched
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    Calling,
    Complete,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate")
            .field(&self.inner.lock().phase)
            .finish()
    }
}

impl Gate {
    /// Acquire meets the Release in [`tell`](Self::tell): what was stored before is visible.
    #[inline]
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether everything is there, though callbacks may still run.
    pub(crate) fn is_settled(&self) -> bool {
        self.inner.lock().phase != Phase::Open
    }

    /// Whether it has to be [watched](Self::watch).
    pub(crate) fn is_unwatched(&self) -> bool {
        self.inner.lock().is_unwatched()
    }

    /// Marks it as watched, under the pool's lock: whether it was not, and is not complete, so that it has
    /// to be counted.
    pub(crate) fn watch(&self) -> bool {
        let mut inner = self.inner.lock();
        let newly = inner.is_unwatched();
        inner.watched |= newly;
        newly
    }

    /// Has `parker` woken on completion; `false` if that has been.
    pub(crate) fn register(&self, parker: &Arc<Parker>) -> bool {
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Complete {
            return false;
        }
        inner.waiters.push(parker.clone());
        true
    }

    pub(crate) fn unregister(&self, parker: &Arc<Parker>) {
        let mut inner = self.inner.lock();
        inner.waiters.retain(|waiter| !Arc::ptr_eq(waiter, parker));
    }

    /// Has `waker` woken on completion, and none that was registered before; `false` if that has been.
    pub(crate) fn register_waker(&self, waker: &Waker) -> bool {
        let waker = waker.clone(); // it and the last are a runtime's code: not under the lock
        let mut inner = self.inner.lock();
        if inner.phase == Phase::Complete {
            return false;
        }
        let last = inner.waker.replace(waker);
        drop(inner);
        drop(last);
        true
    }

    pub(crate) fn unregister_waker(&self) {
        let last = self.inner.lock().waker.take();
        drop(last); // not under the lock
    }

    /// Has `callback` run on completion; at once if that has been. Whoever waits from now on is
    /// told after it.
    ///
    /// Only for the one handle to an outcome, which is not waiting: completion is taken back.
    pub(crate) fn call_back(
        self: &Arc<Self>,
        callback: Box<dyn FnOnce() + Send>,
        effects: &mut Effects,
    ) {
        let mut inner = self.inner.lock();
        inner.callbacks.push(callback);
        if inner.phase != Phase::Open {
            self.complete.store(false, Ordering::Relaxed); // by whom it concerns
            self.call(&mut inner, effects);
        }
    }

    /// Everything is there: callbacks first, if there are any, then the waiters.
    pub(crate) fn complete(self: &Arc<Self>, effects: &mut Effects) {
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Open {
            return;
        }
        effects.unwatched += usize::from(inner.watched);
        if inner.callbacks.is_empty() {
            self.tell(&mut inner, effects);
        } else {
            self.call(&mut inner, effects);
        }
    }

    fn call(self: &Arc<Self>, inner: &mut GateInner, effects: &mut Effects) {
        inner.phase = Phase::Calling;
        inner.calling += 1;
        effects.callbacks.push(Callback {
            run: std::mem::take(&mut inner.callbacks),
            then: self.clone(),
        });
    }

    /// A lot of callbacks has run.
    pub(crate) fn called(&self, effects: &mut Effects) {
        let mut inner = self.inner.lock();
        inner.calling -= 1;
        if inner.calling == 0 {
            self.tell(&mut inner, effects);
        }
    }

    fn tell(&self, inner: &mut GateInner, effects: &mut Effects) {
        inner.phase = Phase::Complete;
        effects.completed = true;
        self.complete.store(true, Ordering::Release); // meets `is_complete`
        effects.waiters.append(&mut inner.waiters);
        effects.wakers.extend(inner.waker.take());
    }
}

/// Outcomes of one `apply` or `map`: kept as they arrived until somebody asks.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) gate: Arc<Gate>,
    inner: Mutex<BatchInner>,
}

#[derive(Debug, Default)]
struct BatchInner {
    /// Tasks with an outcome; those are all once it is `total`.
    arrived: u64,
    total: Option<u64>,
    blocks: Vec<Vec<u8>>,
    runs: Vec<Run>,
    /// The input could not be produced or encoded to its end.
    error: Option<TaskError>,
}

/// Outcomes of consecutive tasks.
#[derive(Debug, Clone)]
struct Run {
    first: u64,
    count: u64,
    pid: u32,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Records {
        block: usize,
        start: usize,
        end: usize,
    },
    Failed(TaskError),
}

/// A block is not grown by copying beyond this.
const BLOCK: usize = 1 << 20;

impl Batch {
    /// For `total` tasks, or for as many as [`close`](Self::close) will say.
    pub(crate) fn new(total: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            gate: Arc::default(),
            inner: Mutex::new(BatchInner {
                total,
                ..BatchInner::default()
            }),
        })
    }

    /// A batch of one that has failed already.
    pub(crate) fn failed_at_once(error: TaskError) -> Arc<Self> {
        let batch = Self::new(Some(1));
        let mut effects = Effects::default(); // nobody can wait yet
        batch.failed(0, 1, error, &mut effects);
        batch
    }

    /// No more tasks than `total` will come; `error` is why there are not more.
    pub(crate) fn close(&self, total: u64, error: Option<TaskError>, effects: &mut Effects) {
        let mut inner = self.inner.lock();
        inner.total = Some(total);
        inner.error = error;
        self.check(inner, effects);
    }

    /// How many tasks have an outcome.
    pub(crate) fn arrived(&self) -> u64 {
        self.inner.lock().arrived
    }

    fn check(&self, inner: parking_lot::MutexGuard<'_, BatchInner>, effects: &mut Effects) {
        let complete = inner.total.is_some_and(|total| inner.arrived >= total);
        drop(inner);
        if complete {
            self.gate.complete(effects);
        }
    }

    /// Decodes all outcomes, in order of their tasks; stops at the first error.
    pub(crate) fn decode_all<R>(
        &self,
        mut decode: impl FnMut(Kind, &[u8], u32) -> Result<R, TaskError>,
        mut each: impl FnMut(R),
    ) -> Result<(), TaskError> {
        // The batch is complete, so nobody waits for this lock but another reader.
        let inner = &mut *self.inner.lock();
        inner.runs.sort_unstable_by_key(|run| run.first);
        for run in &inner.runs {
            match &run.what {
                What::Failed(error) => return Err(error.clone()),
                What::Records { block, start, end } => {
                    let mut rest = &inner.blocks[*block][*start..*end];
                    while let Some((kind, payload, next)) = wire::split_record(rest) {
                        each(decode(kind, payload, run.pid)?);
                        rest = next;
                    }
                }
            }
        }
        inner.error.clone().map_or(Ok(()), Err)
    }

    /// The first error, as [`decode_all`](Self::decode_all) finds it, but without decoding a value: that
    /// is the user's code, and may be done only as often as the value is asked for.
    pub(crate) fn first_error(&self) -> Option<TaskError> {
        let all = self.decode_all(
            |kind, payload, pid| match kind {
                Kind::Value => Ok(()),
                _ => Err(decode_failure(kind, payload, pid)),
            },
            |()| {},
        );
        all.err()
    }
}

impl BatchInner {
    /// Notes the outcomes that were just put into `block`.
    fn note(&mut self, first: u64, count: u64, pid: u32, block: usize, place: Range<usize>) {
        self.arrived += count;
        if let Some(last) = self.runs.last_mut()
            && let What::Records {
                block: same, end, ..
            } = &mut last.what
            && (last.first + last.count, last.pid, *same, *end) == (first, pid, block, place.start)
        {
            last.count += count;
            *end = place.end;
            return;
        }
        self.runs.push(Run {
            first,
            count,
            pid,
            what: What::Records {
                block,
                start: place.start,
                end: place.end,
            },
        });
    }
}

impl Sink for Batch {
    fn records(&self, first: u64, count: u64, records: &[u8], pid: u32, effects: &mut Effects) {
        let mut inner = self.inner.lock();
        let full = |block: &Vec<u8>| {
            block.len() + records.len() > block.capacity() && block.len() >= BLOCK
        };
        if inner.blocks.last().is_none_or(full) {
            inner.blocks.push(Vec::new());
        }
        let index = inner.blocks.len() - 1;
        let block = &mut inner.blocks[index];
        let start = block.len();
        block.extend_from_slice(records);
        let place = start..block.len();
        inner.note(first, count, pid, index, place);
        self.check(inner, effects);
    }

    fn large_record(&self, number: u64, record: Vec<u8>, pid: u32, effects: &mut Effects) {
        let mut inner = self.inner.lock();
        let (index, place) = (inner.blocks.len(), 0..record.len());
        inner.blocks.push(record);
        inner.note(number, 1, pid, index, place);
        self.check(inner, effects);
    }

    fn failed(&self, first: u64, count: u64, error: TaskError, effects: &mut Effects) {
        let mut inner = self.inner.lock();
        inner.runs.push(Run {
            first,
            count,
            pid: 0,
            what: What::Failed(error),
        });
        inner.arrived += count;
        self.check(inner, effects);
    }
}

/// Turns what a worker committed into a value or an error.
#[inline]
pub(crate) fn decode_outcome<R: serde::de::DeserializeOwned>(
    kind: Kind,
    payload: &[u8],
    pid: u32,
) -> Result<R, TaskError> {
    match kind {
        Kind::Value => decode_value(payload),
        _ => Err(decode_failure(kind, payload, pid)),
    }
}

#[inline]
fn decode_value<R: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<R, TaskError> {
    mp_core::codec::decode::<R>(payload).map_err(|error| undecodable(error.to_string()))
}

fn undecodable(reason: String) -> TaskError {
    TaskError::Decode {
        what: Part::Result,
        reason,
    }
}

/// A type's own `Deserialize` may panic: that is its task's error, not the caller's end.
pub(crate) fn guard_decoding<R>(
    decode: impl FnOnce() -> Result<R, TaskError>,
) -> Result<R, TaskError> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        Err(undecodable(format!(
            "decoding it panicked: {}",
            panic_text(&*panic)
        )))
    })
}

#[cold]
fn decode_failure(kind: Kind, payload: &[u8], pid: u32) -> TaskError {
    let text = || String::from_utf8_lossy(payload).into_owned();
    match kind {
        Kind::Panicked => {
            let report = mp_core::codec::decode::<PanicReport>(payload).unwrap_or_default();
            TaskError::Panicked {
                message: report.message,
                location: report.location,
                backtrace: report.backtrace,
                pid,
            }
        }
        Kind::Unsendable => TaskError::Encode {
            what: Part::Result,
            reason: text(),
        },
        _ => TaskError::Decode {
            what: Part::Arguments,
            reason: text(),
        },
    }
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a payload that is no text")
}
