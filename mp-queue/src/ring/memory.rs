//! The shared memory of a ring: header, table, area. Every offset is checked here.
#![allow(unsafe_code)] // raw memory that other processes map and may write at any time

use std::{io, marker::PhantomData, ptr::NonNull, sync::Arc};

use mp_core::{
    deadline::Deadline,
    futex::SLICE,
    primitive::{AtomicU32, AtomicU64, Line, Ordering, may_spin, spin_loop},
    robust::{Acquired, LockFailure, RobustMutex},
    shm::{Mapping, ShmSafe},
};

use super::{
    Corrupt,
    geometry::{Geometry, PAGE, Stretch},
    hunger::Hunger,
    signal::Signal,
    turn::{HUNGRY, Turn},
    word::UNIT,
};

/// Written last when a ring is made; changes with the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"mpring\x00\x03");

/// A lock is held for the time of one copy; worth this many looks before sleeping.
const LOCK_SPINS: u32 = 64;

/// The page both sides agree on. Each line has one kind of writer.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Header {
    /// Written once by the creator; everybody else copies and checks it at `attach`.
    constants: Line<Constants>,
    /// Written by who puts.
    pub(super) put: Line<Side>,
    /// Written under the lock of `put`.
    pub(super) tail: Line<Tail>,
    /// Written by who is about to sleep for want of items.
    pub(super) item_sleepers: Line<AtomicU32>,
    /// Written by who gets.
    pub(super) get: Line<Side>,
    /// Written under the lock of `get`: the commit of a get.
    pub(super) head: Line<AtomicU64>,
    /// Written by who is about to sleep for want of room.
    pub(super) room_sleepers: Line<AtomicU32>,
    /// Written by who has done what it took.
    pub(super) done: Line<Done>,
}

/// What who gets looks at when there is nothing.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Tail {
    /// The commit of a put.
    pub(super) word: AtomicU64,
    /// When memory beyond the warm part was last asked for, in monotonic milliseconds; zero once all
    /// of it was given back.
    pub(super) last_large: AtomicU64,
}

/// How many records were not only taken, but done with. Written under the get lock.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Done {
    pub(super) count: AtomicU64,
    /// Zero, or the count before (its low half, above) and the claims that end (below) with it: one
    /// more than the index of one, and [`ALL_DONE`](super::done::ALL_DONE).
    pub(super) intent: AtomicU64,
    /// As in [`Signal`]: written by who is about to sleep until all is done.
    pub(super) registered: AtomicU32,
    /// Not zero if a claim may be an orphan. Set before one is made, also without the lock.
    pub(super) orphans: AtomicU32,
}

/// One record in the hand of one process.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Claim {
    /// Zero, or who has the record. Written last.
    pub(super) owner: AtomicU32,
    pub(super) pid: AtomicU32,
    pub(super) number: AtomicU64,
}

// SAFETY: `repr(C)`, atomics, every bit pattern valid.
unsafe impl ShmSafe for Claim {}

/// Most records that can be in claiming hands at a time.
pub(super) const CLAIMS: usize = 4096;
const CLAIMS_BYTES: usize = CLAIMS * size_of::<Claim>();

// SAFETY: `repr(C)`, atomics and mutexes, every bit pattern valid.
unsafe impl ShmSafe for Header {}

#[repr(C)]
#[derive(Debug)]
struct Constants {
    magic: AtomicU64,
    chunk_bytes: AtomicU64,
    chunks: AtomicU64,
    max_items: AtomicU64,
    max_bytes: AtomicU64,
}

/// One end: its lock, and what only the holder of the lock reads and writes, but for what says so.
///
/// None of it is the truth: `seen` is an older value of the opposite word, `number` lags by at most
/// one commit and is put right from the word, `allocated` may say less than there is.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Side {
    pub(super) lock: RobustMutex,
    /// See [`Hunger`]. Written by who waits at this end, without the lock.
    hungry: AtomicU32,
    /// See [`Signal`]. Written by wakers, with or without the lock.
    pub(super) cleared: AtomicU32,
    /// The opposite word as this end last saw it.
    pub(super) seen: AtomicU64,
    /// See [`Number`](super::number::Number). Read by everybody.
    pub(super) number: AtomicU64,
    /// Bytes of the area that can be written, from its start. Put side only.
    pub(super) allocated: AtomicU64,
    /// Zero, or one more than the claim to look at first; then the claims are allocated. Get side
    /// only. Read by everybody, and first written by who claims first, without the lock.
    pub(super) next_claim: AtomicU32,
}

