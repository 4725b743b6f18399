//! What a pool costs, beside the kernel's own floor and beside rayon, in one run.
//!
//! `cargo bench -p mp-pool --bench pool [-- NAME]`; rounds of all rows are interleaved, and the
//! table shows medians.

use std::{
    collections::BTreeMap,
    hint::black_box,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use mp_core::{
    fd::{Mode, SockKind, recv, send, socketpair},
    transfer::{deserialize_fd, serialize_fd},
};
use mp_pool::{Bytes, Pool, TaskError};
use mp_process::Process;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const ROUNDS: usize = 5;
const WORKERS: usize = 2;

/// Rows of the table: name, unit, and one figure a round.
#[derive(Default)]
struct Table(BTreeMap<&'static str, (&'static str, Vec<f64>)>);

impl Table {
    fn add(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.0
            .entry(name)
            .or_insert((unit, Vec::new()))
            .1
            .push(value);
    }

    fn median(values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn print(&self) {
        for (name, (unit, values)) in &self.0 {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            let median = Self::median(values);
            println!("{name:34} {median:12.3} {unit:10} ({least:.3} – {most:.3})");
        }
    }
}

/// One end of a socket pair, on its way to a child.
struct Socket(OwnedFd);

impl Serialize for Socket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_fd("socket", self.0.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Socket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_fd("socket", deserializer).map(Self)
    }
}

/// The least that a round trip to another process costs: one packet each way, and nothing else.
fn echo(socket: Socket) {
    let (mut packet, mut fds) = ([0; 16], Vec::new());
    while let Ok(len @ 1..) = recv(socket.0.as_fd(), &mut packet, &mut fds, Mode::Blocking) {
        let parts = [std::io::IoSlice::new(&packet[..len])];
        send(socket.0.as_fd(), &parts, &[], Mode::Blocking).unwrap();
    }
}

fn socketpair_worker() -> impl FnMut() {
    let (ours, theirs) = socketpair(SockKind::SeqPacket).unwrap();
    let child = Process::new(echo, (Socket(theirs),))
        .daemon(true)
        .start()
        .unwrap();
    move || {
        let _alive = &child;
        let (mut packet, mut fds) = ([1; 16], Vec::new());
        let parts = [std::io::IoSlice::new(&packet)];
        send(ours.as_fd(), &parts, &[], Mode::Blocking).unwrap();
        recv(ours.as_fd(), &mut packet, &mut fds, Mode::Blocking).unwrap();
    }
}

/// Microseconds for each of many calls, at once or with a pause before each, so that the other side sleeps.
fn each(count: u32, pause: Option<Duration>, mut call: impl FnMut()) -> f64 {
    let mut total = Duration::ZERO;
    for _ in 0..count {
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        call();
        total += start.elapsed();
    }
    total.as_secs_f64() * 1e6 / f64::from(count)
}

const PAUSE: Duration = Duration::from_micros(400);

fn increment(x: u64) -> u64 {
    x + 1
}

fn apply(table: &mut Table, pool: &Pool, floor: &mut impl FnMut()) {
    table.add(
        "apply/floor: socketpair, hot",
        "us",
        each(5000, None, &mut *floor),
    );
    table.add(
        "apply/floor: socketpair, asleep",
        "us",
        each(500, Some(PAUSE), &mut *floor),
    );
    let mut call = || assert_eq!(pool.apply(increment, (41,)).unwrap(), 42);
    table.add("apply/hot", "us", each(20_000, None, &mut call));
    table.add("apply/asleep", "us", each(500, Some(PAUSE), &mut call));
}

fn million_per_second(count: u64, run: impl FnOnce() -> u64) -> f64 {
    let start = Instant::now();
    let sum = black_box(run());
    let took = start.elapsed();
    assert_eq!(sum, (1..=count).sum::<u64>());
    count as f64 / took.as_secs_f64() / 1e6
}

fn map(table: &mut Table, pool: &Pool, rayon: &rayon::ThreadPool) {
    let sum = |values: Vec<u64>| values.iter().sum();
    let count = 200_000;
    let single = million_per_second(count, || {
        sum(pool.tasks(increment, 0..count).chunksize(1).map().unwrap())
    });
    table.add("map/chunksize 1", "M tasks/s", single);
    let count = 2_000_000;
    let auto = million_per_second(count, || sum(pool.map(increment, 0..count).unwrap()));
    table.add("map/automatic", "M tasks/s", auto);
    let threads = million_per_second(count, || {
        sum(rayon.install(|| {
            (0..count)
                .into_par_iter()
                .map(|x| black_box(x) + 1)
                .collect()
        }))
    });
    table.add("map/rayon", "M tasks/s", threads);
}

