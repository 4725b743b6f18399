//! Bytes in, bytes out: a ring in shared memory that no kill can break.
//!
//! The protocol, with its states, kill points and memory orderings, is in `ring.md` beside this
//! file. In one paragraph: who puts and who gets each have a robust lock and a commit word. Under
//! its lock an end works only on memory that the other end does not look at yet; one store of the
//! word hands it over. Killed before the store, nothing has happened; after it, all has.
//!
//! Hidden from the documentation of `mp-queue`; visible to its tests, benches and fuzz target.

use std::{io, sync::Arc};

use mp_core::{
    deadline::Deadline,
    futex::Told,
    liveness::Member,
    primitive::Ordering,
    robust::{Acquired, LockFailure},
    shm::Mapping,
};

mod claims;
mod done;
mod geometry;
mod get;
pub mod hunger;
mod memory;
pub mod number;
mod put;
pub mod signal;
mod spin;
#[cfg(test)]
mod tests;
mod turn;
pub mod word;

pub(crate) use self::{
    claims::ClaimId,
    done::Finished,
    geometry::{MAX_AREA, USUAL_AREA},
};
pub use self::{claims::Lost, put::Batch};
use self::{
    geometry::Geometry,
    memory::{Held, Limits, Memory, Side},
    number::Number,
    signal::Signal,
    spin::Spin,
    turn::Turn,
    word::{MAX_ITEMS, UNIT, Word},
};

/// How long an operation may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all: what is not possible now is refused.
    Never,
    /// Until an instant.
    Until(Deadline),
    /// As long as it takes.
    Forever,
}

impl Patience {
    /// Until when a lock is waited for.
    fn until(self) -> Option<Deadline> {
        match self {
            Self::Until(deadline) => Some(deadline),
            // Also without patience a lock is waited for, since it is held for the time of one
            // copy; but not for ever, since its holder may have been stopped.
            Self::Never => Some(Deadline::after(mp_core::futex::SLICE)),
            Self::Forever => None,
        }
    }
}

/// The memory of a ring is not as any of its users would have left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared memory of the queue is damaged: {0}")]
pub struct Corrupt(pub(crate) &'static str);

/// Why bytes were not put.
#[derive(Debug)]
pub enum PutFailure {
    /// No room before patience ran out.
    Full,
    /// The ring was closed.
    Closed,
    /// More than the ring can ever hold at once.
    TooLarge {
        /// Bytes of the record.
        len: usize,
        /// The most this ring takes.
        limit: usize,
    },
    /// The system has no memory left for the ring to grow.
    NoSpace(io::Error),
    /// See [`Corrupt`].
    Corrupt(Corrupt),
}

/// Why no bytes were got.
#[derive(Debug)]
pub enum GetFailure {
    /// Nothing came before patience ran out.
    Empty,
    /// The ring was closed, and everything in it has been taken.
    Closed,
    /// The next record is longer than the memory this process can get; it stays where it is.
    OutOfMemory {
        /// Bytes of the record.
        len: usize,
    },
    /// The record cannot be claimed; it stays where it is.
    Unclaimable(io::Error),
    /// See [`Corrupt`].
    Corrupt(Corrupt),
}

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of address space for records, rounded up to chunks; memory is allocated as it is needed.
    pub area: usize,
    /// Most records at a time.
    pub max_items: u32,
    /// Most bytes at a time, with 8 for each record's header, the rounding to 8, and what is left
    /// unused at the end of a chunk.
    pub max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            area: USUAL_AREA,
            max_items: MAX_ITEMS,
            max_bytes: u64::MAX,
        }
    }
}

impl Config {
    /// Bytes of a mapping that a ring of this size takes, a multiple of the page.
    #[must_use]
    pub fn footprint(&self) -> usize {
        memory::footprint(Geometry::new(self.area))
    }
}

