//! The pool's end of a lane; the other one is [`guest`](super::guest).

use std::{fmt, io, ops::Range, sync::Arc};

use mp_core::{
    futex,
    primitive::{self, Ordering},
    shm::Mapping,
};

use super::{
    layout::{
        ASLEEP, CLOSED, FRAME_HEADER, LANE_MAGIC, LaneHeader, NO_CPU, PAGE, claimed, published,
        unclaimed, with_published,
    },
    memory::{At, Ring, corrupt},
};

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
