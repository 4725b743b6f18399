//! A large value that many tasks need: encoded once, decoded once in each worker.
//!
//! Its encoding lies in the hub's area. What travels with a task is where; and each task on its way
//! holds the memory, as the handle does. A number at the front tells the workers whether it is still
//! that value: it is erased before the memory is given back, and they drop theirs.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    fmt,
    ops::Deref,
    sync::Arc,
};

use mp_core::{
    codec,
    primitive::{AtomicU64, Ordering},
};
use mp_queue::lane::Hub;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
    ser::Error as _,
};

use crate::{
    arguments::{Blocks, unsendable},
    error::TaskError,
    extent::Held,
    shared::Shared,
};

/// A value that all tasks of a pool can have for the price of its handle.
///
/// Made by [`PoolHandle::share`](crate::PoolHandle::share). It can be (a part of) an argument of any task of that pool,
/// and gives the value by dereferencing, here and in the workers.
///
/// Each worker, also one that replaces another, decodes it with the first task that has it. The
/// memory is given back when the last handle is dropped and the last such task is done.
///
/// # Process death
///
/// A worker that dies takes its own copy along, and nothing else.
pub struct Share<T>(Arc<Inner<T>>);

struct Inner<T> {
    value: T,
    /// `None` in a worker.
    origin: Option<Origin>,
}

/// Where the encoding lies.
struct Origin {
    pool: Arc<Shared>,
    ticket: Ticket,
    held: Held,
}

/// What travels.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Ticket {
    number: u64,
    place: usize,
    len: usize,
}

/// Bytes of the number in front of the encoding.
const NUMBER: usize = 8;

impl<T: Serialize> Share<T> {
    pub(crate) fn new(pool: &Arc<Shared>, value: T) -> Result<Self, TaskError> {
        static NEXT: AtomicU64 = AtomicU64::new(1); // not 0, which is what erased memory says
        let number = NEXT.fetch_add(1, Ordering::Relaxed); // only has to be unique
        let mut bytes = number.to_le_bytes().to_vec();
        codec::encode_into(&value, &mut bytes).map_err(|error| unsendable(error.to_string()))?;
        let mut blocks = Blocks::new(pool);
        let place = blocks.put(&bytes).map_err(unsendable)?;
        let origin = Origin {
            pool: pool.clone(),
            ticket: Ticket {
                number,
                place: place.start,
                len: place.len() - NUMBER,
            },
            held: blocks.take_numbered(),
        };
        Ok(Self(Arc::new(Inner {
            value,
            origin: Some(origin),
        })))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.pool.lock().extents.release(&self.pool.hub, held);
    }
}

/// For which pool a thread encodes arguments, and what those hold beside their own blocks.
#[derive(Default)]
pub(crate) struct Encoding {
    pool: u64,
    holds: Vec<Held>,
}

thread_local! {
    static ENCODING: RefCell<Encoding> = RefCell::default();
    /// Whether it has holds: asked for each argument, so it has to be cheap.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
    /// In a worker: where the values lie, and those that are decoded.
    static WORKER: RefCell<Option<Known>> = const { RefCell::new(None) };
}

impl Encoding {
    /// For the pool of this number.
    pub(crate) fn of(pool: u64) -> Self {
        let holds = Vec::new();
        Self { pool, holds }
    }

    /// From here on this thread encodes as this says; what it did before.
    pub(crate) fn begin(self) -> Self {
        ENCODING.replace(self)
    }

    /// Goes on with this one; what the one that ends still held.
    pub(crate) fn resume(self) -> Vec<Held> {
        HOLDS.set(!self.holds.is_empty());
        ENCODING.replace(self).holds
    }

    /// What the shared values among the arguments just encoded hold.
    #[inline]
    pub(crate) fn take_holds() -> Vec<Held> {
        match HOLDS.replace(false) {
            false => Vec::new(),
            true => ENCODING.with_borrow_mut(|encoding| std::mem::take(&mut encoding.holds)),
        }
    }

    /// Notes that arguments for `pool` need `held`; `false` if it is not for that pool that this
    /// thread encodes.
    fn hold(pool: u64, held: &Held) -> bool {
        ENCODING.with_borrow_mut(|encoding| {
            let ours = encoding.pool == pool;
            if ours {
                encoding.holds.push(held.clone());
                HOLDS.set(true);
            }
            ours
        })
    }
}

