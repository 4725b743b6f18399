//! Which worker has which task: the pool's books. The other half is the [`worker`](crate::worker).
//!
//! Any thread of the pool's process may turn the wheel ([`State::pump`]): it takes what the workers
//! committed, hands outcomes to their sinks, and gives the workers more. Everything here is
//! bookkeeping under one lock; encoding, decoding and user code happen outside of it, and
//! what is to be done afterwards is noted in [`Effects`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use mp_core::{
    deadline::Deadline,
    primitive::{AtomicBool, Ordering},
};
use mp_queue::lane::Hub;

use crate::{
    error::{How, TaskError},
    extent::{Extent, Extents},
    outcome::{Effects, Sink},
    parker::Parker,
    roster::{Doom, Threshold, Worker},
    wire::{self, Callee, Kind},
};

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

/// What the tasks of one call have in common.
pub(crate) struct Job {
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) callee: Callee,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: u32,
    pub(crate) priority: i32,
    cancelled: AtomicBool,
}

impl Job {
    pub(crate) fn new(
        sink: Arc<dyn Sink>,
        callee: Callee,
        timeout: Option<Duration>,
        retries: u32,
        priority: i32,
    ) -> Arc<Self> {
        Arc::new(Self {
            sink,
            callee,
            timeout,
            retries,
            priority,
            cancelled: AtomicBool::new(false),
        })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) // written and read under the pool's lock
    }
}

/// Encoded arguments of consecutive tasks.
#[derive(Debug)]
pub(crate) enum Body {
    Inline(Vec<u8>),
    Large(Large),
}

/// Encoded arguments in the hub's area.
#[derive(Clone, Debug)]
pub(crate) struct Large {
    pub(crate) extent: Arc<Extent>,
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// Tasks that no worker has.
pub(crate) struct Pending {
    pub(crate) job: Arc<Job>,
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// How many workers have died of it.
    pub(crate) attempt: u32,
    pub(crate) body: Body,
}

/// Tasks that are in a worker's lane.
pub(crate) struct Frame {
    pub(crate) job: Arc<Job>,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) done: u32,
    pub(crate) attempt: u32,
    pub(crate) place: Range<u64>,
    pub(crate) large: Option<Large>,
}

impl Frame {
    pub(crate) fn left(&self) -> u32 {
        self.count - self.done
    }
}

/// Records on their way to their sink.
enum Records<'a> {
    Small(&'a [u8]),
    /// One that came in pieces.
    Large(Vec<u8>),
}

