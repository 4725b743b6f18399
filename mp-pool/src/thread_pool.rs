//! The call styles of a pool, over threads.

mod imap;
mod result;

use std::{
    any::Any,
    fmt,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mp_core::{
    deadline::Deadline,
    primitive::{AtomicBool, AtomicU64, Ordering},
};
use mp_process::Target;
use parking_lot::{Condvar, Mutex};

pub use self::{imap::ThreadImap, result::ThreadResult};

use self::result::Slot;
use crate::{
    chunk,
    error::{PoolError, TaskError},
    outcome::panic_text,
};

/// The call styles of [`Pool`](crate::Pool), over threads of this process.
///
/// For work that waits more than it computes, or whose values cannot or should not be encoded: a
/// program changes from one to the other in the line that makes the pool. What can be called is on
/// [`ThreadPoolHandle`], to which this derefs. What differs:
///
/// * Nothing is encoded: arguments and results are moved, and need not be `Serialize`. They have to
///   be `Send`. Functions are as for [`Pool`](crate::Pool), but a closure may capture what is `Copy`.
/// * Statics are those of the program, for all tasks; there is no initializer.
/// * A crash (`abort`, a fault, out of memory) is that of the whole program. A panic is
///   [`TaskError::Panicked`] here too, without its place, and the panic hook prints it.
/// * A thread cannot be stopped: what has begun runs to its end. So a task that runs cannot be
///   cancelled, there is no time limit, and [`terminate`](Self::terminate) (and dropping the pool) waits
///   for those that have begun. The end of the program does not wait for threads.
/// * A value can be taken once, see [`TaskError::Taken`].
/// * Callbacks run in the thread that did the task, not in one of their own.
/// * A task, or a callback, that waits for another task of the same pool can wait for ever, if all threads do so.
/// * What is about processes is missing: [`PoolBuilder`](crate::PoolBuilder), `stats`, `pids` and their
///   kin, and [`share`](crate::PoolHandle::share), as nothing is encoded (an `Arc` does it). So are `task`,
///   `tasks` and `startasks` with their options, [`MapIn`](crate::MapIn), and `cancel` and `cancel_waiting`
///   of `imap`: dropping the iterator takes no more items.
///
/// # Examples
///
/// ```
/// let pool = mp_pool::ThreadPool::new(2)?;
/// assert_eq!(pool.map(|x: u64| x * x, 0..5)?, [0, 1, 4, 9, 16]);
/// assert_eq!(pool.apply(|a: u32, b: u32| a + b, (40, 2))?, 42);
/// pool.close().join()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.pool.ThreadPool")]
#[doc(alias = "ThreadPoolExecutor")]
pub struct ThreadPool {
    handle: ThreadPoolHandle,
    /// Dropping it ends the pool.
    armed: bool,
}

/// Submits tasks to a [`ThreadPool`], from any thread.
///
/// Once the pool is closed, terminated or dropped, every task is [`TaskError::Closed`].
#[derive(Clone)]
pub struct ThreadPoolHandle {
    shared: Arc<Shared>,
}

/// A [`ThreadPool`] that takes no more tasks, and can be joined.
#[must_use = "the threads end by themselves, but only `join` waits for them"]
pub struct ThreadsClosing {
    shared: Arc<Shared>,
}

/// What the handles and threads of one pool have in common.
struct Shared {
    workers: usize,
    /// `None` once it is closed.
    tasks: Mutex<Option<Sender<Job>>>,
    terminated: AtomicBool,
    /// Not joined so far.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// How many threads have not ended.
    running: Mutex<usize>,
    /// Told when one has.
    ended: Condvar,
}

/// A task; it settles its outcome by itself.
type Job = Box<dyn FnOnce(Turn) + Send>;

/// What a task's turn brings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Run,
    /// The pool was terminated before.
    Skip,
}

/// Names pools' threads apart.
static POOLS: AtomicU64 = AtomicU64::new(1);

impl ThreadPool {
    /// Starts `workers` threads.
    ///
    /// # Errors
    ///
    /// [`PoolError::Invalid`] for none, [`PoolError::System`] if the system refused one.
    pub fn new(workers: usize) -> Result<Self, PoolError> {
        if workers == 0 {
            return Err(PoolError::Invalid("a pool needs at least one worker"));
        }
        let (sender, receiver) = unbounded();
        let shared = Arc::new(Shared {
            workers,
            tasks: Mutex::new(Some(sender)),
            terminated: AtomicBool::new(false),
            threads: Mutex::default(),
            running: Mutex::new(0),
            ended: Condvar::new(),
        });
        let pool = Self {
            handle: ThreadPoolHandle { shared },
            armed: true,
        };
        let id = POOLS.fetch_add(1, Ordering::Relaxed); // only has to be unique
        for index in 0..workers {
            pool.shared
                .start(format!("mp-threads-{id}-{index}"), receiver.clone())?;
        }
        Ok(pool)
    }

