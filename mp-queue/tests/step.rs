//! Death after every instruction, with somebody asleep on the other side.
//!
//! Whatever was committed by then is there, once, and the sleeper gets it without help; what was
//! not has left no trace, and everybody goes on. In a debug build a call has thousands of
//! instructions, of which only some are taken here; `ci/sweep-queue.sh` takes them all.

use std::{
    fs,
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use mp_core::{
    shm::Mapping,
    testing::{
        Watchdog, eventually, faults, serial, skip,
        stepper::{self, Mark, Outcome, Sweep},
    },
};
use mp_queue::{Bytes, JoinableQueue, Queue, TryGetError, ring::Ring};

/// What a survivor may take at most. The promise is 300 ms, which a machine with other work may miss
/// without a fault of the queue: `ci/sweep-queue.sh` asks for it, by `MP_STEP_BOUND_MS`.
fn bound() -> Duration {
    let asked = std::env::var("MP_STEP_BOUND_MS");
    Duration::from_millis(asked.map_or(6000, |millis| millis.parse().unwrap()))
}

/// Another view of a queue's memory, to look at without taking part.
fn observe(queue: &impl AsFd) -> Ring {
    let fd = queue.as_fd().try_clone_to_owned().unwrap();
    Ring::attach(Arc::new(Mapping::attach(fd).unwrap())).unwrap()
}

/// A thread that is asleep in `call`; what it returns comes with the time that took.
struct Sleeper<R> {
    result: mpsc::Receiver<R>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<R: Send + 'static> Sleeper<R> {
    fn new(call: impl FnOnce() -> R + Send + 'static) -> Self {
        let (tell, id) = mpsc::channel();
        let (send, result) = mpsc::channel();
        let thread = thread::spawn(move || {
            tell.send(nix::unistd::gettid()).unwrap();
            let _ = send.send(call());
        });
        let stat = format!("/proc/self/task/{}/stat", id.recv().unwrap());
        let sleeps = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S "));
        eventually(10, &sleeps);
        // Not at some lock on its way: it stays asleep.
        while !(0..3).all(|_| {
            thread::sleep(Duration::from_micros(100));
            sleeps()
        }) {}
        Self {
            result,
            thread: Some(thread),
        }
    }

    /// Waits for its return.
    #[track_caller]
    fn proceed(mut self, worst: &mut Duration) -> R {
        let start = Instant::now();
        let result = self
            .result
            .recv_timeout(bound())
            .expect("a survivor is stuck");
        *worst = (*worst).max(start.elapsed());
        self.thread.take().unwrap().join().unwrap();
        result
    }
}

/// All instructions, or so many that it takes a few seconds.
fn sweep<S>(
    name: &str,
    mut setup: impl FnMut() -> S,
    mut victim: impl FnMut(&S, &Mark),
    mut check: impl FnMut(S, &mut Duration),
) {
    /// Steps, of some 20 µs each; without optimisation most of them show nothing new.
    const BUDGET: u64 = if cfg!(debug_assertions) {
        15_000
    } else {
        60_000
    };
    /// Of one sweep that was asked for: a quarter of an hour or so.
    const LARGEST: u64 = 40_000_000;
    let _serial = serial(); // steps are slow enough alone
    let _dog = Watchdog::secs(1200);
    if !stepper::is_available() {
        return skip(name, "ptrace");
    }
    let mut worst = Duration::ZERO;
    let mut run = |sweep| {
        stepper::for_every_instruction(sweep, &mut setup, &mut victim, |shared, _: Outcome| {
            check(shared, &mut worst)
        })
    };
    let whole = Sweep::default();
    let instructions = run(Sweep { limit: 0, ..whole }).instructions;
    let within = |budget| (instructions * instructions / 2).div_ceil(budget);
    // Each byte that a string instruction copies is a step; `ci/sweep-queue.sh` tells glibc to do
    // without them.
    let stride = whole
        .stride
        .map_or(within(BUDGET), |stride| stride.max(within(LARGEST)));
    let swept = run(Sweep {
        stride: Some(stride),
        ..whole
    });
    assert!(swept.kills > 0, "{swept:?}");
    eprintln!(
        "step {name}: killed at {} of {} instructions; survivors went on after at most {worst:?}",
        swept.kills, swept.instructions
    );
}

/// A consumer sleeps, and `put` dies.
fn sweep_put(
    name: &str,
    make: impl Fn() -> Queue<Bytes>,
    len: usize,
    put: fn(&Queue<Bytes>, Bytes),
) {
    sweep(
        name,
        || {
            let queue = make();
            let consumer = queue.clone();
            let sleeper = Sleeper::new(move || consumer.get().unwrap());
            (observe(&queue), queue, Some(sleeper))
        },
        |(_, queue, _), mark| {
            let item = Bytes::from(vec![9; len]);
            mark.call(|| put(queue, item));
        },
        |(ring, queue, sleeper), worst| {
            let sleeper = sleeper.unwrap();
            let committed = ring.put_count() == 1;
            let expected = if committed { 9 } else { 7 };
            if !committed {
                queue.put_bytes(&vec![7; len]).unwrap();
            }
            assert_eq!(*sleeper.proceed(worst), *vec![expected; len]);
            queue.put_bytes(&vec![8; len]).unwrap();
            assert_eq!(*queue.get().unwrap(), *vec![8; len]);
            assert!(queue.is_empty());
        },
    );
}

/// A producer sleeps, and `get` dies.
fn sweep_get(name: &str, len: usize, get: fn(&Queue<Bytes>)) {
    sweep(
        name,
        || {
            let queue = Queue::builder()
                .max_items(1)
                .area(64 << 10)
                .build()
                .unwrap();
            queue.put_bytes(&vec![1; len]).unwrap();
            let producer = queue.clone();
            let sleeper = Sleeper::new(move || producer.put_bytes(&vec![2; len]).unwrap());
            (observe(&queue), queue, Some(sleeper))
        },
        |(_, queue, _), mark| mark.call(|| get(queue)),
        |(ring, queue, sleeper), worst| {
            if ring.get_count() == 0 {
                assert_eq!(*queue.get().unwrap(), *vec![1; len]);
            }
            sleeper.unwrap().proceed(worst);
            assert_eq!(*queue.get().unwrap(), *vec![2; len]);
            queue.try_put(vec![3; len].into()).unwrap();
            assert_eq!(*queue.get().unwrap(), *vec![3; len]);
            assert!(queue.is_empty());
        },
    );
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn death_in_put() {
    sweep_put(
        "put",
        || Queue::new().unwrap(),
        20,
        |q, v| q.put(v).unwrap(),
    );
}

#[test]
fn death_in_try_put() {
    sweep_put(
        "try_put",
        || Queue::new().unwrap(),
        20,
        |q, v| q.try_put(v).unwrap(),
    );
}

#[test]
fn death_in_put_timeout() {
    sweep_put(
        "put_timeout",
        || Queue::bounded(1).unwrap(),
        20,
        |q, v| {
            q.put_timeout(v, SECOND).unwrap();
        },
    );
}

/// Across chunks, and with memory to be allocated.
#[test]
fn death_in_put_of_a_large_item() {
    let make = || Queue::builder().area(64 << 10).build().unwrap();
    sweep_put("large put", make, 6000, |q, v| q.put_bytes(&v).unwrap());
}

#[test]
fn death_in_get() {
    sweep_get("get", 20, |q| drop(q.get().unwrap()));
}

#[test]
fn death_in_try_get() {
    sweep_get("try_get", 20, |q| drop(q.try_get().unwrap()));
}

#[test]
fn death_in_get_timeout() {
    sweep_get("get_timeout", 20, |q| drop(q.get_timeout(SECOND).unwrap()));
}

#[test]
fn death_in_get_of_a_large_item() {
    sweep_get("large get", 6000, |q| {
        q.get_bytes_into(&mut Vec::with_capacity(6000)).unwrap();
    });
}

/// Asleep in there, too: a sleeper that dies takes nothing with it.
#[test]
fn death_while_waiting_for_an_item() {
    sweep(
        "get of nothing",
        || {
            let queue = Queue::<u32>::new().unwrap();
            let consumer = queue.clone();
            (queue, Some(Sleeper::new(move || consumer.get().unwrap())))
        },
        |(queue, _), mark| drop(mark.call(|| queue.get_timeout(Duration::from_millis(1)))),
        |(queue, sleeper), worst| {
            queue.put(5).unwrap();
            assert_eq!(sleeper.unwrap().proceed(worst), 5);
        },
    );
}

#[test]
fn death_in_close_with_a_sleeping_consumer() {
    sweep(
        "close, consumer",
        || {
            let queue = Queue::<u32>::new().unwrap();
            let consumer = queue.clone();
            (queue, Some(Sleeper::new(move || consumer.get().is_err())))
        },
        |(queue, _), mark| mark.call(|| queue.close()),
        |(queue, sleeper), worst| {
            if !queue.is_closed() {
                queue.close();
            }
            assert!(sleeper.unwrap().proceed(worst), "closed");
            assert!(queue.put(1).is_err() && queue.get().is_err());
        },
    );
}

#[test]
fn death_in_close_with_a_sleeping_producer() {
    sweep(
        "close, producer",
        || {
            let queue = Queue::bounded(1).unwrap();
            queue.put(1).unwrap();
            let producer = queue.clone();
            (queue, Some(Sleeper::new(move || producer.put(2).is_err())))
        },
        |(queue, _), mark| mark.call(|| queue.close()),
        |(queue, sleeper), worst| {
            if !queue.is_closed() {
                queue.close();
            }
            assert!(sleeper.unwrap().proceed(worst), "closed");
            assert_eq!(queue.get().unwrap(), 1);
            assert!(queue.get().is_err());
        },
    );
}

/// An item is in the queue, or named, or its guard was dropped: one of the three.
#[test]
fn death_with_a_claim() {
    sweep(
        "get_claimed",
        || {
            let queue = Queue::new().unwrap();
            queue.put_many([4, 5]).unwrap();
            (observe(&queue), queue)
        },
        |(_, queue), mark| {
            drop(queue.get_claimed().unwrap()); // the first claim looks at all of them
            mark.call(|| drop(queue.get_claimed().unwrap()));
        },
        |(ring, queue), _| {
            let taken = ring.get_count() == 2;
            let lost = queue.take_lost().unwrap();
            assert!(lost.len() <= usize::from(taken));
            assert!(lost.iter().all(|lost| lost.number == 1));
            assert_eq!(queue.try_get().is_ok(), !taken);
            // What the dead had claimed and not taken is nobody's loss once another has taken it.
            assert!(queue.take_lost().unwrap().is_empty());
        },
    );
}

/// The task is done, or it is named; it is not both, and not neither.
#[test]
fn death_in_task_done() {
    sweep(
        "task_done",
        || {
            let tasks = JoinableQueue::new().unwrap();
            (1..=3).for_each(|n| tasks.put(n).unwrap());
            tasks
        },
        |tasks, mark| {
            tasks.get().unwrap(); // the first claim looks at all of them
            tasks.task_done().unwrap();
            mark.call(|| {
                tasks.get().unwrap();
                tasks.task_done().unwrap();
            });
        },
        |tasks, _| {
            let in_queue = tasks.len() as u64;
            let lost = tasks.take_lost().unwrap();
            assert_eq!(tasks.unfinished(), in_queue, "lost: {lost:?}");
            while tasks.try_get().is_ok() {
                tasks.task_done().unwrap();
            }
            tasks.join().unwrap();
            assert!(tasks.task_done().is_err());
        },
    );
}

/// Before and after each system call, where a call is too long to be stepped through.
#[test]
fn death_at_every_system_call_of_a_batch_and_of_growth() {
    let _serial = serial();
    let _dog = Watchdog::secs(120);
    if !faults::is_available() {
        return skip("death_at_every_system_call", "ptrace");
    }
    const COUNT: usize = 300;
    let kills = faults::for_every_kill(
        || {
            let queue = Queue::<Bytes>::new().unwrap();
            (observe(&queue), queue)
        },
        |(_, queue), mark| mark.call(|| queue.put_many(vec![vec![7; 2000].into(); COUNT]).unwrap()),
        |(ring, queue), _| {
            let put = ring.put_count() as usize;
            assert!(put <= COUNT);
            let mut drained = queue.drain().unwrap();
            assert_eq!(drained.len(), put);
            assert!(drained.all(|item| **item.as_ref().unwrap() == [7; 2000]));
            queue.put_bytes(&vec![8; 1 << 20]).unwrap();
            assert_eq!(*queue.get().unwrap(), *vec![8; 1 << 20]);
        },
    );
    assert!(kills >= 2, "{kills}");
}

/// Every system call fails once, with every error it may give: the operation works or says why.
#[test]
fn failing_system_calls_are_errors_that_lose_nothing() {
    let _serial = serial();
    let _dog = Watchdog::secs(120);
    if !faults::is_available() {
        return skip("failing_system_calls", "ptrace");
    }
    let failures = faults::for_every_failure(
        || {
            let queue = Queue::<Bytes>::new().unwrap();
            (observe(&queue), queue)
        },
        |(ring, queue), mark| {
            let value = Bytes::from(vec![7; 3 << 20]);
            let put = mark.call(|| queue.put(value));
            let refused = put.map_err(|error| error.into_value().len());
            assert!(matches!(refused, Ok(()) | Err(3_145_728)));
            assert_eq!(ring.put_count(), u64::from(refused.is_ok()));
        },
        |(ring, queue), _| {
            let is_there = ring.put_count() == 1;
            match queue.try_get() {
                Ok(value) => assert!(is_there && value.len() == 3 << 20),
                Err(TryGetError::Empty) => assert!(!is_there),
                Err(other) => panic!("{other}"),
            }
        },
    );
    assert!(failures > 0);
}

fn allocated_bytes(queue: &impl AsFd) -> u64 {
    let file = fs::File::from(queue.as_fd().try_clone_to_owned().unwrap());
    file.metadata().unwrap().blocks() * 512
}

/// Empty, large and cold.
fn was_long() -> Queue<Bytes> {
    let queue = Queue::<Bytes>::new().unwrap();
    let item = vec![7; 1 << 20];
    (0..24).for_each(|_| queue.put_bytes(&item).unwrap());
    assert_eq!(queue.drain().unwrap().len(), 24);
    assert!(allocated_bytes(&queue) >= 24 << 20);
    thread::sleep(Duration::from_millis(1001));
    queue
}

/// Whoever looks into it next goes on with that, also without ever waiting.
fn gives_its_memory_back(queue: &Queue<Bytes>) {
    eventually(10, || {
        assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
        allocated_bytes(queue) <= 17 << 20
    });
    queue.put_bytes(&vec![8; 20 << 20]).unwrap();
    assert_eq!(*queue.get().unwrap(), *vec![8; 20 << 20]);
}

#[test]
fn death_and_failure_while_memory_is_given_back_only_delay_it() {
    let _serial = serial();
    let _dog = Watchdog::secs(120);
    if !faults::is_available() {
        return skip("death_and_failure_while_memory_is_given_back", "ptrace");
    }
    let give_back = |queue: &Queue<Bytes>, mark: &Mark| {
        assert!(matches!(
            mark.call(|| queue.try_get()),
            Err(TryGetError::Empty)
        ));
    };
    let check = |queue: Queue<Bytes>, _| gives_its_memory_back(&queue);
    assert!(faults::for_every_kill(was_long, give_back, check) >= 2);
    let check = |queue: Queue<Bytes>, _| gives_its_memory_back(&queue);
    assert!(faults::for_every_failure(was_long, give_back, check) > 0);
}

/// Who sleeps between items, as most consumers do, enters the kernel for that and for nothing else.
#[test]
fn a_consumer_that_is_woken_for_the_last_item_makes_no_further_system_call() {
    let _serial = serial();
    let _dog = Watchdog::secs(120);
    if !faults::is_available() {
        return skip("a_consumer_that_is_woken", "ptrace");
    }
    let count = || {
        faults::for_every_kill(
            || {
                let (queue, ready) = (Queue::<u32>::new().unwrap(), Queue::<()>::new().unwrap());
                queue.put(1).unwrap();
                // The first wait asks for the number of CPUs: here, since the thread might be at it when
                // the victim is forked, which would wait for its end then.
                ready.get_timeout(Duration::from_millis(1)).unwrap_err();
                let (producer, victim) = (queue.clone(), ready.clone());
                let later = thread::spawn(move || {
                    victim.get().unwrap();
                    thread::sleep(Duration::from_millis(30)); // it falls asleep
                    producer.put(2).unwrap();
                });
                (queue, ready, later)
            },
            |(queue, ready, _), mark| {
                queue.get().unwrap();
                ready.put(()).unwrap();
                mark.call(|| assert_eq!(queue.get().unwrap(), 2));
            },
            |(_, _, later), _| later.join().unwrap(),
        )
    };
    // Before and after the sleep. On a busy machine it may end with its slice and begin anew, or not
    // begin in time.
    let mut kills = Vec::new();
    while kills.last() != Some(&2) {
        assert!(kills.len() < 5, "{kills:?}");
        kills.push(count());
    }
}