impl<'a> Records<'a> {
    /// From the start of `records` to the start of `rest`, which is its end.
    fn between(records: &'a [u8], rest: &[u8]) -> Self {
        Self::Small(&records[..records.len() - rest.len()])
    }
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
    /// Tasks that have an outcome of their own making.
    pub(crate) completed: u64,
    /// When the keeper looks next.
    pub(crate) next_check: Option<Deadline>,
    stamp: u64,
    scratch: Vec<u8>,
}

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

    /// Gives a body's memory back, if this was its last user.
    pub(crate) fn release(&mut self, hub: &Hub, large: Option<Large>) {
        if let Some(extent) = large.and_then(|large| Arc::into_inner(large.extent)) {
            self.extents.free(hub, &extent);
        }
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

    /// The worker that gets the next frame: of those allowed one more, that with the fewest; of
    /// those one that is up, and of those the one that was at work last, which may not sleep yet.
    fn pick(&self) -> Option<usize> {
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| worker.takes_more())
            .min_by_key(|(_, worker)| (worker.frames.len(), !worker.is_up(), Reverse(worker.stamp)))
            .map(|(index, _)| index)
    }

    /// Takes all that was committed, gives out what there is room for: one turn of the wheel.
    pub(crate) fn pump(&mut self, means: Means<'_>, effects: &mut Effects) {
        self.collect_all(means, effects);
        self.publish(means, effects);
    }

    fn collect_all(&mut self, means: Means<'_>, effects: &mut Effects) {
        for index in 0..self.workers.len() {
            self.collect(index, means, effects);
        }
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

    /// More frames than workers: one of them would wait for a worker that could be there.
    pub(crate) fn ask_for_workers(&mut self, means: Means<'_>, effects: &mut Effects) {
        if self.wanted >= means.size {
            return;
        }
        let given: usize = self.workers.iter().map(|worker| worker.frames.len()).sum();
        let waiting: usize = self.backlog.values().map(VecDeque::len).sum();
        let wanted = (given + waiting + self.feeders).min(means.size);
        if wanted > self.wanted {
            self.wanted = wanted;
            effects.keeper = true;
        }
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

    /// All is done and nothing will come: the workers may leave.
    fn dismiss(&mut self, effects: &mut Effects) {
        for worker in self.workers.iter_mut().filter(|worker| !worker.succeeded) {
            worker.leaving = true;
            worker.succeeded = true;
            worker.close();
            effects.keeper = true;
        }
        effects.keeper |= self.workers.is_empty();
    }

    /// Workers that have had all the tasks they are allowed leave; the keeper starts successors.
    fn retire_exhausted(&mut self, effects: &mut Effects) {
        for worker in &mut self.workers {
            if !worker.leaving && worker.items_given >= worker.budget {
                worker.leaving = true;
                effects.keeper = true;
            }
        }
    }

    /// The keeper has to look when the first task can have run for too long.
    fn arm(&mut self, effects: &mut Effects) {
        let limits = self.workers.iter().filter_map(Worker::limit);
        let Some(least) = limits.min() else { return };
        let until = Deadline::after(least);
        if self.next_check.is_none_or(|check| check > until) {
            self.next_check = Some(until);
            effects.keeper = true;
        }
    }

    fn refill(&mut self, means: Means<'_>, effects: &mut Effects) {
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

    /// Takes what this worker committed, and hands it to the sinks.
    pub(crate) fn collect(&mut self, index: usize, means: Means<'_>, effects: &mut Effects) {
        if !self.workers[index].has_results() {
            return;
        }
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let intact = self.workers[index].take_results(&mut bytes)
            && self.deliver(index, &bytes, means, effects).is_some();
        self.scratch = bytes;
        self.stamp += 1;
        let stamp = self.stamp;
        let worker = &mut self.workers[index];
        worker.stamp = stamp;
        if !intact {
            tracing::error!(pid = worker.pid, "a worker damaged its lane and is ended");
            worker.leaving = true;
            worker.succeeded = true;
            worker.kill();
        }
    }

    /// `None` if `records` make no sense.
    fn deliver(
        &mut self,
        index: usize,
        records: &[u8],
        means: Means<'_>,
        effects: &mut Effects,
    ) -> Option<()> {
        let mut rest = records;
        let mut run = (records, 0_u32); // records not handed on yet: where they begin, how many
        while !rest.is_empty() {
            let (kind, payload, next) = wire::split_record(rest)?;
            let worker = &mut self.workers[index];
            match kind {
                Kind::Piece => {
                    self.hand_on(index, Records::between(run.0, rest), run.1, means, effects)?;
                    wire::add_piece(&mut self.workers[index].partial, payload);
                    run = (next, 0);
                }
                Kind::Recycle => {
                    worker.leaving = true;
                    effects.keeper = true;
                    tracing::debug!(pid = worker.pid, "a worker asks to be replaced");
                    self.hand_on(index, Records::between(run.0, rest), run.1, means, effects)?;
                    run = (next, 0);
                }
                Kind::NotReady => {
                    worker.not_ready = Some(String::from_utf8_lossy(payload).into_owned());
                    run = (next, 0);
                }
                _ if !worker.partial.is_empty() => {
                    let mut record = std::mem::take(&mut worker.partial);
                    wire::add_piece(&mut record, payload);
                    wire::finish_pieces(&mut record, kind);
                    self.hand_on(index, Records::Large(record), 1, means, effects)?;
                    run = (next, 0);
                }
                _ => {
                    run.1 += 1;
                    if worker.frames.front()?.left() == run.1 {
                        self.hand_on(index, Records::between(run.0, next), run.1, means, effects)?;
                        run = (next, 0);
                    }
                }
            }
            rest = next;
        }
        self.hand_on(index, Records::between(run.0, rest), run.1, means, effects)
    }

    /// Hands `count` records to the sink of the worker's first frame.
    fn hand_on(
        &mut self,
        index: usize,
        records: Records<'_>,
        count: u32,
        means: Means<'_>,
        effects: &mut Effects,
    ) -> Option<()> {
        if count == 0 {
            return Some(());
        }
        let worker = &mut self.workers[index];
        let frame = worker.frames.front_mut()?;
        let first = frame.first + u64::from(frame.done);
        frame.done += count;
        let done = frame.left() == 0;
        let job = frame.job.clone();
        let doomed = worker
            .doom
            .as_ref()
            .filter(|doom| doom.is_among(worker.items_done, count));
        worker.items_done += u64::from(count);
        if job.is_cancelled() {
            job.sink
                .failed(first, count.into(), TaskError::Cancelled, effects);
        } else if let Some(doom) = doomed {
            // It finished after it had been told to stop: it counts as stopped. It is the last one.
            let before = doom.item - (worker.items_done - u64::from(count));
            if let (1.., Records::Small(records)) = (before, records) {
                let (kept, _) = records.split_at(wire::skip_records(records, before)?);
                job.sink.records(first, before, kept, worker.pid, effects);
            }
            job.sink
                .failed(first + before, 1, doom.error.clone(), effects);
        } else {
            match records {
                Records::Small(records) => {
                    job.sink
                        .records(first, count.into(), records, worker.pid, effects);
                }
                Records::Large(record) => {
                    job.sink.large_record(first, record, worker.pid, effects);
                }
            }
        }
        if done {
            let frame = worker.frames.pop_front()?;
            worker.retire(&frame);
            self.release(means.hub, frame.large);
        }
        self.completed += u64::from(count);
        self.deaths_in_a_row = 0;
        Some(())
    }

    /// A worker is there: it takes tasks from now on.
    pub(crate) fn enlist(&mut self, mut worker: Worker, means: Means<'_>, effects: &mut Effects) {
        if self.phase == Phase::Terminating {
            worker.doom_it(self.end_error(), means.grace); // the end came while it was started
        }
        self.workers.push(worker);
        // Whoever leaves was waiting for its successor.
        if let Some(leaver) = self.workers.iter_mut().find(|w| w.leaving && !w.succeeded) {
            leaver.succeeded = true;
            leaver.close();
        }
        self.publish(means, effects);
    }

    /// How many workers the keeper has to start.
    pub(crate) fn missing(&mut self) -> usize {
        let wanted = match self.phase {
            Phase::Open => true,
            Phase::Closing => !self.backlog.is_empty(),
            Phase::Terminating | Phase::Ended => false,
        };
        if !wanted {
            // Nobody will succeed those who leave.
            for worker in self
                .workers
                .iter_mut()
                .filter(|w| w.leaving && !w.succeeded)
            {
                worker.succeeded = true;
                worker.close();
            }
            return 0;
        }
        let staying = self.workers.iter().filter(|worker| !worker.leaving).count();
        self.wanted.saturating_sub(staying)
    }

    /// A worker has ended, with this exit code or signal: its running task fails, the others are
    /// given to the rest.
    pub(crate) fn bury(
        &mut self,
        number: u64,
        code: Option<i32>,
        signal: Option<i32>,
        means: Means<'_>,
        effects: &mut Effects,
    ) {
        let Some(index) = self
            .workers
            .iter()
            .position(|worker| worker.number == number)
        else {
            return;
        };
        self.collect(index, means, effects);
        let mut worker = self.workers.remove(index);
        let expected = worker.leaving && worker.frames.is_empty() || worker.doom.is_some();
        let was_up = worker.is_up();
        let begun = worker.begun() > worker.items_done;
        let mut running = begun.then(|| match worker.doom.take() {
            Some(doom) => doom.error,
            None => TaskError::WorkerDied {
                pid: worker.pid,
                code,
                signal,
            },
        });
        let mut undone = Vec::new();
        while let Some(frame) = worker.frames.pop_front() {
            let done = frame.done;
            let mut pending = worker.reclaim(frame);
            if done > 0 {
                let (_, Some(rest)) = split(means.hub, pending, done) else {
                    continue;
                };
                pending = rest;
            }
            match running.take() {
                Some(error) => {
                    let (again, rest) = self.fail_first(pending, error, means, effects);
                    undone.extend(again);
                    undone.extend(rest);
                }
                None => undone.push(pending),
            }
        }
        for pending in undone.into_iter().rev() {
            self.put_back(pending, means, effects);
        }
        tracing::debug!(pid = worker.pid, code, signal, expected, "a worker ended");
        if !expected && self.phase != Phase::Terminating {
            self.count_death(&worker, was_up, How(code, signal), means, effects);
        }
        if self.phase == Phase::Open {
            self.restarts += 1;
        }
        effects.dead.push(worker);
        self.pump(means, effects);
        effects.keeper = true;
    }

    /// The first of `pending` failed with `error`: that task once more, if it may be retried, and
    /// the others.
    fn fail_first(
        &mut self,
        pending: Pending,
        error: TaskError,
        means: Means<'_>,
        effects: &mut Effects,
    ) -> (Option<Pending>, Option<Pending>) {
        let died = matches!(error, TaskError::WorkerDied { .. });
        let (mut failed, rest) = split(means.hub, pending, 1);
        if failed.job.is_cancelled() {
            self.fail(failed, &TaskError::Cancelled, means, effects);
        } else if died && failed.attempt < failed.job.retries {
            failed.attempt += 1;
            return (Some(failed), rest);
        } else {
            self.fail(failed, &error, means, effects);
        }
        (None, rest)
    }

    fn fail(
        &mut self,
        pending: Pending,
        error: &TaskError,
        means: Means<'_>,
        effects: &mut Effects,
    ) {
        let Pending {
            job,
            first,
            count,
            body,
            ..
        } = pending;
        job.sink.failed(first, count.into(), error.clone(), effects);
        if let Body::Large(large) = body {
            self.release(means.hub, Some(large));
        }
    }

    /// Not begun: another worker gets it, unless nobody wants it any more.
    fn put_back(&mut self, pending: Pending, means: Means<'_>, effects: &mut Effects) {
        let error = match (pending.job.is_cancelled(), self.phase) {
            (true, _) => TaskError::Cancelled,
            (false, Phase::Terminating | Phase::Ended) => self.end_error(),
            (false, Phase::Open | Phase::Closing) => return self.push_front(pending),
        };
        self.fail(pending, &error, means, effects);
    }

    /// Tells bad luck from a pool that cannot work.
    fn count_death(
        &mut self,
        worker: &Worker,
        was_up: bool,
        how: How,
        means: Means<'_>,
        effects: &mut Effects,
    ) {
        self.deaths_in_a_row += 1;
        self.failed_starts = if was_up { 0 } else { self.failed_starts + 1 };
        let reason = if let Some(text) = &worker.not_ready {
            format!("the initializer failed in worker {}: {text}", worker.pid)
        } else if self.failed_starts >= MAX_FAILED_STARTS && means.has_initializer {
            format!(
                "{} workers in a row ended before they were ready, the last one (pid {}) by {how}",
                self.failed_starts, worker.pid
            )
        } else if self.deaths_in_a_row > means.max_restarts {
            format!(
                "{} workers died in a row with no task completed between, the last one (pid {}) by {how}",
                self.deaths_in_a_row, worker.pid
            )
        } else {
            return;
        };
        self.break_down(reason, means, effects);
    }

    /// No worker comes up: everything fails, for this reason.
    pub(crate) fn break_down(&mut self, reason: String, means: Means<'_>, effects: &mut Effects) {
        if self.broken.is_none() && self.phase != Phase::Ended {
            tracing::error!(reason, "a pool is broken");
            self.broken = Some(reason);
            self.terminate(means, effects);
        }
    }

    /// Ends all workers, and fails what they have not finished.
    pub(crate) fn terminate(&mut self, means: Means<'_>, effects: &mut Effects) {
        if matches!(self.phase, Phase::Terminating | Phase::Ended) {
            return;
        }
        self.collect_all(means, effects);
        self.phase = Phase::Terminating;
        let error = self.end_error();
        while let Some(pending) = self.pop() {
            self.fail(pending, &error, means, effects);
        }
        let kill_at = Some(Deadline::after(means.grace));
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            let undone = worker.take_back(usize::MAX, effects);
            worker.leaving = true;
            worker.succeeded = true;
            worker.close();
            worker.doom.get_or_insert(Doom {
                error: error.clone(),
                item: worker.items_done,
                kill_at,
            });
            worker.terminate();
            for pending in undone {
                self.fail(pending, &error, means, effects);
            }
        }
        self.settle(effects);
        effects.keeper = true;
    }

    /// No more tasks; the workers leave when all is done.
    pub(crate) fn close(&mut self, means: Means<'_>, effects: &mut Effects) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            self.publish(means, effects);
            self.settle(effects);
            effects.keeper = true;
        }
    }

    /// Stops the tasks of `job`: those not begun never begin, the one at work ends with its worker.
    /// Whether there was anything to stop, now or before.
    pub(crate) fn cancel(
        &mut self,
        job: &Arc<Job>,
        means: Means<'_>,
        effects: &mut Effects,
    ) -> bool {
        self.collect_all(means, effects);
        let before = job.cancelled.swap(true, Ordering::Relaxed); // see `is_cancelled`
        let is_it = |other: &Arc<Job>| Arc::ptr_eq(other, job);
        let mut stopped = false;
        let mut undone = Vec::new();
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            if !worker.frames.iter().any(|frame| is_it(&frame.job)) {
                continue;
            }
            undone.extend(worker.take_back(usize::MAX, effects));
            // With nothing unclaimed, the worker cannot get on to a task that is not to be stopped.
            let at_work = worker.frames.iter().find(|frame| frame.left() > 0);
            if at_work.is_some_and(|frame| is_it(&frame.job)) && worker.doom.is_none() {
                worker.doom_it(TaskError::Cancelled, means.grace);
                stopped = true;
            }
        }
        undone.extend(self.take_waiting(job));
        for pending in undone {
            stopped |= is_it(&pending.job);
            self.put_back(pending, means, effects);
        }
        stopped |= before;
        job.cancelled.store(stopped, Ordering::Relaxed); // as above
        self.pump(means, effects);
        effects.keeper = true;
        stopped
    }

    /// Cancels those tasks of `job` that have not begun; whether there are such, or all are cancelled.
    pub(crate) fn cancel_waiting(
        &mut self,
        job: &Arc<Job>,
        means: Means<'_>,
        effects: &mut Effects,
    ) -> bool {
        self.collect_all(means, effects);
        let mut undone = Vec::new();
        for worker in &mut self.workers {
            if worker
                .frames
                .iter()
                .any(|frame| Arc::ptr_eq(&frame.job, job))
            {
                undone.extend(worker.take_back(usize::MAX, effects));
            }
        }
        undone.extend(self.take_waiting(job));
        let (stopped, others): (Vec<_>, Vec<_>) = undone
            .into_iter()
            .partition(|pending| Arc::ptr_eq(&pending.job, job));
        let any = !stopped.is_empty();
        for pending in stopped {
            self.fail(pending, &TaskError::Cancelled, means, effects);
        }
        for pending in others {
            self.put_back(pending, means, effects);
        }
        self.pump(means, effects);
        effects.keeper = true;
        any || job.is_cancelled()
    }

    /// The tasks of `job` that no worker has.
    fn take_waiting(&mut self, job: &Arc<Job>) -> Vec<Pending> {
        let mut taken = Vec::new();
        for queue in self.backlog.values_mut() {
            let all = std::mem::take(queue).into_iter();
            let (of_job, others) = all.partition(|pending| Arc::ptr_eq(&pending.job, job));
            *queue = others;
            taken.extend::<VecDeque<_>>(of_job);
        }
        self.backlog.retain(|_, queue| !queue.is_empty());
        taken
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

    /// No task begins any more.
    pub(crate) fn cancel_unbegun(&mut self, means: Means<'_>, effects: &mut Effects) {
        self.collect_all(means, effects);
        let mut undone = Vec::new();
        for worker in &mut self.workers {
            undone.extend(worker.take_back(usize::MAX, effects));
        }
        while let Some(pending) = self.pop() {
            undone.push(pending);
        }
        for pending in undone {
            self.fail(pending, &TaskError::Cancelled, means, effects);
        }
        self.settle(effects);
        effects.keeper = true;
    }

    /// Ends workers whose task has run for too long, and kills those that were told to end and did not.
    /// Sets `next_check`.
    pub(crate) fn check_time(&mut self, means: Means<'_>, effects: &mut Effects) {
        let mut next = None;
        for index in 0..self.workers.len() {
            self.collect(index, means, effects);
            let worker = &mut self.workers[index];
            let look = match worker.overdue() {
                Ok(limit) => {
                    let error = TaskError::TimedOut {
                        pid: worker.pid,
                        limit,
                    };
                    worker.doom_it(error, means.grace);
                    self.take_back(index, usize::MAX, effects);
                    self.workers[index].grace_over()
                }
                Err(look) => look,
            };
            let late = self.workers[index].late();
            next = [next, look, late].into_iter().flatten().min();
        }
        self.next_check = next;
        self.pump(means, effects);
    }
}

