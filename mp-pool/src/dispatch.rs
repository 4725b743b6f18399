//! Which worker has which task: the pool's books. The other half is the [`worker`](crate::worker).
//!
//! Any thread of the pool's process may turn the wheel ([`State::pump`]): it takes what the workers
//! committed, hands outcomes to their sinks, and gives the workers more. Everything here is
//! bookkeeping under one lock; encoding, decoding and user code happen outside of it, and
//! what is to be done afterwards is noted in [`Effects`].
//!
//! Here: which worker gets what. How outcomes come back is in `outcomes`, how workers come and go in
//! `deaths`, what ends tasks before their time in `stops`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use mp_core::deadline::Deadline;
use mp_queue::lane::Hub;

use crate::{
    error::TaskError,
    extent::Extents,
    job::{Body, Job, Pending, split},
    outcome::Effects,
    parker::Parker,
    roster::{Threshold, Worker},
};

mod deaths;
mod outcomes;
mod stops;

/// From open to ended; never back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Takes tasks.
    Open,
    /// Takes no more tasks, finishes those it has.
    Closing,
    /// Ends its workers; what they had not finished fails.
    Terminating,
    /// No worker is left.
    Ended,
}

/// What does not change while the pool lives, and the books need.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) hub: &'a Hub,
    /// How many workers there may be.
    pub(crate) size: usize,
    pub(crate) max_restarts: u32,
    pub(crate) has_initializer: bool,
    pub(crate) grace: Duration,
    /// Whether a caller looks after the workers' results; else the collector does.
    pub(crate) led: bool,
}

/// The books.
pub(crate) struct State {
    pub(crate) phase: Phase,
    /// Why the pool broke, if it did.
    pub(crate) broken: Option<String>,
    pub(crate) workers: Vec<Worker>,
    /// How many workers there should be: as many as the work has asked for so far.
    wanted: usize,
    backlog: BTreeMap<Reverse<i32>, VecDeque<Pending>>,
    pub(crate) extents: Extents,
    /// Callers that want each result at once.
    pub(crate) eager: usize,
    /// Callers that have more tasks than the lanes have room.
    pub(crate) feeders: usize,
    room_waiters: Vec<Arc<Parker>>,
    /// Some task has had a priority of its own.
    prioritised: bool,
    /// Outcomes that have callbacks or wakers.
    pub(crate) watched: usize,
    deaths_in_a_row: u32,
    failed_starts: u32,
    /// Workers replaced so far.
    pub(crate) restarts: u64,
    /// Tasks that workers have finished, whatever their callers are told.
    pub(crate) completed: u64,
    /// When the keeper looks next.
    pub(crate) next_check: Option<Deadline>,
    stamp: u64,
    /// When it was last looked which workers are held up.
    looked: Instant,
    scratch: Vec<u8>,
}

/// So often, at most, workers are looked at whether they are held up.
const LOOK: Duration = Duration::from_millis(2);

