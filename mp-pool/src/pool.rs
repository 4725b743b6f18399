//! The pool and its handles.

use std::{
    fmt, io,
    ops::Deref,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use mp_core::{deadline::Deadline, hooks};
use mp_process::Target;
use mp_queue::lane::Hub;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    builder::{Options, PoolBuilder},
    dispatch::Phase,
    error::{PoolError, TaskError},
    imap::Imap,
    keeper::{self, Alarm},
    result::AsyncResult,
    share::Share,
    shared::Shared,
    task::{Task, Tasks},
};

/// A pool of worker processes.
///
/// Functions and closures that capture nothing run in the workers; arguments and results are
/// whatever serde can encode. What can be called is on [`PoolHandle`], to which this derefs: a handle is
/// cheap to clone and can be used from any thread, while the `Pool` itself decides how long all of
/// it lives.
///
/// A pool starts two threads of its own in this process (and a third with the first callback).
///
/// ```no_run
/// # // Starts processes, which a documentation test cannot do.
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mp_process::init();
/// let pool = mp_pool::Pool::new(2)?;
/// assert_eq!(pool.map(|x: u64| x * x, 0..5)?, [0, 1, 4, 9, 16]);
/// assert_eq!(pool.apply(|a: u32, b: u32| a + b, (40, 2))?, 42);
/// pool.close().join()?;
/// # Ok(())
/// # }
/// ```
///
/// # Process death
///
/// A worker that dies by whatever means fails the one task it was at, with
/// [`TaskError::WorkerDied`], at once; tasks it had not begun go to the others, and it is replaced.
/// When this process dies, its workers end within a second.
#[doc(alias = "multiprocessing.Pool")]
pub struct Pool {
    handle: PoolHandle,
    /// Dropping it ends the pool.
    armed: bool,
}

/// Submits tasks to a pool, from any thread.
///
/// Once the pool is closed, terminated or dropped, every task is [`TaskError::Closed`]; once it is broken,
/// [`TaskError::PoolBroken`].
#[derive(Clone)]
pub struct PoolHandle {
    shared: Arc<Shared>,
}

/// A pool that takes no more tasks, and can be joined.
#[must_use = "the pool ends by itself, but only `join` waits for it and tells how it went"]
pub struct Closing {
    shared: Arc<Shared>,
}

/// The area for arguments that are too large for the lanes; only what is used is allocated.
const AREA: [usize; 3] = [64 << 30, 1 << 30, 64 << 20];

impl Pool {
    /// Starts `workers` worker processes.
    ///
    /// # Errors
    ///
    /// As [`PoolBuilder::build`].
    pub fn new(workers: usize) -> Result<Self, PoolError> {
        Self::builder().workers(workers).build()
    }

    /// A pool with options.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    pub(crate) fn start(options: Options) -> Result<Self, PoolError> {
        // Where a limit forbids the largest area, a smaller one will do.
        let hubs = AREA.into_iter().map(Hub::create);
        let hub = hubs
            .reduce(|hub, smaller| hub.or(smaller))
            .expect("three sizes")?;
        let workers = options.workers_at_first();
        let shared = Arc::new(Shared::new(hub, options, Alarm::new()?));
        let pool = Self {
            handle: PoolHandle {
                shared: shared.clone(),
            },
            armed: true,
        };
        // The keeper comes last: without it nobody would replace (or end) a worker.
        for _ in 0..workers {
            if let Err(error) = keeper::start_worker(&shared) {
                shared.abandon();
                return Err(error.into());
            }
        }
        let threads = spawn(&shared, "mp-pool-keeper", keeper::keep)
            .and_then(|()| spawn(&shared, "mp-pool-results", Shared::collect));
        if let Err(error) = threads {
            shared.abandon();
            return Err(error.into());
        }
        let weak = Arc::downgrade(&shared);
        let hook = hooks::at_exit(EXIT_PRIORITY, move || end_at_exit(&weak));
        shared.exit_hook.lock().replace(hook);
        Ok(pool)
    }

    /// A handle for other threads, callbacks included.
    #[must_use]
    pub fn handle(&self) -> PoolHandle {
        self.handle.clone()
    }

    /// Takes no more tasks; the workers finish those they have, then end.
    pub fn close(self) -> Closing {
        self.handle.close();
        self.disarm()
    }

    /// Ends the workers now. What they had not finished is [`TaskError::Terminated`].
    pub fn terminate(self) -> Closing {
        self.handle.terminate();
        self.disarm()
    }

    /// From here on dropping handles does not end it.
    pub(crate) fn disarm(mut self) -> Closing {
        self.armed = false;
        Closing {
            shared: self.handle.shared.clone(),
        }
    }
}

