//! A look inside a pool.

use std::time::{Duration, Instant};

use crate::{
    dispatch::{Phase, State},
    pool::PoolHandle,
    roster::Worker,
};

/// What a pool was doing at one moment.
///
/// # Examples
///
/// ```
/// use mp_pool::WorkerState;
///
/// # mp_process::init_in_tests!();
/// # fn look() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = mp_pool::Pool::new(2)?;
/// let stats = pool.stats();
/// let busy = stats.workers.iter().filter(|worker| worker.state == WorkerState::Running);
/// println!("{} of {} workers are busy", busy.count(), stats.workers.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStats {
    /// The workers that are there now, the oldest first.
    pub workers: Vec<WorkerStats>,
    /// Workers replaced so far, after a death or because their tasks were used up.
    pub restarts: u64,
    /// Tasks that no worker has yet.
    pub queued: u64,
    /// Tasks that some worker has, begun or not.
    pub assigned: u64,
    /// Tasks that a worker has finished, with a value, a panic, or an encoding error; also if they count as
    /// cancelled or timed out because they were to stop by then.
    pub completed: u64,
}

/// What one worker was doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStats {
    /// 1, 2, 3… over the life of the pool.
    pub number: u64,
    /// Its process id.
    pub pid: u32,
    /// What it was doing.
    pub state: WorkerState,
    /// Tasks it has done in its life.
    pub tasks: u64,
    /// Tasks it has, begun or not.
    pub assigned: u64,
    /// How many workers the task that it runs has cost already.
    pub attempts: u32,
    /// For how long it had tasks, in its life.
    pub busy: Duration,
    /// For how long it had none.
    pub idle: Duration,
}

/// What a worker was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerState {
    /// Its process starts, or runs the initializer.
    Starting,
    /// It has begun no task.
    Idle,
    /// It runs a task.
    Running,
    /// It gets no more tasks, and ends when it has done its own, or is being ended.
    Leaving,
}

impl PoolHandle {
    /// What the pool is doing right now. Takes the pool's lock for a moment: fine several times a
    /// second.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        let state = self.shared().lock();
        let now = Instant::now();
        let workers: Vec<_> = state
            .workers
            .iter()
            .map(|worker| WorkerStats::of(worker, &state, now))
            .collect();
        PoolStats {
            assigned: workers.iter().map(|worker| worker.assigned).sum(),
            workers,
            restarts: state.restarts,
            queued: state.queued(),
            completed: state.completed,
        }
    }
}

impl WorkerStats {
    fn of(worker: &Worker, state: &State, now: Instant) -> Self {
        let busy = worker.busy(now);
        Self {
            number: worker.number,
            pid: worker.pid,
            state: WorkerState::of(worker, state.phase),
            tasks: worker.items_done,
            assigned: worker.items_given - worker.items_done,
            attempts: worker.frames.front().map_or(0, |frame| frame.attempt),
            busy,
            idle: worker.age(now).saturating_sub(busy),
        }
    }
}

impl WorkerState {
    fn of(worker: &Worker, phase: Phase) -> Self {
        if worker.leaving || worker.doom.is_some() || phase == Phase::Terminating {
            Self::Leaving
        } else if !worker.is_up() {
            Self::Starting
        } else if worker.begun() > worker.items_done {
            Self::Running
        } else {
            Self::Idle
        }
    }
}