impl<T> Serialize for Share<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let held = |origin: &&Origin| Encoding::hold(origin.pool.id, &origin.held);
        let Some(origin) = self.0.origin.as_ref().filter(held) else {
            return Err(S::Error::custom(
                "a shared value can only be an argument of a task of the pool that shares it",
            ));
        };
        origin.ticket.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned + Send + Sync + 'static> Deserialize<'de> for Share<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        // Decoding runs user code, which may share values of its own: nothing is borrowed meanwhile.
        let known = WORKER.with_borrow(|worker| worker.as_ref().map(|known| known.find(ticket)));
        let value = match known {
            None => Err("a shared value is decoded by workers of its pool only".to_owned()),
            Some(Found::Value(value)) => {
                let other = |_| "it is of another type".to_owned();
                value.downcast().map_err(other)
            }
            Some(Found::Encoded(bytes)) => {
                decode::<T>(&bytes).inspect(|value| remember(ticket, value))
            }
            Some(Found::Nothing) => Err("the value is not shared any more".to_owned()),
        };
        value.map(Self).map_err(D::Error::custom)
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Arc<Inner<T>>, String> {
    let value = codec::decode(bytes).map_err(|error| error.to_string())?;
    Ok(Arc::new(Inner {
        value,
        origin: None,
    }))
}

type Value = Arc<dyn Any + Send + Sync>;

/// What a ticket leads to.
enum Found {
    Value(Value),
    Encoded(Vec<u8>),
    /// It came by another way than a task, and too late.
    Nothing,
}

/// What a worker knows of shared values.
struct Known {
    hub: Hub,
    values: Vec<(Ticket, Value)>,
    /// With so many values one more is a reason to look which are gone: twice as many as were there
    /// after the last look, so that many that stay are not looked at again and again.
    look_at: usize,
}

impl Known {
    fn find(&self, ticket: Ticket) -> Found {
        let known = self.values.iter();
        let mut known = known.filter(|(known, _)| known.number == ticket.number);
        if let Some((_, value)) = known.next() {
            return Found::Value(value.clone());
        }
        let mut bytes = Vec::new();
        let place = ticket.place + NUMBER;
        match self.hub.read(place, ticket.len, &mut bytes) {
            Ok(()) if self.is_there(ticket) => Found::Encoded(bytes),
            _ => Found::Nothing,
        }
    }

    fn is_there(&self, ticket: Ticket) -> bool {
        let mut number = Vec::new();
        let _ = self.hub.read(ticket.place, NUMBER, &mut number); // none: as if erased
        number == ticket.number.to_le_bytes()
    }

    /// Gives out those that nobody shares any more. Dropping them is users' code: not while this is
    /// borrowed.
    #[must_use]
    fn take_gone(&mut self) -> Vec<(Ticket, Value)> {
        let values = std::mem::take(&mut self.values).into_iter();
        let gone;
        (self.values, gone) = values.partition(|(ticket, _)| self.is_there(*ticket));
        self.look_at = (2 * self.values.len()).max(1);
        gone
    }
}

fn remember<T: Send + Sync + 'static>(ticket: Ticket, value: &Arc<Inner<T>>) {
    let is_full = |known: &Known| known.values.len() >= known.look_at;
    if WORKER.with_borrow(|worker| worker.as_ref().is_some_and(is_full)) {
        forget(); // a worker that is never idle has to do it some time
    }
    WORKER.with_borrow_mut(|worker| {
        if let Some(known) = worker {
            known.values.push((ticket, value.clone()));
        }
    });
}

/// In a worker, before its first task.
pub(crate) fn attend(hub: &Hub) {
    WORKER.set(Some(Known {
        hub: hub.clone(),
        values: Vec::new(),
        look_at: 1,
    }));
}

/// In a worker that has nothing to do, or gets another value: drops those that nobody shares any more.
pub(crate) fn forget() {
    let gone = WORKER.with_borrow_mut(|worker| {
        let known = worker.as_mut().filter(|known| !known.values.is_empty());
        known.map(Known::take_gone)
    });
    drop(gone);
}

/// Tells the workers that the value at `place` is gone.
pub(crate) fn erase(hub: &Hub, place: usize) {
    hub.write(place, &[0; NUMBER]);
}

impl<T> Deref for Share<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Clone for Share<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Share<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Share").field(&self.0.value).finish()
    }
}