fn peek(bytes: Bytes) -> u64 {
    u64::from(bytes[0]) + bytes.len() as u64
}

fn payload(table: &mut Table, pool: &Pool, blocks: &[Bytes]) {
    let bytes = blocks.iter().map(|block| block.len()).sum::<usize>();
    let blocks = blocks.to_vec(); // given away below, so it is not the time of making them
    let count = blocks.len();
    let start = Instant::now();
    let peeked = pool.tasks(peek, blocks).chunksize(1).map().unwrap();
    let took = start.elapsed().as_secs_f64();
    assert_eq!(peeked.len(), count);
    table.add(
        "payload/1 MiB to a worker",
        "GB/s",
        bytes as f64 / took / 1e9,
    );
    let start = Instant::now();
    let made = pool
        .tasks(|n: u8| Bytes::from(vec![n; 1 << 20]), vec![7; 200])
        .chunksize(1)
        .imap();
    let bytes = made.map(|block| block.unwrap().len()).sum::<usize>();
    let took = start.elapsed().as_secs_f64();
    table.add(
        "payload/1 MiB from a worker",
        "GB/s",
        bytes as f64 / took / 1e9,
    );
}

/// About two milliseconds of work that fits into a register.
fn cpu_bound(seed: u64) -> u64 {
    (0..2_000_000_u64).fold(seed, |x, n| {
        black_box(x ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

fn cpu(table: &mut Table, pools: [&Pool; 2], rayons: [&rayon::ThreadPool; 2]) {
    const TASKS: u64 = 64;
    let seconds = |run: &dyn Fn()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    let [one, two] = pools.map(|pool| {
        seconds(&|| {
            pool.tasks(cpu_bound, 0..TASKS).chunksize(1).map().unwrap();
        })
    });
    table.add("cpu/1 to 2 workers", "times", one / two);
    table.add("cpu/2 workers", "ms", two * 1e3);
    let [one, both] = rayons.map(|pool| {
        seconds(&|| {
            pool.install(|| (0..TASKS).into_par_iter().map(cpu_bound).sum::<u64>());
        })
    });
    table.add("cpu/1 to 2 threads of rayon", "times", one / both);
    table.add("cpu/2 threads of rayon", "ms", both * 1e3);
}

fn nap(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

fn pause(_: u64) -> u32 {
    std::thread::sleep(Duration::from_millis(2));
    std::process::id()
}

/// From SIGKILL until the caller is told, until the next task is done, and until all workers work again.
fn crash(table: &mut Table, pool: &Pool) {
    let child = Process::new(nap, (60,)).daemon(true).start().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let start = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    table.add(
        "crash/floor: pidfd",
        "ms",
        start.elapsed().as_secs_f64() * 1e3,
    );

    let task = pool.task(nap, (60,)).submit();
    std::thread::sleep(Duration::from_millis(5));
    let pid = *pool.busy_pids().first().unwrap();
    let start = Instant::now();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    assert!(matches!(task.get(), Err(TaskError::WorkerDied { .. })));
    table.add(
        "crash/caller is told",
        "ms",
        start.elapsed().as_secs_f64() * 1e3,
    );
    let next = Instant::now();
    pool.apply(increment, (41,)).unwrap();
    table.add("crash/next apply", "ms", next.elapsed().as_secs_f64() * 1e3);
    while pool.ready() < WORKERS {
        std::thread::sleep(Duration::from_micros(20));
    }
    table.add(
        "crash/replacement is ready",
        "ms",
        start.elapsed().as_secs_f64() * 1e3,
    );
    pool.tasks(pause, 0..4).map().unwrap();
}

fn main() {
    mp_process::init();
    let only = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| {
        only.as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    };
    let [one, two] = [1, WORKERS].map(|count| Pool::new(count).unwrap());
    let threads = |count| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .build()
            .unwrap()
    };
    let [thread, threads] = [threads(1), threads(WORKERS)];
    let blocks: Vec<Bytes> = (0..500)
        .map(|n| Bytes::from(vec![n as u8; 1 << 20]))
        .collect();
    for pool in [&one, &two] {
        pool.tasks(pause, 0..100).map().unwrap();
    }
    let mut table = Table::default();
    let mut floor = socketpair_worker();
    for _ in 0..ROUNDS {
        if wanted("apply") {
            apply(&mut table, &two, &mut floor);
        }
        if wanted("map") {
            map(&mut table, &two, &threads);
        }
        if wanted("payload") {
            payload(&mut table, &two, &blocks);
        }
        if wanted("cpu") {
            cpu(&mut table, [&one, &two], [&thread, &threads]);
        }
        if wanted("crash") {
            crash(&mut table, &two);
        }
    }
    table.print();
    for pool in [one, two] {
        pool.close().join().unwrap();
    }
}
