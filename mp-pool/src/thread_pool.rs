//! The call styles of a pool, over threads.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mp_core::{
    deadline::Deadline,
    primitive::{AtomicBool, AtomicU64, Ordering},
};
use mp_process::Target;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{
    chunk,
    error::{PoolError, TaskError},
    imap::NotYet,
    outcome::panic_text,
};

/// The call styles of [`Pool`](crate::Pool), over threads of this process.
///
/// For work that waits more than it computes, or whose values cannot or should not be encoded: a
/// program changes from one to the other in the line that makes the pool. What differs:
///
/// * Nothing is encoded: arguments and results are moved, and need not be `Serialize`. They have to
///   be `Send`. Functions are as for [`Pool`](crate::Pool), but a closure may capture what is `Copy`.
/// * A crash (`abort`, a fault, out of memory) is that of the whole program. A panic is
///   [`TaskError::Panicked`] here too, without its place, and the panic hook prints it.
/// * A thread cannot be stopped: what has begun runs to its end, so a task that runs cannot be cancelled,
///   there is no time limit, and [`terminate`](Self::terminate) cancels only what has not begun.
/// * A result can be taken once: its methods take `self` where those of
///   [`AsyncResult`](crate::AsyncResult) can decode once more.
///
/// A task that waits for another one of the same pool can wait for ever, if all threads do so.
///
/// # Examples
///
/// ```
/// let pool = mp_pool::ThreadPool::new(2)?;
/// assert_eq!(pool.map(|x: u64| x * x, 0..5)?, [0, 1, 4, 9, 16]);
/// assert_eq!(pool.apply(|a: u32, b: u32| a + b, (40, 2))?, 42);
/// pool.close().join();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.pool.ThreadPool")]
#[doc(alias = "ThreadPoolExecutor")]
pub struct ThreadPool {
    /// `None` once it is closed.
    tasks: Option<Sender<Job>>,
    terminated: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A [`ThreadPool`] that takes no more tasks.
#[must_use = "the threads end by themselves, but only `join` waits for them"]
#[derive(Debug)]
pub struct ThreadsClosing {
    threads: Vec<JoinHandle<()>>,
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
        let mut pool = Self {
            tasks: Some(sender),
            terminated: Arc::default(),
            threads: Vec::with_capacity(workers),
        };
        let id = POOLS.fetch_add(1, Ordering::Relaxed); // only has to be unique
        for index in 0..workers {
            let (receiver, terminated) = (receiver.clone(), pool.terminated.clone());
            let thread = thread::Builder::new().name(format!("mp-threads-{id}-{index}"));
            let thread = thread.spawn(move || work(&receiver, &terminated))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// How many threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// Takes no more tasks; the threads finish those they have, then end.
    pub fn close(mut self) -> ThreadsClosing {
        self.tasks = None;
        ThreadsClosing {
            threads: std::mem::take(&mut self.threads),
        }
    }

    /// The threads end once they have done the task they are at. Those that have not begun are
    /// [`TaskError::Terminated`].
    pub fn terminate(self) -> ThreadsClosing {
        self.terminated.store(true, Ordering::Relaxed); // the channel orders it
        self.close()
    }

    fn post(&self, job: Job) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(job); // the threads, and so the receivers, outlive this
        }
    }

    /// Calls `function` in a thread and waits for its value.
    ///
    /// # Errors
    ///
    /// [`TaskError::Panicked`]
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
        self.post(Box::new(move |turn| {
            own.settle_with(turn, || call(function, args));
        }));
        ThreadResult { slot }
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
        let slot = Slot::new();
        if items.is_empty() {
            slot.settle(Ok(Vec::new()));
            return ThreadResult { slot };
        }
        let chunks = items.len().div_ceil(size);
        let gather = Arc::new(Gather {
            parts: Mutex::new((0..chunks).map(|_| None).collect()),
            slot: slot.clone(),
        });
        for number in 0..chunks {
            let rest = items.split_off(size.min(items.len()));
            let chunk = std::mem::replace(&mut items, rest);
            let gather = gather.clone();
            self.post(Box::new(move |turn| {
                gather.run(number, turn, function, chunk)
            }));
        }
        ThreadResult { slot }
    }

    /// Calls `function` with each of `items`, lazily: values come in the order of the items, as soon
    /// as they are there, and only two items for each thread are taken ahead of them.
    pub fn imap<F, I>(&self, function: F, items: I) -> ThreadImap<'_, I::IntoIter, F>
    where
        F: Target<(I::Item,), Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        ThreadImap::new(self, function, items.into_iter(), true)
    }

    /// As [`imap`](Self::imap), but values come in the order in which they are ready.
    pub fn imap_unordered<F, I>(&self, function: F, items: I) -> ThreadImap<'_, I::IntoIter, F>
    where
        F: Target<(I::Item,), Output: Send> + Send,
        I: IntoIterator<Item: Send + 'static>,
    {
        ThreadImap::new(self, function, items.into_iter(), false)
    }
}

