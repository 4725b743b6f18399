//! The future outcome of a task, or of a whole map.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use mp_core::deadline::Deadline;
use serde::de::DeserializeOwned;

use crate::{
    dispatch::{Means, State},
    error::TaskError,
    job::Job,
    outcome::{Batch, Effects, decode_outcome, guard_decoding},
    progress::Progress,
    shared::{Haste, Shared},
    wait::{Waitable, sealed},
};

/// What becomes of a task, or of all tasks of a map.
///
/// Dropping it changes nothing for the task.
#[doc(alias = "Future")]
pub struct AsyncResult<R> {
    shared: Arc<Shared>,
    batch: Arc<Batch>,
    /// `None` if it was not accepted.
    job: Option<Arc<Job>>,
    decode: fn(&Batch) -> Result<R, TaskError>,
    haste: Haste,
    progress: Option<Progress>,
}

/// How often a bar moves.
const FRAME: Duration = Duration::from_millis(50);

impl<R: DeserializeOwned> AsyncResult<R> {
    pub(crate) fn one(shared: Arc<Shared>, batch: Arc<Batch>, job: Option<Arc<Job>>) -> Self {
        Self {
            shared,
            batch,
            job,
            decode: decode_one,
            haste: Haste::Each,
            progress: None,
        }
    }
}

impl<R: DeserializeOwned> AsyncResult<Vec<R>> {
    pub(crate) fn many(shared: Arc<Shared>, batch: Arc<Batch>, job: Option<Arc<Job>>) -> Self {
        Self {
            shared,
            batch,
            job,
            decode: decode_many,
            haste: Haste::Last,
            progress: None,
        }
    }
}

fn decode_one<R: DeserializeOwned>(batch: &Batch) -> Result<R, TaskError> {
    let mut value = None;
    decode_all(batch, |only| value = Some(only))?;
    Ok(value.expect("a complete batch of one holds one outcome"))
}

fn decode_many<R: DeserializeOwned>(batch: &Batch) -> Result<Vec<R>, TaskError> {
    let mut values = Vec::with_capacity(batch.arrived() as usize);
    decode_all(batch, |value| values.push(value))?;
    Ok(values)
}

fn decode_all<R: DeserializeOwned>(batch: &Batch, each: impl FnMut(R)) -> Result<(), TaskError> {
    guard_decoding(|| batch.decode_all(decode_outcome::<R>, each))
}

impl<R> AsyncResult<R> {
    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// [`TaskError`]; [`TaskError::WouldDeadlock`] in a callback of the same pool, unless the outcome is
    /// there already.
    pub fn get(self) -> Result<R, TaskError> {
        self.check_callback()?;
        self.wait_until(None);
        (self.decode)(&self.batch)
    }

    /// Waits for the value until `timeout` is over; `None` if it is not there by then.
    ///
    /// Each call decodes the value anew. Some values can be decoded only once, as a manager's proxies.
    pub fn get_timeout(&self, timeout: Duration) -> Option<Result<R, TaskError>> {
        if let Err(error) = self.check_callback() {
            return Some(Err(error));
        }
        self.wait(timeout).then(|| (self.decode)(&self.batch))
    }

    /// Waits until there is an outcome, or `timeout` is over; whether there is one.
    pub fn wait(&self, timeout: Duration) -> bool {
        if self.check_callback().is_err() {
            return false;
        }
        self.wait_until(Some(Deadline::after(timeout)))
    }

    fn wait_until(&self, until: Option<Deadline>) -> bool {
        let Some(progress) = &self.progress else {
            return self.shared.wait(&*self.batch.gate, until, self.haste);
        };
        loop {
            let frame = Deadline::after(FRAME);
            let next = until.map_or(frame, |until| until.min(frame));
            let over = self.shared.wait(&*self.batch.gate, Some(next), self.haste);
            progress.show(self.completed());
            if over || until.is_some_and(Deadline::is_over) {
                return over;
            }
        }
    }

    /// Has it shown to whoever waits how far it is.
    pub(crate) fn with_progress(mut self, progress: Option<Progress>) -> Self {
        self.progress = progress;
        self
    }

    fn check_callback(&self) -> Result<(), TaskError> {
        if self.shared.is_in_callback() && !self.batch.gate.is_complete() {
            return Err(TaskError::WouldDeadlock);
        }
        Ok(())
    }

    /// Whether there is an outcome; its callbacks have run.
    #[must_use]
    pub fn ready(&self) -> bool {
        if !self.batch.gate.is_complete() {
            self.shared.pump(); // nobody else may be looking
        }
        self.batch.gate.is_complete()
    }

    /// What the task is doing, or how it ended. The value is not decoded for this: one that cannot be
    /// counts as [`Succeeded`](TaskState::Succeeded), until somebody asks for it.
    #[must_use]
    pub fn state(&self) -> TaskState {
        if self.ready() {
            return TaskState::after(self.batch.first_error().as_ref());
        }
        let running = |job| self.shared.lock().is_running(job);
        match self.batch.gate.is_settled() || self.job.as_ref().is_some_and(running) {
            true => TaskState::Running,
            false => TaskState::Waiting,
        }
    }

    /// Whether a worker is at the task, or at one of the map, right now.
    #[must_use]
    pub fn running(&self) -> bool {
        self.state() == TaskState::Running
    }

