//! What a death costs the survivors: for each object, the time from a SIGKILL until who waited for
//! the dead goes on.
//!
//! `cargo bench -p mp-sync --bench death` prints a table in Markdown. The survivor has just gone to
//! sleep when the other is killed: where it looks after the dead at the end of a slice only, that is
//! the longest it can take.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use mp_core::{
    deadline::Deadline,
    testing::{Forked, Watchdog, eventually, fork_child},
};
use mp_sync::{
    Array, Barrier, BarrierError, BoundedSemaphore, Condition, Event, Lock, LockError, OnceValue,
    RLock, RawValue, RwLock, Semaphore, SharedMemory, Value,
};

const ROUNDS: usize = 21;

/// The monotonic clock, in nanoseconds, the same in all processes.
fn now() -> u64 {
    let now = Deadline::now().as_timespec();
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn is_asleep(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") S ")
}

/// A process that says when it is where it is to die, and stays there.
fn victim(body: impl FnOnce(&dyn Fn())) -> Forked {
    let there = Event::new().unwrap();
    let child = fork_child(|| {
        body(&|| there.set());
        there.set();
        loop {
            thread::park();
        }
    });
    there.wait();
    child
}

/// From the death of `dying` until `wait` returns in another process, which sleeps there before.
fn until_it_goes_on(mut dying: Forked, wait: impl FnOnce()) -> Duration {
    let went_on = RawValue::new(0_u64).unwrap();
    let survivor = fork_child(|| {
        wait();
        went_on.set(now());
        mp_core::hooks::run_exit_hooks(); // a normal end, which is no death
    });
    eventually(30, || is_asleep(survivor.pid()));
    let killed = now();
    dying.kill();
    survivor.wait_success();
    Duration::from_nanos(went_on.get() - killed)
}

/// For all that hands over a lock: it has to be told that the owner died.
fn told<G: std::fmt::Debug>(result: Result<G, LockError<G>>) {
    assert!(
        matches!(&result, Err(LockError::OwnerDied(_))),
        "{result:?}"
    );
}

/// `hold` takes it in the process that dies, `wait` in the one that goes on.
fn owner<T>(object: T, hold: impl FnOnce(&T), wait: impl FnOnce(&T)) -> Duration {
    let dying = victim(|_| hold(&object));
    until_it_goes_on(dying, || wait(&object))
}

fn lock() -> Duration {
    let hold = |lock: &Lock| std::mem::forget(lock.lock());
    owner(Lock::new().unwrap(), hold, |lock| told(lock.lock()))
}

fn rlock() -> Duration {
    let hold = |lock: &RLock| std::mem::forget((lock.lock(), lock.lock()));
    owner(RLock::new().unwrap(), hold, |lock| told(lock.lock()))
}

fn value() -> Duration {
    let hold = |value: &Value<u64>| std::mem::forget(value.lock());
    owner(Value::new(0).unwrap(), hold, |value| told(value.lock()))
}

fn array() -> Duration {
    let hold = |array: &Array<u64>| std::mem::forget(array.lock());
    owner(Array::zeroed(8).unwrap(), hold, |array| told(array.lock()))
}

fn writer_to_writer() -> Duration {
    let hold = |lock: &RwLock| std::mem::forget(lock.write());
    owner(RwLock::new().unwrap(), hold, |lock| told(lock.write()))
}

fn writer_to_reader() -> Duration {
    let hold = |lock: &RwLock| std::mem::forget(lock.write());
    owner(RwLock::new().unwrap(), hold, |lock| told(lock.read()))
}

fn reader() -> Duration {
    let hold = |lock: &RwLock| std::mem::forget(lock.read());
    owner(RwLock::new().unwrap(), hold, |lock| {
        drop(lock.write().unwrap());
    })
}

fn permit() -> Duration {
    let hold = |seats: &Semaphore| std::mem::forget(seats.acquire());
    owner(Semaphore::new(1).unwrap(), hold, |seats| {
        drop(seats.acquire().unwrap());
    })
}

fn bounded_permit() -> Duration {
    let hold = |seats: &BoundedSemaphore| std::mem::forget(seats.acquire());
    owner(BoundedSemaphore::new(1).unwrap(), hold, |seats| {
        drop(seats.acquire().unwrap());
    })
}