/// A thread's life.
fn work(tasks: &Receiver<Job>, terminated: &AtomicBool) {
    for job in tasks {
        job(match terminated.load(Ordering::Relaxed) {
            true => Turn::Skip,
            false => Turn::Run,
        });
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

impl Drop for ThreadPool {
    /// Terminates the pool, and waits for what has begun.
    fn drop(&mut self) {
        if self.tasks.take().is_none() {
            return; // closed, so the threads are somebody else's
        }
        self.terminated.store(true, Ordering::Relaxed); // the channel orders it
        join(std::mem::take(&mut self.threads));
    }
}

impl ThreadsClosing {
    /// Waits until all threads have ended.
    pub fn join(self) {
        join(self.threads);
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join(); // tasks' panics are caught
        }
    }
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool")
            .field("workers", &self.threads.len())
            .finish_non_exhaustive()
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
        let part = match (turn, self.slot.begin()) {
            (Turn::Skip, _) => Err(TaskError::Terminated),
            (Turn::Run, false) => return,
            // All of them are called, and the first error counts.
            (Turn::Run, true) => {
                let all: Vec<_> = chunk.into_iter().map(|args| call(function, args)).collect();
                all.into_iter().collect()
            }
        };
        let mut parts = self.parts.lock();
        parts[number] = Some(part);
        if parts.iter().all(Option::is_some) {
            let parts = std::mem::take(&mut *parts).into_iter().flatten();
            let all: Result<Vec<_>, _> = parts.collect();
            self.slot
                .settle(all.map(|all| all.into_iter().flatten().collect()));
        }
    }
}

/// Where an outcome is put and found.
struct Slot<R> {
    inner: Mutex<SlotInner<R>>,
    settled: Condvar,
}

struct SlotInner<R> {
    state: State<R>,
    waker: Option<Waker>,
}

enum State<R> {
    Waiting,
    Begun,
    Settled(Result<R, TaskError>),
    /// Taken by a poll.
    Taken,
}

impl<R> Slot<R> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(SlotInner {
                state: State::Waiting,
                waker: None,
            }),
            settled: Condvar::new(),
        })
    }

    /// Marks it as begun; `false` if it was cancelled before.
    fn begin(&self) -> bool {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Waiting => inner.state = State::Begun,
            State::Begun => {}
            State::Settled(_) | State::Taken => return false,
        }
        true
    }

    fn settle_with(&self, turn: Turn, run: impl FnOnce() -> Result<R, TaskError>) {
        match turn {
            Turn::Skip => self.settle(Err(TaskError::Terminated)),
            Turn::Run if self.begin() => self.settle(run()),
            Turn::Run => {}
        }
    }

    /// The first outcome counts.
    fn settle(&self, outcome: Result<R, TaskError>) {
        let inner = self.inner.lock();
        if !inner.is_settled() {
            self.settle_locked(inner, outcome);
        }
    }

    fn settle_locked(
        &self,
        mut inner: MutexGuard<'_, SlotInner<R>>,
        outcome: Result<R, TaskError>,
    ) {
        inner.state = State::Settled(outcome);
        let waker = inner.waker.take();
        drop(inner);
        self.settled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What becomes of a task of a [`ThreadPool`], or of all tasks of a map.
pub struct ThreadResult<R> {
    slot: Arc<Slot<R>>,
}

impl<R> ThreadResult<R> {
    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// [`TaskError`]
    ///
    /// # Panics
    ///
    /// If the value was awaited before.
    pub fn get(self) -> Result<R, TaskError> {
        self.wait_until(None);
        self.slot.inner.lock().take().expect(TAKEN)
    }

    /// Waits for the value until `timeout` is over; hands the result back if it is not there by then.
    ///
    /// # Errors
    ///
    /// This result, to be asked again.
    ///
    /// # Panics
    ///
    /// If the value was awaited before.
    pub fn get_timeout(self, timeout: Duration) -> Result<Result<R, TaskError>, Self> {
        match self.wait(timeout) {
            true => Ok(self.get()),
            false => Err(self),
        }
    }

    /// Waits until there is an outcome, or `timeout` is over; whether there is one.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.wait_until(Some(Deadline::after(timeout)))
    }

    fn wait_until(&self, until: Option<Deadline>) -> bool {
        let mut inner = self.slot.inner.lock();
        while !inner.is_settled() {
            match until.map(Deadline::remaining) {
                None => self.slot.settled.wait(&mut inner),
                Some(left) if left.is_zero() => return false,
                Some(left) => {
                    self.slot.settled.wait_for(&mut inner, left);
                }
            }
        }
        true
    }

    /// Whether there is an outcome.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.slot.inner.lock().is_settled()
    }

    /// Whether the outcome is a value; `None` while there is no outcome.
    #[must_use]
    pub fn successful(&self) -> Option<bool> {
        match &self.slot.inner.lock().state {
            State::Settled(outcome) => Some(outcome.is_ok()),
            State::Waiting | State::Begun | State::Taken => None,
        }
    }

    /// Cancels the task, if it has not begun; whether that was so. A thread cannot be stopped.
    pub fn cancel(&self) -> bool {
        let inner = self.slot.inner.lock();
        let waits = matches!(inner.state, State::Waiting);
        if waits {
            self.slot.settle_locked(inner, Err(TaskError::Cancelled));
        }
        waits
    }
}