/// A ring of byte records in a mapping, for any number of processes and threads.
#[derive(Debug)]
pub struct Ring {
    memory: Memory,
    limits: Limits,
    spin: Spin,
    /// This process among those that claim records.
    member: Member,
}

impl Ring {
    /// Makes a ring in `mapping`: [`footprint`](Config::footprint) bytes that are zero and that nobody
    /// uses yet.
    ///
    /// # Errors
    ///
    /// It does not fit into the mapping, or the system is out of memory.
    pub fn create(mapping: Arc<Mapping>, config: &Config) -> io::Result<Self> {
        let geometry = Geometry::new(config.area);
        let limits = Limits {
            max_items: config.max_items.clamp(1, MAX_ITEMS),
            max_bytes: config.max_bytes,
        };
        let memory = Memory::create(mapping, geometry, limits)?;
        Ok(Self::new(memory, limits))
    }

    /// The ring that another process (or this one) made in `mapping`.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn attach(mapping: Arc<Mapping>) -> Result<Self, Corrupt> {
        let (memory, limits) = Memory::attach(mapping)?;
        Ok(Self::new(memory, limits))
    }

    fn new(memory: Memory, limits: Limits) -> Self {
        Self {
            member: Member::new(Arc::clone(memory.mapping()), 0, claims::SLOTS),
            memory,
            limits,
            spin: Spin::default(),
        }
    }

    /// The mapping it lies in.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        self.memory.mapping()
    }

    /// Records in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        /// Enough for any rate of commits; a last word that keeps changing is a damaged one.
        const LOOKS: u32 = 100;
        let mut head = self.memory.room().load();
        for _ in 0..LOOKS {
            let tail = self.memory.items().load();
            let again = self.memory.room().load();
            if head == again {
                return tail.items_since(head) as usize;
            }
            head = again;
        }
        (self.memory.items().load().items_since(head) as usize).min(self.max_items())
    }

    /// Whether nothing is in the ring.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most records it holds at a time.
    #[must_use]
    pub fn max_items(&self) -> usize {
        self.limits.max_items as usize
    }

    /// Most bytes of one record.
    #[must_use]
    pub fn max_record(&self) -> usize {
        let limit = (self.memory.geometry().area_bytes() as u64).min(self.limits.max_bytes);
        limit.saturating_sub(UNIT as u64).min(u32::MAX.into()) as usize
    }

    /// Whether [`close`](Self::close) was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.memory.items().load().is_closed()
    }

    /// How many records were ever put: the number of the next.
    #[must_use]
    pub fn put_count(&self) -> u64 {
        Number(&self.memory.header().put.number).count(&self.memory.items())
    }

    /// How many records were ever taken.
    #[must_use]
    pub fn get_count(&self) -> u64 {
        Number(&self.memory.header().get.number).count(&self.memory.room())
    }

    /// Lets nobody put any more; what is in the ring can still be taken. Wakes everybody.
    ///
    /// Closing twice is allowed. Killed in between, the ring is closed and the sleepers find that
    /// out at the end of their slice.
    ///
    /// # Errors
    ///
    /// The locks are damaged.
    pub fn close(&self) -> Result<(), Corrupt> {
        let (items, room) = (self.memory.items(), self.memory.room());
        {
            let _held = self.lock_put_only(Patience::Forever)?;
            let _ = items.commit(items.load().closed());
        }
        items.wake_all();
        {
            // Those who wait for room compare this word.
            let _held = self.lock_get_only()?;
            let _ = room.commit(room.load().closed());
        }
        room.wake_all();
        Ok(())
    }

    /// The turn of who comes to put.
    #[inline]
    fn turn_to_put(&self, patience: Patience) -> Turn<'_> {
        Turn::new(self.memory.header().put.hunger(), patience).after_the_hungry()
    }

    /// The turn of who comes to get.
    #[inline]
    fn turn_to_get(&self, patience: Patience) -> Turn<'_> {
        Turn::new(self.memory.header().get.hunger(), patience).after_the_hungry()
    }

    #[inline]
    fn lock_put(&self, turn: &mut Turn<'_>) -> Result<Option<Held<'_>>, Corrupt> {
        self.lock(&self.memory.header().put, turn, || ())
    }

    #[inline]
    fn lock_get(&self, turn: &mut Turn<'_>) -> Result<Option<Held<'_>>, Corrupt> {
        self.lock(&self.memory.header().get, turn, || {
            self.void_claims();
            self.complete_intent();
        })
    }

    /// The lock of `put`, for something else.
    fn lock_put_only(&self, patience: Patience) -> Result<Option<Held<'_>>, Corrupt> {
        let hunger = self.memory.header().put.hunger();
        self.lock_put(&mut Turn::new(hunger, patience))
    }

    /// The lock of `get`, for something else.
    fn lock_get_only(&self) -> Result<Option<Held<'_>>, Corrupt> {
        let hunger = self.memory.header().get.hunger();
        self.lock_get(&mut Turn::new(hunger, Patience::Forever))
    }

    /// `None` if patience has run out.
    #[inline]
    fn lock<'a>(
        &'a self,
        side: &'a Side,
        turn: &mut Turn<'_>,
        repair: impl FnOnce(),
    ) -> Result<Option<Held<'a>>, Corrupt> {
        match side.lock(turn) {
            Ok((held, Acquired::Clean)) => Ok(Some(held)),
            Ok((held, Acquired::OwnerDied)) => {
                self.after_death();
                repair();
                Ok(Some(held))
            }
            Err(LockFailure::TimedOut | LockFailure::WouldBlock) => Ok(None),
            Err(LockFailure::Deadlock) => Err(Corrupt("this thread holds its lock already")),
            Err(LockFailure::Broken(_)) => Err(Corrupt("a lock is not usable")),
        }
    }

    /// The last owner of a lock died with it. In the ring there is nothing to repair, but it may
    /// have committed and not woken anybody.
    #[cold]
    fn after_death(&self) {
        self.memory.items().wake_all();
        self.memory.room().wake_all();
    }

    /// Waits for the word of `signal` to change from `seen`, after `served` items were served at
    /// this end.
    fn wait(&self, signal: &Signal<'_>, seen: Word, served: u32, turn: &mut Turn<'_>) -> Waited {
        let until = match turn.patience {
            Patience::Never => return Waited::Over,
            Patience::Until(deadline) => Some(deadline),
            Patience::Forever => None,
        };
        turn.refused(served);
        if self
            .spin
            .until(|| signal.word.load(Ordering::Relaxed) != seen.0)
        {
            return Waited::Changed;
        }
        match signal.sleep(seen, until) {
            Told::Woken | Told::Look => Waited::Slept,
            Told::Slice => Waited::Slice,
            Told::Over => Waited::Over,
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    /// Without sleeping.
    Changed,
    /// Woken, which may have been meant for more than one.
    Slept,
    /// A slice has passed.
    Slice,
    /// Patience has run out.
    Over,
}

impl From<Corrupt> for PutFailure {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

impl From<Corrupt> for GetFailure {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// What marks a record; a stray write has to hit both this and the count.
const TAG: u32 = 0b10110 << 27;

/// The eight bytes in front of a record: its length and the low bits of its number.
#[inline]
fn mark(len: usize, word: Word) -> u64 {
    (u64::from(TAG | word.items()) << 32) | len as u64
}

/// The length in a mark, if it is the mark of the item that `word` comes to next.
#[inline]
fn marked_len(mark: u64, word: Word) -> Result<usize, Corrupt> {
    if (mark >> 32) as u32 != TAG | word.items() {
        return Err(Corrupt("a record does not begin where the last one ended"));
    }
    Ok(mark as u32 as usize)
}

/// Units that a record of `len` bytes takes, its mark included.
#[inline]
fn record_units(len: usize) -> u64 {
    1 + (len as u64).div_ceil(UNIT as u64)
}
