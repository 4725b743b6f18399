//! One worker, as the pool sees it.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::{Duration, Instant},
};

use mp_core::deadline::Deadline;
use mp_process::{Child, Process};
use mp_queue::lane::Host;

use crate::{
    error::TaskError,
    job::{Body, Frame, Pending},
    outcome::Effects,
    wire::{self, FrameHeader, MAX_HEADER},
    worker::{READY, monotonic_nanos},
};

/// A worker, its lane, and what is in it.
pub(crate) struct Worker {
    /// 1, 2, 3… over the life of the pool.
    pub(crate) number: u64,
    pub(crate) pid: u32,
    process: Process<()>,
    host: Host,
    /// In its lane, not all outcomes here; the first is the one at work, the last ones may be unpublished
    /// yet.
    pub(crate) frames: VecDeque<Frame>,
    pub(crate) items_done: u64,
    /// Items of all frames that it was given, less those taken back.
    pub(crate) items_given: u64,
    /// How many items it may have in its life.
    pub(crate) budget: u64,
    /// It rings when it has done so many items.
    wake_at: u64,
    /// How many frames it may have at once.
    depth: usize,
    filled: Instant,
    done_since_fill: u32,
    /// How many items it had begun when that was seen to change, and when.
    moved: (u64, Instant),
    /// What waits in its lane may wait for long, when it was last [looked at](Self::look).
    pub(crate) held_up: bool,
    /// A result that has arrived in part.
    pub(crate) partial: Vec<u8>,
    /// When it was last seen to finish something, on the pool's own clock.
    pub(crate) stamp: u64,
    /// It has to be up by then.
    up_by: Option<Deadline>,
    /// It gets no more tasks and ends when it has done its own.
    pub(crate) leaving: bool,
    /// It asked to leave, and does so once its successor is there, whatever it has then.
    pub(crate) recycled: bool,
    /// Its successor is there.
    pub(crate) succeeded: bool,
    pub(crate) doom: Option<Doom>,
    /// Why the initializer failed.
    pub(crate) not_ready: Option<String>,
    started: Instant,
    /// Since when it has had tasks without a break, if it has any.
    busy_since: Option<Instant>,
    /// For how long it had tasks before that.
    was_busy: Duration,
}

/// A worker that is being ended on purpose.
pub(crate) struct Doom {
    /// What becomes of the item at work.
    pub(crate) error: TaskError,
    /// Which one that is, counted over the worker's life.
    pub(crate) item: u64,
    /// SIGKILL follows then.
    pub(crate) kill_at: Option<Deadline>,
}

impl Doom {
    /// Whether the doomed item is one of the `count` after the first `done`.
    pub(crate) fn is_among(&self, done: u64, count: u32) -> bool {
        (done..done + u64::from(count)).contains(&self.item)
    }
}

/// When a worker rings, counted from what it has done by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threshold {
    /// At the next result.
    Each,
    /// When half of what it has is done: it gets more before it has to wait.
    Half,
    /// When all is done that it has.
    All,
}

/// The most frames in a lane.
const MAX_DEPTH: usize = 1024;
/// One at work, and one to go on with.
const MIN_DEPTH: usize = 2;
/// A lane should hold about this much work.
const AHEAD: Duration = Duration::from_millis(1);
/// At one item for so long, a worker has a long task: the scheduler alone keeps none waiting as long.
const LONG: Duration = Duration::from_millis(10);

impl Worker {
    pub(crate) fn new(number: u64, process: Process<()>, host: Host, budget: u64) -> Self {
        Self {
            number,
            pid: process.pid(),
            process,
            host,
            frames: VecDeque::new(),
            items_done: 0,
            items_given: 0,
            budget,
            wake_at: u64::MAX,
            depth: MIN_DEPTH,
            filled: Instant::now(),
            done_since_fill: 0,
            moved: (0, Instant::now()),
            held_up: false,
            partial: Vec::new(),
            stamp: 0,
            up_by: None,
            leaving: false,
            recycled: false,
            succeeded: false,
            doom: None,
            not_ready: None,
            started: Instant::now(),
            busy_since: None,
            was_busy: Duration::ZERO,
        }
    }

    /// How long it has been there.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    /// For how long it has had tasks.
    pub(crate) fn busy(&self, now: Instant) -> Duration {
        let stretch = self
            .busy_since
            .map(|since| now.saturating_duration_since(since));
        self.was_busy + stretch.unwrap_or_default()
    }

    /// With this limit for its initializer.
    pub(crate) fn up_within(mut self, limit: Option<Duration>) -> Self {
        self.up_by = limit.map(Deadline::after);
        self
    }