const TAKEN: &str = "the value was awaited before";

impl<R> SlotInner<R> {
    fn is_settled(&self) -> bool {
        matches!(self.state, State::Settled(_) | State::Taken)
    }

    fn take(&mut self) -> Option<Result<R, TaskError>> {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Settled(outcome) => Some(outcome),
            State::Waiting | State::Begun | State::Taken => None,
        }
    }
}

impl<R> Future for ThreadResult<R> {
    type Output = Result<R, TaskError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.slot.inner.lock();
        if inner.is_settled() {
            return Poll::Ready(inner.take().expect(TAKEN));
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<R> fmt::Debug for ThreadResult<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadResult")
            .field("ready", &self.ready())
            .finish_non_exhaustive()
    }
}

/// The values of [`ThreadPool::imap`] and [`ThreadPool::imap_unordered`].
///
/// An error concerns its item alone; the next call goes on with the next item.
pub struct ThreadImap<'pool, I, F>
where
    I: Iterator,
    F: Target<(I::Item,)>,
{
    pool: &'pool ThreadPool,
    function: F,
    /// `None` once it is used up.
    items: Option<I>,
    ordered: bool,
    sent: u64,
    taken: u64,
    /// Came before their turn.
    early: BTreeMap<u64, Outcome<I, F>>,
    sender: Sender<(u64, Outcome<I, F>)>,
    outcomes: Receiver<(u64, Outcome<I, F>)>,
}

type Outcome<I, F> = Result<<F as Target<(<I as Iterator>::Item,)>>::Output, TaskError>;

impl<'pool, I, F> ThreadImap<'pool, I, F>
where
    I: Iterator<Item: Send + 'static>,
    F: Target<(I::Item,), Output: Send> + Send,
{
    fn new(pool: &'pool ThreadPool, function: F, items: I, ordered: bool) -> Self {
        let (sender, outcomes) = unbounded();
        Self {
            pool,
            function,
            items: Some(items),
            ordered,
            sent: 0,
            taken: 0,
            early: BTreeMap::new(),
            sender,
            outcomes,
        }
    }

    /// As [`next`](Iterator::next), but waits for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`NotYet`]; the value can be asked for again.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome<I, F>>, NotYet> {
        self.next_until(Some(Deadline::after(timeout)))
    }

    fn next_until(&mut self, until: Option<Deadline>) -> Result<Option<Outcome<I, F>>, NotYet> {
        self.fill();
        if self.sent == self.taken {
            return Ok(None);
        }
        loop {
            if let Some(outcome) = self.early.remove(&self.taken) {
                self.taken += 1;
                return Ok(Some(outcome));
            }
            let (number, outcome) = match until.map(Deadline::remaining) {
                None => self.outcomes.recv().map_err(|_| NotYet)?, // this holds a sender
                Some(left) => self.outcomes.recv_timeout(left).map_err(|_| NotYet)?,
            };
            if !self.ordered {
                self.taken += 1;
                return Ok(Some(outcome));
            }
            self.early.insert(number, outcome);
        }
    }

    fn fill(&mut self) {
        let ahead = 2 * self.pool.workers() as u64;
        while self.sent - self.taken < ahead {
            let Some(item) = self.items.as_mut().and_then(Iterator::next) else {
                self.items = None;
                return;
            };
            let (number, function, sender) = (self.sent, self.function, self.sender.clone());
            self.pool.post(Box::new(move |turn| {
                let outcome = match turn {
                    Turn::Run => call(function, (item,)),
                    Turn::Skip => Err(TaskError::Terminated),
                };
                let _ = sender.send((number, outcome)); // nobody may want it any more
            }));
            self.sent += 1;
        }
    }
}

impl<I, F> Iterator for ThreadImap<'_, I, F>
where
    I: Iterator<Item: Send + 'static>,
    F: Target<(I::Item,), Output: Send> + Send,
{
    type Item = Outcome<I, F>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None).unwrap_or(None) // without a deadline there is no `NotYet`
    }
}

impl<I, F> fmt::Debug for ThreadImap<'_, I, F>
where
    I: Iterator,
    F: Target<(I::Item,)>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadImap")
            .field("sent", &self.sent)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}
