//! The clients' halves of the types that come with this crate; the server's halves are in
//! `referents`.

mod array;
mod barrier;
mod condition;
mod dict;
mod event;
mod list;
mod lock;
mod namespace;
#[cfg(feature = "pool")]
mod pool;
mod queue;
mod semaphore;
#[cfg(feature = "sync")]
mod shared_memory;
mod value;

pub use self::{
    array::Array,
    barrier::{Barrier, BarrierError, BarrierTurn},
    condition::Condition,
    dict::{Dict, DictIter},
    event::Event,
    list::{List, ListIter},
    lock::{Guard, Lock, LockError, LockGuard, OwnerDied, RLock, RLockGuard, TryLockError},
    namespace::Namespace,
    queue::{GetError, JoinableQueue, PutError, Queue, QueueIter, TryGetError, TryPutError},
    semaphore::{BoundedSemaphore, Permit, Semaphore, TryAcquireError},
    value::Value,
};

#[cfg(feature = "pool")]
pub use self::pool::{AsyncResult, Pool, PoolImap, PoolScope, TaskError};

#[cfg(feature = "sync")]
pub use self::shared_memory::{ShareableList, SharedMemory};

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link::{self, Link},
    passage::{self, Packed},
    protocol::{Encoded, Written},
    proxy::Proxy,
};

/// A timeout as it stands in a message.
fn nanos(timeout: Duration) -> Option<u64> {
    // Centuries are as good as for ever.
    u64::try_from(timeout.as_nanos()).ok()
}

/// Reads the version and the value, applies `change`, writes if the version still holds; again
/// with the value that stands there by then.
///
/// `write` sends the condition and the new value.
fn update<T, R>(
    read: impl FnOnce() -> Result<(u64, T), CallError>,
    mut change: impl FnMut(T) -> R,
    mut write: impl FnMut(u64, &R) -> Result<Option<(u64, T)>, CallError>,
) -> Result<R, CallError> {
    let (mut version, mut value) = read()?;
    loop {
        let changed = change(value);
        match write(version, &changed)? {
            None => return Ok(changed),
            Some(newer) => (version, value) = newer,
        }
    }
}

/// What a conditional write was answered: `None` if it was done.
fn written<T: DeserializeOwned>(
    link: &Link,
    bytes: &[u8],
) -> Result<Option<(u64, Option<T>)>, CallError> {
    match link::parse(bytes)? {
        Written::Yes => Ok(None),
        Written::No { version, current } => {
            let current = current
                .map(|current| passage::unpack(link, &current))
                .transpose()?;
            Ok(Some((version, current)))
        }
    }
}

/// The outcome of `compare_exchange`: the value that stood there instead of the expected one.
fn exchanged<T: DeserializeOwned>(
    link: &Link,
    bytes: &[u8],
) -> Result<Result<(), Option<T>>, CallError> {
    Ok(match written(link, bytes)? {
        None => Ok(()),
        Some((_, current)) => Err(current),
    })
}

/// The version and the value of an element that may not be there.
fn version_and_option<T: DeserializeOwned>(
    link: &Link,
    bytes: &[u8],
) -> Result<(u64, Option<T>), CallError> {
    let (version, current): (u64, Option<Encoded<'_>>) = link::parse(bytes)?;
    let current = current.map(|current| passage::unpack(link, &current));
    Ok((version, current.transpose()?))
}

/// The version and the value of an element that is there.
fn versioned<T: DeserializeOwned>(link: &Link, bytes: &[u8]) -> Result<(u64, T), CallError> {
    let (version, current): (u64, Encoded<'_>) = link::parse(bytes)?;
    Ok((version, passage::unpack(link, &current)?))
}

/// The same after a conditional write; what stands there cannot be gone.
fn rewritten<T: DeserializeOwned>(
    link: &Link,
    bytes: &[u8],
) -> Result<Option<(u64, T)>, CallError> {
    match link::parse(bytes)? {
        Written::No {
            version,
            current: Some(current),
        } => Ok(Some((version, passage::unpack(link, &current)?))),
        Written::Yes | Written::No { .. } => Ok(None),
    }
}

/// Sends values in batches, each a message of its own.
fn in_batches<T: Serialize>(
    proxy: &Proxy,
    values: impl IntoIterator<Item = T>,
    mut send: impl FnMut(&[Packed]) -> Result<(), CallError>,
) -> Result<(), CallError> {
    let mut batch = Vec::new();
    let whole = proxy.budget()?;
    let mut budget = whole;
    for value in values {
        let value = proxy.pack_now(&value)?;
        if !budget.takes(value.size()) {
            send(&batch)?;
            batch.clear();
            budget = whole;
            budget.takes(value.size());
        }
        batch.push(value);
    }
    if batch.is_empty() {
        return Ok(());
    }
    send(&batch)
}
