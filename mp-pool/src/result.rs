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
    callback::Callback,
    dispatch::Job,
    error::TaskError,
    outcome::{Batch, Effects, decode_outcome, guard_decoding},
    shared::{Haste, Shared},
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
}

impl<R: DeserializeOwned> AsyncResult<R> {
    pub(crate) fn one(shared: Arc<Shared>, batch: Arc<Batch>, job: Option<Arc<Job>>) -> Self {
        Self {
            shared,
            batch,
            job,
            decode: decode_one,
            haste: Haste::Each,
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
        self.shared.wait(&*self.batch.gate, None, self.haste);
        (self.decode)(&self.batch)
    }

    /// Waits for the value until `timeout` is over; `None` if it is not there by then.
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
        let until = Some(Deadline::after(timeout));
        self.shared.wait(&*self.batch.gate, until, self.haste)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.batch.gate.is_complete()
    }

    /// Has `waker` woken on completion; `false` if that has been.
    pub(crate) fn subscribe(&self, waker: &Waker) -> bool {
        let open = self.batch.gate.register_waker(waker);
        if open {
            self.shared.watch(&self.batch.gate); // nobody else may be looking
        }
        open
    }

    pub(crate) fn unsubscribe(&self, waker: &Waker) {
        self.batch.gate.unregister_waker(waker);
    }

    /// Whether waiting here would keep the outcome from coming.
    pub(crate) fn would_deadlock(&self) -> bool {
        self.check_callback().is_err()
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

    /// Whether the outcome is a value; `None` while there is no outcome.
    #[must_use]
    pub fn successful(&self) -> Option<bool> {
        self.ready().then(|| (self.decode)(&self.batch).is_ok())
    }

    /// Stops the task (or all tasks of the map): one that has not begun never begins; one that runs
    /// ends with its worker, and no other task with it. `false` if there was nothing to stop.
    ///
    /// The outcome is [`TaskError::Cancelled`], once the task does not run any more.
    pub fn cancel(&self) -> bool {
        let Some(job) = &self.job else { return false };
        !self.batch.gate.is_complete()
            && self
                .shared
                .with(|state, means, effects| state.cancel(job, means, effects))
    }
}

impl<R: 'static> AsyncResult<R> {
    /// Has `callback` called with the value, on the pool's callback thread, before anybody who
    /// waits is told.
    ///
    /// Callbacks of one pool run one after the other; a slow one delays the next, and nothing else.
    /// A panic in a callback concerns nobody else.
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
        match self.batch.gate.add_callback(run) {
            Ok(()) => self.shared.watch(&self.batch.gate),
            Err(run) => {
                let mut effects = Effects::default();
                effects.callbacks.push(Callback {
                    run: vec![run],
                    then: None,
                });
                self.shared.carry_out(effects);
            }
        }
        self
    }
}

impl<R> Future for AsyncResult<R> {
    type Output = Result<R, TaskError>;

    /// Works under any runtime: the pool's own thread looks after a result that is awaited.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.subscribe(context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready((self.decode)(&self.batch))
    }
}

impl<R> fmt::Debug for AsyncResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult")
            .field("ready", &self.batch.gate.is_complete())
            .finish_non_exhaustive()
    }
}