/// What limits a ring beside its area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_items: u32,
    pub(super) max_bytes: u64,
}

/// A ring's memory inside a mapping.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    mapping: Arc<Mapping>,
    geometry: Geometry,
    header: NonNull<Header>,
    table: NonNull<u8>,
    area: NonNull<u8>,
    claims: NonNull<Claim>,
}

// SAFETY: the pointers lead into `mapping`, which any thread may use and which lives as long.
unsafe impl Send for Memory {}
// SAFETY: shared parts are atomics; payload is copied under the ring's locks.
unsafe impl Sync for Memory {}

/// Bytes of header and table, in front of the area.
fn front(geometry: Geometry) -> usize {
    PAGE + (geometry.table_len() * size_of::<u64>()).next_multiple_of(PAGE)
}

/// Bytes of a mapping that a ring of this geometry takes.
pub(super) fn footprint(geometry: Geometry) -> usize {
    front(geometry) + geometry.area_bytes() + CLAIMS_BYTES
}

impl Memory {
    /// Makes a ring in zeroed memory that nobody uses yet.
    pub(super) fn create(
        mapping: Arc<Mapping>,
        geometry: Geometry,
        limits: Limits,
    ) -> io::Result<Self> {
        let memory = Self::locate(mapping, geometry)
            .ok_or_else(|| io::Error::other("the mapping is too small for the ring"))?;
        memory.mapping.allocate(0..front(geometry))?;
        memory.init_locks()?;
        let constants = &memory.header().constants;
        // Relaxed, but for the last: `attach` reads the magic first.
        constants
            .chunk_bytes
            .store(geometry.chunk_bytes as u64, Ordering::Relaxed);
        constants
            .chunks
            .store(geometry.chunks as u64, Ordering::Relaxed);
        constants
            .max_items
            .store(limits.max_items.into(), Ordering::Relaxed);
        constants
            .max_bytes
            .store(limits.max_bytes, Ordering::Relaxed);
        constants.magic.store(MAGIC, Ordering::Release);
        Ok(memory)
    }

    fn init_locks(&self) -> io::Result<()> {
        let header = self.header.as_ptr();
        for lock in [
            // SAFETY: a field of the header, which lies inside the mapping.
            unsafe { &raw mut (*header).put.0.lock },
            // SAFETY: as above.
            unsafe { &raw mut (*header).get.0.lock },
        ] {
            // SAFETY:
            // * Inside the mapping and aligned, because the header is.
            // * The ring is being made; nobody else knows of it yet.
            unsafe { RobustMutex::init(lock)? };
        }
        Ok(())
    }

    /// The ring that another process made, with its constants copied and checked.
    pub(super) fn attach(mapping: Arc<Mapping>) -> Result<(Self, Limits), Corrupt> {
        let smallest = Geometry::new(0);
        let probe = Self::locate(mapping, smallest).ok_or(Corrupt("the mapping is short"))?;
        let constants = &probe.header().constants;
        // Acquire: meets the Release in `create`.
        if constants.magic.load(Ordering::Acquire) != MAGIC {
            return Err(Corrupt("there is no ring in it"));
        }
        // Relaxed: written before the magic and never again.
        let geometry = Geometry {
            chunk_bytes: constants.chunk_bytes.load(Ordering::Relaxed) as usize,
            chunks: constants.chunks.load(Ordering::Relaxed) as usize,
        };
        let max_items = constants.max_items.load(Ordering::Relaxed);
        let max_bytes = constants.max_bytes.load(Ordering::Relaxed);
        if !geometry.is_sound() || max_items == 0 || max_items > super::word::MAX_ITEMS.into() {
            return Err(Corrupt("the sizes in the header make no sense"));
        }
        let limits = Limits {
            max_items: max_items as u32,
            max_bytes,
        };
        let memory = Self::locate(probe.mapping, geometry)
            .ok_or(Corrupt("the header tells of more memory than there is"))?;
        Ok((memory, limits))
    }

