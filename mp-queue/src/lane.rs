//! A lane: the private road between a pool and one of its workers, and the [`Hub`] where they meet.
//!
//! Not part of the crate's interface: mp-pool stands on it, and holds no unsafe code itself.
//!
//! ```text
//! Host (the pool)   ── task ring: frames, published by `board` ──►   Guest (one worker)
//!                   ◄── result ring: records, committed by `tail` ──
//! Hub: one for all workers of a pool; the bells that wake the pool, and the area for large frames.
//! ```
//!
//! Each word has one writer, but for `board`, which both sides change by compare-and-swap:
//!
//! | word | written by | meaning |
//! |---|---|---|
//! | `board` | both | how many frames are published, how many of them the worker has claimed, whether it sleeps, whether no more will come |
//! | `begun` | guest | items begun since the start; an item is begun before its arguments are decoded |
//! | `tail` | guest | bytes of results committed: *the* commit of a result |
//! | `head` | host | bytes of results taken |
//! | `wake_at` | host | the guest rings the hub's bell when it has committed this many items |
//! | `stop` | host | no further item of the claimed frame may begin |
//!
//! A frame is taken back by lowering the published count, as long as it is not claimed: a worker
//! cannot have seen it, and another one gets it. A frame's bytes stay until the host retires it, so what
//! a dead worker had not begun is read back from here. Killed at any instruction, a worker leaves
//! nothing half-done: a result is committed or absent, an item begun or not.
#![allow(unsafe_code)] // copies bytes to and from memory that another process maps

use std::{fmt, io, mem::size_of, ops::Range, ptr, sync::Arc};

use mp_core::{
    deadline::Deadline,
    futex,
    primitive::{self, AtomicU32, AtomicU64, Ordering, fence},
    shm::Mapping,
};

/// Words of different writers are kept on lines of their own (two, for the adjacent-line prefetch).
#[repr(C, align(128))]
struct Line<T>(T);

#[repr(C)]
struct LaneHeader {
    magic: AtomicU64,
    task_len: AtomicU64,
    result_len: AtomicU64,
    board: Line<AtomicU64>,
    guest: Line<GuestWords>,
    host: Line<HostWords>,
}

#[repr(C)]
struct GuestWords {
    tail: AtomicU64,
    begun: AtomicU64,
    begun_at: AtomicU64,
    state: AtomicU32,
    /// Where the guest sleeps, or slept last; a hint.
    cpu: AtomicU32,
    /// Not zero: the guest sleeps until `head` moves.
    wants_room: AtomicU32,
}

#[repr(C)]
struct HostWords {
    head: AtomicU64,
    wake_at: AtomicU64,
    stop: AtomicU32,
    /// Where the guest was woken from last; a hint.
    cpu: AtomicU32,
}

#[repr(C)]
struct HubHeader {
    magic: AtomicU64,
    area: AtomicU64,
    /// Which bell the guests ring.
    rung: Line<AtomicU32>,
    bells: [Line<AtomicU32>; 2],
}

const LANE_MAGIC: u64 = u64::from_le_bytes(*b"mp-lane1");
const HUB_MAGIC: u64 = u64::from_le_bytes(*b"mp-hub-1");
const PAGE: usize = 4096;
const NO_CPU: u32 = u32::MAX;

// The board: claimed:30 in the high half; asleep:1, closed:1, published:30 in the low half, which
// is the futex word.
const COUNT: u64 = (1 << 30) - 1;
const CLOSED: u64 = 1 << 30;
const ASLEEP: u64 = 1 << 31;
const CLAIMED_UNIT: u64 = 1 << 32;

const fn published(board: u64) -> u64 {
    board & COUNT
}

const fn claimed(board: u64) -> u64 {
    (board >> 32) & COUNT
}

/// Frames published and not claimed.
const fn unclaimed(board: u64) -> u64 {
    published(board).wrapping_sub(claimed(board)) & COUNT
}

const fn with_published(board: u64, count: u64) -> u64 {
    (board & !COUNT) | (count & COUNT)
}

/// A header at the front of a mapping.
struct At<H> {
    mapping: Arc<Mapping>,
    header: *const H,
}

// SAFETY: a pointer to atomics inside a mapping that lives as long, in any thread.
unsafe impl<H> Send for At<H> {}
// SAFETY: as above.
unsafe impl<H> Sync for At<H> {}