    /// Kills it if its initializer takes too long; else when to look again.
    pub(crate) fn late(&mut self) -> Option<Deadline> {
        let up_by = self.up_by.filter(|_| !self.is_up())?;
        if !up_by.is_over() {
            return Some(up_by);
        }
        self.up_by = None;
        self.not_ready = Some("it took longer than it may".to_owned());
        self.kill();
        None
    }

    /// Readable once the process has ended.
    pub(crate) fn sentinel(&self) -> RawFd {
        self.process.as_fd().as_raw_fd()
    }

    /// Its process, to be reaped: that speaks to the log, so not under the pool's lock.
    pub(crate) fn child(&self) -> Child {
        self.process.child().clone()
    }

    /// Whether its initializer is done.
    pub(crate) fn is_up(&self) -> bool {
        self.host.state() == READY
    }

    pub(crate) fn takes_more(&self) -> bool {
        self.frames.len() < self.depth
            && self.items_given < self.budget
            && !self.leaving
            && self.doom.is_none()
    }

    pub(crate) fn has_results(&self) -> bool {
        self.host.has_results()
    }

    /// `false` if the lane is damaged.
    pub(crate) fn take_results(&mut self, out: &mut Vec<u8>) -> bool {
        self.host.take_results(out).is_ok()
    }

    /// Items begun since its start.
    pub(crate) fn begun(&self) -> u64 {
        self.host.begun()
    }

    /// Writes tasks into the lane, invisible until [`publish`](Self::publish). `body` is used if
    /// `pending` has none of its own. Hands them back if there is no room.
    pub(crate) fn give(&mut self, pending: Pending, body: &[u8]) -> Result<(), Pending> {
        let header = FrameHeader {
            count: pending.count,
            timed: pending.job.timeout.is_some(),
            large: matches!(pending.body, Body::Far(_)),
        };
        let mut bytes = [0; MAX_HEADER];
        let len = header.encode(&pending.job.callee, &mut bytes);
        let header = &bytes[..len];
        let place = match &pending.body {
            Body::Inline(own) if own.is_empty() => self.host.write(&[header, body]),
            Body::Inline(own) => self.host.write(&[header, own]),
            Body::Far(place) => {
                let place = wire::encode_large(place.start, place.len());
                self.host.write(&[header, &place])
            }
        };
        let Some(place) = place else {
            return Err(pending);
        };
        if self.frames.is_empty() {
            self.filled = Instant::now();
            self.done_since_fill = 0;
            self.busy_since = Some(self.filled);
        }
        self.items_given += u64::from(pending.count);
        self.frames.push_back(Frame {
            job: pending.job,
            first: pending.first,
            count: pending.count,
            done: 0,
            attempt: pending.attempt,
            place,
            held: pending.held,
        });
        Ok(())
    }

    /// Makes what was written visible.
    pub(crate) fn publish(&mut self, effects: &mut Effects) {
        if self.host.publish() {
            effects.nudges.push(self.host.nudge());
        }
    }

    /// All outcomes of its first frame are here.
    pub(crate) fn retire(&mut self, frame: &Frame) {
        self.host.retire(frame.place.end);
        self.done_since_fill += 1;
        self.held_up = false;
        if self.frames.is_empty() {
            self.rest();
        }
    }

    /// It has no task any more.
    fn rest(&mut self) {
        self.was_busy += self
            .busy_since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// So many frames that they are about [`AHEAD`] of work: long tasks stay where any worker can
    /// get them, short ones travel in crowds.
    pub(crate) fn adapt_depth(&mut self, now: Instant) {
        if self.done_since_fill == 0 || self.frames.len() > self.depth / 2 {
            return;
        }
        let each = (now - self.filled) / self.done_since_fill;
        let fits = AHEAD.as_nanos() / each.as_nanos().max(1);
        self.depth = (fits as usize)
            .clamp(self.depth / 2, self.depth * 4)
            .clamp(MIN_DEPTH, MAX_DEPTH);
        self.filled = now;
        self.done_since_fill = 0;
    }

    /// Whether frames wait in its lane behind another.
    pub(crate) fn has_waiting(&self) -> bool {
        self.frames.len() > 1
    }

    /// Looks whether it is held up: at one item for [`LONG`]. Then it gets few others ahead.
    pub(crate) fn look(&mut self, now: Instant) {
        let begun = self.begun();
        if begun != self.moved.0 {
            self.moved = (begun, now);
        }
        let since = self.moved.1.max(self.filled);
        // With results that nobody has taken yet, it may be idle.
        let at_work = begun > self.items_done && !self.has_results();
        self.held_up = at_work && now.saturating_duration_since(since) > LONG;
        if self.held_up {
            self.depth = MIN_DEPTH;
        }
    }

    /// Takes up to `most` frames back that were not claimed, the last one first.
    pub(crate) fn take_back(&mut self, most: usize, effects: &mut Effects) -> Vec<Pending> {
        self.publish(effects); // what was written and not published cannot be withdrawn
        let count = self.host.withdraw(most);
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(frame) = self.frames.pop_back() else {
                break;
            };
            let start = frame.place.start;
            self.items_given -= u64::from(frame.count);
            taken.push(self.reclaim(frame));
            self.host.rewind(start);
        }
        if self.frames.is_empty() {
            self.rest();
        }
        if self.wake_at > self.items_given && self.wake_at != u64::MAX && count > 0 {
            // It would wait for items that it no longer has.
            self.wake_at = self.items_given;
            self.host.wake_at(self.wake_at);
            effects.leader = true;
        }
        taken
    }

