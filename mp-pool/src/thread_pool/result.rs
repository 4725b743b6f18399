//! What becomes of a task of a [`ThreadPool`](super::ThreadPool).

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use mp_core::deadline::Deadline;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{
    callback,
    error::TaskError,
    result::TaskState,
    wait::{Waitable, sealed},
};

type Outcome<R> = Result<R, TaskError>;
type Callback<R> = Box<dyn FnOnce(&Outcome<R>) + Send>;

/// Where an outcome is put and found.
pub(super) struct Slot<R> {
    inner: Mutex<Inner<R>>,
    settled: Condvar,
}

struct Inner<R> {
    state: State<R>,
    callbacks: Vec<Callback<R>>,
    waker: Option<Waker>,
}

/// ```text
/// WAITING ──► BEGUN ──► ENDING (callbacks run) ──► SETTLED
///    └───── cancelled ────►
/// ```
enum State<R> {
    Waiting,
    Begun,
    Ending,
    /// How it ended, and the outcome until somebody takes it.
    Settled(TaskState, Option<Outcome<R>>),
}

impl<R> Slot<R> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                state: State::Waiting,
                callbacks: Vec::new(),
                waker: None,
            }),
            settled: Condvar::new(),
        })
    }

    /// Marks it as begun, for the first or a further time; `false` if it was cancelled before.
    pub(super) fn begin(&self) -> bool {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Waiting => inner.state = State::Begun,
            State::Begun => {}
            State::Ending | State::Settled(..) => return false,
        }
        true
    }

    /// Calls the callbacks, then tells who waits. Once only: by whoever began it, or cancelled it.
    pub(super) fn settle(&self, outcome: Outcome<R>) {
        let mut inner = self.inner.lock();
        inner.state = State::Ending;
        while !inner.callbacks.is_empty() {
            let callbacks = std::mem::take(&mut inner.callbacks);
            MutexGuard::unlocked(&mut inner, || {
                callbacks.into_iter().for_each(|each| call(each, &outcome));
            });
        }
        let state = TaskState::after(outcome.as_ref().err());
        inner.state = State::Settled(state, Some(outcome));
        let waker = inner.waker.take();
        drop(inner);
        self.settled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Settles it, unless it has begun; whether it is cancelled then.
    fn cancel(&self) -> bool {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Waiting => inner.state = State::Ending,
            State::Settled(state, _) => return state == TaskState::Cancelled,
            State::Begun | State::Ending => return false,
        }
        drop(inner);
        self.settle(Err(TaskError::Cancelled));
        true
    }

    fn wait_until(&self, until: Option<Deadline>) -> bool {
        let mut inner = self.inner.lock();
        while !inner.is_settled() {
            match until.map(Deadline::remaining) {
                None => self.settled.wait(&mut inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => {
                    self.settled.wait_for(&mut inner, left);
                }
            }
        }
        true
    }

    fn take(&self) -> Outcome<R> {
        match &mut self.inner.lock().state {
            State::Settled(_, outcome) => outcome.take().unwrap_or(Err(TaskError::Taken)),
            State::Waiting | State::Begun | State::Ending => {
                unreachable!("it is taken once it is settled")
            }
        }
    }

    fn put_back(&self, outcome: Outcome<R>) {
        if let State::Settled(_, place) = &mut self.inner.lock().state {
            *place = Some(outcome);
        }
    }

    /// Keeps `callback` for the end; hands it back if that has been.
    fn add_callback(&self, callback: Callback<R>) -> Result<(), Callback<R>> {
        let mut inner = self.inner.lock();
        if inner.is_settled() {
            return Err(callback);
        }
        inner.callbacks.push(callback);
        Ok(())
    }
}

impl<R> Inner<R> {
    fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled(..))
    }
}

fn call<R>(callback: Callback<R>, outcome: &Outcome<R>) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| callback(outcome))) {
        callback::report_panic(&*panic);
    }
}

/// What becomes of a task of a [`ThreadPool`](crate::ThreadPool), or of all tasks of a map.
///
/// What can be asked of it is what an [`AsyncResult`](crate::AsyncResult) tells; but the value exists
/// once. Whoever asks again for what was taken gets [`TaskError::Taken`].
#[must_use = "the task runs anyway, but only the result tells what became of it"]
pub struct ThreadResult<R> {
    slot: Arc<Slot<R>>,
}

impl<R> ThreadResult<R> {
    pub(super) fn new(slot: Arc<Slot<R>>) -> Self {
        Self { slot }
    }

