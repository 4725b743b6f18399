//! What all handles, results and threads of one pool have in common, and how they wait.
//!
//! Whoever waits for an outcome may lead: it takes what the workers committed, for everybody,
//! and sleeps on the bell that the workers ring. The others sleep each for itself and are woken
//! by whoever delivers. While no caller leads, the pool's own thread (the collector) does, if there is
//! something to look after: so a result is one wake away from its caller, not two.
//!
//! # Who is woken by what
//!
//! | what happens | who hears of it | by |
//! |---|---|---|
//! | tasks are published to a worker that sleeps | the worker | `Effects::nudges` |
//! | a worker commits results | who leads, else the collector | the worker rings the chosen [`Bell`] once it has done `wake_at` items |
//! | an outcome is complete | its waiters, wakers, callbacks; who leads, as it may wait for this one | `Effects::{waiters, wakers, callbacks, completed}` |
//! | a caller wants each result (`eager`), or an outcome gets a waker or callback (`watched`) | who leads: it sets other thresholds | [`Bell::Caller`], `Effects::leader` |
//! | lanes have room again | `feeders`, who wait for it | `State::settle`; to see it in time, thresholds are [`Half`](crate::roster::Threshold) while there are any |
//! | frames are taken back from a worker | who leads: its `wake_at` has moved | `Effects::leader` |
//! | who leads is done | a follower, who leads then; without one the collector's bell is chosen | `Shared::pass_on` |
//! | results came before the thresholds were set, and go on coming | the collector | `Effects::collector` |
//! | workers are to be started or ended; a limit ends before `next_check` | the keeper | `Effects::keeper`, which sounds its alarm |
//! | a worker's initializer is done; its results find no room | both bells | the worker |
//! | a worker ends | the keeper | its pidfd |
//! | no worker is left | whoever joins, the callbacks' thread, both bells | `Shared::end` |
//!
//! The order that loses nothing: announce the sleep, set the thresholds, look once more, sleep. A worker
//! commits first and looks at threshold and sleeper afterwards. Whether somebody leads (`led`) is read under the
//! pool's lock; so are the bell and the thresholds set, by who leads or, while nobody does, by whoever
//! changes the books. A wake-up that gets lost with a process delays by a slice of sleep at most.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mp_core::{
    deadline::Deadline,
    hooks::ExitHook,
    primitive::{self, AtomicBool, AtomicU64, Ordering, fence},
};
use mp_queue::lane::{Bell, Hub};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{
    arguments::{Blocks, unsendable},
    builder::Options,
    callback::{self, Callbacks},
    dispatch::{Means, Phase, State},
    error::TaskError,
    extent::Held,
    job::{Body, Job, Pending},
    keeper::Alarm,
    outcome::{Effects, Gate},
    parker::Parker,
};

pub(crate) struct Shared {
    /// Not zero, unique in this process.
    pub(crate) id: u64,
    pub(crate) hub: Hub,
    pub(crate) options: Options,
    pub(crate) callbacks: Callbacks,
    pub(crate) alarm: Alarm,
    /// What ends the pool if the program ends first.
    pub(crate) exit_hook: Mutex<Option<ExitHook>>,
    /// Whether the program's end waits for its tasks.
    finish_at_exit: AtomicBool,
    /// Joined with the pool.
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
    next_number: AtomicU64,
    lead: Lead,
    /// A worker that slept was woken, and needs the CPU that this thread runs on.
    nudged: AtomicBool,
    state: Mutex<State>,
    /// Told when the phase becomes [`Phase::Ended`].
    ended: Condvar,
}

/// Which caller leads, and which others could.
#[derive(Default)]
struct Lead {
    held: AtomicBool,
    followers: Mutex<VecDeque<Arc<Parker>>>,
}

/// Something that a thread can wait for.
pub(crate) trait Awaited {
    fn is_over(&self) -> bool;
    /// Has `parker` woken when it is over; `false` if it is.
    fn register(&self, parker: &Arc<Parker>) -> bool;
    fn unregister(&self, parker: &Arc<Parker>);
}

impl Awaited for Gate {
    fn is_over(&self) -> bool {
        self.is_complete()
    }

    fn register(&self, parker: &Arc<Parker>) -> bool {
        Gate::register(self, parker)
    }

    fn unregister(&self, parker: &Arc<Parker>) {
        Gate::unregister(self, parker);
    }
}

/// Room for one more task in some lane.
struct Room<'a>(&'a Shared);

