//! Locks, permits and shared values, alone and between two processes; the wake of a sleeper.

use std::{
    sync::atomic::Ordering::{Relaxed, SeqCst},
    time::{Duration, Instant},
};

use mp::{Barrier, Condition, Event, Lock, Process, RawValue, Semaphore, Value};
use mp_bench::{Context, median, monotonic_ns, per_iteration};

/// Increments of the contended cases, shared by two processes.
const TOTAL: u64 = 1_000_000;
/// Wakes of a waiter, and how long it has been waiting before each.
const WAKES: u64 = 400;
const ASLEEP: Duration = Duration::from_micros(300);

fn with_lock(lock: Lock, counter: RawValue<u64>, start: Barrier) {
    start.wait().expect("both arrive");
    for _ in 0..TOTAL / 2 {
        let _guard = lock.lock().expect("nobody dies");
        counter.store(counter.load(Relaxed) + 1, Relaxed);
    }
}

fn with_semaphore(semaphore: Semaphore, counter: RawValue<u64>, start: Barrier) {
    start.wait().expect("both arrive");
    for _ in 0..TOTAL / 2 {
        let _permit = semaphore.acquire().expect("a permit");
        counter.store(counter.load(Relaxed) + 1, Relaxed);
    }
}

fn with_value(counter: RawValue<u64>, start: Barrier) {
    start.wait().expect("both arrive");
    for _ in 0..TOTAL / 2 {
        counter.fetch_add(1, SeqCst);
    }
}

pub(crate) fn locks(context: &Context) {
    let lock = Lock::new().expect("a lock");
    alone(context, "uncontended", || drop(lock.lock().expect("free")));
    contended(context, "contended2", |counter, start| {
        Process::new(with_lock, (lock.clone(), counter, start)).start()
    });
    let semaphore = Semaphore::new(1).expect("a semaphore");
    alone(context, "sem-uncontended", || {
        drop(semaphore.acquire().expect("free"))
    });
    contended(context, "sem-contended2", |counter, start| {
        Process::new(with_semaphore, (semaphore.clone(), counter, start)).start()
    });
    let counter = RawValue::new(0_u64).expect("a value");
    alone(context, "value-inc", || {
        counter.fetch_add(1, SeqCst);
    });
    contended(context, "value-contended2", |counter, start| {
        Process::new(with_value, (counter, start)).start()
    });
    event_wake(context);
    condition_wake(context);
}

fn alone(context: &Context, param: &str, once: impl Fn()) {
    let (ns, n) = per_iteration(context.secs(), |n| (0..n).for_each(|_| once()));
    context.report(param, "ns", ns, n);
}

fn contended(
    context: &Context,
    param: &str,
    start_one: impl Fn(RawValue<u64>, Barrier) -> Result<Process<()>, mp::StartError>,
) {
    let counter = RawValue::new(0_u64).expect("a value");
    let start = Barrier::new(3).expect("a barrier");
    let children = [(); 2].map(|()| start_one(counter.clone(), start.clone()).expect("a child"));
    start.wait().expect("both arrive");
    let begin = Instant::now();
    for child in children {
        child.join().expect("it ends well");
    }
    let ns = begin.elapsed().as_nanos() as f64 / TOTAL as f64;
    let note = (counter.get() != TOTAL).then(|| format!("LOST UPDATES: {}", counter.get()));
    context.report_as("mp", param, "ns", ns, TOTAL, note.as_deref());
}

/// Stamps every wake, and answers over an event as well: the floor answers over a word, too.
fn stamp(event: Event, answer: Event, sent: RawValue<u64>, delay: RawValue<u64>, n: u64) {
    for _ in 0..n {
        event.wait();
        delay.set(monotonic_ns() - sent.get());
        event.clear();
        answer.set();
    }
}

fn event_wake(context: &Context) {
    let [event, answer] = [(); 2].map(|()| Event::new().expect("an event"));
    let [sent, delay] = [(); 2].map(|()| RawValue::new(0_u64).expect("a value"));
    let arguments = (
        event.clone(),
        answer.clone(),
        sent.clone(),
        delay.clone(),
        WAKES,
    );
    let child = Process::new(stamp, arguments).start().expect("a child");
    let mut times: Vec<f64> = (0..WAKES)
        .map(|_| {
            std::thread::sleep(ASLEEP); // the waiter sleeps by now
            sent.set(monotonic_ns());
            event.set();
            answer.wait();
            answer.clear();
            delay.get() as f64 / 1e3
        })
        .collect();
    child.join().expect("it ends well");
    context.report("event-wake", "us", median(&mut times), WAKES);
}

/// What the condition is about: when it was notified, until that has been noticed, and the delay.
type Notice = Value<[u64; 2]>;

/// As [`stamp`], both ways over one condition.
fn stamp_under_lock(changed: Condition, notice: Notice, n: u64) {
    for _ in 0..n {
        let waiting = notice.lock().expect("nobody dies");
        let mut notice = changed
            .wait_while(waiting, |notice| notice[0] == 0)
            .expect("nobody dies");
        *notice = [0, monotonic_ns() - notice[0]];
        drop(notice);
        changed.notify_one();
    }
}

/// From before the lock is taken to notify until the waiter has it.
fn condition_wake(context: &Context) {
    let changed = Condition::new().expect("a condition");
    let notice = Notice::new([0; 2]).expect("a value");
    let arguments = (changed.clone(), notice.clone(), WAKES);
    let child = Process::new(stamp_under_lock, arguments)
        .start()
        .expect("a child");
    let mut times: Vec<f64> = (0..WAKES)
        .map(|_| {
            std::thread::sleep(ASLEEP); // the waiter sleeps by now
            notice.lock().expect("nobody dies")[0] = monotonic_ns();
            changed.notify_one();
            let waiting = notice.lock().expect("nobody dies");
            let noticed = changed
                .wait_while(waiting, |notice| notice[0] != 0)
                .expect("nobody dies");
            noticed[1] as f64 / 1e3
        })
        .collect();
    child.join().expect("it ends well");
    context.report("condition-wake", "us", median(&mut times), WAKES);
}
