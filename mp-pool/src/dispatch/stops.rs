//! What ends tasks before their time: a limit, `cancel`, the end of the pool.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use mp_core::deadline::Deadline;

use super::{Means, Phase, State};
use crate::{
    error::TaskError,
    job::{Job, Pending},
    outcome::Effects,
    roster::{Doom, Worker},
};

impl State {
    /// No more tasks; the workers leave when all is done.
    pub(crate) fn close(&mut self, means: Means<'_>, effects: &mut Effects) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            self.publish(means, effects);
            self.settle(effects);
            effects.keeper = true;
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

    /// Stops the tasks of `job`: those not begun never begin, the one at work ends with its worker.
    /// Whether there was anything to stop, now or before.
    pub(crate) fn cancel(
        &mut self,
        job: &Arc<Job>,
        means: Means<'_>,
        effects: &mut Effects,
    ) -> bool {
        self.collect_all(means, effects);
        let is_it = |other: &Arc<Job>| Arc::ptr_eq(other, job);
        let mut stopped = job.is_cancelled();
        let mut undone = Vec::new();
        for index in 0..self.workers.len() {
            let worker = &mut self.workers[index];
            if !worker.frames.iter().any(|frame| is_it(&frame.job)) {
                continue;
            }
            undone.extend(worker.take_back(usize::MAX, effects));
            // With nothing unclaimed, the worker cannot get on to a task that is not to be stopped; and
            // if it had before, it has committed those of `job`.
            self.collect(index, means, effects);
            let worker = &mut self.workers[index];
            let at_work = worker.frames.front();
            if at_work.is_some_and(|frame| is_it(&frame.job)) && worker.doom.is_none() {
                worker.doom_it(TaskError::Cancelled, means.grace);
                stopped = true;
            }
        }
        undone.extend(self.take_waiting(job));
        stopped |= undone.iter().any(|pending| is_it(&pending.job));
        job.set_cancelled(stopped);
        for pending in undone {
            self.put_back(pending, means, effects);
        }
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

    /// The keeper has to look when the first task can have run for too long.
    pub(super) fn arm(&mut self, effects: &mut Effects) {
        let limits = self.workers.iter().filter_map(Worker::limit);
        let Some(least) = limits.min() else { return };
        let until = Deadline::after(least);
        if self.next_check.is_none_or(|check| check > until) {
            self.next_check = Some(until);
            effects.keeper = true;
        }
    }

    /// Ends workers whose task has run for too long, and kills those that were told to end and did not.
    /// Sets `next_check`.
    pub(crate) fn check_time(&mut self, means: Means<'_>, effects: &mut Effects) {
        let mut next = None;
        for index in 0..self.workers.len() {
            self.collect(index, means, effects);
            let look = match self.workers[index].overdue() {
                Ok((limit, begun)) => self.time_out(index, limit, begun, means, effects),
                Err(look) => look,
            };
            let late = self.workers[index].late();
            next = [next, look, late].into_iter().flatten().min();
        }
        self.next_check = next;
        self.pump(means, effects);
    }

    /// Ends a worker that is at the last of `begun` items, unless it has finished that by now; when to
    /// look again.
    fn time_out(
        &mut self,
        index: usize,
        limit: Duration,
        begun: u64,
        means: Means<'_>,
        effects: &mut Effects,
    ) -> Option<Deadline> {
        // From here on no further item of this frame begins, and no other frame; so if this one still
        // is the last one, it is the one that will be ended.
        self.workers[index].stop(true);
        self.take_back(index, usize::MAX, effects);
        let worker = &mut self.workers[index];
        if !worker.is_still_at(begun) {
            worker.stop(false);
            return Some(Deadline::after(Duration::ZERO));
        }
        let error = TaskError::TimedOut {
            pid: worker.pid,
            limit,
        };
        worker.doom_it(error, means.grace);
        worker.grace_over()
    }
}
