//! The thread that keeps a pool's workers: starts them, learns of their deaths, ends those whose time is
//! over.
//!
//! It sleeps on their sentinels (pidfds), so a death is an event; tasks do not pass through here.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{deadline::Deadline, fd};
use mp_process::{Child, ExitStatus, StartError};
use mp_queue::lane::Host;
use nix::{
    libc,
    sys::{
        eventfd::{EfdFlags, EventFd},
        signal::{Signal, killpg},
    },
    unistd::Pid,
};

use crate::{
    dispatch::{Phase, State},
    roster::Worker,
    shared::Shared,
    worker::{self, Assignment},
};

/// Wakes the keeper.
pub(crate) struct Alarm(EventFd);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    pub(crate) fn sound(&self) {
        let _ = self.0.write(1); // fails only if it sounds already, 2^64 times
    }

    fn silence(&self) {
        let _ = self.0.read(); // fails only if it does not sound
    }
}

/// How long to wait after the system refused a new process.
const RETRY: Duration = Duration::from_millis(50);
/// How often it may refuse in a row, with no worker left that has or takes tasks, before the pool counts as
/// broken.
const MAX_REFUSALS: u32 = 20;

/// The keeper's life: until the pool has ended.
pub(crate) fn keep(shared: &Arc<Shared>) {
    let mut refusals = 0;
    loop {
        shared.alarm.silence();
        let missing = shared.with(|state, means, effects| {
            state.check_time(means, effects);
            state.missing()
        });
        let mut until = None;
        for _ in 0..missing {
            match start_worker(shared) {
                Ok(()) => refusals = 0,
                Err(error) => {
                    refusals += 1;
                    tracing::warn!(%error, refusals, "a worker cannot be started");
                    until = Some(Deadline::after(RETRY));
                    give_up(shared, refusals, &error);
                    break;
                }
            }
        }
        let Some(sentinels) = sentinels(shared) else {
            break;
        };
        wait(shared, sentinels, until);
    }
    shared.end();
}

fn give_up(shared: &Arc<Shared>, refusals: u32, error: &StartError) {
    shared.with(|state, means, effects| {
        if refusals >= MAX_REFUSALS && !state.has_hope() {
            state.break_down(format!("no worker can be started: {error}"), means, effects);
        }
    });
}

/// What ends with each worker; `None` if there is none and never will be.
fn sentinels(shared: &Shared) -> Option<Vec<(u64, i32)>> {
    let state = shared.lock();
    let over = state.phase != Phase::Open && state.workers.is_empty();
    let done = over && (state.phase == Phase::Terminating || !state.has_work());
    (!done).then(|| {
        let workers = state.workers.iter();
        workers
            .map(|worker| (worker.number, worker.sentinel()))
            .collect()
    })
}

/// Sleeps until a worker ends, something is to be checked, or the alarm sounds.
fn wait(shared: &Arc<Shared>, sentinels: Vec<(u64, i32)>, until: Option<Deadline>) {
    let until = [until, shared.lock().next_check]
        .into_iter()
        .flatten()
        .min();
    let watch = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled = vec![watch(shared.alarm.0.as_fd().as_raw_fd())];
    // Only this thread drops workers, so the numbers stay those of the sentinels.
    polled.extend(sentinels.iter().map(|(_, fd)| watch(*fd)));
    if let Err(error) = fd::poll(&mut polled, until) {
        tracing::error!(%error, "a pool cannot watch its workers");
        std::thread::sleep(RETRY);
    }
    for ((number, _), polled) in sentinels.iter().zip(&polled[1..]) {
        if polled.revents != 0 {
            bury(shared, *number);
        }
    }
}

fn bury(shared: &Arc<Shared>, number: u64) {
    let find = |state: &State| {
        let mut workers = state.workers.iter();
        let worker = workers.find(|worker| worker.number == number)?;
        Some(worker.child())
    };
    let child = find(&shared.lock());
    let Some(child) = child else { return };
    if shared.options.kill_tree {
        kill_group(&child);
    }
    let (code, signal) = match child.wait() {
        Ok(ExitStatus::Code(code)) => (Some(code), None),
        Ok(ExitStatus::Signal(signal)) => (None, Some(signal)),
        Ok(ExitStatus::Unknown) | Err(_) => (None, None),
    };
    shared.with(|state, means, effects| state.bury(number, code, signal, means, effects));
}

/// Kills what its tasks left behind; nobody left is fine. Before it is reaped: on kernels that know the
/// group by its number only, that cannot be another's until then.
fn kill_group(child: &Child) {
    let kill = Signal::SIGKILL;
    let sent = child.signal_group(kill as i32);
    if sent.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
        let _ = killpg(Pid::from_raw(child.pid().cast_signed()), kill); // before Linux 6.9
    }
}

/// Starts one worker and puts it on the books.
pub(crate) fn start_worker(shared: &Arc<Shared>) -> Result<(), StartError> {
    let options = &shared.options;
    let number = shared.next_number();
    let name = format!("{}-{number}", options.name);
    let system = |step, source| StartError::System {
        name: name.clone(),
        step,
        source,
    };
    let host = Host::create(options.task_ring, options.result_ring)
        .map_err(|error| system(mp_process::Step::Channel, error))?;
    let assignment = Assignment::new(&host, &shared.hub, options)
        .map_err(|error| system(mp_process::Step::Channel, error))?;
    let process = mp_process::Process::new(worker::work, (assignment,))
        .name(name.clone())
        .start_method(options.start_method())
        .end_with_parent(true)
        .quiet_panics(true)
        .process_group(0);
    let process = match options.memory_limit {
        Some(bytes) => process.memory_limit(bytes),
        None => process,
    };
    let process = process.start()?;
    let budget = options.max_tasks_per_child.unwrap_or(u64::MAX);
    let limit = options.initializer_timeout;
    let worker = Worker::new(number, process, host, budget).up_within(limit);
    shared.with(|state, means, effects| state.enlist(worker, means, effects));
    Ok(())
}
