//! The worker's end of a lane; the other one is [`host`](super::host).

use std::{fmt, io, sync::Arc};

use mp_core::{
    futex,
    primitive::{self, Ordering},
    shm::Mapping,
};

use super::{
    Hub,
    layout::{ASLEEP, CLAIMED_UNIT, CLOSED, FRAME_HEADER, LANE_MAGIC, LaneHeader, PAGE, unclaimed},
    memory::{At, Ring, corrupt},
};

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
        let start = frame.len();
        self.tasks.read(self.read, FRAME_HEADER, frame); // it has room already, mostly
        let header = frame[start..].try_into().expect("four bytes");
        frame.truncate(start);
        let len = u32::from_le_bytes(header) as usize;
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

    /// Whether the host will publish no more frames.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.at.words().board.0.load(Ordering::Relaxed) & CLOSED != 0 // says nothing of other memory
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