    /// The tasks of a frame, read back from the lane.
    pub(crate) fn reclaim(&mut self, frame: Frame) -> Pending {
        let mut bytes = Vec::new();
        self.host.read(&frame.place, &mut bytes);
        let body = match FrameHeader::decode(&bytes) {
            Some((header, _, body)) if header.large => {
                let (start, len) = wire::decode_large(body).unwrap_or_default(); // as written
                Body::Far(start..start + len)
            }
            header => {
                let body_len = header.map_or(0, |(_, _, body)| body.len());
                bytes.drain(..bytes.len() - body_len);
                Body::Inline(bytes)
            }
        };
        Pending {
            job: frame.job,
            first: frame.first,
            count: frame.count,
            attempt: frame.attempt,
            body,
            held: frame.held,
        }
    }

    /// When it is to ring. Whether that is not as it was.
    pub(crate) fn set_threshold(&mut self, threshold: Option<Threshold>) -> bool {
        let items = match threshold {
            None => u64::MAX,
            Some(_) if self.frames.is_empty() => self.items_done + 1,
            Some(Threshold::Each) => self.items_done + 1,
            Some(Threshold::Half) => {
                let half = self.frames.len().div_ceil(2);
                let items = self
                    .frames
                    .iter()
                    .take(half)
                    .map(|frame| u64::from(frame.left()));
                self.items_done + items.sum::<u64>()
            }
            Some(Threshold::All) => self.items_given,
        };
        let changed = items != self.wake_at;
        if changed {
            self.wake_at = items;
            self.host.wake_at(items);
        }
        changed
    }

    /// No more frames will come.
    pub(crate) fn close(&mut self) {
        self.host.close();
    }

    /// The limit of the tasks at work, if they have one.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.frames
            .front()?
            .job
            .timeout
            .filter(|_| self.doom.is_none())
    }

    /// The limit that the item at work has exceeded, and how many items were begun by then. Else when
    /// to look again.
    pub(crate) fn overdue(&mut self) -> Result<(Duration, u64), Option<Deadline>> {
        if self.doom.is_some() {
            return Err(self.grace_over());
        }
        let Some(limit) = self.limit() else {
            return Err(None);
        };
        let begun = self.host.begun();
        if begun <= self.items_done {
            return Err(Some(Deadline::after(limit)));
        }
        let age = monotonic_nanos().saturating_sub(self.host.begun_at());
        let age = Duration::from_nanos(age);
        if age < limit {
            return Err(Some(Deadline::after(limit - age)));
        }
        Ok((limit, begun))
    }

    /// Forbids (or allows again) that further items of its frame begin, which has a limit.
    pub(crate) fn stop(&self, stop: bool) {
        self.host.stop(stop);
    }

    /// Whether it still is at the last of `begun` items.
    pub(crate) fn is_still_at(&self, begun: u64) -> bool {
        self.host.begun() == begun && !self.has_results()
    }

    /// Tells it to end, with the item at work.
    pub(crate) fn doom_it(&mut self, error: TaskError, grace: Duration) {
        self.doom = Some(Doom {
            error,
            item: self.items_done,
            kill_at: Some(Deadline::after(grace)),
        });
        self.terminate();
    }

    /// Kills it if its time to end by itself is over; else when that will be.
    pub(crate) fn grace_over(&mut self) -> Option<Deadline> {
        let kill_at = self.doom.as_ref()?.kill_at?;
        if !kill_at.is_over() {
            return Some(kill_at);
        }
        if let Some(doom) = &mut self.doom {
            doom.kill_at = None;
        }
        self.kill();
        None
    }

    pub(crate) fn terminate(&self) {
        let _ = self.process.terminate(); // gone already: so much the better
    }

    pub(crate) fn kill(&self) {
        let _ = self.process.kill(); // as above
    }
}