/// The dead waited, too, and may have taken a notice along: who waits looks again.
fn condition() -> Duration {
    let (state, changed) = (Value::new(0).unwrap(), Condition::new().unwrap());
    let dying = victim(|is_there| {
        let guard = state.lock().unwrap();
        is_there();
        let _ = changed.wait(guard);
    });
    drop(state.lock().unwrap()); // it waits now
    until_it_goes_on(dying, || {
        drop(changed.wait(state.lock().unwrap()).unwrap());
    })
}

fn event() -> Duration {
    let (first, second) = (Event::new().unwrap(), Event::new().unwrap());
    let mut dying = victim(|_| first.set());
    let waiter = fork_child(|| {
        first.wait();
        second.set();
    });
    let killed = now();
    dying.kill();
    second.wait();
    let elapsed = now() - killed;
    waiter.wait_success();
    Duration::from_nanos(elapsed)
}

fn barrier() -> Duration {
    let barrier = Barrier::new(2).unwrap();
    let received = || {
        let fd = std::os::fd::AsFd::as_fd(&barrier).try_clone_to_owned();
        Barrier::from_fd(fd.unwrap()).unwrap()
    };
    let dying = victim(|_| std::mem::forget(received()));
    until_it_goes_on(dying, || {
        let broken = received().wait();
        assert!(
            matches!(broken, Err(BarrierError::PartyDied { .. })),
            "{broken:?}"
        );
    })
}

fn once() -> Duration {
    let value = OnceValue::<u64>::new().unwrap();
    let dying = victim(|is_there| {
        let _ = value.get_or_init(|| {
            is_there();
            loop {
                thread::park();
            }
        });
    });
    until_it_goes_on(dying, || {
        assert_eq!(value.get_or_init(|| 7).unwrap(), &7);
    })
}

fn named() -> Duration {
    let name = format!("mp-bench-{}", std::process::id());
    let mut dying = victim(|_| std::mem::forget(SharedMemory::create(Some(&name), 64)));
    let path = PathBuf::from("/dev/shm").join(&name);
    assert!(path.exists());
    let killed = Instant::now();
    dying.kill();
    while path.exists() {
        thread::yield_now();
    }
    killed.elapsed()
}

type Row = (&'static str, &'static str, &'static str, fn() -> Duration);

const ROWS: &[Row] = &[
    ("`Lock`'s owner", "the next owner is told", "100 ms", lock),
    (
        "`RLock`'s owner, two deep",
        "the next owner is told",
        "100 ms",
        rlock,
    ),
    ("`Value`'s owner", "the next owner is told", "100 ms", value),
    ("`Array`'s owner", "the next owner is told", "100 ms", array),
    (
        "`RwLock`'s writer",
        "the next writer is told",
        "1 s",
        writer_to_writer,
    ),
    (
        "`RwLock`'s writer",
        "a reader is told",
        "1 s",
        writer_to_reader,
    ),
    ("`RwLock`'s reader", "a writer gets in", "1 s", reader),
    (
        "holder of a `Semaphore`'s permit",
        "it returns",
        "1 s",
        permit,
    ),
    (
        "holder of a `BoundedSemaphore`'s permit",
        "it returns",
        "1 s",
        bounded_permit,
    ),
    (
        "who waits at a `Condition`",
        "the others look again",
        "500 ms",
        condition,
    ),
    ("who has set an `Event`", "nothing: it is set", "–", event),
    (
        "party of a `Barrier`",
        "it is broken for the rest",
        "1 s",
        barrier,
    ),
    (
        "`OnceValue`'s initialiser",
        "the next one initialises",
        "100 ms",
        once,
    ),
    (
        "owner of a `SharedMemory`",
        "its name is removed",
        "2 s",
        named,
    ),
];

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let rounds = if std::env::args().any(|arg| arg == "--test") {
        1
    } else {
        ROUNDS
    };
    let _dog = Watchdog::secs(240);
    println!("| who is killed | then | promised | median | worst of {rounds} |");
    println!("|---|---|---:|---:|---:|");
    for (who, then, promise, round) in ROWS {
        let mut times: Vec<Duration> = (0..rounds).map(|_| round()).collect();
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (median, worst) = (ms(times[rounds / 2]), ms(times[rounds - 1]));
        println!("| {who} | {then} | {promise} | {median:.2} ms | {worst:.2} ms |");
    }
}