/// Starts a thread of the pool.
fn spawn(shared: &Arc<Shared>, name: &str, run: fn(&Arc<Shared>)) -> io::Result<()> {
    let own = shared.clone();
    let thread = thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(move || run(&own))?;
    shared.threads.lock().push(thread);
    Ok(())
}

/// As in Python: before the children are joined.
const EXIT_PRIORITY: i32 = 15;

/// The program ends: a closed pool finishes its work, and so does that of an executor; an open one is
/// terminated.
fn end_at_exit(shared: &Weak<Shared>) {
    let Some(shared) = shared.upgrade() else {
        return;
    };
    let handle = PoolHandle { shared };
    if handle.shared.finishes_at_exit() {
        handle.close();
    }
    let closing = handle.shared.lock().phase == Phase::Closing;
    if !closing {
        handle.terminate();
    }
    let until = (!closing).then(|| handle.shared.patience());
    handle.shared.wait_ended(until);
}

impl Drop for Pool {
    /// Terminates the pool, and waits until its workers are gone: the grace period and a second at
    /// most.
    fn drop(&mut self) {
        if self.armed {
            self.handle.terminate();
            let shared = &self.handle.shared;
            if shared.wait_ended(Some(shared.patience())) {
                shared.join_threads();
            }
        }
    }
}

impl Deref for Pool {
    type Target = PoolHandle;

    fn deref(&self) -> &PoolHandle {
        &self.handle
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

impl fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Pool")
            .field("phase", &state.phase)
            .field("workers", &state.workers.len())
            .finish_non_exhaustive()
    }
}

impl Closing {
    /// Waits until all workers have ended.
    ///
    /// # Errors
    ///
    /// [`PoolError::Broken`] if the pool broke before all tasks were done.
    pub fn join(self) -> Result<(), PoolError> {
        self.finish()
    }

    pub(crate) fn finish(&self) -> Result<(), PoolError> {
        self.shared.wait_ended(None);
        self.shared.join_threads();
        match self.shared.lock().broken.clone() {
            Some(reason) => Err(PoolError::Broken { reason }),
            None => Ok(()),
        }
    }

    /// Waits until all workers have ended, or `timeout` is over; whether they have.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        self.shared.wait_ended(Some(Deadline::after(timeout)))
    }
}

impl fmt::Debug for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closing")
            .field("phase", &self.shared.lock().phase)
            .finish_non_exhaustive()
    }
}

impl PoolHandle {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes no more tasks; the workers finish those they have, then end.
    pub fn close(&self) {
        self.shared
            .with(|state, means, effects| state.close(means, effects));
    }

    /// Ends the workers now: SIGTERM, and SIGKILL after the grace period. What they had not
    /// finished is [`TaskError::Terminated`]. Returns at once; may be called from a callback.
    pub fn terminate(&self) {
        self.shared
            .with(|state, means, effects| state.terminate(means, effects));
    }

    /// Cancels all tasks that no worker has begun.
    pub(crate) fn cancel_unbegun(&self) {
        self.shared
            .with(|state, means, effects| state.cancel_unbegun(means, effects));
    }