/// Workers that may end in a row in their initializer.
const MAX_FAILED_STARTS: u32 = 5;

/// Cuts tasks in two after the first `count`.
pub(crate) fn split(hub: &Hub, pending: Pending, count: u32) -> (Pending, Option<Pending>) {
    let Pending {
        job,
        first,
        count: all,
        attempt,
        body,
    } = pending;
    if count >= all {
        let whole = Pending {
            job,
            first,
            count: all,
            attempt,
            body,
        };
        return (whole, None);
    }
    let (front, back) = match body {
        Body::Inline(mut bytes) => {
            let at = wire::skip_items(&bytes, count.into()).unwrap_or(bytes.len());
            let back = bytes.split_off(at);
            (Body::Inline(bytes), Body::Inline(back))
        }
        Body::Large(large) => {
            let mut bytes = Vec::new();
            let _ = hub.read(large.extent.offset() + large.start, large.len, &mut bytes);
            let at = wire::skip_items(&bytes, count.into()).unwrap_or(bytes.len());
            let back = Large {
                extent: large.extent.clone(),
                start: large.start + at,
                len: large.len - at,
            };
            let front = Large { len: at, ..large };
            (Body::Large(front), Body::Large(back))
        }
    };
    let back = Pending {
        job: job.clone(),
        first: first + u64::from(count),
        count: all - count,
        attempt,
        body: back,
    };
    let front = Pending {
        job,
        first,
        count,
        attempt,
        body: front,
    };
    (front, Some(back))
}
