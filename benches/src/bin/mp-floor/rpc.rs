//! A request and a reply over a socket: what pools and managers stand on.

use std::{
    collections::HashMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Instant,
};

use mp_bench::{CPU_TASKS, Context, WORKERS, after_pauses, hash_block, per_iteration};
use mp_core::testing::{Forked, fork_child};

/// A worker that answers every message with itself.
fn worker() -> (UnixStream, Forked) {
    let (here, mut there) = UnixStream::pair().expect("sockets");
    let child = fork_child(|| {
        let mut task = [0; 16];
        while there.read_exact(&mut task).is_ok() {
            there.write_all(&task).expect("the parent reads");
        }
    });
    (here, child)
}

/// One task in flight per worker, one thread of the parent per worker.
pub(crate) fn workers(context: &Context) {
    const EACH: u64 = 50_000;
    let mut workers = [(); WORKERS].map(|()| worker());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (stream, _) in &mut workers {
            scope.spawn(|| (0..EACH).for_each(|_| call(stream)));
        }
    });
    let n = EACH * WORKERS as u64;
    let rate = n as f64 / start.elapsed().as_secs_f64();
    context.report_as(
        "floor:socketpair-worker",
        "trivial/chunk1",
        "tasks/s",
        rate,
        n,
        None,
    );
    for (_, mut child) in workers {
        child.kill();
    }
}

fn call(stream: &mut UnixStream) {
    let mut task = [1; 16];
    stream.write_all(&task).expect("the worker reads");
    stream.read_exact(&mut task).expect("and answers");
}

pub(crate) fn apply(context: &Context) {
    let (mut stream, mut child) = worker();
    let (ns, n) = per_iteration(context.secs(), |n| (0..n).for_each(|_| call(&mut stream)));
    child.kill();
    context.report_as("floor:socketpair-worker", "apply", "us", ns / 1e3, n, None);
}

/// One round trip to a process that sleeps in `read`, whatever it would do with the message.
pub(crate) fn asleep(context: &Context) {
    let (mut stream, mut child) = worker();
    for param in ["pipe/16B", "apply", "manager get"] {
        let (us, n) = after_pauses(|| call(&mut stream));
        context.report_as("floor:socketpair", param, "us", us, n, None);
    }
    child.kill();
}

/// The tasks divided beforehand: the least that one and two processes need.
pub(crate) fn compute(context: &Context) {
    let [one, two] = [1, 2].map(|workers: u64| {
        let _ = hash_block(0); // the block is made
        let start = Instant::now();
        let children: Vec<_> = (0..workers)
            .map(|_| {
                fork_child(|| {
                    (0..CPU_TASKS / workers).for_each(|i| {
                        std::hint::black_box(hash_block(i));
                    });
                })
            })
            .collect();
        for child in children {
            child.wait_success();
        }
        let seconds = start.elapsed().as_secs_f64();
        let param = format!("sha256/{workers}w");
        context.report_as("floor:fork", &param, "ms", seconds * 1e3, CPU_TASKS, None);
        seconds
    });
    context.report_as(
        "floor:fork",
        "sha256/speedup",
        "x",
        one / two,
        CPU_TASKS,
        None,
    );
}

/// A map behind a server process: three words there, three words back.
pub(crate) fn map(context: &Context) {
    let (mut here, mut there) = UnixStream::pair().expect("sockets");
    let mut child = fork_child(|| {
        let mut values = HashMap::new();
        let mut message = [0; 24];
        while there.read_exact(&mut message).is_ok() {
            let word =
                |i: usize| u64::from_le_bytes(message[i..i + 8].try_into().expect("8 bytes"));
            let (set, key, value) = (word(0) == 1, word(8), word(16));
            if set {
                values.insert(key, value);
            } else {
                let value: u64 = values.get(&key).copied().unwrap_or(0);
                message[16..].copy_from_slice(&value.to_le_bytes());
            }
            there.write_all(&message).expect("the client reads");
        }
    });
    for (param, set) in [("set", 1_u64), ("get", 0)] {
        let (ns, n) = per_iteration(context.secs(), |n| {
            for i in 0..n {
                let mut message = [0; 24];
                message[..8].copy_from_slice(&set.to_le_bytes());
                message[8..16].copy_from_slice(&(i % 100).to_le_bytes());
                here.write_all(&message).expect("the server reads");
                here.read_exact(&mut message).expect("and answers");
            }
        });
        context.report_as("floor:socketpair-rpc", param, "us", ns / 1e3, n, None);
    }
    child.kill();
}