impl<H> Clone for At<H> {
    fn clone(&self) -> Self {
        Self {
            mapping: self.mapping.clone(),
            header: self.header,
        }
    }
}

impl<H> At<H> {
    /// `H` consists of atomics, for which every content is valid.
    fn new(mapping: Arc<Mapping>) -> io::Result<Self> {
        if mapping.len() < PAGE || size_of::<H>() > PAGE {
            return Err(corrupt("too small"));
        }
        let header = mapping.as_ptr().cast::<H>().cast_const();
        Ok(Self { mapping, header })
    }

    fn words(&self) -> &H {
        // SAFETY:
        // * Page-aligned, inside the mapping (checked in `new`), which lives as long as `self`.
        // * Only atomics, so a reference is allowed whatever other processes write.
        unsafe { &*self.header }
    }
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a pool's shared memory is damaged: {what}"),
    )
}

/// A ring of bytes in a mapping, addressed by positions that only grow.
#[derive(Clone)]
struct Ring {
    mapping: Arc<Mapping>,
    start: usize,
    len: usize,
}

impl Ring {
    fn new(mapping: &Arc<Mapping>, start: usize, len: usize) -> io::Result<Self> {
        let end = start.checked_add(len).filter(|end| *end <= mapping.len());
        if !len.is_power_of_two() || end.is_none() {
            return Err(corrupt("a ring lies outside of it"));
        }
        Ok(Self {
            mapping: mapping.clone(),
            start,
            len,
        })
    }

    /// Where `pos` lies, and how many bytes follow it before the ring wraps.
    #[inline]
    fn locate(&self, pos: u64) -> (*mut u8, usize) {
        let offset = pos as usize & (self.len - 1);
        let at = self.mapping.as_ptr().wrapping_add(self.start + offset);
        (at, self.len - offset)
    }

    /// Copies `bytes` (at most the ring's length) to `pos`.
    #[inline]
    fn write(&self, pos: u64, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.len);
        let (at, room) = self.locate(pos);
        let (first, second) = bytes.split_at(bytes.len().min(room));
        // SAFETY:
        // * `at` and the `first.len() <= room` bytes after it lie in the mapping.
        // * The range is unpublished: only its one writer, this one, may touch it.
        unsafe { copy_in(first, at) };
        if !second.is_empty() {
            let (at, _) = self.locate(pos + first.len() as u64);
            // SAFETY: as above, from the start of the ring.
            unsafe { copy_in(second, at) };
        }
    }

    /// Appends `len` bytes (at most the ring's length) from `pos` to `out`.
    #[inline]
    fn read(&self, pos: u64, len: usize, out: &mut Vec<u8>) {
        let len = len.min(self.len);
        out.reserve(len);
        let (at, room) = self.locate(pos);
        let first = len.min(room);
        append(out, at, first);
        if first < len {
            let (at, _) = self.locate(pos + first as u64);
            append(out, at, len - first);
        }
    }
}

/// Copies `bytes` to shared memory. Most are few, for which a call of `memcpy` costs more than the copy.
///
/// # Safety
///
/// `at` is valid for writes of `bytes.len()` bytes, which nobody else touches meanwhile.
#[inline]
unsafe fn copy_in(bytes: &[u8], at: *mut u8) {
    if let (4..=8, Some(first), Some(last)) = (bytes.len(), bytes.first_chunk(), bytes.last_chunk())
    {
        // SAFETY: as the caller promised.
        unsafe { copy_ends::<4>(first, last, at, bytes.len()) }
    } else if let (9..=16, Some(first), Some(last)) =
        (bytes.len(), bytes.first_chunk(), bytes.last_chunk())
    {
        // SAFETY: as the caller promised.
        unsafe { copy_ends::<8>(first, last, at, bytes.len()) }
    } else {
        // SAFETY: as the caller promised; a private slice and shared memory do not overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }
}

/// Copies `len` bytes, of which these are the first and the last `N`; where those overlap, they agree.
///
/// # Safety
///
/// `at` is valid for writes of `len >= N` bytes.
#[inline]
unsafe fn copy_ends<const N: usize>(first: &[u8; N], last: &[u8; N], at: *mut u8, len: usize) {
    // SAFETY: an array of bytes needs no alignment, and `N <= len`.
    unsafe { at.cast::<[u8; N]>().write(*first) };
    // SAFETY: ends where the `len` bytes end.
    unsafe { at.wrapping_add(len - N).cast::<[u8; N]>().write(*last) };
}

/// Appends `len` bytes from shared memory; the caller has reserved the room.
#[inline]
fn append(out: &mut Vec<u8>, from: *const u8, len: usize) {
    debug_assert!(out.capacity() - out.len() >= len);
    let end = out.len();
    let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY:
    // * Both ranges are valid for `len` bytes: the callers locate `from` inside a mapping and have
    //   reserved the room in `out`. They cannot overlap.
    // * What another process writes there meanwhile can damage the value, not this process: it is
    //   parsed from the private copy.
    unsafe { ptr::copy_nonoverlapping(from, to, len) };
    // SAFETY: these bytes have just been written.
    unsafe { out.set_len(end + len) };
}

/// What the host and its guests have in common: two bells, and an area for large frames.
#[derive(Clone)]
pub struct Hub {
    at: At<HubHeader>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("area", &self.area_len())
            .finish()
    }
}