    /// Whether the task was cancelled, and does not run any more.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.state() == TaskState::Cancelled
    }

    /// Whether the outcome is a value; `None` while there is no outcome.
    #[must_use]
    pub fn successful(&self) -> Option<bool> {
        self.state().successful()
    }

    /// How many tasks have an outcome; of a map that is how far it is.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.shared.pump(); // nobody else may be looking
        self.batch.arrived()
    }

    /// Stops the task (or all tasks of the map): one that has not begun never begins; one that runs
    /// ends with its worker, and no other task with it. Whether the task is cancelled, now or before;
    /// `false` if there was nothing to stop.
    ///
    /// The outcome is [`TaskError::Cancelled`], once the task does not run any more.
    pub fn cancel(&self) -> bool {
        self.stop(State::cancel)
    }

    /// Stops what has not begun, and leaves what runs to its end, as Python's `Future.cancel` does.
    /// Whether there was such a task, or it is cancelled already.
    pub fn cancel_waiting(&self) -> bool {
        self.stop(State::cancel_waiting)
    }

    fn stop(&self, stop: fn(&mut State, &Arc<Job>, Means<'_>, &mut Effects) -> bool) -> bool {
        let Some(job) = &self.job else { return false };
        if self.batch.gate.is_complete() {
            return self.cancelled();
        }
        self.shared
            .with(|state, means, effects| stop(state, job, means, effects))
    }
}

impl<R: 'static> AsyncResult<R> {
    /// Has `callback` called with the value, on the pool's callback thread, before anybody who
    /// waits is told; also if the value was there already.
    ///
    /// Callbacks of one pool run one after the other; a slow one delays the next, and nothing else.
    /// A panic in a callback concerns nobody else. Each gets a value of its own, decoded anew.
    #[doc(alias = "callback")]
    pub fn on_success(self, callback: impl FnOnce(&R) + Send + 'static) -> Self {
        self.call_back(|outcome| {
            if let Ok(value) = outcome {
                callback(value);
            }
        })
    }

    /// Has `callback` called with the error, as [`on_success`](Self::on_success) with the value.
    #[doc(alias = "error_callback")]
    pub fn on_error(self, callback: impl FnOnce(&TaskError) + Send + 'static) -> Self {
        self.call_back(|outcome| {
            if let Err(error) = outcome {
                callback(error);
            }
        })
    }

    fn call_back(self, callback: impl FnOnce(&Result<R, TaskError>) + Send + 'static) -> Self {
        let (batch, decode) = (self.batch.clone(), self.decode);
        let run = Box::new(move || callback(&decode(&batch)));
        let mut effects = Effects::default();
        self.batch.gate.call_back(run, &mut effects);
        self.shared.carry_out(effects);
        self.shared.watch(&self.batch.gate); // nobody else may be looking
        self
    }
}

impl<R> Waitable for AsyncResult<R> {}

impl<R> sealed::Waitable for AsyncResult<R> {
    fn is_complete(&self) -> bool {
        self.batch.gate.is_complete()
    }

    fn has_failed(&self) -> bool {
        self.is_complete() && self.state() == TaskState::Failed
    }

    fn subscribe(&self, waker: &Waker) -> bool {
        let open = self.batch.gate.register_waker(waker);
        if open {
            self.shared.watch(&self.batch.gate); // nobody else may be looking
        }
        open
    }

    fn unsubscribe(&self) {
        self.batch.gate.unregister_waker();
    }

    fn would_deadlock(&self) -> bool {
        self.check_callback().is_err()
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R, TaskError>;

    /// Works under any runtime: the pool's own thread looks after a result that is awaited.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if sealed::Waitable::subscribe(&*self, context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready((self.decode)(&self.batch))
    }
}

/// The task may go on for long: its end wakes nobody who has given up.
impl<R> Drop for AsyncResult<R> {
    fn drop(&mut self) {
        self.batch.gate.unregister_waker();
    }
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self.ready() {
            true => self.batch.first_error(),
            false => None,
        };
        self.state().describe::<R>("AsyncResult", error, f)
    }
}

/// What a task is doing, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskState {
    /// It has not begun, and has no outcome.
    #[doc(alias = "PENDING")]
    Waiting,
    /// A worker is at it; or its outcome is there, and its callbacks have not run.
    Running,
    /// There is a value.
    #[doc(alias = "FINISHED")]
    Succeeded,
    /// There is an error.
    Failed,
    /// It was cancelled, and will not run.
    Cancelled,
}

impl TaskState {
    /// That of a task which ended with this error, or none.
    pub(crate) fn after(error: Option<&TaskError>) -> Self {
        match error {
            None => Self::Succeeded,
            Some(TaskError::Cancelled) => Self::Cancelled,
            Some(_) => Self::Failed,
        }
    }

    /// Whether there is a value; `None` while there is no outcome.
    pub(crate) fn successful(self) -> Option<bool> {
        match self {
            Self::Waiting | Self::Running => None,
            Self::Succeeded => Some(true),
            Self::Failed | Self::Cancelled => Some(false),
        }
    }

    /// Writes a result in this state.
    pub(crate) fn describe<R>(
        self,
        name: &str,
        error: Option<TaskError>,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let mut result = f.debug_struct(name);
        result.field("of", &format_args!("{}", std::any::type_name::<R>()));
        result.field("state", &self);
        if let (Self::Failed, Some(error)) = (self, error) {
            result.field("error", &error);
        }
        result.finish()
    }
}
