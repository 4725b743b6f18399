//! Outcomes, from the workers' lanes to the sinks of their calls.

use std::ops::Range;

use super::{Means, State};
use crate::{
    error::TaskError,
    job::Job,
    outcome::{Effects, Event},
    wire::{self, Kind},
};

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

    /// The first `count`, and those behind them.
    fn split(self, count: u64) -> Option<(Self, Self)> {
        match self {
            Self::Small(records) => {
                let (front, back) = records.split_at(wire::skip_records(records, count)?);
                Some((Self::Small(front), Self::Small(back)))
            }
            Self::Large(_) if count == 0 => Some((Self::Small(&[]), self)),
            Self::Large(_) => Some((self, Self::Small(&[]))),
        }
    }

    /// Hands them to the sink of `job`, as those of the tasks `numbers`.
    fn put(self, job: &Job, numbers: Range<u64>, pid: u32, effects: &mut Effects) {
        match self {
            _ if numbers.is_empty() => {}
            Self::Small(records) => {
                let count = numbers.end - numbers.start;
                job.sink
                    .records(numbers.start, count, records, pid, effects);
            }
            Self::Large(record) => job.sink.large_record(numbers.start, record, pid, effects),
        }
    }
}

impl State {
    pub(super) fn collect_all(&mut self, means: Means<'_>, effects: &mut Effects) {
        for index in 0..self.workers.len() {
            self.collect(index, means, effects);
        }
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
            effects.events.push(Event::Damaged { pid: worker.pid });
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
                    worker.recycled = true;
                    effects.keeper = true;
                    effects.events.push(Event::AsksToLeave { pid: worker.pid });
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
            // It finished after it had been told to stop: it counts as stopped. At the end of the pool
            // a worker goes on until the signal reaches it, so there may be others behind it.
            let before = doom.item - (worker.items_done - u64::from(count));
            let (kept, rest) = records.split(before)?;
            let (_, behind) = rest.split(1)?;
            let stopped = first + before;
            kept.put(&job, first..stopped, worker.pid, effects);
            job.sink.failed(stopped, 1, doom.error.clone(), effects);
            let end = first + u64::from(count);
            behind.put(&job, stopped + 1..end, worker.pid, effects);
        } else {
            records.put(&job, first..first + u64::from(count), worker.pid, effects);
        }
        if done {
            let frame = worker.frames.pop_front()?;
            worker.retire(&frame);
            self.extents.release(means.hub, frame.held);
        }
        self.completed += u64::from(count);
        self.deaths_in_a_row = 0;
        self.failed_starts = 0;
        Some(())
    }
}
