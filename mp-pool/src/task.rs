//! Tasks with options of their own.

use std::{
    fmt,
    marker::PhantomData,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use mp_core::codec;
use mp_process::{Target, target::Address};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    arguments::{Blocks, encode_item, unsendable},
    chunk,
    error::TaskError,
    imap::Imap,
    job::Job,
    outcome::{Batch, Sink},
    pool::PoolHandle,
    progress::Progress,
    result::AsyncResult,
    shared::Shared,
    wire::Callee,
    worker,
};

/// What a task may have of its own.
#[derive(Clone, Copy, Debug, Default)]
struct TaskOptions {
    timeout: Option<Duration>,
    retries: Option<u32>,
    priority: i32,
}

impl TaskOptions {
    fn job(self, shared: &Shared, sink: Arc<dyn Sink>, callee: Callee) -> Arc<Job> {
        let options = &shared.options;
        let timeout = self.timeout.or(options.task_timeout);
        let retries = self.retries.unwrap_or(options.retries);
        Job::new(sink, callee, timeout, retries, self.priority)
    }
}

/// The name of "call an `F` with an `A`" for the workers.
fn callee<F, A>() -> Result<Callee, TaskError>
where
    F: Target<A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    let address =
        Address::of::<worker::Task<F, A>>().map_err(|error| unsendable(error.to_string()))?;
    Ok(Callee::new(address))
}

macro_rules! task_options {
    () => {
        /// Ends the worker of a task that runs longer than `limit`, counted from its own start.
        pub fn timeout(mut self, limit: Duration) -> Self {
            self.options.timeout = Some(limit);
            self
        }

        /// Gives a task whose worker died to another worker, up to so many times; the error after the last
        /// attempt names the last worker. A promise that doing a task twice does no harm.
        ///
        /// A task that ran longer than its limit is not repeated, nor one that panicked.
        pub fn retries(mut self, times: u32) -> Self {
            self.options.retries = Some(times);
            self
        }

        /// Tasks that have not begun go before those of lower priority; 0 unless told otherwise.
        pub fn priority(mut self, priority: i32) -> Self {
            self.options.priority = priority;
            self
        }
    };
}

/// One task; see [`PoolHandle::task`].
#[must_use = "a task does nothing until `submit`"]
pub struct Task<F, A> {
    pool: PoolHandle,
    args: A,
    options: TaskOptions,
    function: PhantomData<fn() -> F>,
}

impl<F, A> Task<F, A>
where
    F: Target<A>,
    F::Output: Serialize + DeserializeOwned,
    A: Serialize + DeserializeOwned + 'static,
{
    pub(crate) fn new(pool: PoolHandle, _: F, args: A) -> Self {
        Self {
            pool,
            args,
            options: TaskOptions::default(),
            function: PhantomData,
        }
    }

    task_options!();

    /// Hands the task to the pool.
    pub fn submit(self) -> AsyncResult<F::Output> {
        let shared = self.pool.shared().clone();
        let batch = Batch::new(Some(1));
        match self.hand_in(&shared, &batch) {
            Ok(job) => AsyncResult::one(shared, batch, Some(job)),
            Err(error) => AsyncResult::one(shared, Batch::failed_at_once(error), None),
        }
    }

    fn hand_in(self, shared: &Arc<Shared>, batch: &Arc<Batch>) -> Result<Arc<Job>, TaskError> {
        let job = self.options.job(shared, batch.clone(), callee::<F, A>()?);
        codec::with_buffer(|body| {
            let mut blocks = Blocks::new(shared);
            encode_item(&self.args, body, &mut blocks)?;
            shared.submit(&job, 0, 1, body, blocks)
        })?;
        Ok(job)
    }
}

impl<F, A> fmt::Debug for Task<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("function", &std::any::type_name::<F>())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Tasks over many items; see [`PoolHandle::tasks`].
#[must_use = "tasks do nothing until `map`, `map_async`, `imap` or `imap_unordered`"]
pub struct Tasks<F, I, A> {
    pool: PoolHandle,
    items: I,
    options: TaskOptions,
    chunksize: Option<usize>,
    buffer: Option<usize>,
    progress: Option<Progress>,
    function: PhantomData<fn(A) -> F>,
}