/// The two sleepers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// The pool's own thread.
    Collector = 0,
    /// A thread that waits for a result, and collects all of them meanwhile.
    Caller = 1,
}

// A bell.
const AWAKE: u32 = 0;
const ASLEEP_AT_BELL: u32 = 1;

impl Hub {
    /// Makes a hub with an area of `area` bytes, none of them allocated.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors; `area` beyond `RLIMIT_FSIZE` or the address space.
    pub fn create(area: usize) -> io::Result<Self> {
        let mapping = Mapping::create("mp-pool-hub", PAGE + area, PAGE)?;
        let at = At::<HubHeader>::new(Arc::new(mapping))?;
        at.words().area.store(area as u64, Ordering::Relaxed); // published by handing over the memfd
        at.words().magic.store(HUB_MAGIC, Ordering::Relaxed);
        Ok(Self { at })
    }

    /// The guests' side.
    ///
    /// # Errors
    ///
    /// The mapping is no hub.
    pub fn attach(mapping: Mapping) -> io::Result<Self> {
        let at = At::<HubHeader>::new(Arc::new(mapping))?;
        if at.words().magic.load(Ordering::Relaxed) != HUB_MAGIC {
            return Err(corrupt("not a hub"));
        }
        Ok(Self { at })
    }

    /// To hand it to a guest.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.at.mapping
    }

    fn bell(&self, bell: Bell) -> &AtomicU32 {
        &self.at.words().bells[bell as usize].0
    }

    /// Decides which bell the guests ring from now on.
    pub fn choose(&self, bell: Bell) {
        self.at.words().rung.0.store(bell as u32, Ordering::SeqCst);
    }

    fn chosen(&self) -> Bell {
        match self.at.words().rung.0.load(Ordering::SeqCst) {
            0 => Bell::Collector,
            _ => Bell::Caller,
        }
    }

    /// Wakes the chosen sleeper.
    #[inline]
    pub fn ring(&self) {
        self.wake(self.chosen());
    }

    /// Wakes whoever sleeps here.
    pub fn wake_both(&self) {
        self.wake(Bell::Caller);
        self.wake(Bell::Collector);
    }

    /// Wakes this sleeper if it sleeps.
    pub fn wake(&self, bell: Bell) {
        let word = self.bell(bell);
        if word.load(Ordering::SeqCst) != AWAKE && word.swap(AWAKE, Ordering::SeqCst) != AWAKE {
            futex::wake(word, 1);
        }
    }

    /// First step of going to sleep: from here on ringing wakes. The caller looks once more for
    /// what it waits for, then [`sleep`](Self::sleep)s.
    pub fn prepare(&self, bell: Bell) {
        // Meets the guests' SeqCst commit: either they see this store and ring, or what they
        // committed is seen by the look that follows.
        self.bell(bell).store(ASLEEP_AT_BELL, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Takes [`prepare`](Self::prepare) back.
    pub fn stay_awake(&self, bell: Bell) {
        self.bell(bell).store(AWAKE, Ordering::SeqCst);
    }

    /// Sleeps until woken, until `until`, or for a slice.
    pub fn sleep(&self, bell: Bell, until: Option<Deadline>) {
        let word = self.bell(bell);
        futex::wait(word, ASLEEP_AT_BELL, until);
        self.stay_awake(bell);
    }

    /// Size of the area for large frames.
    #[must_use]
    pub fn area_len(&self) -> usize {
        (self.at.words().area.load(Ordering::Relaxed) as usize)
            .min(self.at.mapping.len().saturating_sub(PAGE))
    }

    /// Makes sure that `range` of the area can be written.
    ///
    /// # Errors
    ///
    /// Out of memory.
    pub fn allocate(&self, range: Range<usize>) -> io::Result<()> {
        self.at
            .mapping
            .allocate(PAGE + range.start..PAGE + range.end)
    }

    /// Gives the memory of `range` back.
    pub fn punch(&self, range: Range<usize>) {
        let range = PAGE + range.start..PAGE + range.end;
        let _ = self.at.mapping.punch(range); // inside the mapping, so there is no reason to fail
    }

    /// Copies `bytes` into an [allocated](Self::allocate) part of the area that only the caller uses.
    ///
    /// # Panics
    ///
    /// Outside the area.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        assert!(
            end.is_some_and(|end| end <= self.area_len()),
            "outside the area"
        );
        let at = self.at.mapping.as_ptr().wrapping_add(PAGE + offset);
        // SAFETY:
        // * Inside the mapping, as just checked.
        // * The host gives each extent to one writer and publishes it afterwards.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }

    /// Appends `len` bytes from `offset` of the area to `out`.
    ///
    /// # Errors
    ///
    /// Outside the area.
    pub fn read(&self, offset: usize, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.area_len()) {
            return Err(corrupt("a frame lies outside the area"));
        }
        out.reserve(len);
        append(
            out,
            self.at.mapping.as_ptr().wrapping_add(PAGE + offset),
            len,
        );
        Ok(())
    }
}

