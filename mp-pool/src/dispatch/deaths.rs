//! Workers come and go: what becomes of the tasks of one that ended, and whether the pool can go on.

use std::collections::VecDeque;

use super::{Means, Phase, State};
use crate::{
    error::{How, TaskError},
    job::{Pending, split},
    outcome::{Effects, Event},
    roster::Worker,
};

/// Workers that may end in a row in their initializer, with no task completed between.
const MAX_FAILED_STARTS: u32 = 5;

impl State {
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

    /// A worker is there: it takes tasks from now on.
    pub(crate) fn enlist(&mut self, mut worker: Worker, means: Means<'_>, effects: &mut Effects) {
        if self.phase == Phase::Terminating {
            worker.doom_it(self.end_error(), means.grace); // the end came while it was started
        }
        // The keeper, who has just started it, sleeps next.
        self.next_check = [self.next_check, worker.late()].into_iter().flatten().min();
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
        // Who has grown hands over what it has; the others finish theirs.
        let hands_over = |w: &Worker| w.recycled && !w.succeeded && !w.frames.is_empty();
        let wanted = match self.phase {
            Phase::Open => true,
            Phase::Closing => !self.backlog.is_empty() || self.workers.iter().any(hands_over),
            Phase::Terminating | Phase::Ended => false,
        };
        if !wanted {
            // Nobody will succeed those who leave. With tasks they stay: one that grows would leave them.
            for worker in self
                .workers
                .iter_mut()
                .filter(|w| w.leaving && !w.succeeded && w.frames.is_empty())
            {
                worker.succeeded = true;
                worker.close();
            }
            return 0;
        }
        let staying = self.workers.iter().filter(|worker| !worker.leaving).count();
        self.wanted.saturating_sub(staying)
    }

    /// Whether there is a worker that has tasks or takes more: others only wait for their successors.
    pub(crate) fn has_hope(&self) -> bool {
        let hopeful = |worker: &Worker| !worker.leaving || !worker.frames.is_empty();
        self.workers.iter().any(hopeful)
    }

    /// Workers that have had all the tasks they are allowed leave; the keeper starts successors.
    pub(super) fn retire_exhausted(&mut self, effects: &mut Effects) {
        for worker in &mut self.workers {
            if !worker.leaving && worker.items_given >= worker.budget {
                worker.leaving = true;
                effects.keeper = true;
            }
        }
    }

    /// All is done and nothing will come: the workers may leave.
    pub(super) fn dismiss(&mut self, effects: &mut Effects) {
        for worker in self.workers.iter_mut().filter(|worker| !worker.succeeded) {
            worker.leaving = true;
            worker.succeeded = true;
            worker.close();
            effects.keeper = true;
        }
        effects.keeper |= self.workers.is_empty();
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
        let done = worker.frames.is_empty() || worker.recycled && code == Some(0);
        let expected = worker.leaving && done || worker.doom.is_some();
        let was_up = worker.is_up();
        let begun = worker.begun() > worker.items_done;
        let mut running = begun.then(|| self.why_it_stopped(&worker, code, signal));
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
        effects.events.push(Event::Ended {
            pid: worker.pid,
            code,
            signal,
            expected,
        });
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

    /// What becomes of the task that `worker` was at when it ended.
    fn why_it_stopped(&self, worker: &Worker, code: Option<i32>, signal: Option<i32>) -> TaskError {
        match &worker.doom {
            Some(doom) if doom.item == worker.items_done => doom.error.clone(),
            // It went on until the signal reached it.
            Some(_) if self.phase == Phase::Terminating => self.end_error(),
            _ => TaskError::WorkerDied {
                pid: worker.pid,
                code,
                signal,
            },
        }
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

    pub(super) fn fail(
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
            held,
            ..
        } = pending;
        job.sink.failed(first, count.into(), error.clone(), effects);
        self.extents.release(means.hub, held);
    }

    /// Not begun: another worker gets it, unless nobody wants it any more.
    pub(super) fn put_back(&mut self, pending: Pending, means: Means<'_>, effects: &mut Effects) {
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
            self.broken = Some(reason.clone());
            effects.events.push(Event::Broken { reason });
            self.terminate(means, effects);
        }
    }
}