impl<F, I, A> Tasks<F, I, A>
where
    F: Target<A>,
    F::Output: Serialize + DeserializeOwned,
    A: DeserializeOwned + 'static,
    I: IntoIterator<Item: Serialize>,
{
    pub(crate) fn new(pool: PoolHandle, _: F, items: I) -> Self {
        Self {
            pool,
            items,
            options: TaskOptions::default(),
            chunksize: None,
            buffer: None,
            progress: None,
            function: PhantomData,
        }
    }

    task_options!();

    /// How many items travel together to one worker. For `map`: a quarter of each worker's share
    /// unless told otherwise; for `imap`: 1. A worker's death fails one item, however many
    /// travelled with it.
    pub fn chunksize(mut self, items: usize) -> Self {
        self.chunksize = Some(items.max(1));
        self
    }

    /// For `imap`: how many items may be taken ahead of the consumer; two chunks for each worker
    /// unless told otherwise.
    #[doc(alias = "buffersize")]
    pub fn buffer(mut self, items: usize) -> Self {
        self.buffer = Some(items.max(1));
        self
    }

    /// Shows on `bar` how far the tasks are, while somebody waits for them: in `map`, in
    /// [`get`](AsyncResult::get) and [`wait`](AsyncResult::wait), and with each value of `imap`.
    #[cfg(feature = "progress")]
    pub fn progress(mut self, bar: indicatif::ProgressBar) -> Self {
        self.progress = Some(Progress::Bar(bar));
        self
    }

    /// Waits for all values, in the order of the items.
    ///
    /// # Errors
    ///
    /// That of the first item that has one, after all of them are done.
    pub fn map(self) -> Result<Vec<F::Output>, TaskError> {
        self.pool.shared().check_callback()?;
        self.run(true).get()
    }

    /// The same without waiting. All items are taken and encoded before this returns.
    pub fn map_async(self) -> AsyncResult<Vec<F::Output>> {
        self.run(false)
    }

    fn run(self, wait_for_room: bool) -> AsyncResult<Vec<F::Output>> {
        let shared = self.pool.shared().clone();
        let callee = match callee::<F, A>() {
            Ok(callee) => callee,
            Err(error) => return AsyncResult::many(shared, Batch::failed_at_once(error), None),
        };
        let batch = Batch::new(None);
        let job = self.options.job(&shared, batch.clone(), callee);
        let mut feeder = Feeder {
            shared: &shared,
            job: &job,
            batch: &batch,
            progress: self.progress.as_ref(),
            sent: 0,
            wait_for_room,
        };
        let error = feed(&mut feeder, self.items, self.chunksize).err();
        let sent = feeder.sent;
        shared.with(|_, _, effects| batch.close(sent, error, effects));
        AsyncResult::many(shared.clone(), batch, Some(job)).with_progress(self.progress)
    }

    /// Values in the order of the items, lazily.
    pub fn imap(self) -> Imap<I::IntoIter, F::Output> {
        self.stream(true)
    }

    /// Values in the order in which they are ready, lazily.
    pub fn imap_unordered(self) -> Imap<I::IntoIter, F::Output> {
        self.stream(false)
    }

    fn stream(self, ordered: bool) -> Imap<I::IntoIter, F::Output> {
        let shared = self.pool.shared().clone();
        let chunk = self.chunksize.unwrap_or(1);
        let chunks = shared.options.workers.saturating_mul(2);
        let ahead = chunks.saturating_mul(chunk);
        let buffer = self.buffer.unwrap_or(ahead);
        let options = self.options;
        let job = |sink: Arc<dyn Sink>| {
            let callee = callee::<F, A>()?;
            Ok(options.job(&shared, sink, callee))
        };
        Imap::new(
            shared.clone(),
            self.items.into_iter(),
            ordered,
            chunk,
            buffer,
            job,
        )
        .with_progress(self.progress)
    }
}

impl<F, I, A> fmt::Debug for Tasks<F, I, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("function", &std::any::type_name::<F>())
            .field("options", &self.options)
            .field("chunksize", &self.chunksize)
            .finish_non_exhaustive()
    }
}

/// Submits the items of one `map`.
struct Feeder<'a> {
    shared: &'a Arc<Shared>,
    job: &'a Arc<Job>,
    batch: &'a Batch,
    progress: Option<&'a Progress>,
    sent: u64,
    wait_for_room: bool,
}