impl Awaited for Room<'_> {
    fn is_over(&self) -> bool {
        let state = self.0.lock();
        state.refusal().is_some() || !state.is_saturated()
    }

    fn register(&self, parker: &Arc<Parker>) -> bool {
        self.0.lock().register_for_room(parker)
    }

    fn unregister(&self, parker: &Arc<Parker>) {
        self.0.lock().unregister_for_room(parker);
    }
}

/// How soon a waiting thread wants to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Of each result.
    Each,
    /// When all is done, or the workers need more.
    Last,
}

/// How long a thread looks before it sleeps; only with a second CPU.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

/// Bodies from this size on lie in the hub's area.
const LARGE: usize = 16 << 10;

impl Shared {
    pub(crate) fn new(hub: Hub, options: Options, alarm: Alarm) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = State::new(options.workers_at_first());
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed), // only has to be unique
            hub,
            options,
            callbacks: Callbacks::default(),
            alarm,
            exit_hook: Mutex::new(None),
            finish_at_exit: AtomicBool::new(false),
            threads: Mutex::default(),
            next_number: AtomicU64::new(1),
            lead: Lead::default(),
            nudged: AtomicBool::new(false),
            state: Mutex::new(state),
            ended: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Under the lock: whoever steps down takes it afterwards, and looks after what was done while
    /// it led.
    fn means(&self) -> Means<'_> {
        Means {
            hub: &self.hub,
            size: self.options.workers,
            max_restarts: self.options.max_restarts,
            has_initializer: self.options.initializer.is_some(),
            grace: self.options.grace,
            led: self.lead.held.load(Ordering::SeqCst),
        }
    }

    /// Works on the books, and does what is to be done then.
    pub(crate) fn with<R>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut State, Means<'_>, &mut Effects) -> R,
    ) -> R {
        let mut effects = Effects::default();
        let result = {
            let mut state = self.lock();
            work(&mut state, self.means(), &mut effects)
        };
        self.carry_out(effects);
        result
    }

    /// Does what was noted while the lock was held.
    pub(crate) fn carry_out(self: &Arc<Self>, effects: Effects) {
        for nudge in effects.nudges {
            let needs_this_cpu = nudge.slept_here();
            nudge.wake();
            if needs_this_cpu {
                self.nudged.store(true, Ordering::Relaxed); // a hint
            }
        }
        for waiter in effects.waiters {
            waiter.unpark();
        }
        for waker in effects.wakers {
            waker.wake();
        }
        if !effects.callbacks.is_empty() {
            self.callbacks.post(self, effects.callbacks);
        }
        if effects.unwatched > 0 {
            let mut state = self.lock();
            state.watched = state.watched.saturating_sub(effects.unwatched);
        }
        if effects.completed || effects.leader {
            // The leading caller may be about to sleep while this thread delivered its outcome:
            // either it sees the outcome after `Hub::prepare`, or this sees it asleep.
            fence(Ordering::SeqCst);
            self.hub.wake(Bell::Caller);
        }
        if effects.collector {
            self.hub.wake(Bell::Collector);
        }
        if effects.keeper {
            self.alarm.sound();
        }
        for event in effects.events {
            event.tell();
        }
        drop(effects.dead); // takes a while, and nobody has to wait for it
    }

    pub(crate) fn pump(self: &Arc<Self>) {
        self.with(State::pump);
    }

    /// Accepts tasks `first..first + count`, whose encoded arguments are `body` and `blocks`.
    ///
    /// After an `Ok` their outcomes arrive at the job's sink, exactly one each.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: &Arc<Job>,
        first: u64,
        count: u32,
        body: &[u8],
        mut blocks: Blocks<'_>,
    ) -> Result<(), TaskError> {
        let (own, body) = match body.len() {
            LARGE.. => (Body::Far(blocks.put(body).map_err(unsendable)?), &[][..]),
            _ => (Body::Inline(Vec::new()), body),
        };
        self.with(|state, means, effects| {
            if let Some(error) = state.refusal() {
                return Err(error);
            }
            let pending = Pending {
                job: job.clone(),
                first,
                count,
                attempt: 0,
                body: own,
                held: blocks.take(),
            };
            state.accept(pending, body, effects);
            state.publish(means, effects);
            Ok(())
        })
    }

    /// Accepts a task for each of `items`, parts of `body`, while the lanes have room; how many.
    pub(crate) fn submit_each(
        self: &Arc<Self>,
        job: &Arc<Job>,
        first: u64,
        items: &[std::ops::Range<usize>],
        body: &[u8],
    ) -> Result<usize, TaskError> {
        self.with(|state, means, effects| {
            if let Some(error) = state.refusal() {
                return Err(error);
            }
            let mut taken = 0;
            for item in items {
                if state.is_saturated() {
                    break;
                }
                let pending = Pending {
                    job: job.clone(),
                    first: first + taken as u64,
                    count: 1,
                    attempt: 0,
                    body: Body::Inline(Vec::new()),
                    held: Held::default(),
                };
                state.accept(pending, &body[item.clone()], effects);
                taken += 1;
            }
            state.publish(means, effects);
            Ok(taken)
        })
    }

    /// Whether one more task would be large enough to lie outside of the lanes.
    pub(crate) fn is_large(len: usize) -> bool {
        len >= LARGE
    }

    /// Has the collector look after an outcome that is watched by callbacks or wakers.
    pub(crate) fn watch(self: &Arc<Self>, gate: &Gate) {
        if !gate.is_unwatched() {
            return; // polled again: no need for the lock
        }
        self.with(|state, means, effects| {
            // Under the lock: it is counted before it is complete, and so taken off then.
            if gate.watch() {
                state.watched += 1;
                effects.leader = true;
                state.pump(means, effects);
            }
        });
    }

    /// Waits until there is room for one more task, or the pool takes none.
    pub(crate) fn wait_for_room(self: &Arc<Self>) {
        self.with(|state, means, effects| {
            state.feeders += 1;
            state.ask_for_workers(means, effects);
        });
        self.wait(&Room(self), None, Haste::Last);
        self.lock().feeders -= 1;
    }

    /// Waits until `awaited` is over; `false` if `until` came first.
    pub(crate) fn wait(
        self: &Arc<Self>,
        awaited: &dyn Awaited,
        until: Option<Deadline>,
        haste: Haste,
    ) -> bool {
        if awaited.is_over() {
            return true;
        }
        if haste == Haste::Each {
            self.lock().eager += 1;
        }
        let over = self.lead_or_follow(awaited, until, haste);
        if haste == Haste::Each {
            self.lock().eager -= 1;
        }
        over
    }

    fn lead_or_follow(
        self: &Arc<Self>,
        awaited: &dyn Awaited,
        until: Option<Deadline>,
        haste: Haste,
    ) -> bool {
        let parker = Parker::current();
        let mut told = false;
        loop {
            if !self.lead.held.swap(true, Ordering::SeqCst) {
                {
                    // Under the lock, where whoever stepped down looks whether there is a leader again.
                    let _books = self.lock();
                    self.hub.choose(Bell::Caller);
                }
                let over = self.lead(awaited, until, haste);
                self.step_down();
                return over;
            }
            if haste == Haste::Each && !told {
                self.hub.wake(Bell::Caller); // who leads has to listen to each result now
                told = true;
            }
            if !awaited.register(&parker) {
                return true;
            }
            self.lead.followers.lock().push_back(parker.clone());
            // Whoever stepped down before that did not see this follower.
            if self.lead.held.load(Ordering::SeqCst) {
                parker.park(until);
            }
            self.lead
                .followers
                .lock()
                .retain(|follower| !Arc::ptr_eq(follower, &parker));
            awaited.unregister(&parker);
            let over = awaited.is_over();
            if over || until.is_some_and(Deadline::is_over) {
                self.pass_on(); // it may have been this one's turn
                return over;
            }
        }
    }

    /// Nobody leads: one of the followers does, or the collector if there is something to look
    /// after.
    fn pass_on(self: &Arc<Self>) {
        if self.lead.held.load(Ordering::SeqCst) {
            return;
        }
        if let Some(follower) = self.lead.followers.lock().pop_front() {
            return follower.unpark();
        }
        self.with(|state, means, effects| {
            if means.led {
                return; // somebody leads by now, with a bell and thresholds of its own
            }
            self.hub.choose(Bell::Collector);
            state.set_thresholds(false);
            state.keep_watch(means, effects);
        });
    }

    fn step_down(self: &Arc<Self>) {
        self.lead.held.store(false, Ordering::SeqCst);
        self.pass_on();
    }

    /// Takes results, for everybody, until `awaited` is over.
    fn lead(
        self: &Arc<Self>,
        awaited: &dyn Awaited,
        until: Option<Deadline>,
        haste: Haste,
    ) -> bool {
        loop {
            self.pump();
            if awaited.is_over() {
                return true;
            }
            if until.is_some_and(Deadline::is_over) {
                return false;
            }
            if haste == Haste::Each && self.spin(awaited) {
                continue;
            }
            self.hub.prepare(Bell::Caller);
            self.pump_until_quiet();
            if awaited.is_over() {
                self.hub.stay_awake(Bell::Caller);
                return true;
            }
            self.hub.sleep(Bell::Caller, until);
        }
    }

    /// Looks for a moment; whether there is something.
    fn spin(&self, awaited: &dyn Awaited) -> bool {
        if self.nudged.swap(false, Ordering::Relaxed) {
            return false;
        }
        look_for_a_moment(|| {
            let state = self.state.try_lock();
            state.is_some_and(|state| state.has_results()) || awaited.is_over()
        })
    }

    /// With the thresholds set, nothing that should have rung is left.
    fn pump_until_quiet(self: &Arc<Self>) {
        loop {
            let changed = self.with(|state, means, effects| {
                state.pump(means, effects);
                state.set_thresholds(true)
            });
            if !changed {
                return;
            }
        }
    }

    /// The collector's life: it sleeps until a worker rings, which is when its threshold says so.
    pub(crate) fn collect(self: &Arc<Self>) {
        loop {
            self.hub.prepare(Bell::Collector);
            self.pump(); // sets the thresholds, if no caller leads
            if self.lock().phase == Phase::Ended {
                return;
            }
            self.hub.sleep(Bell::Collector, None);
        }
    }

    /// No worker is left: whoever waits for that is told.
    pub(crate) fn end(self: &Arc<Self>) {
        self.lock().phase = Phase::Ended;
        self.ended.notify_all();
        self.callbacks.end();
        self.hub.wake_both();
        if let Some(hook) = self.exit_hook.lock().take() {
            hook.cancel();
        }
    }

    /// Waits until no worker is left; `false` if `until` came first.
    pub(crate) fn wait_ended(&self, until: Option<Deadline>) -> bool {
        let mut state = self.lock();
        while state.phase != Phase::Ended {
            match until.map(Deadline::remaining) {
                None => self.ended.wait(&mut state),
                Some(left) if left.is_zero() => return false,
                Some(left) => {
                    self.ended.wait_for(&mut state, left);
                }
            }
        }
        true
    }

    /// Numbers workers.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed) // only has to be unique
    }

    /// From here on the program's end waits for the tasks.
    pub(crate) fn finish_at_exit(&self) {
        self.finish_at_exit.store(true, Ordering::Relaxed); // says nothing of other memory
    }

    pub(crate) fn finishes_at_exit(&self) -> bool {
        self.finish_at_exit.load(Ordering::Relaxed) // as above
    }

    /// By then the workers of a terminated pool are gone.
    pub(crate) fn patience(&self) -> Deadline {
        let grace = self.options.grace;
        Deadline::after(grace.saturating_add(Duration::from_secs(1)))
    }

    /// The pool was not set up to its end: what there is of it goes.
    pub(crate) fn abandon(self: &Arc<Self>) {
        let workers = self.with(|state, _, _| {
            state.phase = Phase::Terminating;
            std::mem::take(&mut state.workers)
        });
        for worker in &workers {
            worker.kill();
        }
        for worker in &workers {
            let _ = worker.child().wait(); // how it ended concerns nobody
        }
        drop(workers);
        self.end();
        self.join_threads();
    }

    /// Waits for the pool's threads, but for this one.
    pub(crate) fn join_threads(&self) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join(); // a panic there was printed by then
            }
        }
    }

    /// Whether this thread runs a callback of this pool, and so must not wait for it.
    pub(crate) fn is_in_callback(&self) -> bool {
        callback::is_calling(self.id)
    }

    /// Refuses a wait in a callback of this pool, before anything is submitted for it.
    pub(crate) fn check_callback(&self) -> Result<(), TaskError> {
        match self.is_in_callback() {
            true => Err(TaskError::WouldDeadlock),
            false => Ok(()),
        }
    }
}

/// Looks for a moment whether `found`, with a second CPU; whether it did.
pub(crate) fn look_for_a_moment(mut found: impl FnMut() -> bool) -> bool {
    /// About half a microsecond: a line that another process writes is not taken from it all the time.
    const PAUSES: u32 = 16;
    if !primitive::may_spin() {
        return false;
    }
    let start = Instant::now();
    loop {
        for _ in 0..PAUSES {
            primitive::spin_loop();
        }
        if found() {
            return true;
        }
        if start.elapsed() >= SPIN {
            return false;
        }
    }
}