    /// Where the parts lie, if all of them lie inside the mapping.
    fn locate(mapping: Arc<Mapping>, geometry: Geometry) -> Option<Self> {
        if footprint(geometry) > mapping.len() {
            return None;
        }
        const { assert!(size_of::<Header>() <= PAGE && align_of::<Header>() <= PAGE) };
        let base = NonNull::new(mapping.as_ptr())?;
        Some(Self {
            header: base.cast(),
            // SAFETY: inside the mapping, as checked above.
            table: unsafe { base.add(PAGE) },
            // SAFETY: as above.
            area: unsafe { base.add(front(geometry)) },
            // SAFETY: as above.
            claims: unsafe { base.add(front(geometry) + geometry.area_bytes()) }.cast(),
            mapping,
            geometry,
        })
    }

    #[inline]
    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    #[inline]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: inside the mapping, aligned to a page, all fields atomics or mutexes, and mapped
        // as long as `self`.
        unsafe { self.header.as_ref() }
    }

    /// What tells of new items.
    #[inline]
    pub(super) fn items(&self) -> Signal<'_> {
        let header = self.header();
        Signal {
            word: &header.tail.word,
            registered: &header.item_sleepers,
            cleared: &header.put.cleared,
        }
    }

    /// What tells of new room.
    #[inline]
    pub(super) fn room(&self) -> Signal<'_> {
        let header = self.header();
        Signal {
            word: &header.head,
            registered: &header.room_sleepers,
            cleared: &header.get.cleared,
        }
    }

    #[inline]
    fn entry(&self, stretch: u64) -> &AtomicU64 {
        let index = stretch as usize & (self.geometry.table_len() - 1);
        // SAFETY: masked to the length of the table (a power of two), which lies inside the mapping.
        let entry = unsafe { self.table.cast::<u64>().add(index) };
        // SAFETY:
        // * Aligned, because the table begins on a page.
        // * Only ever accessed atomically; mapped as long as `self`.
        unsafe { AtomicU64::from_ptr(entry.as_ptr()) }
    }

    /// The entry of a stretch, if it names a chunk that exists.
    #[inline]
    pub(super) fn stretch(&self, stretch: u64) -> Result<Stretch, Corrupt> {
        // Relaxed: written before the commit that made it reachable, or under this very lock.
        let found = Stretch::unpack(self.entry(stretch).load(Ordering::Relaxed));
        if found.chunk as usize >= self.geometry.chunks {
            return Err(Corrupt("the table names a chunk that does not exist"));
        }
        Ok(found)
    }

    /// Under the put lock, for stretches that no reader may look at yet.
    pub(super) fn set_stretch(&self, stretch: u64, to: Stretch) {
        // Relaxed: published by the commit.
        self.entry(stretch).store(to.pack(), Ordering::Relaxed);
    }

    /// Makes `from..to` of the area writable.
    pub(super) fn allocate(&self, from: usize, to: usize) -> io::Result<()> {
        let area = front(self.geometry);
        self.mapping.allocate(area + from..area + to)
    }

    /// Makes the claims writable.
    pub(super) fn allocate_claims(&self) -> io::Result<()> {
        let start = front(self.geometry) + self.geometry.area_bytes();
        self.mapping.allocate(start..start + CLAIMS_BYTES)
    }

    pub(super) fn claim(&self, index: usize) -> &Claim {
        assert!(index < CLAIMS);
        // SAFETY: inside the mapping.
        let claim = unsafe { self.claims.add(index) };
        // SAFETY: aligned, because the area before it is a multiple of the page; all fields
        // atomics; mapped as long as `self`.
        unsafe { claim.as_ref() }
    }

    /// Gives `from..to` of the area back to the system.
    pub(super) fn punch(&self, from: usize, to: usize) -> io::Result<()> {
        let area = front(self.geometry);
        self.mapping.punch(area + from..area + to)
    }

    /// The record header at a multiple of [`UNIT`] in the area.
    #[inline]
    fn mark(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.geometry.area_bytes() && at.is_multiple_of(UNIT));
        // SAFETY: inside the area by the assertion.
        let mark = unsafe { self.area.add(at) };
        // SAFETY:
        // * Aligned, because the area begins on a page.
        // * Mapped as long as `self`. Its bytes may also be payload of another record, written
        //   without atomics, but never at the same time: that is what the locks are for.
        unsafe { AtomicU64::from_ptr(mark.cast().as_ptr()) }
    }

    #[inline]
    pub(super) fn read_mark(&self, at: usize) -> u64 {
        self.mark(at).load(Ordering::Relaxed) // ordered by the commit word
    }

    #[inline]
    pub(super) fn write_mark(&self, at: usize, mark: u64) {
        self.mark(at).store(mark, Ordering::Relaxed); // ordered by the commit word
    }

    /// Copies `bytes` to `at` in the area. Under the put lock, beyond the tail.
    #[inline]
    pub(super) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(self.holds(at, bytes.len()));
        // SAFETY: inside the area by the assertion.
        let to = unsafe { self.area.add(at) };
        // SAFETY:
        // * `bytes` is valid for reads, and as many bytes are inside the area.
        // * They cannot overlap: `bytes` is borrowed, and nothing borrows from the mapping.
        // * Nobody else of good will writes there: this thread holds the put lock.
        unsafe {
            to.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
    }

    /// Appends `len` bytes at `at` in the area to `out`, which has the capacity. Under the get lock,
    /// between head and tail.
    #[inline]
    pub(super) fn read(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        assert!(self.holds(at, len) && out.capacity() - out.len() >= len);
        // SAFETY: inside the area by the assertion.
        let from = unsafe { self.area.add(at) };
        // SAFETY: within the spare capacity by the assertion.
        let to = unsafe { out.as_mut_ptr().add(out.len()) };
        // SAFETY:
        // * Both are valid for `len` bytes and do not overlap: `out` is not in the mapping.
        // * Somebody of ill will may write meanwhile; then the copy is garbage, which is checked
        //   after it and by who decodes it.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), len) };
        // SAFETY: `len` bytes behind the old end were written just now.
        unsafe { out.set_len(out.len() + len) };
    }

    /// Copies the bytes at `at` in the area. Under the get lock, between head and tail.
    pub(super) fn peek(&self, at: usize, to: &mut [u8]) {
        assert!(self.holds(at, to.len()));
        // SAFETY: inside the area by the assertion.
        let from = unsafe { self.area.add(at) };
        // SAFETY: as in `read`, into a slice that is as long.
        unsafe {
            to.as_mut_ptr()
                .copy_from_nonoverlapping(from.as_ptr(), to.len())
        };
    }

    #[inline]
    fn holds(&self, at: usize, len: usize) -> bool {
        let area = self.geometry.area_bytes();
        at <= area && len <= area - at
    }
}

