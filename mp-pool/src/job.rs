//! Tasks on their way: what those of one call have in common, and where each is.

use std::{ops::Range, sync::Arc, time::Duration};

use mp_core::primitive::{AtomicBool, Ordering};
use mp_queue::lane::Hub;

use crate::{
    extent::Held,
    outcome::Sink,
    wire::{self, Callee},
};

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

    /// Decides whether its tasks may begin.
    pub(crate) fn set_cancelled(&self, yes: bool) {
        self.cancelled.store(yes, Ordering::Relaxed); // under the pool's lock, as `is_cancelled`
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) // the lock orders it
    }
}

/// Encoded arguments of consecutive tasks.
#[derive(Debug)]
pub(crate) enum Body {
    Inline(Vec<u8>),
    /// In the hub's area.
    Far(Range<usize>),
}

/// Tasks that no worker has.
pub(crate) struct Pending {
    pub(crate) job: Arc<Job>,
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// How many workers have died of it.
    pub(crate) attempt: u32,
    pub(crate) body: Body,
    pub(crate) held: Held,
}

/// Tasks that are in a worker's lane.
pub(crate) struct Frame {
    pub(crate) job: Arc<Job>,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) done: u32,
    pub(crate) attempt: u32,
    pub(crate) place: Range<u64>,
    pub(crate) held: Held,
}

impl Frame {
    pub(crate) fn left(&self) -> u32 {
        self.count - self.done
    }
}

/// Cuts tasks in two after the first `count`.
pub(crate) fn split(hub: &Hub, pending: Pending, count: u32) -> (Pending, Option<Pending>) {
    if count >= pending.count {
        return (pending, None);
    }
    let cut = |bytes: &[u8]| wire::skip_items(bytes, count.into()).unwrap_or(bytes.len());
    let (front, back) = match pending.body {
        Body::Inline(mut bytes) => {
            let back = bytes.split_off(cut(&bytes));
            (Body::Inline(bytes), Body::Inline(back))
        }
        Body::Far(place) => {
            let mut bytes = Vec::new();
            let _ = hub.read(place.start, place.len(), &mut bytes); // inside the area
            let at = place.start + cut(&bytes);
            (Body::Far(place.start..at), Body::Far(at..place.end))
        }
    };
    let back = Pending {
        job: pending.job.clone(),
        first: pending.first + u64::from(count),
        count: pending.count - count,
        attempt: pending.attempt,
        body: back,
        held: pending.held.clone(),
    };
    let front = Pending {
        count,
        body: front,
        ..pending
    };
    (front, Some(back))
}