/// The pool's end of a lane.
pub struct Host {
    at: At<LaneHeader>,
    tasks: Ring,
    results: Ring,
    /// Where the next frame goes.
    write: u64,
    /// Where the oldest frame lies that is not retired.
    oldest: u64,
    /// Frames written and not published.
    written: u64,
    head: u64,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let board = self.at.words().board.0.load(Ordering::Relaxed); // a picture, no decision
        f.debug_struct("Host")
            .field("published", &published(board))
            .field("claimed", &claimed(board))
            .finish_non_exhaustive()
    }
}

/// Length field before each frame.
const FRAME_HEADER: usize = 4;

impl Host {
    /// Makes a lane with rings of these sizes, powers of two.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors.
    pub fn create(task_len: usize, result_len: usize) -> io::Result<Self> {
        let total = PAGE + task_len + result_len;
        let mapping = Arc::new(Mapping::create("mp-pool-lane", total, total)?);
        let at = At::<LaneHeader>::new(mapping.clone())?;
        let words = at.words();
        words.task_len.store(task_len as u64, Ordering::Relaxed); // published with the memfd
        words.result_len.store(result_len as u64, Ordering::Relaxed);
        words.magic.store(LANE_MAGIC, Ordering::Relaxed);
        words.host.0.wake_at.store(u64::MAX, Ordering::Relaxed);
        words.host.0.cpu.store(NO_CPU, Ordering::Relaxed);
        Ok(Self {
            tasks: Ring::new(&mapping, PAGE, task_len)?,
            results: Ring::new(&mapping, PAGE + task_len, result_len)?,
            at,
            write: 0,
            oldest: 0,
            written: 0,
            head: 0,
        })
    }

