//! How a pool is made.

use std::{marker::PhantomData, num::NonZeroU64, sync::Arc, time::Duration};

use mp_core::codec;
use mp_process::{StartMethod, Target, target::Address};
use serde::{Serialize, de::DeserializeOwned};

use crate::{error::PoolError, pool::Pool, worker::Begin};

/// What a pool is to be like; see [`Pool::builder`].
///
/// ```no_run
/// # // Starts processes, which a documentation test cannot do.
/// use std::time::Duration;
/// use mp_pool::Pool;
///
/// let pool = Pool::builder()
///     .workers(4)
///     .task_timeout(Duration::from_secs(10))
///     .max_tasks_per_child(1000)
///     .build()?;
/// # Ok::<(), mp_pool::PoolError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct PoolBuilder {
    options: Options,
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) workers: usize,
    pub(crate) on_demand: bool,
    pub(crate) name: String,
    pub(crate) start_method: Option<StartMethod>,
    pub(crate) initializer: Option<Arc<dyn Initializer>>,
    pub(crate) initializer_timeout: Option<Duration>,
    pub(crate) max_tasks_per_child: Option<u64>,
    pub(crate) max_memory_per_child: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) task_timeout: Option<Duration>,
    pub(crate) retries: u32,
    pub(crate) max_restarts: u32,
    pub(crate) grace: Duration,
    pub(crate) kill_tree: bool,
    pub(crate) task_ring: usize,
    pub(crate) result_ring: usize,
}

impl Options {
    /// How many workers are started with the pool. One is even on demand: what keeps workers from
    /// starting is told by whoever makes the pool.
    pub(crate) fn workers_at_first(&self) -> usize {
        if self.on_demand { 1 } else { self.workers }
    }

    /// How a worker is made now.
    pub(crate) fn start_method(&self) -> StartMethod {
        match self.start_method.unwrap_or_else(mp_process::start_method) {
            StartMethod::Fork => StartMethod::Spawn, // the program's own choice, for its own children
            method => method,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("workers", &self.workers)
            .field("name", &self.name)
            .field("initializer", &self.initializer.is_some())
            .field("task_timeout", &self.task_timeout)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}

/// What each worker calls before its first task.
pub(crate) trait Initializer: Send + Sync {
    /// Names the function and appends its arguments; runs while descriptors are collected.
    fn encode(&self, out: &mut Vec<u8>) -> Result<Address, String>;
}

struct Call<F, A> {
    args: A,
    function: PhantomData<fn() -> F>,
}

impl<F, A> Initializer for Call<F, A>
where
    F: Target<A>,
    A: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    fn encode(&self, out: &mut Vec<u8>) -> Result<Address, String> {
        codec::encode_into(&self.args, out).map_err(|error| error.to_string())?;
        Address::of::<Begin<F, A>>().map_err(|error| error.to_string())
    }
}

/// Deaths in a row, with no task completed between, that a pool puts up with.
pub const MAX_RESTARTS: u32 = 100;
/// The time a worker has to end after SIGTERM, before SIGKILL.
pub const GRACE: Duration = Duration::from_millis(500);

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            options: Options {
                workers: std::thread::available_parallelism().map_or(1, usize::from),
                on_demand: false,
                name: "PoolWorker".to_owned(),
                start_method: None,
                initializer: None,
                initializer_timeout: None,
                max_tasks_per_child: None,
                max_memory_per_child: None,
                memory_limit: None,
                task_timeout: None,
                retries: 0,
                max_restarts: MAX_RESTARTS,
                grace: GRACE,
                kill_tree: false,
                task_ring: 0,
                result_ring: 0,
            },
        }
    }
}

impl PoolBuilder {
    fn set(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }

    /// How many workers. As many as there are usable CPUs (affinity mask and cgroup quota) unless
    /// told otherwise.
    #[doc(alias = "processes")]
    pub fn workers(self, count: usize) -> Self {
        self.set(|options| options.workers = count)
    }

    /// Starts one worker with the pool, and the others when a task would have to wait for one: those
    /// that are idle are used first. A worker that was started stays.
    pub fn on_demand(self) -> Self {
        self.set(|options| options.on_demand = true)
    }