    /// A handle for other threads, tasks and callbacks included.
    #[must_use]
    pub fn handle(&self) -> ThreadPoolHandle {
        self.handle.clone()
    }

    /// Takes no more tasks; the threads finish those they have, then end.
    pub fn close(self) -> ThreadsClosing {
        self.handle.close();
        self.disarm()
    }

    /// The threads end once they have done the task they are at. Those that have not begun are
    /// [`TaskError::Terminated`].
    pub fn terminate(self) -> ThreadsClosing {
        self.handle.terminate();
        self.disarm()
    }

    /// From here on dropping handles does not end it.
    fn disarm(mut self) -> ThreadsClosing {
        self.armed = false;
        ThreadsClosing {
            shared: self.handle.shared.clone(),
        }
    }
}

impl Drop for ThreadPool {
    /// Terminates the pool, and waits for what has begun.
    fn drop(&mut self) {
        if self.armed {
            self.handle.terminate();
            self.shared.join();
        }
    }
}

impl Deref for ThreadPool {
    type Target = ThreadPoolHandle;

    fn deref(&self) -> &ThreadPoolHandle {
        &self.handle
    }
}

impl Shared {
    fn start(self: &Arc<Self>, name: String, tasks: Receiver<Job>) -> Result<(), PoolError> {
        let own = self.clone();
        *self.running.lock() += 1;
        let thread = thread::Builder::new().name(name);
        let thread = thread.spawn(move || {
            own.work(&tasks);
            *own.running.lock() -= 1;
            own.ended.notify_all();
        });
        let thread = thread.inspect_err(|_| *self.running.lock() -= 1)?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// A thread's life.
    fn work(&self, tasks: &Receiver<Job>) {
        for job in tasks {
            job(match self.terminated.load(Ordering::Relaxed) {
                true => Turn::Skip,
                false => Turn::Run,
            });
        }
    }

    /// Waits until no thread is left; `false` if `until` came first.
    fn wait_ended(&self, until: Deadline) -> bool {
        let mut running = self.running.lock();
        while *running > 0 {
            let left = until.remaining();
            if left.is_zero() {
                return false;
            }
            self.ended.wait_for(&mut running, left);
        }
        true
    }

    /// Waits for the threads, but for this one.
    fn join(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join(); // tasks' panics are caught
            }
        }
    }
}

impl ThreadsClosing {
    /// Waits until all threads have ended.
    ///
    /// # Errors
    ///
    /// None; but it can stand where [`Closing::join`](crate::Closing::join) does.
    pub fn join(self) -> Result<(), PoolError> {
        self.shared.join();
        Ok(())
    }

    /// Waits until all threads have ended, or `timeout` is over; whether they have.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        self.shared.wait_ended(Deadline::after(timeout))
    }
}

fn call<F: Target<A>, A>(function: F, args: A) -> Result<F::Output, TaskError> {
    catch_unwind(AssertUnwindSafe(|| function.call(args))).map_err(|panic| panicked(&*panic))
}

fn panicked(panic: &(dyn Any + Send)) -> TaskError {
    TaskError::Panicked {
        message: panic_text(panic).to_owned(),
        location: None,
        backtrace: None,
        pid: std::process::id(),
    }
}

impl ThreadPoolHandle {
    /// Takes no more tasks; the threads finish those they have, then end.
    pub fn close(&self) {
        self.shared.tasks.lock().take();
    }

    /// The threads end once they have done the task they are at. Those that have not begun are
    /// [`TaskError::Terminated`]. Returns at once.
    pub fn terminate(&self) {
        // A thread that does not see it yet does one more task.
        self.shared.terminated.store(true, Ordering::Relaxed);
        self.close();
    }

