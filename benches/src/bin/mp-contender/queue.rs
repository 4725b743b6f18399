//! Queues: throughput from one to one and from two to two, and the wake of a sleeping consumer.

use std::time::{Duration, Instant};

use mp::{Barrier, Process, Queue};
use mp_bench::{Context, ITEMS, median, peek};

fn produce(queue: Queue<mp::Bytes>, start: Barrier, size: usize, n: u64) {
    let item = vec![1; size];
    start.wait().expect("all arrive");
    for _ in 0..n {
        queue.put_bytes(&item).expect("room");
    }
}

fn consume(queue: Queue<mp::Bytes>, start: Barrier, n: u64) {
    let mut buffer = Vec::new();
    start.wait().expect("all arrive");
    for _ in 0..n {
        queue.get_bytes_into(&mut buffer).expect("an item");
        std::hint::black_box(peek(&buffer));
    }
}

pub(crate) fn throughput(context: &Context) {
    for (param, size, n) in ITEMS {
        // Children end in milliseconds: a longer run than the items' own.
        let n = n * 5;
        for pairs in [1, 2] {
            // Whoever has items this large bounds their number, and then they stay in the cache.
            let queue = if size < 1 << 20 {
                Queue::<mp::Bytes>::new()
            } else {
                Queue::bounded(8)
            };
            let queue = queue.expect("a queue");
            let start = Barrier::new(2 * pairs + 1).expect("a barrier");
            let share = n / u64::from(pairs);
            let mut children = Vec::new();
            for _ in 0..pairs {
                let (q, s) = (queue.clone(), start.clone());
                children.push(Process::new(produce, (q, s, size, share)).start());
                let (q, s) = (queue.clone(), start.clone());
                children.push(Process::new(consume, (q, s, share)).start());
            }
            start.wait().expect("all arrive");
            let begin = Instant::now();
            for child in children {
                child.expect("a child").join().expect("it ends well");
            }
            let rate = n as f64 / begin.elapsed().as_secs_f64();
            context.report(&format!("{pairs}p{pairs}c/{param}"), "items/s", rate, n);
        }
    }
}

/// One clock for all processes of the machine.
fn monotonic_ns() -> u64 {
    mp_bench::monotonic_ns()
}

fn stamp(requests: Queue<u64>, delays: Queue<u64>, n: u64) {
    for _ in 0..n {
        let sent = requests.get().expect("a request");
        delays.put(monotonic_ns() - sent).expect("room");
    }
}

pub(crate) fn wake(context: &Context) {
    const ROUNDS: u64 = 400;
    let requests = Queue::new().expect("a queue");
    let delays = Queue::new().expect("a queue");
    let arguments = (requests.clone(), delays.clone(), ROUNDS);
    let child = Process::new(stamp, arguments).start().expect("a child");
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            std::thread::sleep(Duration::from_micros(300)); // the consumer sleeps by now
            requests.put(monotonic_ns()).expect("room");
            delays.get().expect("an answer") as f64 / 1e3
        })
        .collect();
    child.join().expect("it ends well");
    context.report("wake", "us", median(&mut times), ROUNDS);
}