    /// To hand it to the guest.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.at.mapping
    }

    /// Whether a frame of `len` bytes fits behind those that are not retired.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        let used = (self.write - self.oldest) as usize;
        self.tasks.len - used >= FRAME_HEADER + len
    }

    /// Writes a frame, invisible until [`publish`](Self::publish); its position and end, or `None`
    /// if there is no room.
    pub fn write(&mut self, parts: &[&[u8]]) -> Option<Range<u64>> {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if !self.has_room(len) {
            return None;
        }
        let start = self.write;
        let mut at = start;
        let mut put = |bytes: &[u8]| {
            self.tasks.write(at, bytes);
            at += bytes.len() as u64;
        };
        put(&(len as u32).to_le_bytes());
        parts.iter().for_each(|part| put(part));
        self.write = at;
        self.written += 1;
        Some(start..at)
    }

    /// Makes what was written visible, at once; whether the guest sleeps and needs
    /// [`Nudge::wake`].
    pub fn publish(&mut self) -> bool {
        let added = std::mem::take(&mut self.written);
        if added == 0 {
            return false;
        }
        let board = &self.at.words().board.0;
        // Release: the guest's claim (Acquire) sees the frames' bytes.
        let old = board.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |board| {
            Some(with_published(board & !ASLEEP, published(board) + added))
        });
        old.is_ok_and(|old| old & ASLEEP != 0)
    }

    /// No more frames will come: the guest ends once it has done those that are published.
    pub fn close(&mut self) {
        let old = self.at.words().board.0.fetch_or(CLOSED, Ordering::AcqRel);
        if old & ASLEEP != 0 {
            self.nudge().wake();
        }
    }

    /// To wake the guest after the locks around this host have been released.
    #[must_use]
    pub fn nudge(&self) -> Nudge {
        Nudge(self.at.clone())
    }

    /// How many frames the guest has claimed, modulo 2^30.
    #[must_use]
    pub fn claimed(&self) -> u32 {
        claimed(self.at.words().board.0.load(Ordering::Acquire)) as u32
    }

    /// Published frames that nobody has claimed.
    #[must_use]
    pub fn unclaimed(&self) -> usize {
        unclaimed(self.at.words().board.0.load(Ordering::Acquire)) as usize
    }

    /// Takes up to `most` unclaimed frames back, the last ones first; how many.
    ///
    /// The guest has not seen them and never will. [`rewind`](Self::rewind) then gives their room back.
    pub fn withdraw(&mut self, most: usize) -> usize {
        let mut taken = 0;
        let _ =
            self.at
                .words()
                .board
                .0
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |board| {
                    taken = unclaimed(board).min(most as u64);
                    (taken > 0).then(|| with_published(board, published(board).wrapping_sub(taken)))
                });
        taken as usize
    }

    /// The next frame goes to `position`, the start of the first that was withdrawn.
    pub fn rewind(&mut self, position: u64) {
        debug_assert!(self.oldest <= position && position <= self.write && self.written == 0);
        self.write = position;
    }

    /// Appends the content of a frame that is not retired to `out`.
    pub fn read(&self, frame: &Range<u64>, out: &mut Vec<u8>) {
        let len = (frame.end - frame.start) as usize - FRAME_HEADER;
        self.tasks.read(frame.start + FRAME_HEADER as u64, len, out);
    }

    /// The room up to `end` may be used again.
    pub fn retire(&mut self, end: u64) {
        debug_assert!(self.oldest <= end && end <= self.write);
        self.oldest = end;
    }

    /// Whether results are there.
    #[inline]
    #[must_use]
    pub fn has_results(&self) -> bool {
        self.at.words().guest.0.tail.load(Ordering::SeqCst) != self.head
    }

    /// Appends all committed results to `out`; how many bytes.
    ///
    /// # Errors
    ///
    /// The guest's word makes no sense: its memory is damaged.
    pub fn take_results(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        let words = self.at.words();
        // SeqCst to meet the guest's in `commit`; Acquire for the bytes.
        let tail = words.guest.0.tail.load(Ordering::SeqCst);
        let len = tail.wrapping_sub(self.head);
        if len > self.results.len as u64 {
            return Err(corrupt("more results than the ring holds"));
        }
        if len == 0 {
            return Ok(0);
        }
        self.results.read(self.head, len as usize, out);
        self.head = tail;
        // SeqCst, as the guest's store of `wants_room` before it looks at `head` again.
        words.host.0.head.store(tail, Ordering::SeqCst);
        if words.guest.0.wants_room.load(Ordering::SeqCst) != 0 {
            futex::wake(futex::low_half(&words.host.0.head), 1);
        }
        Ok(len as usize)
    }

    /// The guest rings the hub's bell once it has committed `items` in all.
    pub fn wake_at(&self, items: u64) {
        self.at
            .words()
            .host
            .0
            .wake_at
            .store(items, Ordering::SeqCst);
    }

    /// Items begun since the start.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.at.words().guest.0.begun.load(Ordering::SeqCst)
    }

    /// When the last timed item was begun, in nanoseconds of the monotonic clock.
    #[must_use]
    pub fn begun_at(&self) -> u64 {
        self.at.words().guest.0.begun_at.load(Ordering::SeqCst)
    }

    /// Forbids (or allows again) that further timed items of the claimed frame begin.
    pub fn stop(&self, stop: bool) {
        let word = &self.at.words().host.0.stop;
        word.store(u32::from(stop), Ordering::SeqCst);
        if !stop {
            futex::wake(word, 1);
        }
    }

    /// What the guest said last of its state.
    #[must_use]
    pub fn state(&self) -> u32 {
        self.at.words().guest.0.state.load(Ordering::Acquire)
    }
}

