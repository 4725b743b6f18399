//! Round trips: there, and the same back.

use std::{
    hint::black_box,
    io::Write,
    time::{Duration, Instant},
};

use mp_bench::Record;
use mp_core::testing::fork_child;

use crate::{Contender, Workload, python, raw};

/// What the peer does before a message comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// It answers and looks for the next at once.
    Awake,
    /// It fell asleep meanwhile.
    Asleep,
}

/// How the bare kernel waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Blocking,
    Polling,
}

pub(crate) fn workloads() -> Vec<Workload> {
    let workload = |name: &str, unit, contenders| Workload {
        name: name.to_owned(),
        unit,
        contenders,
        len: None,
    };
    vec![
        workload(
            "round trip of 16 B, both awake",
            "µs",
            of_bytes(16, Peer::Awake),
        ),
        workload(
            "round trip of 16 B, peer asleep",
            "µs",
            of_bytes(16, Peer::Asleep),
        ),
        workload(
            "round trip of 1 KiB, both awake",
            "µs",
            of_bytes(1024, Peer::Awake),
        ),
        workload("round trip of a 1 KiB struct", "µs", of_structs()),
        workload(
            "16 B sent and received in one thread",
            "ns",
            in_one_thread(16),
        ),
    ]
}

/// Round trips with a peer that calls `serve` for ever.
fn trips(peer: Peer, mut serve: impl FnMut(), trip: impl FnMut()) -> f64 {
    let mut child = fork_child(|| {
        loop {
            serve();
        }
    });
    let figure = time(peer, trip);
    child.kill();
    figure
}

/// µs: the mean of many trips, or the median of single ones when the peer is to fall asleep before each.
fn time(peer: Peer, mut trip: impl FnMut()) -> f64 {
    (0..200).for_each(|_| trip());
    if peer == Peer::Awake {
        let count = 4000;
        let began = Instant::now();
        (0..count).for_each(|_| trip());
        return began.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    }
    let mut single: Vec<_> = (0..500)
        .map(|_| {
            std::thread::sleep(Duration::from_micros(300));
            let began = Instant::now();
            trip();
            began.elapsed()
        })
        .collect();
    single.sort();
    single[single.len() / 2].as_secs_f64() * 1e6
}

fn of_bytes(len: usize, peer: Peer) -> Vec<Contender> {
    let mut contenders: Vec<Contender> = Vec::new();
    if peer == Peer::Awake {
        contenders.push((
            "socketpair, polled",
            Box::new(move || socketpair(len, peer, Wait::Polling)),
        ));
    }
    contenders.push((
        "socketpair",
        Box::new(move || socketpair(len, peer, Wait::Blocking)),
    ));
    contenders.push(("two pipes", Box::new(move || pipes(len, peer))));
    contenders.push(("mp, bytes", Box::new(move || mp_bytes(len, peer))));
    if len == 16 {
        contenders.push((
            "mp, typed",
            Box::new(move || mp_typed(peer, (1_u64 << 60, 1_u64 << 61))),
        ));
    }
    #[cfg(feature = "peers")]
    contenders.push(("ipc-channel", Box::new(move || ipc_bytes(len, peer))));
    contenders.push((
        "Python",
        Box::new(move || python::trips(len, peer == Peer::Asleep)),
    ));
    contenders
}

fn of_structs() -> Vec<Contender> {
    vec![
        (
            "socketpair, 1024 bytes",
            Box::new(|| socketpair(1024, Peer::Awake, Wait::Blocking)),
        ),
        (
            "mp, typed",
            Box::new(|| mp_typed(Peer::Awake, Record::sample())),
        ),
        #[cfg(feature = "peers")]
        ("ipc-channel", Box::new(|| ipc_typed(Record::sample()))),
        ("Python", Box::new(python::structs)),
    ]
}

fn socketpair(len: usize, peer: Peer, wait: Wait) -> f64 {
    let (here, there) = raw::socketpair();
    for end in [&here, &there] {
        end.set_nonblocking(wait == Wait::Polling)
            .expect("an option");
    }
    let (mut buffer, mut other) = (vec![1; len], vec![1; len]);
    let serve = || {
        raw::read_exact(&there, &mut other);
        (&there).write_all(&other).expect("room");
    };
    trips(peer, serve, || {
        (&here).write_all(&buffer).expect("room");
        raw::read_exact(&here, &mut buffer);
    })
}