    /// What the workers are called: `NAME-1`, `NAME-2`…; `PoolWorker` unless told otherwise.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set(|options| options.name = name.into())
    }

    /// How the workers are made: [`StartMethod::Spawn`] or [`StartMethod::ForkServer`]. A pool has
    /// threads, and with those [`StartMethod::Fork`] is refused.
    ///
    /// Unless told otherwise, it is the one that the program has set, or `Spawn` in the place of
    /// `Fork`.
    pub fn start_method(self, method: StartMethod) -> Self {
        self.set(|options| options.start_method = Some(method))
    }

    /// Calls `function` in each worker before its first task. The arguments may hold handles
    /// (queues, locks, …), and are sent again to each worker that replaces another. Ends of connections are
    /// none for this: the first worker gets them, and no further one can be started.
    ///
    /// If it panics, the pool is [broken](crate::TaskError::PoolBroken).
    #[doc(alias = "initargs")]
    pub fn initializer<F, A>(self, function: F, args: A) -> Self
    where
        F: Target<A>,
        A: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        let _ = function; // it has no size: its type is all of it
        self.set(|options| {
            options.initializer = Some(Arc::new(Call::<F, A> {
                args,
                function: PhantomData,
            }));
        })
    }

    /// Breaks the pool if a worker's initializer takes longer than this.
    pub fn initializer_timeout(self, limit: Duration) -> Self {
        self.set(|options| options.initializer_timeout = Some(limit))
    }

    /// Replaces a worker after so many tasks; its successor is started before it leaves.
    #[doc(alias = "maxtasksperchild")]
    pub fn max_tasks_per_child(self, tasks: u64) -> Self {
        self.set(|options| options.max_tasks_per_child = Some(tasks))
    }

    /// Replaces a worker once it holds more than so many bytes of memory after a task, also one in the
    /// middle of a chunk: it goes on until its successor is there, which gets the rest. The task itself
    /// may take more; to limit that too, see [`memory_limit`](Self::memory_limit).
    pub fn max_memory_per_child(self, bytes: u64) -> Self {
        self.set(|options| options.max_memory_per_child = Some(bytes))
    }

    /// No worker can have more than so many bytes of memory: an allocation beyond them fails, and by that
    /// Rust code ends its process. The task is [`WorkerDied`](crate::TaskError::WorkerDied) by SIGABRT,
    /// which does not name the limit; standard error has the line of the allocation that failed.
    pub fn memory_limit(self, bytes: u64) -> Self {
        self.set(|options| options.memory_limit = Some(bytes))
    }

    /// Ends the worker of a task that runs longer than this, counted from its own start.
    pub fn task_timeout(self, limit: Duration) -> Self {
        self.set(|options| options.task_timeout = Some(limit))
    }

    /// Gives a task whose worker died to another worker, up to so many times; the error after the last
    /// attempt names the last worker. A promise that doing a task twice does no harm.
    ///
    /// A task that ran longer than its limit is not repeated, nor one that panicked.
    pub fn retries(self, times: u32) -> Self {
        self.set(|options| options.retries = times)
    }

    /// How many workers may die in a row, with no task completed between, before the pool counts as
    /// broken; [`MAX_RESTARTS`] unless told otherwise.
    pub fn max_restarts(self, deaths: u32) -> Self {
        self.set(|options| options.max_restarts = deaths)
    }

    /// All or nothing, as in Python: the first worker that dies breaks the pool. The task it was at is
    /// [`TaskError::WorkerDied`](crate::TaskError::WorkerDied), all others are
    /// [`TaskError::PoolBroken`](crate::TaskError::PoolBroken), and so is whatever is submitted later.
    ///
    /// A worker that is ended for the sake of a limit or a [`cancel`](crate::AsyncResult::cancel) does not
    /// count.
    #[doc(alias = "BreakAll")]
    #[doc(alias = "BrokenProcessPool")]
    pub fn break_all(self) -> Self {
        self.max_restarts(0)
    }

    /// How long a worker that is told to end has before it is killed; [`GRACE`] unless told
    /// otherwise.
    pub fn grace(self, grace: Duration) -> Self {
        self.set(|options| options.grace = grace)
    }

    /// When a worker ends, whatever its tasks started and left behind is killed too (its process
    /// group).
    pub fn kill_tree(self, yes: bool) -> Self {
        self.set(|options| options.kill_tree = yes)
    }

    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// [`PoolError::Invalid`] for no workers, none of their tasks, or forks. [`PoolError::System`] and
    /// [`PoolError::Start`]: the system refused; what had been started is ended again.
    pub fn build(mut self) -> Result<Pool, PoolError> {
        let options = &mut self.options;
        if options.workers == 0 {
            return Err(PoolError::Invalid("a pool needs at least one worker"));
        }
        if options.start_method == Some(StartMethod::Fork) {
            return Err(PoolError::Invalid(
                "a pool has threads, so its workers cannot be forks of this process",
            ));
        }
        let tasks = options.max_tasks_per_child;
        if tasks.is_some_and(|tasks| NonZeroU64::new(tasks).is_none()) {
            return Err(PoolError::Invalid(
                "a worker has to be allowed at least one task",
            ));
        }
        // A large pool gets by with small rings.
        let share = RINGS / options.workers.max(1);
        options.result_ring = (share / 2 + 1).next_power_of_two() / 2;
        options.result_ring = options.result_ring.clamp(64 << 10, 256 << 10);
        options.task_ring = options.result_ring / 2;
        Pool::start(self.options)
    }
}

/// Memory for the rings of all workers together, as far as that leaves each enough.
const RINGS: usize = 32 << 20;