    pub(super) fn settled(outcome: Outcome<R>) -> Self {
        let slot = Slot::new();
        slot.settle(outcome);
        Self { slot }
    }

    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// [`TaskError`]
    pub fn get(self) -> Outcome<R> {
        self.slot.wait_until(None);
        self.slot.take()
    }

    /// Waits for the value until `timeout` is over, and takes it; `None` if it is not there by then.
    pub fn get_timeout(&self, timeout: Duration) -> Option<Outcome<R>> {
        self.wait(timeout).then(|| self.slot.take())
    }

    /// Waits until there is an outcome, or `timeout` is over; whether there is one.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.slot.wait_until(Some(Deadline::after(timeout)))
    }

    /// Whether there is an outcome; its callbacks have run.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.slot.inner.lock().is_settled()
    }

    /// What the task is doing, or how it ended.
    #[must_use]
    pub fn state(&self) -> TaskState {
        match self.slot.inner.lock().state {
            State::Waiting => TaskState::Waiting,
            State::Begun | State::Ending => TaskState::Running,
            State::Settled(state, _) => state,
        }
    }

    /// Whether a thread is at the task, or at one of the map, right now.
    #[must_use]
    pub fn running(&self) -> bool {
        self.state() == TaskState::Running
    }

    /// Whether the task was cancelled.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.state() == TaskState::Cancelled
    }

    /// Whether the outcome is a value; `None` while there is no outcome.
    #[must_use]
    pub fn successful(&self) -> Option<bool> {
        self.state().successful()
    }

    /// Cancels the task, if it has not begun; whether it is cancelled. A thread cannot be stopped, so
    /// this and [`cancel_waiting`](Self::cancel_waiting) are the same.
    pub fn cancel(&self) -> bool {
        self.slot.cancel()
    }

    /// Cancels the task, if it has not begun; whether it is cancelled.
    pub fn cancel_waiting(&self) -> bool {
        self.slot.cancel()
    }

    /// Has `callback` called with the value, before anybody who waits is told: by the thread that did
    /// the task, or by this one if there is an outcome.
    ///
    /// Those of one result are called in the order in which they were added. A slow one keeps its
    /// thread from the next task; a panic in one concerns nobody else.
    #[doc(alias = "callback")]
    pub fn on_success(self, callback: impl FnOnce(&R) + Send + 'static) -> Self {
        self.call_back(Box::new(|outcome| {
            if let Ok(value) = outcome {
                callback(value);
            }
        }))
    }

    /// Has `callback` called with the error, as [`on_success`](Self::on_success) with the value.
    #[doc(alias = "error_callback")]
    pub fn on_error(self, callback: impl FnOnce(&TaskError) + Send + 'static) -> Self {
        self.call_back(Box::new(|outcome| {
            if let Err(error) = outcome {
                callback(error);
            }
        }))
    }

    /// Nobody else can ask for the outcome meanwhile: there is one handle to it, and it is here.
    fn call_back(self, callback: Callback<R>) -> Self {
        if let Err(callback) = self.slot.add_callback(callback) {
            let outcome = self.slot.take();
            call(callback, &outcome);
            self.slot.put_back(outcome);
        }
        self
    }
}

impl<R> Waitable for ThreadResult<R> {}

impl<R> sealed::Waitable for ThreadResult<R> {
    fn is_complete(&self) -> bool {
        self.ready()
    }

    fn has_failed(&self) -> bool {
        self.state() == TaskState::Failed
    }

    fn subscribe(&self, waker: &Waker) -> bool {
        let waker = waker.clone(); // it and the last are a runtime's code: not under the lock
        let mut inner = self.slot.inner.lock();
        if inner.is_settled() {
            return false;
        }
        let last = inner.waker.replace(waker);
        drop(inner);
        drop(last);
        true
    }

    fn unsubscribe(&self) {
        let last = self.slot.inner.lock().waker.take();
        drop(last); // not under the lock
    }

    fn would_deadlock(&self) -> bool {
        false
    }
}

impl<R> Future for ThreadResult<R> {
    type Output = Outcome<R>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if sealed::Waitable::subscribe(&*self, context.waker()) {
            return Poll::Pending;
        }
        Poll::Ready(self.slot.take())
    }
}

impl<R> fmt::Debug for ThreadResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match &self.slot.inner.lock().state {
            State::Settled(_, Some(Err(error))) => Some(error.clone()),
            _ => None,
        };
        self.state().describe::<R>("ThreadResult", error, f)
    }
}