impl Feeder<'_> {
    fn wait(&self) {
        self.shared.wait_for_room();
        if let Some(progress) = self.progress {
            progress.show(self.batch.arrived());
        }
    }

    /// One frame of `count` items.
    fn chunk(&mut self, count: u32, body: &[u8], blocks: Blocks<'_>) -> Result<(), TaskError> {
        if count == 0 {
            return Ok(());
        }
        if self.wait_for_room {
            self.wait();
        }
        self.shared
            .submit(self.job, self.sent, count, body, blocks)?;
        self.sent += u64::from(count);
        Ok(())
    }

    /// A frame for each of `items`.
    fn singles(&mut self, items: &[Range<usize>], body: &[u8]) -> Result<(), TaskError> {
        let mut left = items;
        while let Some(item) = left.first() {
            let large = Shared::is_large(item.len());
            if large || !self.wait_for_room {
                self.chunk(1, &body[item.clone()], Blocks::new(self.shared))?;
                left = &left[1..];
                continue;
            }
            let end = left.iter().position(|item| Shared::is_large(item.len()));
            let small = &left[..end.unwrap_or(left.len())];
            let taken = self.shared.submit_each(self.job, self.sent, small, body)?;
            self.sent += taken as u64;
            left = &left[taken..];
            if !left.is_empty() {
                self.wait();
            }
        }
        Ok(())
    }
}

fn feed<I>(feeder: &mut Feeder<'_>, items: I, chunksize: Option<usize>) -> Result<(), TaskError>
where
    I: IntoIterator<Item: Serialize>,
{
    let items = items.into_iter();
    let chunk = match (chunksize, items.size_hint()) {
        (Some(size), _) => size,
        (None, (least, Some(most))) if least == most => {
            chunk::default_size(most, feeder.shared.options.workers)
        }
        // The length decides the size of the chunks, so all of them have to be here first.
        (None, _) => {
            let all: Vec<_> = items.collect();
            let size = chunk::default_size(all.len(), feeder.shared.options.workers);
            return feed_chunks(feeder, all.into_iter(), size);
        }
    };
    feed_chunks(feeder, items, chunk)
}

fn feed_chunks<A: Serialize>(
    feeder: &mut Feeder<'_>,
    items: impl Iterator<Item = A>,
    chunk: usize,
) -> Result<(), TaskError> {
    if chunk == 1 {
        return feed_singles(feeder, items);
    }
    let shared = feeder.shared;
    let (mut body, mut blocks) = (Vec::new(), Blocks::new(shared));
    let mut count = 0;
    for item in items {
        encode_item(&item, &mut body, &mut blocks)?;
        count += 1;
        if count as usize == chunk || count == u32::MAX {
            feeder.chunk(count, &body, blocks.split())?;
            body.clear();
            count = 0;
        }
    }
    feeder.chunk(count, &body, blocks)
}

/// The most tasks that are encoded before they are handed over, and the longest time.
const CROWD: usize = 64;
const CROWD_BYTES: usize = 8 << 10;
const CROWD_TIME: Duration = Duration::from_micros(50);

fn feed_singles<A: Serialize>(
    feeder: &mut Feeder<'_>,
    items: impl Iterator<Item = A>,
) -> Result<(), TaskError> {
    let shared = feeder.shared;
    let (mut body, mut blocks) = (Vec::new(), Blocks::new(shared));
    let mut places: Vec<Range<usize>> = Vec::with_capacity(CROWD);
    let mut since = Instant::now();
    for item in items {
        let start = body.len();
        encode_item(&item, &mut body, &mut blocks)?;
        if !blocks.is_empty() {
            feeder.singles(&places, &body)?;
            feeder.chunk(1, &body[start..], blocks.split())?;
            places.clear();
            body.clear();
            continue;
        }
        places.push(start..body.len());
        let crowded = places.len() == CROWD || body.len() >= CROWD_BYTES;
        if feeder.sent == 0 || crowded || since.elapsed() >= CROWD_TIME {
            feeder.singles(&places, &body)?;
            places.clear();
            body.clear();
            since = Instant::now();
        }
    }
    feeder.singles(&places, &body)
}
