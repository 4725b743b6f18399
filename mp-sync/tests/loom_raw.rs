//! Models of the word protocols: every order of their steps, and every value an old load may see.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-sync --release --test 'loom_*'`
//!
//! A model has no slices: a wake-up that is lost shows as a deadlock. Threads stand for processes;
//! a process that dies is a thread that stops between two steps.
#![cfg(mp_loom)]
#![allow(unsafe_code)] // words made in place, and what they guard

use std::io;

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use mp_sync::{
    Semaphore,
    raw::{
        RawBarrier, RawCondition, RawEvent, RawLock, RawOnce, RawRwLock, RawSemaphore, Taken, Wait,
    },
};

fn model(f: impl Fn() + Sync + Send + 'static) {
    model_with(3, f);
}

/// With at most `preemptions` in one run.
fn model_with(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

#[test]
fn an_event_wakes_who_waits() {
    model(|| {
        let event = Arc::new(RawEvent::new());
        let waiter = {
            let event = event.clone();
            thread::spawn(move || assert!(event.wait(None)))
        };
        event.set();
        waiter.join().unwrap();
    });
}

#[test]
fn an_event_set_and_cleared_wakes_who_waited_before() {
    model_with(2, || {
        let event = Arc::new(RawEvent::new());
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let event = event.clone();
                thread::spawn(move || assert!(event.wait(None)))
            })
            .collect();
        event.set();
        event.clear();
        event.set();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

/// `waiters` wait until there is an item and take it; as many items come, each with one notice.
fn hand_over(waiters: usize, all_at_once: bool) {
    let condition = Arc::new(RawCondition::new());
    let items = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (0..waiters)
        .map(|_| {
            let (condition, items) = (condition.clone(), items.clone());
            thread::spawn(move || {
                let mut guard = items.lock().unwrap();
                while *guard == 0 {
                    let ticket = condition.begin();
                    drop(guard);
                    assert!(condition.wait(ticket, None, || ()));
                    guard = items.lock().unwrap();
                }
                *guard -= 1;
            })
        })
        .collect();
    if all_at_once {
        *items.lock().unwrap() = waiters;
        condition.notify_all();
    } else {
        for _ in 0..waiters {
            *items.lock().unwrap() += 1;
            condition.notify(1);
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_notice_reaches_the_one_who_waits() {
    model(|| hand_over(1, false));
}

#[test]
fn two_notices_reach_two() {
    model(|| hand_over(2, false));
}

#[test]
fn a_notice_to_all_reaches_all() {
    model(|| hand_over(2, true));
}

#[test]
fn two_that_take_turns_miss_no_notice() {
    model(|| {
        let condition = Arc::new(RawCondition::new());
        let turn = Arc::new(Mutex::new(0));
        let play = |mine: u32, condition: &RawCondition, turn: &Mutex<u32>| {
            for _ in 0..2 {
                let mut guard = turn.lock().unwrap();
                while *guard != mine {
                    let ticket = condition.begin();
                    drop(guard);
                    condition.wait(ticket, None, || ());
                    guard = turn.lock().unwrap();
                }
                *guard = 1 - mine;
                drop(guard);
                condition.notify(1);
            }
        };
        let other = {
            let (condition, turn) = (condition.clone(), turn.clone());
            thread::spawn(move || play(1, &condition, &turn))
        };
        play(0, &condition, &turn);
        other.join().unwrap();
    });
}

/// A stray notice clears the bit of a waiter that is between two sleeps; the next one still counts.
#[test]
fn a_notice_after_a_stray_one_is_not_missed() {
    // Fewer do not reach the case in which the second notice finds the bit cleared by the first.
    model_with(5, || {
        let condition = Arc::new(RawCondition::new());
        let ready = Arc::new(Mutex::new(false));
        let waiter = {
            let (condition, ready) = (condition.clone(), ready.clone());
            thread::spawn(move || {
                let mut guard = ready.lock().unwrap();
                while !*guard {
                    let ticket = condition.begin();
                    drop(guard);
                    condition.wait(ticket, None, || ());
                    guard = ready.lock().unwrap();
                }
            })
        };
        condition.notify(1);
        *ready.lock().unwrap() = true;
        condition.notify(1);
        waiter.join().unwrap();
    });
}

/// Takes a permit, as a waiting handle does.
fn acquire(semaphore: &RawSemaphore<2>, record: u32) {
    while semaphore.take(record) != Taken::Yes {
        semaphore.sleep(None);
    }
}

#[test]
fn one_permit_is_never_held_twice_and_its_return_wakes() {
    model(|| {
        let semaphore = Arc::new(RawSemaphore::<2>::new(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let work = |semaphore: &RawSemaphore<2>, inside: &AtomicUsize| {
            let record = semaphore.register(0).unwrap();
            acquire(semaphore, record);
            assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
            inside.fetch_sub(1, Ordering::Relaxed);
            semaphore.give(record, 1);
            semaphore.unregister(record);
        };
        let other = {
            let (semaphore, inside) = (semaphore.clone(), inside.clone());
            thread::spawn(move || work(&semaphore, &inside))
        };
        work(&semaphore, &inside);
        other.join().unwrap();
        // Not the records: loom does not order an exchange by one thread before the stores that the
        // other makes after the value it replaced, and may show the older of the two.
        assert_eq!(semaphore.free(), 1);
    });
}

#[test]
fn a_signal_wakes_who_waits_for_it() {
    model(|| {
        let semaphore = Arc::new(RawSemaphore::<2>::new(0));
        let waiter = {
            let semaphore = semaphore.clone();
            thread::spawn(move || {
                let record = semaphore.register(0).unwrap();
                acquire(&semaphore, record);
                semaphore.forget(record);
            })
        };
        semaphore.release(1, 1).unwrap();
        waiter.join().unwrap();
        assert_eq!(semaphore.free(), 0);
    });
}

/// A waker that found nobody asleep says so; it must not say it of one who went to sleep since.
#[test]
fn each_of_two_signals_wakes_who_waits_again() {
    model(|| {
        let semaphore = Arc::new(RawSemaphore::<2>::new(0));
        let waiter = {
            let semaphore = semaphore.clone();
            thread::spawn(move || {
                let record = semaphore.register(0).unwrap();
                for _ in 0..2 {
                    acquire(&semaphore, record);
                    semaphore.forget(record);
                }
            })
        };
        semaphore.release(1, 2).unwrap();
        semaphore.release(1, 2).unwrap();
        waiter.join().unwrap();
        assert_eq!(semaphore.free(), 0);
    });
}

/// A death between the commit and the record: whoever looks first puts it right.
#[test]
fn what_a_dead_process_had_committed_counts_though_its_record_does_not_say_so() {
    model(|| {
        let semaphore = Arc::new(RawSemaphore::<2>::new(2));
        let dead = semaphore.register(7).unwrap();
        semaphore.take_and_die(dead);
        let alive = |slot| slot != 7;
        let other = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.reap(1, 2, alive))
        };
        let record = semaphore.register(2).unwrap();
        assert_eq!(semaphore.take(record), Taken::Yes);
        semaphore.give(record, 2);
        let reaped = semaphore.reap(2, 2, alive) + other.join().unwrap();
        assert_eq!((reaped, semaphore.free()), (1, 2));
    });
}

#[test]
fn what_a_dead_process_held_comes_back_once_whoever_looks() {
    model(|| {
        let semaphore = Arc::new(RawSemaphore::<2>::new(2));
        let dead = semaphore.register(7).unwrap();
        assert_eq!(semaphore.take(dead), Taken::Yes); // and then it died
        let alive = |slot| slot != 7;
        let other = {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.reap(1, 2, alive))
        };
        let record = semaphore.register(2).unwrap();
        assert_eq!(semaphore.take(record), Taken::Yes);
        let reaped = semaphore.reap(2, 2, alive) + other.join().unwrap();
        assert_eq!((reaped, semaphore.free()), (1, 1));
        semaphore.give(record, 2);
        assert_eq!(semaphore.free(), 2);
    });
}

#[test]
fn all_parties_pass_a_barrier_or_none() {
    model(|| {
        let barrier = Arc::new(RawBarrier::new());
        let others: Vec<_> = (0..2)
            .map(|other| {
                let barrier = barrier.clone();
                thread::spawn(move || match other {
                    0 => barrier.wait(2, None, || (), || ()).is_ok(),
                    _ => {
                        barrier.abort();
                        true
                    }
                })
            })
            .collect();
        let passed = barrier.wait(2, None, || (), || ()).is_ok();
        let others: Vec<bool> = others.into_iter().map(|o| o.join().unwrap()).collect();
        assert_eq!(passed, others[0]);
    });
}

#[test]
fn a_barrier_is_crossed_again_and_what_came_before_is_seen() {
    model(|| {
        let barrier = Arc::new(RawBarrier::new());
        let steps = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let walk = |me: usize, barrier: &RawBarrier, steps: &[AtomicUsize; 2]| {
            for round in 1..=2 {
                steps[me].store(round, Ordering::Relaxed);
                barrier.wait(2, None, || (), || ()).unwrap();
                assert!(steps[1 - me].load(Ordering::Relaxed) >= round);
            }
        };
        let other = {
            let (barrier, steps) = (barrier.clone(), steps.clone());
            thread::spawn(move || walk(1, &barrier, &steps))
        };
        walk(0, &barrier, &steps);
        other.join().unwrap();
    });
}

/// What `init` makes in place, as a handle does in shared memory.
fn in_place<T>(init: unsafe fn(*mut T) -> io::Result<()>) -> Box<T> {
    let mut place = Box::<T>::new_uninit();
    // SAFETY: valid for writes, aligned, and nobody else's.
    unsafe { init(place.as_mut_ptr()) }.unwrap();
    // SAFETY: initialised just now.
    unsafe { place.assume_init() }
}

/// A read-write lock, and what it guards.
struct Guarded {
    writers: Box<RawLock>,
    readers: RawSemaphore<2>,
    data: UnsafeCell<u32>,
}

// SAFETY: the data is accessed under the lock; loom looks whether that is so.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            writers: in_place(RawLock::init),
            readers: RawSemaphore::new(Semaphore::MAX),
            data: UnsafeCell::new(0),
        })
    }

    fn lock(&self) -> RawRwLock<'_, 2> {
        RawRwLock {
            writers: &self.writers,
            readers: &self.readers,
        }
    }

    fn read(&self, record: u32) -> u32 {
        self.lock().read(record, Wait::Until(None)).unwrap();
        // SAFETY: a reader is inside, so no writer is.
        let found = self.data.with(|data| unsafe { *data });
        self.lock().leave(record);
        found
    }

    fn write(&self, record: u32) {
        let wait = Wait::Until(None);
        self.lock().write(record, wait, || Ok(())).unwrap();
        // SAFETY: the writer is inside, and nobody else.
        self.data.with_mut(|data| unsafe { *data += 1 });
        // SAFETY: entered above.
        unsafe { self.lock().leave_writer() };
    }
}