/// Wakes a guest; see [`Host::publish`].
#[derive(Clone)]
pub struct Nudge(At<LaneHeader>);

impl fmt::Debug for Nudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nudge")
    }
}

impl Nudge {
    /// Wakes the guest if it still sleeps.
    pub fn wake(&self) {
        let host = &self.0.words().host.0;
        host.cpu.store(
            primitive::current_cpu().unwrap_or(NO_CPU),
            Ordering::Relaxed,
        ); // a hint
        futex::wake(futex::low_half(&self.0.words().board.0), 1);
    }

    /// Whether the guest went to sleep on the CPU that this thread runs on: most likely it needs
    /// that one.
    #[must_use]
    pub fn slept_here(&self) -> bool {
        let cpu = self.0.words().guest.0.cpu.load(Ordering::Relaxed); // a hint
        primitive::current_cpu().is_none_or(|here| here == cpu)
    }
}

/// The worker's end of a lane.
pub struct Guest {
    at: At<LaneHeader>,
    hub: Hub,
    tasks: Ring,
    results: Ring,
    read: u64,
    tail: u64,
    /// `head` as it was when last looked at.
    head: u64,
    items: u64,
    begun: u64,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("begun", &self.begun)
            .field("items", &self.items)
            .finish_non_exhaustive()
    }
}

/// What [`Guest::claim`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A frame; it is this guest's now.
    Frame,
    /// Nothing yet.
    Empty,
    /// Nothing, and nothing will come.
    Closed,
}

impl Guest {
    /// Attaches to a lane whose host is in another process.
    ///
    /// # Errors
    ///
    /// The mapping is no lane.
    pub fn attach(lane: Mapping, hub: Hub) -> io::Result<Self> {
        let mapping = Arc::new(lane);
        let at = At::<LaneHeader>::new(mapping.clone())?;
        let words = at.words();
        if words.magic.load(Ordering::Relaxed) != LANE_MAGIC {
            return Err(corrupt("not a lane"));
        }
        let task_len = words.task_len.load(Ordering::Relaxed) as usize;
        let result_len = words.result_len.load(Ordering::Relaxed) as usize;
        let results_at = PAGE.checked_add(task_len).ok_or_else(|| corrupt("sizes"))?;
        Ok(Self {
            tasks: Ring::new(&mapping, PAGE, task_len)?,
            results: Ring::new(&mapping, results_at, result_len)?,
            at,
            hub,
            read: 0,
            tail: 0,
            head: 0,
            items: 0,
            begun: 0,
        })
    }

    /// The hub this lane belongs to.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Tells the host a state, and rings.
    pub fn set_state(&self, state: u32) {
        let words = self.at.words();
        words.guest.0.state.store(state, Ordering::SeqCst);
        self.hub.wake_both();
    }

