//! What awaiting a result costs beside `get`: medians of interleaved rounds, in one process, with the
//! smallest executor there is.
//!
//! `cargo bench -p mp-pool --bench future`

use std::{
    hint::black_box,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Instant,
};

use mp_pool::{AsyncResult, Pool};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(waker: &Waker, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn id(x: u64) -> u64 {
    x
}

const ROUNDS: usize = 21;

/// Median nanoseconds that one of `count` calls takes.
fn medians(count: u64, ways: [&dyn Fn(); 2]) -> [f64; 2] {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (way, times) in ways.iter().zip(&mut times) {
            let start = Instant::now();
            way();
            times.push(start.elapsed().as_nanos() as f64 / count as f64);
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    })
}

fn report(what: &str, [get, future]: [f64; 2]) {
    let overhead = future - get;
    println!("{what:<34} get {get:>9.0} ns   await {future:>9.0} ns   overhead {overhead:>8.0} ns");
}

fn main() {
    mp_process::init();
    let pool = Pool::new(1).expect("a worker");
    let waker = Waker::from(Arc::new(Unpark(thread::current())));

    const ALONE: u64 = 500;
    let submit = |x| pool.apply_async(id, (black_box(x),));
    let get = || (0..ALONE).for_each(|x| assert_eq!(submit(x).get(), Ok(x)));
    let wait = || (0..ALONE).for_each(|x| assert_eq!(block_on(&waker, submit(x)), Ok(x)));
    report("one after the other", medians(ALONE, [&get, &wait]));

    const MANY: u64 = 5_000;
    let all = || (0..MANY).map(submit).collect::<Vec<_>>();
    let get = || all().into_iter().for_each(|result| drop(result.get()));
    let wait = || {
        all()
            .into_iter()
            .for_each(|result| drop(block_on(&waker, result)))
    };
    report("5000 in flight", medians(MANY, [&get, &wait]));

    let ready = || {
        let results = all();
        while !results.iter().all(AsyncResult::ready) {
            thread::yield_now();
        }
        results
    };
    let time = |take: &dyn Fn(AsyncResult<u64>)| {
        let results = ready();
        let start = Instant::now();
        results.into_iter().for_each(take);
        start.elapsed().as_nanos() as f64 / MANY as f64
    };
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let get = time(&|result| drop(result.get()));
            [get, time(&|result| drop(block_on(&waker, result)))]
        })
        .collect();
    let median = |rounds: &mut Vec<[f64; 2]>, way: usize| {
        rounds.sort_by(|a, b| a[way].total_cmp(&b[way]));
        rounds[ROUNDS / 2][way]
    };
    let both = [median(&mut rounds, 0), median(&mut rounds, 1)];
    report("there already", both);
}
