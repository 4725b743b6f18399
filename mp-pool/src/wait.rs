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

use crate::callback;

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
pub fn wait<T: Waitable>(
    results: impl IntoIterator<Item = T>,
    until: Return,
    timeout: Option<Duration>,
) -> (Vec<T>, Vec<T>) {
    let deadline = Deadline::from_timeout(timeout);
    let mut group = Group::new(results);
    for _ in 0..group.results.len() {
        let Some(index) = group.next(deadline) else {
            break;
        };
        let is_enough = match until {
            Return::FirstCompleted => true,
            Return::FirstError => group.results[&index].has_failed(),
            Return::All => false,
        };
        if is_enough {
            break;
        }
    }
    group.take_all().partition(sealed::Waitable::is_complete)
}

/// What [`wait`] and [`as_completed`] take: [`AsyncResult`](crate::AsyncResult) and
/// [`ThreadResult`](crate::ThreadResult).
pub trait Waitable: sealed::Waitable {}

pub(crate) mod sealed {
    use std::task::Waker;

    pub trait Waitable {
        fn is_complete(&self) -> bool;
        /// With an error, and not a cancellation.
        fn has_failed(&self) -> bool;
        /// Has `waker` woken on completion, in place of the last one; `false` if that has been.
        fn subscribe(&self, waker: &Waker) -> bool;
        fn unsubscribe(&self);
        /// Whether waiting here would keep the outcome from coming.
        fn would_deadlock(&self) -> bool;
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
pub fn as_completed<T: Waitable>(results: impl IntoIterator<Item = T>) -> AsCompleted<T> {
    AsCompleted {
        group: Group::new(results),
    }
}

/// See [`as_completed`].
#[must_use = "iterators are lazy"]
pub struct AsCompleted<T: Waitable> {
    group: Group<T>,
}

impl<T: Waitable> AsCompleted<T> {
    /// Fails with [`Unfinished`] once `timeout` (from now on) is over and no result is there.
    pub fn timeout(self, timeout: Duration) -> AsCompletedTimeout<T> {
        AsCompletedTimeout {
            of: self.group.results.len(),
            group: self.group,
            deadline: Some(Deadline::after(timeout)),
        }
    }
}

impl<T: Waitable> Iterator for AsCompleted<T> {
    type Item = T;

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

impl<T: Waitable> ExactSizeIterator for AsCompleted<T> {}
impl<T: Waitable> FusedIterator for AsCompleted<T> {}

/// See [`AsCompleted::timeout`].
#[must_use = "iterators are lazy"]
pub struct AsCompletedTimeout<T: Waitable> {
    group: Group<T>,
    of: usize,
    /// `None` once it was over.
    deadline: Option<Deadline>,
}

impl<T: Waitable> AsCompletedTimeout<T> {
    /// The results that were not there in time.
    pub fn into_unfinished(mut self) -> Vec<T> {
        self.group.take_all().collect()
    }
}

impl<T: Waitable> Iterator for AsCompletedTimeout<T> {
    type Item = Result<T, Unfinished>;

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

impl<T: Waitable> FusedIterator for AsCompletedTimeout<T> {}

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
struct Group<T: Waitable> {
    results: BTreeMap<usize, T>,
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

impl<T: Waitable> Group<T> {
    fn new(results: impl IntoIterator<Item = T>) -> Self {
        let arrivals = Arc::<Arrivals>::default();
        let subscribe = |(number, result): (usize, T)| {
            let arrivals = arrivals.clone();
            let waker = Waker::from(Arc::new(Arrival { number, arrivals }));
            if !result.subscribe(&waker) {
                waker.wake_by_ref();
            }
            (number, result)
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
        callback::is_callback() && results().any(T::would_deadlock)
    }

    fn take(&mut self, number: usize) -> Option<T> {
        let result = self.results.remove(&number)?;
        result.unsubscribe();
        Some(result)
    }

    fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        let results = std::mem::take(&mut self.results).into_values();
        results.inspect(T::unsubscribe)
    }
}

impl<T: Waitable> Drop for Group<T> {
    fn drop(&mut self) {
        self.take_all().for_each(drop);
    }
}

impl<T: Waitable> fmt::Debug for AsCompleted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted")
            .field("left", &self.group.results.len())
            .finish_non_exhaustive()
    }
}

impl<T: Waitable> fmt::Debug for AsCompletedTimeout<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompletedTimeout")
            .field("left", &self.group.results.len())
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}