fn pipes(len: usize, peer: Peer) -> f64 {
    let (read_there, write_here) = std::io::pipe().expect("a pipe");
    let (read_here, write_there) = std::io::pipe().expect("a pipe");
    let (mut buffer, mut other) = (vec![1; len], vec![1; len]);
    let serve = || {
        raw::read_exact(&read_there, &mut other);
        (&write_there).write_all(&other).expect("room");
    };
    trips(peer, serve, || {
        (&write_here).write_all(&buffer).expect("room");
        raw::read_exact(&read_here, &mut buffer);
    })
}

fn mp_bytes(len: usize, peer: Peer) -> f64 {
    let (here, there) = mp::duplex::<(), ()>().expect("a pair");
    let (mut buffer, mut other) = (vec![1; len], vec![1; len]);
    let serve = || {
        there.recv_bytes_into(&mut other).expect("a message");
        there.send_bytes(&other).expect("a peer");
    };
    trips(peer, serve, || {
        here.send_bytes(&buffer).expect("a peer");
        here.recv_bytes_into(&mut buffer).expect("an answer");
    })
}

fn mp_typed<T>(peer: Peer, value: T) -> f64
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let (here, there) = mp::duplex::<T, T>().expect("a pair");
    let serve = || {
        there
            .send(&there.recv().expect("a message"))
            .expect("a peer")
    };
    trips(peer, serve, || {
        here.send(&value).expect("a peer");
        black_box(here.recv().expect("an answer"));
    })
}

#[cfg(feature = "peers")]
fn ipc_bytes(len: usize, peer: Peer) -> f64 {
    let (send_here, recv_there) = ipc_channel::ipc::bytes_channel().expect("a channel");
    let (send_there, recv_here) = ipc_channel::ipc::bytes_channel().expect("a channel");
    let message = vec![1; len];
    let serve = || {
        send_there
            .send(&recv_there.recv().expect("a message"))
            .expect("a peer")
    };
    trips(peer, serve, || {
        send_here.send(&message).expect("a peer");
        black_box(recv_here.recv().expect("an answer"));
    })
}

#[cfg(feature = "peers")]
fn ipc_typed(value: Record) -> f64 {
    let (send_here, recv_there) = ipc_channel::ipc::channel::<Record>().expect("a channel");
    let (send_there, recv_here) = ipc_channel::ipc::channel::<Record>().expect("a channel");
    let serve = || {
        send_there
            .send(recv_there.recv().expect("a message"))
            .expect("a peer")
    };
    trips(Peer::Awake, serve, || {
        send_here.send(value.clone()).expect("a peer");
        black_box(recv_here.recv().expect("an answer"));
    })
}

/// No waiting at all: what the calls themselves cost, in ns.
fn in_one_thread(len: usize) -> Vec<Contender> {
    fn nanos(mut both: impl FnMut()) -> f64 {
        1e3 * time(Peer::Awake, &mut both)
    }
    let raw = move || {
        let (here, there) = raw::socketpair();
        let mut buffer = vec![1; len];
        nanos(|| {
            (&here).write_all(&buffer).expect("room");
            raw::read_exact(&there, &mut buffer);
        })
    };
    let bytes = move || {
        let (here, there) = mp::duplex::<(), ()>().expect("a pair");
        let mut buffer = vec![1; len];
        nanos(|| {
            here.send_bytes(&buffer).expect("a peer");
            there.recv_bytes_into(&mut buffer).expect("a message");
        })
    };
    let typed = || {
        let (here, there) = mp::duplex::<(u64, u64), (u64, u64)>().expect("a pair");
        nanos(|| {
            here.send(&(1 << 60, 1 << 61)).expect("a peer");
            black_box(there.recv().expect("a message"));
        })
    };
    vec![
        ("socketpair", Box::new(raw)),
        ("mp, bytes", Box::new(bytes)),
        ("mp, typed", Box::new(typed)),
    ]
}