    /// How many threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers
    }

    fn post(&self, job: Job) -> Result<(), TaskError> {
        let tasks = self.shared.tasks.lock();
        let tasks = tasks.as_ref().ok_or(TaskError::Closed)?;
        tasks.send(job).map_err(|_| TaskError::Closed)
    }

    /// Calls `function` in a thread and waits for its value.
    ///
    /// # Errors
    ///
    /// [`TaskError`]
    pub fn apply<F, A>(&self, function: F, args: A) -> Result<F::Output, TaskError>
    where
        F: Target<A, Output: Send> + Send,
        A: Send + 'static,
    {
        self.apply_async(function, args).get()
    }

    /// Has `function` called in a thread; what becomes of it is told by the [`ThreadResult`].
    pub fn apply_async<F, A>(&self, function: F, args: A) -> ThreadResult<F::Output>
    where
        F: Target<A, Output: Send> + Send,
        A: Send + 'static,
    {
        let slot = Slot::new();
        let own = slot.clone();
        let posted = self.post(Box::new(move |turn| {
            if own.begin() {
                own.settle(match turn {
                    Turn::Run => call(function, args),
                    Turn::Skip => Err(TaskError::Terminated),
                });
            }
        }));
        match posted {
            Ok(()) => ThreadResult::new(slot),
            Err(error) => ThreadResult::settled(Err(error)),
        }
    }

    /// Calls `function` with each of `items`, and waits for all values; they are in the order of
    /// the items. The items travel in chunks, four for each thread.
    ///
    /// # Errors
    ///
    /// That of the first item that has one, after all of them are done.
    pub fn map<F, I>(&self, function: F, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: Target<(I::Item,), Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        self.map_async(function, items).get()
    }

    /// As [`map`](Self::map), without waiting.
    pub fn map_async<F, I>(&self, function: F, items: I) -> ThreadResult<Vec<F::Output>>
    where
        F: Target<(I::Item,), Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        self.starmap_async(function, items.into_iter().map(|item| (item,)))
    }

    /// As [`map`](Self::map), but each item is the tuple of all arguments.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn starmap<F, I>(&self, function: F, items: I) -> Result<Vec<F::Output>, TaskError>
    where
        F: Target<I::Item, Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        self.starmap_async(function, items).get()
    }

    /// As [`starmap`](Self::starmap), without waiting.
    pub fn starmap_async<F, I>(&self, function: F, items: I) -> ThreadResult<Vec<F::Output>>
    where
        F: Target<I::Item, Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        let mut items: Vec<_> = items.into_iter().collect();
        let size = chunk::default_size(items.len(), self.workers());
        if items.is_empty() {
            return ThreadResult::settled(Ok(Vec::new()));
        }
        let slot = Slot::new();
        let chunks = items.len().div_ceil(size);
        let gather = Arc::new(Gather {
            parts: Mutex::new((0..chunks).map(|_| None).collect()),
            slot: slot.clone(),
        });
        for number in 0..chunks {
            let rest = items.split_off(size.min(items.len()));
            let chunk = std::mem::replace(&mut items, rest);
            let own = gather.clone();
            let posted = self.post(Box::new(move |turn| own.run(number, turn, function, chunk)));
            if let Err(error) = posted {
                gather.put(number, Err(error));
            }
        }
        ThreadResult::new(slot)
    }

    /// Calls `function` with each of `items`, lazily: values come in the order of the items, as soon
    /// as they are there, and only two items for each thread are taken ahead of them.
    pub fn imap<F, I>(&self, function: F, items: I) -> ThreadImap<I::IntoIter, F>
    where
        F: Target<(I::Item,), Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        ThreadImap::new(self.clone(), function, items.into_iter(), true)
    }

    /// As [`imap`](Self::imap), but values come in the order in which they are ready.
    pub fn imap_unordered<F, I>(&self, function: F, items: I) -> ThreadImap<I::IntoIter, F>
    where
        F: Target<(I::Item,), Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        ThreadImap::new(self.clone(), function, items.into_iter(), false)
    }
}

/// What became of a chunk.
type Part<R> = Result<Vec<R>, TaskError>;

/// Chunks of one map, until all are there.
struct Gather<R> {
    parts: Mutex<Vec<Option<Part<R>>>>,
    slot: Arc<Slot<Vec<R>>>,
}

impl<R> Gather<R> {
    fn run<F, A>(&self, number: usize, turn: Turn, function: F, chunk: Vec<A>)
    where
        F: Target<A, Output = R>,
    {
        if !self.slot.begin() {
            return; // cancelled
        }
        let part = match turn {
            Turn::Skip => Err(TaskError::Terminated),
            // All of them are called, and the first error counts.
            Turn::Run => {
                let all: Vec<_> = chunk.into_iter().map(|args| call(function, args)).collect();
                all.into_iter().collect()
            }
        };
        self.put(number, part);
    }

    fn put(&self, number: usize, part: Part<R>) {
        if let Some(parts) = self.add(number, part) {
            let all: Result<Vec<_>, _> = parts.into_iter().flatten().collect();
            self.slot
                .settle(all.map(|all| all.into_iter().flatten().collect()));
        }
    }

    /// All of them, with the last one.
    fn add(&self, number: usize, part: Part<R>) -> Option<Vec<Option<Part<R>>>> {
        let mut parts = self.parts.lock();
        parts[number] = Some(part);
        let complete = parts.iter().all(Option::is_some);
        complete.then(|| std::mem::take(&mut *parts))
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

impl fmt::Debug for ThreadPoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.describe("ThreadPool", f)
    }
}

impl fmt::Debug for ThreadsClosing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.describe("ThreadsClosing", f)
    }
}

impl Shared {
    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("workers", &self.workers)
            .field("running", &*self.running.lock())
            .finish_non_exhaustive()
    }
}