#[test]
fn a_reader_is_never_beside_a_writer_and_neither_is_left_asleep() {
    model_with(2, || {
        let guarded = Guarded::new();
        let other = {
            let guarded = guarded.clone();
            thread::spawn(move || {
                let record = guarded.readers.register(0).unwrap();
                guarded.write(record);
            })
        };
        let record = guarded.readers.register(0).unwrap();
        assert!(guarded.read(record) <= 1);
        other.join().unwrap();
        assert_eq!(guarded.read(record), 1);
    });
}

#[test]
fn two_writers_take_turns() {
    model_with(2, || {
        let guarded = Guarded::new();
        let other = {
            let guarded = guarded.clone();
            thread::spawn(move || {
                let record = guarded.readers.register(0).unwrap();
                guarded.write(record);
            })
        };
        let record = guarded.readers.register(0).unwrap();
        guarded.write(record);
        other.join().unwrap();
        assert_eq!(guarded.read(record), 2);
    });
}

#[test]
fn what_a_dead_writer_closed_is_opened_by_a_reader_who_sees_the_notice() {
    model_with(2, || {
        let guarded = Guarded::new();
        let dying = {
            let guarded = guarded.clone();
            thread::spawn(move || {
                let record = guarded.readers.register(0).unwrap();
                let wait = Wait::Until(None);
                guarded.lock().write(record, wait, || Ok(())).unwrap();
                guarded.writers.die();
            })
        };
        let record = guarded.readers.register(0).unwrap();
        // Before the writer, or after its death: a model has no slice to look after the dead at.
        if guarded.lock().read(record, Wait::Never).is_ok() {
            guarded.lock().leave(record);
        }
        dying.join().unwrap();
        guarded.lock().read(record, Wait::Never).unwrap();
        assert!(guarded.lock().is_suspect());
    });
}

#[test]
fn what_is_done_once_is_done_by_one_and_seen_by_all() {
    model(|| {
        let once = Arc::new((in_place(RawOnce::init), AtomicUsize::new(0)));
        let ask = |once: &(Box<RawOnce>, AtomicUsize)| {
            let first = || {
                once.1
                    .store(once.1.load(Ordering::Relaxed) + 1, Ordering::Relaxed)
            };
            once.0.call(first).unwrap();
            assert_eq!(once.1.load(Ordering::Relaxed), 1);
        };
        let other = {
            let once = once.clone();
            thread::spawn(move || ask(&once))
        };
        ask(&once);
        other.join().unwrap();
    });
}

#[test]
fn what_a_dead_process_began_is_done_by_the_next() {
    model(|| {
        let once = Arc::new(in_place(RawOnce::init));
        let dying = {
            let once = once.clone();
            thread::spawn(move || once.call_and_die())
        };
        let runs = AtomicUsize::new(0);
        once.call(|| {
            runs.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        dying.join().unwrap();
        assert!(once.is_done() && runs.load(Ordering::Relaxed) == 1);
    });
}
