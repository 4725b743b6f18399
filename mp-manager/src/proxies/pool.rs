//! The clients' halves of `Pool` and `AsyncResult`; the server's halves are in `referents::pool`.

use std::{collections::VecDeque, marker::PhantomData, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link,
    protocol::Raw,
    proxies::nanos,
    proxy::{Managed, Proxy, proxy_type},
    referents::pool::Outcome,
};

/// Worker processes of the server, for functions that it has
/// [registered](crate::Registry::function) by name.
///
/// # Process death
///
/// A worker that dies fails its own task. A client that dies while it waits for a task has it
/// cancelled. The pool lives as long as somebody refers to it; then its workers are ended.
#[doc(alias = "PoolProxy")]
pub struct Pool {
    proxy: Proxy,
}

/// What becomes of a task of a [`Pool`].
///
/// # Process death
///
/// As for [`Pool`].
#[doc(alias = "AsyncResultProxy")]
pub struct AsyncResult<R> {
    proxy: Proxy,
    values: PhantomData<fn() -> (R,)>,
}

proxy_type!(Pool, "Pool");
proxy_type!(AsyncResult<R>, "AsyncResult");

/// Why a task has no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The task failed: it panicked, its worker died, the pool was closed.
    #[error("{reason}")]
    Failed {
        /// What the pool says.
        reason: String,
    },
    /// There is no outcome yet.
    #[error("the task is not done yet")]
    NotYet,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

fn value_of<R: DeserializeOwned>(outcome: Outcome<'_>) -> Result<R, TaskError> {
    match outcome {
        Outcome::Value(Raw(bytes)) => Ok(mp_core::codec::decode(bytes).map_err(CallError::from)?),
        Outcome::Failed(reason) => Err(TaskError::Failed {
            reason: reason.to_owned(),
        }),
        Outcome::NotYet => Err(TaskError::NotYet),
    }
}

impl Pool {
    /// Runs `function` with the tuple of its arguments, and waits for its value.
    ///
    /// # Errors
    ///
    /// [`TaskError`].
    pub fn apply<R: DeserializeOwned>(
        &self,
        function: &str,
        args: &impl Serialize,
    ) -> Result<R, TaskError> {
        let args = (function, self.proxy.pack(args));
        self.proxy
            .ask("apply", &args, |_, bytes| Ok(value_of(link::parse(bytes)?)))?
    }

    /// The same without waiting.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn apply_async<R>(
        &self,
        function: &str,
        args: &impl Serialize,
    ) -> Result<AsyncResult<R>, CallError> {
        self.begin("apply_async", &(function, self.proxy.pack(args)))
    }

    fn begin<R>(&self, method: &str, args: &impl Serialize) -> Result<AsyncResult<R>, CallError> {
        self.proxy.ask(method, args, |link, bytes| {
            let reference = link.adopt(link::parse(bytes)?);
            let reference = reference.ok_or_else(|| CallError::not_found("result any more"))?;
            let kind = <AsyncResult<R> as Managed>::KIND;
            Ok(AsyncResult::from_proxy(Proxy::new(kind, reference)))
        })
    }

    /// Runs `function` with each item as its only argument; the values in order.
    ///
    /// # Errors
    ///
    /// [`TaskError`]: the first that is not a value.
    pub fn map<T: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        items: impl IntoIterator<Item = T>,
    ) -> Result<Vec<R>, TaskError> {
        self.starmap(function, items.into_iter().map(|item| (item,)))
    }

    /// Runs `function` with each item as the tuple of its arguments; the values in order.
    ///
    /// # Errors
    ///
    /// [`TaskError`]: the first that is not a value.
    pub fn starmap<A: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        items: impl IntoIterator<Item = A>,
    ) -> Result<Vec<R>, TaskError> {
        let mut values = Vec::new();
        let mut failed = None;
        super::in_batches(&self.proxy, items, |batch| {
            let outcomes = self.proxy.ask("map", &(function, batch), |_, bytes| {
                let outcomes: Vec<Outcome<'_>> = link::parse(bytes)?;
                Ok(outcomes
                    .into_iter()
                    .map(value_of)
                    .collect::<Result<Vec<R>, _>>())
            })?;
            match outcomes {
                Ok(more) => values.extend(more),
                Err(error) => failed = failed.take().or(Some(error)),
            }
            Ok(())
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(values),
        }
    }

    /// [`map`](Self::map) without waiting: one result for all values.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`TooLarge`](CallError::TooLarge): the items do not fit one message.
    pub fn map_async<T: Serialize, R>(
        &self,
        function: &str,
        items: impl IntoIterator<Item = T>,
    ) -> Result<AsyncResult<Vec<R>>, CallError> {
        self.starmap_async(function, items.into_iter().map(|item| (item,)))
    }

    /// [`starmap`](Self::starmap) without waiting: one result for all values.
    ///
    /// # Errors
    ///
    /// As [`map_async`](Self::map_async).
    pub fn starmap_async<A: Serialize, R>(
        &self,
        function: &str,
        items: impl IntoIterator<Item = A>,
    ) -> Result<AsyncResult<Vec<R>>, CallError> {
        let items = items.into_iter().map(|args| self.proxy.pack_now(&args));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        self.begin("map_async", &(function, items))
    }

    /// The values one by one, in order; a few items are taken ahead.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn imap<T, R, I>(
        &self,
        function: &str,
        items: I,
    ) -> Result<PoolImap<I::IntoIter, R>, CallError>
    where
        T: Serialize,
        I: IntoIterator<Item = T>,
    {
        self.walk(function, items, true)
    }

    /// The values one by one, as they are done; a few items are taken ahead.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn imap_unordered<T, R, I>(
        &self,
        function: &str,
        items: I,
    ) -> Result<PoolImap<I::IntoIter, R>, CallError>
    where
        T: Serialize,
        I: IntoIterator<Item = T>,
    {
        self.walk(function, items, false)
    }

    fn walk<R, I: IntoIterator>(
        &self,
        function: &str,
        items: I,
        in_order: bool,
    ) -> Result<PoolImap<I::IntoIter, R>, CallError> {
        Ok(PoolImap {
            ahead: self.workers()? * 2 + 1,
            pool: self.clone(),
            function: function.to_owned(),
            items: items.into_iter(),
            running: VecDeque::new(),
            in_order,
        })
    }

    /// How many workers it keeps.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn workers(&self) -> Result<usize, CallError> {
        self.proxy.ask_plain("workers", &())
    }

    /// Takes no more tasks; those it has are finished.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn close(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("close", &())
    }

    /// Ends the workers now.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn terminate(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("terminate", &())
    }

    /// Waits until the workers of a closed or terminated pool have ended.
    ///
    /// # Errors
    ///
    /// [`CallError::Refused`]: it is neither.
    pub fn join(&self) -> Result<(), CallError> {
        self.proxy
            .ask_plain::<_, bool>("join", &None::<u64>)
            .map(drop)
    }

    /// As [`join`](Self::join), for at most `timeout`; whether they have.
    ///
    /// # Errors
    ///
    /// As [`join`](Self::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool, CallError> {
        self.proxy.ask_plain("join", &nanos(timeout))
    }

    /// The pool for the length of a scope: it is terminated when this is dropped.
    #[doc(alias = "__exit__")]
    pub fn scope(self) -> PoolScope {
        PoolScope { pool: self }
    }
}