    /// How many workers the pool has, or may have.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.options.workers
    }

    /// The process ids of the workers that are there now.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let state = self.shared.lock();
        state.workers.iter().map(|worker| worker.pid).collect()
    }

    /// The process ids of the workers that have tasks.
    #[must_use]
    pub fn busy_pids(&self) -> Vec<u32> {
        let state = self.shared.lock();
        let busy = state
            .workers
            .iter()
            .filter(|worker| !worker.frames.is_empty());
        busy.map(|worker| worker.pid).collect()
    }

    /// How many workers are up: started, and done with the initializer.
    #[must_use]
    pub fn ready(&self) -> usize {
        let state = self.shared.lock();
        state.workers.iter().filter(|worker| worker.is_up()).count()
    }

    /// How many workers were replaced so far: after a death, or because their tasks were used up.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.shared.lock().restarts
    }

    /// How many callbacks have panicked so far.
    #[must_use]
    pub fn callback_panics(&self) -> u64 {
        self.shared.callbacks.panics()
    }

    /// Makes a large value available to all tasks: each worker gets and decodes it once, and the tasks'
    /// arguments have only its handle.
    ///
    /// ```no_run
    /// # // Starts processes, which a documentation test cannot do.
    /// use mp_pool::{Pool, Share};
    ///
    /// fn is_known(word: String, words: Share<Vec<String>>) -> bool {
    ///     words.contains(&word)
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pool = Pool::new(2)?;
    /// let words = pool.share(vec!["pool".to_owned(), "puddle".to_owned()])?;
    /// let asked = ["pool", "pond"].map(|word| (word.to_owned(), words.clone()));
    /// assert_eq!(pool.starmap(is_known, asked)?, [true, false]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`TaskError::Encode`]: the value has no encoding, or there is no memory for it.
    pub fn share<T>(&self, value: T) -> Result<Share<T>, TaskError>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Share::new(&self.shared, value)
    }

    /// One task, with options of its own; nothing happens before [`Task::submit`].
    pub fn task<F, A>(&self, function: F, args: A) -> Task<F, A>
    where
        F: Target<A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        Task::new(self.clone(), function, args)
    }

    /// Tasks over `items`, with options of their own: what [`map`](Self::map),
    /// [`imap`](Self::imap) and their kin are short for.
    pub fn tasks<F, I>(&self, function: F, items: I) -> Tasks<F, I, (I::Item,)>
    where
        F: Target<(I::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        Tasks::new(self.clone(), function, items)
    }

    /// As [`tasks`](Self::tasks), but each item is the tuple of all arguments.
    pub fn startasks<F, I>(&self, function: F, items: I) -> Tasks<F, I, I::Item>
    where
        F: Target<I::Item>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        Tasks::new(self.clone(), function, items)
    }

    /// Calls `function` in a worker and waits for its value.
    ///
    /// # Errors
    ///
    /// [`TaskError`]; always [`TaskError::WouldDeadlock`] in a callback of the same pool.
    pub fn apply<F, A>(&self, function: F, args: A) -> Result<F::Output, TaskError>
    where
        F: Target<A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.shared().check_callback()?;
        self.apply_async(function, args).get()
    }

    /// Has `function` called in a worker; what becomes of it is told by the [`AsyncResult`].
    pub fn apply_async<F, A>(&self, function: F, args: A) -> AsyncResult<F::Output>
    where
        F: Target<A>,
        F::Output: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.task(function, args).submit()
    }

    /// Calls `function` with each of `items`, and waits for all values; they are in the order of
    /// the items.
    ///
    /// The items travel in chunks, four for each worker; see [`Tasks::chunksize`].
    ///
    /// # Errors
    ///
    /// That of the first item that has one, after all of them are done.
    pub fn map<F, I>(&self, function: F, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: Target<(I::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.tasks(function, items).map()
    }

    /// As [`map`](Self::map), without waiting. The items are taken and encoded before this returns.
    pub fn map_async<F, I>(&self, function: F, items: I) -> AsyncResult<Vec<F::Output>>
    where
        F: Target<(I::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.tasks(function, items).map_async()
    }

    /// As [`map`](Self::map), but each item is the tuple of all arguments.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn starmap<F, I>(&self, function: F, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: Target<I::Item>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.startasks(function, items).map()
    }

    /// As [`starmap`](Self::starmap), without waiting.
    pub fn starmap_async<F, I>(&self, function: F, items: I) -> AsyncResult<Vec<F::Output>>
    where
        F: Target<I::Item>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.startasks(function, items).map_async()
    }

    /// Calls `function` with each of `items`, lazily: values come in the order of the items, as soon
    /// as they are there, and only a few items are taken ahead of them (see [`Tasks::buffer`]).
    pub fn imap<F, I>(&self, function: F, items: I) -> Imap<I::IntoIter, F::Output>
    where
        F: Target<(I::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.tasks(function, items).imap()
    }

    /// As [`imap`](Self::imap), but values come in the order in which they are ready.
    pub fn imap_unordered<F, I>(&self, function: F, items: I) -> Imap<I::IntoIter, F::Output>
    where
        F: Target<(I::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        I: IntoIterator<Item: Serialize + DeserializeOwned + 'static>,
    {
        self.tasks(function, items).imap_unordered()
    }
}