    /// Claims the next frame and appends its content to `frame`.
    ///
    /// # Errors
    ///
    /// The frame makes no sense: the memory is damaged.
    #[inline]
    pub fn claim(&mut self, frame: &mut Vec<u8>) -> io::Result<Claim> {
        let board = &self.at.words().board.0;
        let mut now = board.load(Ordering::Relaxed); // decided by the exchange below
        loop {
            if unclaimed(now) == 0 {
                return Ok(if now & CLOSED != 0 {
                    Claim::Closed
                } else {
                    Claim::Empty
                });
            }
            // One bit may carry out of the top of `claimed`; the mask in `claimed()` drops it.
            let next = now.wrapping_add(CLAIMED_UNIT);
            // Acquire: sees the bytes of the frame that this publication or a later one wrote.
            match board.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(other) => now = other,
            }
        }
        let mut header = Vec::with_capacity(FRAME_HEADER);
        self.tasks.read(self.read, FRAME_HEADER, &mut header);
        let len = u32::from_le_bytes(header.try_into().expect("four bytes")) as usize;
        if len > self.tasks.len - FRAME_HEADER {
            return Err(corrupt("a frame is longer than its ring"));
        }
        self.tasks.read(self.read + FRAME_HEADER as u64, len, frame);
        self.read += (FRAME_HEADER + len) as u64;
        Ok(Claim::Frame)
    }

    /// Whether [`claim`](Self::claim) would find something other than `Empty`.
    #[inline]
    #[must_use]
    pub fn is_due(&self) -> bool {
        let board = self.at.words().board.0.load(Ordering::Relaxed); // a hint; `claim` decides
        unclaimed(board) != 0 || board & CLOSED != 0
    }

    /// Sleeps while there is nothing to claim; for a slice at most.
    pub fn sleep(&self) {
        if let Some(cpu) = primitive::current_cpu() {
            let words = self.at.words();
            words.guest.0.cpu.store(cpu, Ordering::Relaxed); // a hint
        }
        let board = &self.at.words().board.0;
        let old = board.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |board| {
            (unclaimed(board) == 0 && board & CLOSED == 0).then_some(board | ASLEEP)
        });
        if let Ok(old) = old {
            futex::wait(futex::low_half(board), (old | ASLEEP) as u32, None);
        }
    }

    /// Whether it runs on the CPU that it was woken from: whoever woke it most likely needs that one.
    #[must_use]
    pub fn was_woken_here(&self) -> bool {
        let cpu = self.at.words().host.0.cpu.load(Ordering::Relaxed); // a hint
        primitive::current_cpu() == Some(cpu)
    }

    /// Notes that the next item begins; before anything of it is looked at.
    #[inline]
    pub fn begin(&mut self) {
        self.begun += 1;
        // Release, so that a host which sees it also sees the results before it.
        let word = &self.at.words().guest.0.begun;
        word.store(self.begun, Ordering::Release);
    }

    /// The same for an item that may be stopped: `false` if the host has forbidden it.
    pub fn begin_timed(&mut self, now: u64) -> bool {
        let words = self.at.words();
        words.guest.0.begun_at.store(now, Ordering::SeqCst);
        // Either the host sees this item begun, or this sees the host's `stop`: both SeqCst.
        words.guest.0.begun.store(self.begun + 1, Ordering::SeqCst);
        if words.host.0.stop.load(Ordering::SeqCst) != 0 {
            words.guest.0.begun.store(self.begun, Ordering::SeqCst);
            return false;
        }
        self.begun += 1;
        true
    }

    /// Sleeps while the host's `stop` stands; for a slice at most.
    pub fn wait_while_stopped(&self) {
        futex::wait(&self.at.words().host.0.stop, 1, None);
    }

    /// Commits `record`, the results of `items` items (0: a part of one); waits for room if need be, which depends
    /// on the host alone. At most half a ring at a time.
    #[inline]
    pub fn commit(&mut self, record: [&[u8]; 2], items: u64) {
        let len = record[0].len() + record[1].len();
        assert!(len <= self.max_record(), "a record of {len} bytes");
        if (self.tail - self.head) as usize + len > self.results.len / 2 {
            self.make_room(len);
        }
        for part in record.into_iter().filter(|part| !part.is_empty()) {
            self.results.write(self.tail, part);
            self.tail += part.len() as u64;
        }
        self.items += items;
        let words = self.at.words();
        // The commit. SeqCst, as the host's store of `wake_at` and its look at `tail` before it
        // sleeps: one of the two sees the other.
        words.guest.0.tail.store(self.tail, Ordering::SeqCst);
        if self.items >= words.host.0.wake_at.load(Ordering::SeqCst) {
            self.hub.ring();
        }
    }

    /// The largest record that [`commit`](Self::commit) takes.
    #[must_use]
    pub fn max_record(&self) -> usize {
        self.results.len / 2
    }

    /// The ring is half full: tell the host. Full: wait for it.
    #[cold]
    fn make_room(&mut self, len: usize) {
        let words = self.at.words();
        self.head = words.host.0.head.load(Ordering::Acquire);
        let used = |head: u64| self.tail.wrapping_sub(head);
        if used(self.head) <= self.results.len as u64 / 4 {
            return;
        }
        self.hub.ring();
        while used(self.head) + len as u64 > self.results.len as u64 {
            let low = futex::low_half(&words.host.0.head);
            words.guest.0.wants_room.store(1, Ordering::SeqCst);
            let head = words.host.0.head.load(Ordering::SeqCst);
            if head == self.head {
                self.hub.wake_both();
                futex::wait(low, head as u32, None);
            }
            words.guest.0.wants_room.store(0, Ordering::SeqCst);
            self.head = words.host.0.head.load(Ordering::Acquire);
        }
    }
}
