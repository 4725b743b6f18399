//! Waiting for many results at once, of one pool or of several.
//!
//! Each result gets a waker of its own, which notes its number: so each completion is looked at once,
//! however many results there are.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    iter::FusedIterator,
    sync::Arc,
    task::{Wake, Waker},
    time::Duration,
};

use mp_core::deadline::Deadline;
use parking_lot::{Condvar, Mutex};

use crate::{callback, error::TaskError, result::AsyncResult};

/// When [`wait`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "return_when")]
pub enum Return {
    /// When any result is there.
    #[doc(alias = "FIRST_COMPLETED")]
    FirstCompleted,
    /// When any result is an error, or all are there. A cancelled task does not count as an error.
    #[doc(alias = "FIRST_EXCEPTION")]
    FirstError,
    /// When all are there.
    #[doc(alias = "ALL_COMPLETED")]
    All,
}

/// Waits for several results; which are there, and which are not. Both keep the order of `results`.
///
/// Without a `timeout` it waits as long as it takes. In a callback it does not wait for results of
/// the callback's own pool, which could not come.
///
/// # Examples
///
/// ```
/// use mp_pool::{Return, wait};
///
/// # mp_process::init_in_tests!();
/// # fn look() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = mp_pool::Pool::new(2)?;
/// let tasks = [3_u64, 4].map(|x| pool.apply_async(|x: u64| x * x, (x,)));
/// let (done, running) = wait(tasks, Return::FirstCompleted, None);
/// println!("{} done, {} still running", done.len(), running.len());
/// # Ok(())
/// # }
/// ```
pub fn wait<R>(
    results: impl IntoIterator<Item = AsyncResult<R>>,
    until: Return,
    timeout: Option<Duration>,
) -> (Vec<AsyncResult<R>>, Vec<AsyncResult<R>>) {
    let deadline = Deadline::from_timeout(timeout);
    let mut group = Group::new(results);
    for _ in 0..group.results.len() {
        let Some(index) = group.next(deadline) else {
            break;
        };
        let is_enough = match until {
            Return::FirstCompleted => true,
            Return::FirstError => has_failed(&group.results[&index].0),
            Return::All => false,
        };
        if is_enough {
            break;
        }
    }
    group.take_all().partition(AsyncResult::is_complete)
}

fn has_failed<R>(result: &AsyncResult<R>) -> bool {
    match result.get_timeout(Duration::ZERO) {
        None | Some(Ok(_) | Err(TaskError::Cancelled)) => false,
        Some(Err(_)) => true,
    }
}

/// The given results, each once, in the order in which they are there.
///
/// Those that are there already come first. In a callback, results of the callback's own pool come
/// without waiting; `get` tells what is the matter then.
///
/// # Examples
///
/// ```
/// # mp_process::init_in_tests!();
/// # fn look() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = mp_pool::Pool::new(2)?;
/// let tasks: Vec<_> = (0..9).map(|x| pool.apply_async(|x: u64| x * x, (x,))).collect();
/// for result in mp_pool::as_completed(tasks) {
///     println!("{}", result.get()?);
/// }
/// # Ok(())
/// # }
/// ```
pub fn as_completed<R>(results: impl IntoIterator<Item = AsyncResult<R>>) -> AsCompleted<R> {
    AsCompleted {
        group: Group::new(results),
    }
}

/// See [`as_completed`].
#[must_use = "iterators are lazy"]
pub struct AsCompleted<R> {
    group: Group<R>,
}

impl<R> AsCompleted<R> {
    /// Fails with [`Unfinished`] once `timeout` (from now on) is over and no result is there.
    pub fn timeout(self, timeout: Duration) -> AsCompletedTimeout<R> {
        AsCompletedTimeout {
            of: self.group.results.len(),
            group: self.group,
            deadline: Some(Deadline::after(timeout)),
        }
    }
}

impl<R> Iterator for AsCompleted<R> {
    type Item = AsyncResult<R>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = *self.group.results.first_key_value()?.0;
        // None: it would never come, as this is a callback.
        let index = self.group.next(None).unwrap_or(first);
        self.group.take(index)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.group.results.len(), Some(self.group.results.len()))
    }
}