impl State {
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            phase: Phase::Open,
            broken: None,
            workers: Vec::new(),
            wanted,
            backlog: BTreeMap::new(),
            extents: Extents::default(),
            eager: 0,
            feeders: 0,
            room_waiters: Vec::new(),
            prioritised: false,
            watched: 0,
            deaths_in_a_row: 0,
            failed_starts: 0,
            restarts: 0,
            completed: 0,
            next_check: None,
            stamp: 0,
            looked: Instant::now(),
            scratch: Vec::new(),
        }
    }

    /// Why no task can be accepted.
    pub(crate) fn refusal(&self) -> Option<TaskError> {
        match (&self.broken, self.phase) {
            (Some(_), _) => Some(self.end_error()),
            (None, Phase::Open) => None,
            (None, _) => Some(TaskError::Closed),
        }
    }

    /// What becomes of tasks that the end of the pool leaves undone.
    fn end_error(&self) -> TaskError {
        match &self.broken {
            Some(reason) => TaskError::PoolBroken {
                reason: reason.clone(),
            },
            None => TaskError::Terminated,
        }
    }

    /// Whether one more task would only lie in the backlog.
    pub(crate) fn is_saturated(&self) -> bool {
        !self.backlog.is_empty() || self.pick().is_none()
    }

    /// Has `parker` woken when there is room; `false` if there is.
    pub(crate) fn register_for_room(&mut self, parker: &Arc<Parker>) -> bool {
        let wait = self.refusal().is_none() && self.is_saturated();
        if wait {
            self.room_waiters.push(parker.clone());
        }
        wait
    }

    pub(crate) fn unregister_for_room(&mut self, parker: &Arc<Parker>) {
        self.room_waiters
            .retain(|waiter| !Arc::ptr_eq(waiter, parker));
    }

    /// How many tasks no worker has.
    pub(crate) fn queued(&self) -> u64 {
        let waiting = self.backlog.values().flatten();
        waiting.map(|pending| u64::from(pending.count)).sum()
    }

    /// Whether there is a task without an outcome.
    pub(crate) fn has_work(&self) -> bool {
        !self.backlog.is_empty() || self.workers.iter().any(|worker| !worker.frames.is_empty())
    }

    /// Puts tasks into a lane, or into the backlog; [`publish`](Self::publish) follows.
    pub(crate) fn accept(&mut self, mut pending: Pending, body: &[u8], effects: &mut Effects) {
        if pending.job.priority != 0 || self.prioritised {
            self.prioritised = true;
            self.make_way(pending.job.priority, effects);
        }
        let ahead = self.backlog.first_key_value();
        let free = ahead.is_none_or(|(priority, _)| priority.0 < pending.job.priority);
        let fits = |worker: &Worker| u64::from(pending.count) <= worker.budget - worker.items_given;
        if free
            && let Some(index) = self.pick()
            && fits(&self.workers[index])
        {
            match self.workers[index].give(pending, body) {
                Ok(()) => return,
                Err(back) => pending = back,
            }
        }
        if let Body::Inline(bytes) = &mut pending.body {
            bytes.extend_from_slice(body);
        }
        self.push_back(pending);
    }

    /// What waits in the lanes with a lower priority goes back to where the order is.
    fn make_way(&mut self, priority: i32, effects: &mut Effects) {
        for index in 0..self.workers.len() {
            let mut waiting = self.workers[index].frames.iter().skip(1);
            if waiting.any(|frame| frame.job.priority < priority) {
                self.take_back(index, usize::MAX, effects);
            }
        }
    }

    fn push_back(&mut self, pending: Pending) {
        let priority = Reverse(pending.job.priority);
        self.backlog.entry(priority).or_default().push_back(pending);
    }

    fn push_front(&mut self, pending: Pending) {
        let priority = Reverse(pending.job.priority);
        self.backlog
            .entry(priority)
            .or_default()
            .push_front(pending);
    }

    fn pop(&mut self) -> Option<Pending> {
        let mut entry = self.backlog.first_entry()?;
        let pending = entry.get_mut().pop_front();
        if entry.get().is_empty() {
            entry.remove();
        }
        pending
    }

    /// The worker that gets the next frame: of those allowed one more, one that is not held up; of
    /// those that with the fewest; of those one that is up, and of those the one that was at work
    /// last, which may not sleep yet.
    fn pick(&self) -> Option<usize> {
        let order = |worker: &Worker| {
            let (load, is_cold) = (worker.frames.len(), !worker.is_up());
            (worker.held_up, load, is_cold, Reverse(worker.stamp))
        };
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| worker.takes_more())
            .min_by_key(|(_, worker)| order(worker))
            .map(|(index, _)| index)
    }

    /// Takes all that was committed, gives out what there is room for: one turn of the wheel.
    pub(crate) fn pump(&mut self, means: Means<'_>, effects: &mut Effects) {
        self.collect_all(means, effects);
        self.publish(means, effects);
    }

    /// Gives the workers what they have room for, out of the backlog and from each other, and
    /// tells them of it.
    pub(crate) fn publish(&mut self, means: Means<'_>, effects: &mut Effects) {
        self.give_out(means, effects);
        if !means.led {
            self.keep_watch(means, effects);
        }
    }

    fn give_out(&mut self, means: Means<'_>, effects: &mut Effects) {
        self.refill(means, effects);
        if !means.led {
            self.set_thresholds(false); // before it is visible, so that nothing of it is done yet
        }
        for worker in &mut self.workers {
            worker.publish(effects);
        }
        if self.phase != Phase::Open && !self.has_work() {
            self.dismiss(effects);
        }
        self.retire_exhausted(effects);
        self.ask_for_workers(means, effects);
        self.arm(effects);
        self.settle(effects);
    }

    /// With no caller leading: the workers ring when there is something for the collector. What was
    /// committed before they knew is taken now, or by the collector if more and more comes.
    pub(crate) fn keep_watch(&mut self, means: Means<'_>, effects: &mut Effects) {
        for _ in 0..2 {
            if !self.has_results() {
                return;
            }
            self.collect_all(means, effects);
            self.give_out(means, effects);
            if !self.set_thresholds(false) {
                return;
            }
        }
        effects.collector |= self.has_results();
    }

    /// After outcomes were handed out: who waits for room, and who no longer waits for anything.
    pub(crate) fn settle(&mut self, effects: &mut Effects) {
        self.watched -= std::mem::take(&mut effects.unwatched).min(self.watched);
        if !self.room_waiters.is_empty() && (self.refusal().is_some() || !self.is_saturated()) {
            effects.waiters.append(&mut self.room_waiters);
        }
    }

    fn refill(&mut self, means: Means<'_>, effects: &mut Effects) {
        self.free_held_up(effects);
        if self.backlog.is_empty() {
            self.level(effects);
        }
        if self.backlog.is_empty() {
            return;
        }
        let now = Instant::now();
        for worker in &mut self.workers {
            worker.adapt_depth(now);
        }
        while let Some(index) = self.pick()
            && let Some(pending) = self.pop()
        {
            let pending = self.shorten(index, pending, means);
            if let Err(pending) = self.workers[index].give(pending, &[]) {
                self.push_front(pending); // no room even in the emptiest lane
                break;
            }
        }
    }

    /// A worker with a limited number of tasks gets no more than that; the rest stays.
    fn shorten(&mut self, index: usize, pending: Pending, means: Means<'_>) -> Pending {
        let worker = &self.workers[index];
        let allowed = (worker.budget - worker.items_given).max(1); // as `takes_more` promised
        if u64::from(pending.count) <= allowed {
            return pending;
        }
        let (now, later) = split(means.hub, pending, allowed as u32);
        if let Some(later) = later {
            self.push_front(later);
        }
        now
    }

    /// What waits behind a long task is first in the backlog again once another worker has room, so
    /// that later tasks do not overtake it until that one is done.
    fn free_held_up(&mut self, effects: &mut Effects) {
        if !(self.workers.iter()).any(|worker| worker.has_waiting() || worker.held_up) {
            return;
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < LOOK {
            return; // each look takes memory from a worker that it writes to all the time
        }
        self.looked = now;
        for worker in &mut self.workers {
            worker.look(now);
        }
        let has_room = |worker: &Worker| !worker.held_up && worker.takes_more();
        if !self.workers.iter().any(has_room) {
            return;
        }
        let held_up = (0..self.workers.len()).filter(|index| {
            let worker = &self.workers[*index];
            worker.held_up && worker.has_waiting()
        });
        let mut held_up: Vec<usize> = held_up.collect();
        // The last one's come to be the first; `pick` gives older ones to those with later stamps.
        held_up.sort_by_key(|index| self.workers[*index].stamp);
        for index in held_up {
            self.take_back(index, usize::MAX, effects);
        }
    }

    /// Nothing is in the backlog: half of what the fullest lane holds unclaimed goes there, if
    /// somebody is idle.
    fn level(&mut self, effects: &mut Effects) {
        let idle = |worker: &Worker| worker.frames.is_empty() && worker.takes_more();
        if !self.workers.iter().any(idle) {
            return;
        }
        let fullest = self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| worker.frames.len() > 1)
            .max_by_key(|(_, worker)| worker.frames.len());
        if let Some((index, worker)) = fullest {
            let most = worker.frames.len().div_ceil(2);
            self.take_back(index, most, effects);
        }
    }

    /// Takes up to `most` frames back that the worker has not claimed; they are next in the backlog.
    fn take_back(&mut self, index: usize, most: usize, effects: &mut Effects) {
        for pending in self.workers[index].take_back(most, effects) {
            self.push_front(pending);
        }
    }

    /// When the workers are to wake whoever looks after their results; whether anything changed,
    /// so that one has to look once more before one sleeps.
    pub(crate) fn set_thresholds(&mut self, led: bool) -> bool {
        let threshold = if self.eager + self.watched > 0 {
            Some(Threshold::Each)
        } else if self.feeders > 0 || !self.backlog.is_empty() {
            Some(Threshold::Half)
        } else {
            (led || self.wants_attention()).then_some(Threshold::All)
        };
        let workers = self.workers.iter_mut();
        workers.fold(false, |changed, worker| {
            worker.set_threshold(threshold) | changed
        })
    }

    /// Whether something has to happen when a worker has done what it has.
    fn wants_attention(&self) -> bool {
        self.phase != Phase::Open || self.workers.iter().any(|worker| worker.frames.len() > 1)
    }

    /// Whether a worker has committed anything since the last turn.
    pub(crate) fn has_results(&self) -> bool {
        self.workers.iter().any(Worker::has_results)
    }

    /// Whether a worker is at a task of `job`.
    pub(crate) fn is_running(&self, job: &Arc<Job>) -> bool {
        let at_work = |worker: &Worker| {
            let first = worker.frames.front();
            worker.begun() > worker.items_done
                && first.is_some_and(|frame| Arc::ptr_eq(&frame.job, job))
        };
        self.workers.iter().any(at_work)
    }
}
