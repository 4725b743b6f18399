//! The face of `concurrent.futures`.

use std::fmt;

use mp_process::Target;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    builder::PoolBuilder,
    error::PoolError,
    imap::Imap,
    pool::{Closing, Pool, PoolHandle},
    result::AsyncResult,
};

/// A pool that finishes what it was given: `submit`, `map`, `shutdown`.
///
/// The differences to [`Pool`], on which it stands: [`shutdown`](Self::shutdown) can be called by
/// reference, any number of times, and from any thread; neither dropping it nor the end of the program
/// terminates the tasks, they wait for them; and workers are started [on
/// demand](PoolBuilder::on_demand). Whatever else a pool can do is there through
/// [`handle`](Self::handle).
///
/// ```no_run
/// # // Starts processes, which a documentation test cannot do.
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mp_process::init();
/// let executor = mp_pool::Executor::new(2)?;
/// let sum = executor.submit(|a: u32, b: u32| a + b, (40, 2));
/// for square in executor.map(|x: u64| x * x, 0..5) {
///     println!("{}", square?);
/// }
/// assert_eq!(sum.get()?, 42);
/// executor.shutdown(true, false)?;
/// # Ok(())
/// # }
/// ```
///
/// # Process death
///
/// As with [`Pool`]: a worker that dies fails the one task it was at, and is replaced. Where work
/// is of no use unless all of it is done, see [`PoolBuilder::break_all`].
#[doc(alias = "ProcessPoolExecutor")]
pub struct Executor {
    handle: PoolHandle,
    closing: Closing,
}

impl Executor {
    /// Up to `workers` worker processes, started [on demand](PoolBuilder::on_demand). For more
    /// options: [`PoolBuilder::executor`].
    ///
    /// # Errors
    ///
    /// As [`PoolBuilder::build`].
    #[doc(alias = "max_workers")]
    pub fn new(workers: usize) -> Result<Self, PoolError> {
        Pool::builder().workers(workers).executor()
    }

    /// What can be called besides, from any thread.
    #[must_use]
    pub fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    /// Has `function` called in a worker.
    ///
    /// After a shutdown the outcome is [`TaskError::Closed`](crate::TaskError::Closed); once the
    /// pool is broken, [`TaskError::PoolBroken`](crate::TaskError::PoolBroken).
    pub fn submit<F, A>(&self, function: F, args: A) -> AsyncResult<F::Output>
    where
        F: Target<A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.handle.apply_async(function, args)
    }

    /// Calls `function` with each of `items`; values come in the order of the items.
    ///
    /// Lazy: items are taken only as values are asked for, a few ahead of them, so an endless input
    /// is fine (Python takes all of them at once). An error is the outcome of its item alone.
    pub fn map<F, I>(&self, function: F, items: I) -> Imap<I::IntoIter, F::Output>
    where
        F: Target<(I::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.handle.imap(function, items)
    }

    /// As [`map`](Self::map), but each item is the tuple of all arguments: `a.zip(b)` for what
    /// Python writes as `map(f, a, b)`.
    pub fn starmap<F, I>(&self, function: F, items: I) -> Imap<I::IntoIter, F::Output>
    where
        F: Target<I::Item>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.handle.startasks(function, items).imap()
    }

    /// As [`map`](Self::map), with `chunksize` items travelling together.
    ///
    /// # Errors
    ///
    /// [`PoolError::Invalid`] if `chunksize` is 0.
    pub fn map_chunks<F, I>(
        &self,
        function: F,
        items: I,
        chunksize: usize,
    ) -> Result<Imap<I::IntoIter, F::Output>, PoolError>
    where
        F: Target<(I::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        if chunksize == 0 {
            return Err(PoolError::Invalid("a chunk needs at least one item"));
        }
        let tasks = self.handle.tasks(function, items);
        Ok(tasks.chunksize(chunksize).imap())
    }

    /// Takes no more tasks. Those it has are finished, or with `cancel` those that have not begun are
    /// [`TaskError::Cancelled`](crate::TaskError::Cancelled). With `wait` it returns when all is
    /// done and the workers have ended.
    ///
    /// # Errors
    ///
    /// With `wait`: [`PoolError::Broken`] if the pool broke before all tasks were done.
    #[doc(alias = "cancel_futures")]
    pub fn shutdown(&self, wait: bool, cancel: bool) -> Result<(), PoolError> {
        self.handle.close();
        if cancel {
            self.handle.cancel_unbegun();
        }
        match wait {
            true => self.closing.finish(),
            false => Ok(()),
        }
    }
}

/// The pool's workers and tasks become the executor's.
impl From<Pool> for Executor {
    fn from(pool: Pool) -> Self {
        let handle = pool.handle();
        handle.shared().finish_at_exit();
        Self {
            handle,
            closing: pool.disarm(),
        }
    }
}

impl PoolBuilder {
    /// An [`Executor`], whose workers are started [on demand](Self::on_demand). One that has all of them
    /// from the beginning: `Executor::from(builder.build()?)`.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn executor(self) -> Result<Executor, PoolError> {
        self.on_demand().build().map(Executor::from)
    }
}

impl Drop for Executor {
    /// Takes no more tasks, and waits until all it has are done and the workers have ended.
    fn drop(&mut self) {
        let _ = self.shutdown(true, false); // each task has told of a broken pool
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Executor").field(&self.handle).finish()
    }
}
