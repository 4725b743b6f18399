//! One way: a sender as fast as it can, a receiver that looks at nothing.

use std::{
    hint::black_box,
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::Instant,
};

use mp::Bytes;
use mp_core::testing::fork_child;
use nix::fcntl::{FcntlArg, fcntl};

use crate::{Contender, Workload, python, raw};

/// Length and number of the messages of a round.
const SIZES: [(&str, usize, u32); 4] = [
    ("one way, 64 B", 64, 200_000),
    ("one way, 4 KiB", 4 << 10, 40_000),
    ("one way, 1 MiB", 1 << 20, 1000),
    ("one way, 64 MiB", 64 << 20, 8),
];

pub(crate) fn workloads() -> Vec<Workload> {
    SIZES
        .map(|(name, len, count)| Workload {
            name: name.to_owned(),
            unit: "MB/s",
            contenders: contenders(len, count),
            len: Some(len),
        })
        .into()
}

/// MB/s of `count` calls of `send`, until a child has called `receive` as often.
fn rate(len: usize, count: u32, mut receive: impl FnMut(), mut send: impl FnMut()) -> f64 {
    let (mut here, mut there) = UnixStream::pair().expect("a socket pair");
    let mut child = fork_child(|| {
        for _ in 0..=count {
            receive();
        }
        there.write_all(b"!").expect("the parent waits");
    });
    send(); // it runs by now
    let began = Instant::now();
    for _ in 0..count {
        send();
    }
    here.read_exact(&mut [0]).expect("the child tells");
    let total = began.elapsed();
    child.wait();
    len as f64 * f64::from(count) / total.as_secs_f64() / 1e6
}

fn contenders(len: usize, count: u32) -> Vec<Contender> {
    type Receive = fn(&mp::Connection<(), ()>, &mut Vec<u8>);
    let mp_bytes = move |receive: Receive| {
        let (here, there) = mp::duplex::<(), ()>().expect("a pair");
        let (message, mut buffer) = (vec![1; len], vec![0; len]);
        let send = || here.send_bytes(&message).expect("a peer");
        rate(len, count, || receive(&there, &mut buffer), send)
    };
    let into: Receive = |conn, buffer| {
        conn.recv_bytes_into(buffer).expect("a message");
    };
    let fresh: Receive = |conn, _| drop(black_box(conn.recv_bytes().expect("a message")));
    vec![
        ("socketpair", Box::new(move || socketpair(len, count))),
        ("pipe of 1 MiB", Box::new(move || pipe(len, count))),
        (
            "mp, send_bytes → recv_bytes_into",
            Box::new(move || mp_bytes(into)),
        ),
        (
            "mp, send_bytes → recv_bytes",
            Box::new(move || mp_bytes(fresh)),
        ),
        ("mp, Bytes", Box::new(move || mp_typed(len, count))),
        #[cfg(feature = "peers")]
        ("ipc-channel, bytes", Box::new(move || ipc(len, count))),
        ("Python", Box::new(move || python::one_way(len, count))),
    ]
}

fn socketpair(len: usize, count: u32) -> f64 {
    let (here, there) = raw::socketpair();
    let (message, mut buffer) = (vec![1; len], vec![0; len]);
    rate(
        len,
        count,
        || raw::read_exact(&there, &mut buffer),
        || (&here).write_all(&message).expect("a reader"),
    )
}

fn pipe(len: usize, count: u32) -> f64 {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let _ = fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(1 << 20)); // smaller is slower, not wrong
    let (message, mut buffer) = (vec![1; len], vec![0; len]);
    rate(
        len,
        count,
        || raw::read_exact(&reader, &mut buffer),
        || (&writer).write_all(&message).expect("a reader"),
    )
}

fn mp_typed(len: usize, count: u32) -> f64 {
    let (rx, tx) = mp::simplex::<Bytes>().expect("a pair");
    let message = Bytes::from(vec![1; len]);
    rate(
        len,
        count,
        || drop(black_box(rx.recv().expect("a message"))),
        || tx.send(&message).expect("a peer"),
    )
}

#[cfg(feature = "peers")]
fn ipc(len: usize, count: u32) -> f64 {
    let (tx, rx) = ipc_channel::ipc::bytes_channel().expect("a channel");
    let message = vec![1; len];
    rate(
        len,
        count,
        || drop(black_box(rx.recv().expect("a message"))),
        || tx.send(&message).expect("a peer"),
    )
}