impl<R> ExactSizeIterator for AsCompleted<R> {}
impl<R> FusedIterator for AsCompleted<R> {}

/// See [`AsCompleted::timeout`].
#[must_use = "iterators are lazy"]
pub struct AsCompletedTimeout<R> {
    group: Group<R>,
    of: usize,
    /// `None` once it was over.
    deadline: Option<Deadline>,
}

impl<R> AsCompletedTimeout<R> {
    /// The results that were not there in time.
    pub fn into_unfinished(mut self) -> Vec<AsyncResult<R>> {
        self.group.take_all().collect()
    }
}

impl<R> Iterator for AsCompletedTimeout<R> {
    type Item = Result<AsyncResult<R>, Unfinished>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.group.results.is_empty() {
            return None;
        }
        let deadline = self.deadline?;
        if let Some(index) = self.group.next(Some(deadline)) {
            return self.group.take(index).map(Ok);
        }
        self.deadline = None;
        Some(Err(Unfinished {
            unfinished: self.group.results.len(),
            of: self.of,
        }))
    }
}

impl<R> FusedIterator for AsCompletedTimeout<R> {}

/// Some results were not there in time; see [`AsCompleted::timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{unfinished} (of {of}) results unfinished")]
#[non_exhaustive]
pub struct Unfinished {
    /// How many were not there.
    pub unfinished: usize,
    /// How many there were altogether.
    pub of: usize,
}

/// Results that are waited for together, by number.
struct Group<R> {
    results: BTreeMap<usize, (AsyncResult<R>, Waker)>,
    arrivals: Arc<Arrivals>,
}

/// Numbers of results that are there.
#[derive(Default)]
struct Arrivals {
    numbers: Mutex<VecDeque<usize>>,
    arrived: Condvar,
}

struct Arrival {
    number: usize,
    arrivals: Arc<Arrivals>,
}

impl Wake for Arrival {
    fn wake(self: Arc<Self>) {
        self.arrivals.numbers.lock().push_back(self.number);
        self.arrivals.arrived.notify_one();
    }
}

impl<R> Group<R> {
    fn new(results: impl IntoIterator<Item = AsyncResult<R>>) -> Self {
        let arrivals = Arc::<Arrivals>::default();
        let subscribe = |(number, result): (usize, AsyncResult<R>)| {
            let arrivals = arrivals.clone();
            let waker = Waker::from(Arc::new(Arrival { number, arrivals }));
            if !result.subscribe(&waker) {
                waker.wake_by_ref();
            }
            (number, (result, waker))
        };
        Self {
            results: results.into_iter().enumerate().map(subscribe).collect(),
            arrivals,
        }
    }

    /// The next that is there, each once; `None` at the deadline, or if waiting were for ever.
    fn next(&self, until: Option<Deadline>) -> Option<usize> {
        let mut numbers = self.arrivals.numbers.lock();
        loop {
            let number = numbers.pop_front();
            if number.is_some() || self.would_deadlock() {
                return number;
            }
            match until.map(Deadline::remaining) {
                None => self.arrivals.arrived.wait(&mut numbers),
                Some(left) if left.is_zero() => return None,
                Some(left) => {
                    self.arrivals.arrived.wait_for(&mut numbers, left);
                }
            }
        }
    }

    fn would_deadlock(&self) -> bool {
        let results = || self.results.values();
        callback::is_callback() && results().any(|(result, _)| result.would_deadlock())
    }

    fn take(&mut self, number: usize) -> Option<AsyncResult<R>> {
        let (result, waker) = self.results.remove(&number)?;
        result.unsubscribe(&waker);
        Some(result)
    }

    fn take_all(&mut self) -> impl Iterator<Item = AsyncResult<R>> + use<R> {
        let results = std::mem::take(&mut self.results).into_values();
        results.map(|(result, waker)| {
            result.unsubscribe(&waker);
            result
        })
    }
}

impl<R> Drop for Group<R> {
    fn drop(&mut self) {
        self.take_all().for_each(drop);
    }
}

impl<R> fmt::Debug for AsCompleted<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted")
            .field("left", &self.group.results.len())
            .finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for AsCompletedTimeout<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompletedTimeout")
            .field("left", &self.group.results.len())
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}
