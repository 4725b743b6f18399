//! Locks, permits and shared values, alone and between two processes; the wake of a sleeper.

use std::{
    sync::atomic::Ordering::{Relaxed, SeqCst},
    time::{Duration, Instant},
};

use mp::{Barrier, Condition, Event, Lock, Process, Queue, RawValue, Semaphore, Value};
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

fn stamp(event: Event, sent: RawValue<u64>, delays: Queue<u64>, n: u64) {
    for _ in 0..n {
        event.wait();
        let delay = monotonic_ns() - sent.get();
        event.clear();
        delays.put(delay).expect("room");
    }
}

fn event_wake(context: &Context) {
    let event = Event::new().expect("an event");
    let sent = RawValue::new(0_u64).expect("a value");
    let delays = Queue::new().expect("a queue");
    let arguments = (event.clone(), sent.clone(), delays.clone(), WAKES);
    let child = Process::new(stamp, arguments).start().expect("a child");
    let mut times: Vec<f64> = (0..WAKES)
        .map(|_| {
            std::thread::sleep(ASLEEP); // the waiter sleeps by now
            sent.set(monotonic_ns());
            event.set();
            delays.get().expect("an answer") as f64 / 1e3
        })
        .collect();
    child.join().expect("it ends well");
    context.report("event-wake", "us", median(&mut times), WAKES);
}

fn stamp_under_lock(changed: Condition, sent: Value<u64>, delays: Queue<u64>, n: u64) {
    for _ in 0..n {
        let waiting = sent.lock().expect("nobody dies");
        let mut sent = changed
            .wait_while(waiting, |sent| **sent == 0)
            .expect("nobody dies");
        let delay = monotonic_ns() - *sent;
        *sent = 0;
        drop(sent);
        delays.put(delay).expect("room");
    }
}

/// From before the lock is taken to notify until the waiter has it.
fn condition_wake(context: &Context) {
    let changed = Condition::new().expect("a condition");
    let sent = Value::new(0_u64).expect("a value");
    let delays = Queue::new().expect("a queue");
    let arguments = (changed.clone(), sent.clone(), delays.clone(), WAKES);
    let child = Process::new(stamp_under_lock, arguments)
        .start()
        .expect("a child");
    let mut times: Vec<f64> = (0..WAKES)
        .map(|_| {
            std::thread::sleep(ASLEEP); // the waiter sleeps by now
            *sent.lock().expect("nobody dies") = monotonic_ns();
            changed.notify_one();
            delays.get().expect("an answer") as f64 / 1e3
        })
        .collect();
    child.join().expect("it ends well");
    context.report("condition-wake", "us", median(&mut times), WAKES);
}