/// Terminates its [`Pool`] when it is dropped.
#[derive(Debug)]
#[must_use = "the pool is terminated when this is dropped"]
pub struct PoolScope {
    pool: Pool,
}

impl std::ops::Deref for PoolScope {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

impl Drop for PoolScope {
    fn drop(&mut self) {
        // A server that is gone has no pool.
        let _ = self.pool.terminate();
    }
}

impl<R: DeserializeOwned> AsyncResult<R> {
    /// Waits for the value.
    ///
    /// # Errors
    ///
    /// [`TaskError`].
    pub fn get(&self) -> Result<R, TaskError> {
        self.outcome(None)
    }

    /// Waits for the value for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`TaskError`]; [`NotYet`](TaskError::NotYet) when it did not come in time.
    pub fn get_timeout(&self, timeout: Duration) -> Result<R, TaskError> {
        self.outcome(nanos(timeout))
    }

    fn outcome(&self, nanos: Option<u64>) -> Result<R, TaskError> {
        self.proxy
            .ask("get", &nanos, |_, bytes| Ok(value_of(link::parse(bytes)?)))?
    }

    /// Whether there is an outcome.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn ready(&self) -> Result<bool, CallError> {
        self.wait(Duration::ZERO)
    }

    /// Waits for an outcome for at most `timeout`; whether there is one.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn wait(&self, timeout: Duration) -> Result<bool, CallError> {
        self.proxy.ask_plain("wait", &nanos(timeout))
    }

    /// Whether the outcome is a value; `None` while there is none.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn successful(&self) -> Result<Option<bool>, CallError> {
        match self.get_timeout(Duration::ZERO) {
            Ok(_) => Ok(Some(true)),
            Err(TaskError::Failed { .. }) => Ok(Some(false)),
            Err(TaskError::NotYet) => Ok(None),
            Err(TaskError::Call(error)) => Err(error),
        }
    }

    /// Stops the task; whether there was anything to stop.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn cancel(&self) -> Result<bool, CallError> {
        self.proxy.ask_plain("cancel", &())
    }
}

/// The values of [`Pool::imap`] and [`Pool::imap_unordered`].
#[derive(Debug)]
pub struct PoolImap<I, R> {
    pool: Pool,
    function: String,
    items: I,
    ahead: usize,
    running: VecDeque<AsyncResult<R>>,
    in_order: bool,
}

impl<I, R> Iterator for PoolImap<I, R>
where
    I: Iterator<Item: Serialize>,
    R: DeserializeOwned,
{
    type Item = Result<R, TaskError>;

    fn next(&mut self) -> Option<Self::Item> {
        /// How long the oldest task is waited for before the others are looked at.
        const LOOK: Duration = Duration::from_millis(5);
        while self.running.len() < self.ahead
            && let Some(item) = self.items.next()
        {
            match self.pool.apply_async(&self.function, &(item,)) {
                Ok(task) => self.running.push_back(task),
                Err(error) => return Some(Err(error.into())),
            }
        }
        loop {
            let done = if self.in_order {
                0
            } else {
                let ready = self
                    .running
                    .iter()
                    .position(|task| task.ready().unwrap_or(true));
                match ready {
                    Some(done) => done,
                    None => {
                        let _ = self.running.front()?.wait(LOOK); // an error comes with its value
                        continue;
                    }
                }
            };
            return Some(self.running.remove(done)?.get());
        }
    }
}
