//! Outcomes, from the workers' lanes to the sinks of their calls.

use super::{Means, State};
use crate::{
    error::TaskError,
    outcome::Effects,
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
            self.extents.release(means.hub, frame.held);
        }
        self.completed += u64::from(count);
        self.deaths_in_a_row = 0;
        Some(())
    }
}