impl Side {
    #[inline]
    pub(super) fn hunger(&self) -> Hunger<'_> {
        Hunger(&self.hungry)
    }

    /// Locks this end, waiting as long as patience allows; how it was obtained.
    #[inline]
    pub(super) fn lock(&self, turn: &mut Turn<'_>) -> Result<(Held<'_>, Acquired), LockFailure> {
        let acquired = match self.lock.try_lock() {
            Err(LockFailure::WouldBlock) => self.lock_slow(turn)?,
            result => result?,
        };
        let held = Held {
            lock: &self.lock,
            _not_send: PhantomData,
        };
        Ok((held, acquired))
    }

    /// Sleeps in the kernel for no longer than it takes to be hungry, and then for twice as long
    /// each time: who holds the lock may have been stopped.
    #[cold]
    #[inline(never)]
    fn lock_slow(&self, turn: &mut Turn<'_>) -> Result<Acquired, LockFailure> {
        let until = turn.patience.until();
        let mut pause = HUNGRY;
        loop {
            match self.lock_spinning() {
                Err(LockFailure::WouldBlock) => {}
                result => return result,
            }
            if turn.is_hungry() {
                turn.declare();
            }
            let pause_end = Deadline::after(pause);
            let end = until.map_or(pause_end, |until| until.min(pause_end));
            match self.lock.lock_until(Some(end)) {
                Err(LockFailure::TimedOut) if !until.is_some_and(Deadline::is_over) => {}
                result => return result,
            }
            pause = (pause * 2).min(SLICE);
        }
    }

    fn lock_spinning(&self) -> Result<Acquired, LockFailure> {
        for _ in 0..if may_spin() { LOCK_SPINS } else { 0 } {
            spin_loop();
            match self.lock.try_lock() {
                Err(LockFailure::WouldBlock) => {}
                result => return result,
            }
        }
        Err(LockFailure::WouldBlock)
    }
}

/// A ring lock that this thread holds; released on drop.
#[derive(Debug)]
pub(super) struct Held<'a> {
    lock: &'a RobustMutex,
    /// Who locked has to unlock.
    _not_send: PhantomData<*const ()>,
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: locked by `Side::lock`, in this thread, since this is not `Send`.
        unsafe { self.lock.unlock() };
    }
}
