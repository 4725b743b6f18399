//! The server's halves of `Pool` and `AsyncResult`.

use std::{sync::Arc, time::Duration};

use mp_core::{
    codec,
    deadline::Deadline,
    primitive::{AtomicUsize, Ordering},
};
use mp_pool::{AsyncResult, Closing, PoolHandle};
use mp_process::Target;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    protocol::{Encoded, Fault, Raw},
    referent::{Call, Caller, Referent},
    server::line::{self, Patience},
};

/// How long a wait for a task goes on before it is asked whether its client is still there.
const SLICE: Duration = Duration::from_millis(50);

/// A registered function: gives a pool a task with these arguments.
pub(crate) type Function =
    Arc<dyn Fn(&PoolHandle, &[u8]) -> Result<Box<dyn Pending>, Fault> + Send + Sync>;

/// A task whose type is not known here.
pub(crate) trait Pending: Send + Sync {
    fn wait(&self, timeout: Duration) -> bool;
    fn outcome(&self) -> Option<Result<Vec<u8>, String>>;
    fn cancel(&self) -> bool;
}

impl<R: Serialize> Pending for AsyncResult<R>
where
    AsyncResult<R>: Send + Sync,
{
    fn wait(&self, timeout: Duration) -> bool {
        AsyncResult::wait(self, timeout)
    }

    fn outcome(&self) -> Option<Result<Vec<u8>, String>> {
        let outcome = self.get_timeout(Duration::ZERO)?;
        Some(
            outcome
                .map_err(|error| error.to_string())
                .and_then(|value| {
                    let mut bytes = Vec::new();
                    codec::encode_into(&value, &mut bytes).map_err(|error| error.to_string())?;
                    Ok(bytes)
                }),
        )
    }

    fn cancel(&self) -> bool {
        AsyncResult::cancel(self)
    }
}

pub(crate) fn function<F, A>(function: F) -> Function
where
    F: Target<A> + Copy + Send + Sync + 'static,
    F::Output: Serialize + DeserializeOwned + 'static,
    A: Serialize + DeserializeOwned + 'static,
{
    Arc::new(move |pool, bytes| {
        let args: A = codec::decode(bytes).map_err(|error| Fault::Arguments(error.to_string()))?;
        Ok(Box::new(pool.apply_async(function, args)))
    })
}

/// What became of a task.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome<'a> {
    Value(#[serde(borrow)] Raw<'a>),
    Failed(&'a str),
    NotYet,
}

impl<'a> Outcome<'a> {
    fn of(outcome: Option<&'a Result<Vec<u8>, String>>) -> Self {
        match outcome {
            Some(Ok(bytes)) => Self::Value(Raw(bytes)),
            Some(Err(reason)) => Self::Failed(reason),
            None => Self::NotYet,
        }
    }
}

struct Pool {
    handle: PoolHandle,
    /// Until it is closed or terminated.
    pool: Mutex<Option<mp_pool::Pool>>,
    closing: Mutex<Option<Arc<Closing>>>,
    _share: Option<Share>,
}

/// What a client's pool takes of the server's quota of workers; given back by drop.
struct Share {
    taken: Arc<AtomicUsize>,
    workers: usize,
}

impl Share {
    fn take(call: &Call<'_>, workers: usize) -> Result<Self, Fault> {
        let limit = call.state.limits.pool_workers;
        let taken = call.state.pool_workers.clone();
        let more = |all: usize| all.checked_add(workers).filter(|sum| *sum <= limit);
        // Relaxed: a count, and nothing else depends on it.
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Self { taken, workers }),
            Err(all) => Err(Fault::Denied(format!(
                "the pools of clients have {all} workers, and may have {limit}"
            ))),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.workers, Ordering::Relaxed);
    }
}

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let workers: Option<usize> = call.parse()?;
    let workers = workers
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let share = call.caller.peer().map(|_| Share::take(call, workers));
    let share = share.transpose()?;
    let pool = mp_pool::Pool::new(workers).map_err(|error| Fault::Refused(error.to_string()))?;
    Ok(Box::new(Pool {
        handle: pool.handle(),
        pool: Mutex::new(Some(pool)),
        closing: Mutex::new(None),
        _share: share,
    }))
}

