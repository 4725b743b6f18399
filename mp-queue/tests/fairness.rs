//! Nobody is left behind: exact counts of what each of four got done.

use mp_core::testing::{Census, Watchdog};
use mp_process::Process;
use mp_queue::Queue;

mp_process::init_in_tests!();

const TOTAL: u64 = 200_000;
/// None of four may do less than this part of an equal share.
///
/// What the queue promises is time: who is overtaken is let in after some 0.1 ms. How many items
/// the others get meanwhile is for the machine to say: with two CPUs for five processes, those two
/// that stay awake get nearly all of a round, and the others one item in a hundred.
const LEAST_SHARE: u64 = 256;

/// Rounds of which one has to be fair. A scheduler that has no CPU for somebody, because others keep
/// the machine busy, spoils some.
const ROUNDS: u32 = 3;

fn assert_fair(mut round: impl FnMut() -> Vec<u64>) {
    for _ in 0..ROUNDS {
        let counts = round();
        assert_eq!(counts.iter().sum::<u64>(), TOTAL, "{counts:?}");
        let share = TOTAL / counts.len() as u64;
        eprintln!("of {TOTAL}: {counts:?}");
        if counts.iter().all(|count| count * LEAST_SHARE >= share) {
            return;
        }
    }
    panic!("one of four starved in each of {ROUNDS} rounds");
}

fn produce(queue: Queue<u8>, number: u8, start: Queue<()>) {
    let _ = start.get(); // closed: go
    while queue.put(number).is_ok() {}
}

#[test]
fn of_four_producers_none_starves() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(120));
    assert_fair(producers);
}

fn producers() -> Vec<u64> {
    let (queue, start) = (Queue::bounded(4).unwrap(), Queue::new().unwrap());
    let producers: Vec<_> = (0..4)
        .map(|n| {
            Process::new(produce, (queue.clone(), n, start.clone()))
                .start()
                .unwrap()
        })
        .collect();
    start.close();
    let mut counts = vec![0; 4];
    for _ in 0..TOTAL {
        counts[usize::from(queue.get().unwrap())] += 1;
    }
    queue.close();
    producers.into_iter().for_each(|p| p.join().unwrap());
    counts
}

fn consume(queue: Queue<u8>, start: Queue<()>) -> u64 {
    let _ = start.get(); // closed: go
    queue.iter().map(Result::unwrap).count() as u64
}

#[test]
fn of_four_consumers_none_starves() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(120));
    assert_fair(consumers);
}

fn consumers() -> Vec<u64> {
    let (queue, start) = (Queue::bounded(4).unwrap(), Queue::new().unwrap());
    let consumers: Vec<_> = (0..4)
        .map(|_| {
            Process::new(consume, (queue.clone(), start.clone()))
                .start()
                .unwrap()
        })
        .collect();
    start.close();
    (0..TOTAL).for_each(|n| queue.put(n as u8).unwrap());
    queue.close();
    consumers.into_iter().map(|c| c.join().unwrap()).collect()
}