impl Referent for Pool {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "apply" => {
                let (name, args): (&str, Encoded<'_>) = call.parse()?;
                let task = self.submit(call, name, &args)?;
                let outcome = finish(&*task, call.caller)?;
                call.answer(&Outcome::of(Some(&outcome)))
            }
            "apply_async" => {
                let (name, args): (&str, Encoded<'_>) = call.parse()?;
                let task = self.submit(call, name, &args)?;
                give(call, task)
            }
            "map_async" => {
                let (name, items): (&str, Vec<Encoded<'_>>) = call.parse()?;
                let tasks = self.submit_all(call, name, &items)?;
                give(call, Box::new(All(tasks)))
            }
            "map" => {
                let (name, items): (&str, Vec<Encoded<'_>>) = call.parse()?;
                let tasks = self.submit_all(call, name, &items)?;
                let outcomes: Vec<_> = tasks
                    .iter()
                    .map(|task| finish(&**task, call.caller))
                    .collect::<Result<_, _>>()?;
                let answer: Vec<_> = outcomes
                    .iter()
                    .map(|outcome| Outcome::of(Some(outcome)))
                    .collect();
                call.answer(&answer)
            }
            "close" => {
                let pool = self.pool.lock().take();
                if let Some(pool) = pool {
                    *self.closing.lock() = Some(Arc::new(pool.close()));
                }
                Ok(())
            }
            "terminate" => {
                let pool = self.pool.lock().take();
                match pool {
                    Some(pool) => *self.closing.lock() = Some(Arc::new(pool.terminate())),
                    None => self.handle.terminate(),
                }
                Ok(())
            }
            "join" => {
                let patience = Patience::from_nanos(call.parse()?);
                // Each waits for its own time, and holds up no other.
                let closing = self.closing.lock().clone();
                let Some(closing) = closing else {
                    return Err(Fault::Refused(
                        "a pool can be joined once it is closed or terminated".to_owned(),
                    ));
                };
                let ended = wait_for(call.caller, patience, |time| closing.wait(time))?;
                call.answer(&ended)
            }
            "workers" => {
                let workers = self.handle.workers();
                call.answer(&workers)
            }
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        format!(
            "{} workers, {} busy",
            self.handle.workers(),
            self.handle.busy_pids().len()
        )
    }
}

impl Pool {
    fn submit(
        &self,
        call: &Call<'_>,
        name: &str,
        args: &Encoded<'_>,
    ) -> Result<Box<dyn Pending>, Fault> {
        let function = call.state.registry.find_function(name);
        let function = function.ok_or_else(|| {
            Fault::NotFound(format!("function `{name}`; register it with the server"))
        })?;
        function(&self.handle, args.bytes.0)
    }

    fn submit_all(
        &self,
        call: &Call<'_>,
        name: &str,
        items: &[Encoded<'_>],
    ) -> Result<Vec<Box<dyn Pending>>, Fault> {
        items
            .iter()
            .map(|args| self.submit(call, name, args))
            .collect()
    }
}

/// Answers with an object for what becomes of `task`.
fn give(call: &mut Call<'_>, task: Box<dyn Pending>) -> Result<(), Fault> {
    call.give("AsyncResult", Box::new(Task(task)))
}

/// Many tasks as one: done when all are, and failed if one has.
struct All(Vec<Box<dyn Pending>>);

impl Pending for All {
    fn wait(&self, timeout: Duration) -> bool {
        let until = Deadline::after(timeout);
        self.0.iter().all(|task| task.wait(until.remaining()))
    }

    /// The encoding of a vector is its length, and the encodings of its elements.
    fn outcome(&self) -> Option<Result<Vec<u8>, String>> {
        let mut bytes = Vec::new();
        codec::encode_into(&self.0.len(), &mut bytes).expect("a number has an encoding");
        let outcomes: Option<Vec<_>> = self.0.iter().map(|task| task.outcome()).collect();
        Some(outcomes?.into_iter().try_fold(bytes, |mut bytes, value| {
            bytes.extend(value?);
            Ok(bytes)
        }))
    }

    fn cancel(&self) -> bool {
        let stopped = self.0.iter().filter(|task| task.cancel());
        stopped.count() > 0
    }
}

/// The object of one task.
struct Task(Box<dyn Pending>);

impl Referent for Task {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "get" => {
                let patience = Patience::from_nanos(call.parse()?);
                wait_for(call.caller, patience, |time| self.0.wait(time))?;
                call.answer(&Outcome::of(self.0.outcome().as_ref()))
            }
            "wait" => {
                let patience = Patience::from_nanos(call.parse()?);
                let ready = wait_for(call.caller, patience, |time| self.0.wait(time))?;
                call.answer(&ready)
            }
            "cancel" => {
                let cancelled = self.0.cancel();
                call.answer(&cancelled)
            }
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        let ready = self.0.wait(Duration::ZERO);
        if ready { "ready" } else { "running" }.to_owned()
    }
}

/// Waits for a task; it is cancelled when nobody waits for it any more.
fn finish(task: &dyn Pending, caller: &Caller) -> Result<Result<Vec<u8>, String>, Fault> {
    wait_for(caller, Patience::Endless, |time| task.wait(time)).inspect_err(|_| {
        task.cancel();
    })?;
    task.outcome()
        .ok_or_else(|| Fault::Refused("the task has no outcome".to_owned()))
}

fn wait_for(
    caller: &Caller,
    patience: Patience,
    wait: impl Fn(Duration) -> bool,
) -> Result<bool, Fault> {
    loop {
        let slice = match patience {
            Patience::None => Duration::ZERO,
            Patience::Until(deadline) => deadline.remaining().min(SLICE),
            Patience::Endless => SLICE,
        };
        if wait(slice) {
            return Ok(true);
        }
        if caller.is_gone() {
            return Err(line::gone());
        }
        if patience.is_over() {
            return Ok(false);
        }
    }
}
