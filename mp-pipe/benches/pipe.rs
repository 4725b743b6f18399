//! Pipes beside the bare kernel, in the same run: `cargo bench -p mp-pipe --bench pipe [-- FILTER]`.
//!
//! Rounds of all contenders of a workload alternate, and each figure is the median of its rounds.
//! "raw" is a bare `socketpair` with the same buffers; "python" is `multiprocessing.Pipe`, if there is
//! a `python3`.

use std::{
    hint::black_box,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

use mp_core::testing::fork_child;
use mp_pipe::{Bytes, duplex, simplex};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

const ROUNDS: usize = 5;

/// A contender: a name, and one round that gives a figure.
type Contender = (&'static str, Box<dyn Fn() -> f64>);

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| filter.as_deref().is_none_or(|filter| name.contains(filter));
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("{cpus} CPUs; median (least – most) of {ROUNDS} alternating rounds\n");
    for (name, contenders) in [
        ("round trip, 16 B, both awake", round_trips(16, false)),
        (
            "round trip, 16 B, peer asleep for 300 µs",
            round_trips(16, true),
        ),
        ("round trip, 1 KiB struct, typed", structs()),
    ] {
        if wanted(name) {
            table(name, "µs", contenders);
        }
    }
    for (len, count) in [
        (64, 200_000),
        (4 << 10, 40_000),
        (1 << 20, 1_000),
        (64 << 20, 8),
    ] {
        let name = format!("one way, {len} B");
        if wanted(&name) {
            table(&name, "GB/s", one_way(len, count));
        }
    }
}

fn table(name: &str, unit: &str, contenders: Vec<Contender>) {
    let mut figures = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, round), figures) in contenders.iter().zip(&mut figures) {
            figures.push(round());
        }
    }
    println!("{name} ({unit})");
    let mut floor = None;
    for ((contender, _), mut figures) in contenders.iter().zip(figures) {
        figures.sort_by(f64::total_cmp);
        let (least, median, most) = (figures[0], figures[ROUNDS / 2], figures[ROUNDS - 1]);
        if median.is_nan() {
            continue; // a contender that this machine lacks
        }
        let ratio = median / *floor.get_or_insert(median);
        println!("  {contender:<34} {median:9.3} ({least:.3} – {most:.3})  {ratio:6.2} × raw");
    }
    println!();
}

fn raw_pair() -> (UnixStream, UnixStream) {
    let pair = UnixStream::pair().expect("a socket pair");
    for end in [&pair.0, &pair.1] {
        let _ = setsockopt(end, sockopt::SndBuf, &(4 << 20));
    }
    pair
}

fn micros(total: Duration, count: u32) -> f64 {
    total.as_secs_f64() * 1e6 / f64::from(count)
}

/// The mean of `count` calls of `trip`, or the median of single ones when the peer is to fall asleep
/// before each.
fn time_trips(asleep: bool, mut trip: impl FnMut()) -> f64 {
    for _ in 0..200 {
        trip();
    }
    if !asleep {
        let count = 4_000;
        let began = Instant::now();
        (0..count).for_each(|_| trip());
        return micros(began.elapsed(), count);
    }
    let mut trips: Vec<_> = (0..500)
        .map(|_| {
            std::thread::sleep(Duration::from_micros(300));
            let began = Instant::now();
            trip();
            began.elapsed()
        })
        .collect();
    trips.sort();
    micros(trips[trips.len() / 2], 1)
}

fn round_trips(len: usize, asleep: bool) -> Vec<Contender> {
    let raw = move |spin: bool| {
        let (mut here, mut there) = raw_pair();
        let mut peer = fork_child(|| {
            drop(here.try_clone().map(drop));
            there.set_nonblocking(spin).unwrap();
            let mut buffer = vec![0; len];
            while read_exact(&mut there, &mut buffer) {
                there.write_all(&buffer).unwrap();
                if buffer[0] == 9 {
                    return;
                }
            }
        });
        here.set_nonblocking(spin).unwrap();
        let mut buffer = vec![1; len];
        let figure = time_trips(asleep, || {
            here.write_all(&buffer).unwrap();
            read_exact(&mut here, &mut buffer);
        });
        here.write_all(&vec![9; len]).unwrap();
        peer.wait();
        figure
    };
    let bytes = move || {
        let (here, there) = duplex::<(), ()>().expect("a pair");
        let mut peer = fork_child(|| {
            let mut buffer = vec![0; len];
            loop {
                there.recv_bytes_into(&mut buffer).unwrap();
                there.send_bytes(&buffer).unwrap();
                if buffer[0] == 9 {
                    return;
                }
            }
        });
        let mut buffer = vec![1; len];
        let figure = time_trips(asleep, || {
            here.send_bytes(&buffer).unwrap();
            here.recv_bytes_into(&mut buffer).unwrap();
        });
        here.send_bytes(&vec![9; len]).unwrap();
        peer.wait();
        figure
    };
    let typed = move || {
        let (here, there) = duplex::<(u64, u64), (u64, u64)>().expect("a pair");
        let mut peer = fork_child(|| {
            loop {
                let value = there.recv().unwrap();
                there.send(&value).unwrap();
                if value.0 == u64::MAX {
                    return;
                }
            }
        });
        let figure = time_trips(asleep, || {
            here.send(&(1 << 60, 1 << 61)).unwrap();
            black_box(here.recv().unwrap());
        });
        here.send(&(u64::MAX, 0)).unwrap();
        peer.wait();
        figure
    };
    let mut contenders: Vec<Contender> = vec![("raw, blocking", Box::new(move || raw(false)))];
    if !asleep {
        contenders.push(("raw, never sleeping", Box::new(move || raw(true))));
    }
    contenders.push(("mp bytes", Box::new(bytes)));
    contenders.push(("mp typed", Box::new(typed)));
    contenders.push(("python", Box::new(move || python_trips(asleep))));
    contenders
}

/// Whether the buffer was filled; asks again when the socket does not block.
fn read_exact(stream: &mut UnixStream, buffer: &mut [u8]) -> bool {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return false,
            Ok(n) => filled += n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
    true
}

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    id: u64,
    name: String,
    tags: Vec<String>,
    values: Vec<f64>,
}

fn record() -> Record {
    Record {
        id: 0,
        name: "worker-node-000123".into(),
        tags: vec!["alpha".into(), "beta".into(), "gamma".into()],
        values: (0..112).map(|n| f64::from(n) * 0.5).collect(),
    }
}

fn structs() -> Vec<Contender> {
    let raw = || {
        let (mut here, mut there) = raw_pair();
        let mut peer = fork_child(|| {
            let mut buffer = vec![0; 1024];
            loop {
                read_exact(&mut there, &mut buffer);
                there.write_all(&buffer).unwrap();
                if buffer[0] == 9 {
                    return;
                }
            }
        });
        let mut buffer = vec![1; 1024];
        let figure = time_trips(false, || {
            here.write_all(&buffer).unwrap();
            read_exact(&mut here, &mut buffer);
        });
        here.write_all(&vec![9; 1024]).unwrap();
        peer.wait();
        figure
    };
    let typed = || {
        let (here, there) = duplex::<Record, Record>().expect("a pair");
        let mut peer = fork_child(|| {
            loop {
                let value = there.recv().unwrap();
                there.send(&value).unwrap();
                if value.id == 9 {
                    return;
                }
            }
        });
        let mut value = record();
        let figure = time_trips(false, || {
            here.send(&value).unwrap();
            value = here.recv().unwrap();
        });
        here.send(&Record { id: 9, ..value }).unwrap();
        peer.wait();
        figure
    };
    vec![
        ("raw 1024 bytes, blocking", Box::new(raw)),
        ("mp typed", Box::new(typed)),
        ("python", Box::new(python_structs)),
    ]
}

fn one_way(len: usize, count: u32) -> Vec<Contender> {
    let rate = move |total: Duration| len as f64 * f64::from(count) / total.as_secs_f64() / 1e9;
    let raw = move || {
        let (mut here, mut there) = raw_pair();
        let mut peer = fork_child(|| {
            let mut buffer = vec![0; len];
            for _ in 0..=count {
                read_exact(&mut there, &mut buffer);
            }
            there.write_all(&buffer[..1]).unwrap();
        });
        let message = vec![1; len];
        here.write_all(&message).unwrap();
        let began = Instant::now();
        for _ in 0..count {
            here.write_all(&message).unwrap();
        }
        here.read_exact(&mut [0]).unwrap();
        let total = began.elapsed();
        peer.wait();
        rate(total)
    };
    let mp = move |receive: fn(&mp_pipe::Connection<(), ()>, &mut Vec<u8>)| {
        let (here, there) = duplex::<(), ()>().expect("a pair");
        let mut peer = fork_child(|| {
            let mut buffer = vec![0; len];
            for _ in 0..=count {
                receive(&there, &mut buffer);
            }
            there.send_bytes(b"!").unwrap();
        });
        let message = vec![1; len];
        here.send_bytes(&message).unwrap();
        let began = Instant::now();
        for _ in 0..count {
            here.send_bytes(&message).unwrap();
        }
        here.recv_bytes().unwrap();
        let total = began.elapsed();
        peer.wait();
        rate(total)
    };
    let typed = move || {
        let (rx, tx) = simplex::<Bytes>().expect("a pair");
        let (done, tell) = simplex::<()>().expect("a pair");
        let mut peer = fork_child(|| {
            for _ in 0..=count {
                black_box(rx.recv().unwrap());
            }
            tell.send(&()).unwrap();
        });
        let message = Bytes::from(vec![1; len]);
        tx.send(&message).unwrap();
        let began = Instant::now();
        for _ in 0..count {
            tx.send(&message).unwrap();
        }
        done.recv().unwrap();
        let total = began.elapsed();
        peer.wait();
        rate(total)
    };
    vec![
        ("raw", Box::new(raw)),
        (
            "mp send_bytes, recv_bytes_into",
            Box::new(move || {
                mp(|conn, buffer| {
                    conn.recv_bytes_into(buffer).unwrap();
                })
            }),
        ),
        (
            "mp send_bytes, recv_bytes",
            Box::new(move || mp(|conn, _| drop(black_box(conn.recv_bytes().unwrap())))),
        ),
        ("mp typed, Bytes", Box::new(typed)),
        ("python", Box::new(move || python_one_way(len, count))),
    ]
}

fn python_trips(asleep: bool) -> f64 {
    python(&format!(
        "
def serve(c):
    while True:
        m = c.recv_bytes()
        c.send_bytes(m)
        if m[0] == 9: return
def trip(c, m): c.send_bytes(m); c.recv_bytes()
m, last = bytes(16), bytes([9]) * 16
asleep = {}
",
        if asleep { "True" } else { "False" }
    ))
}

fn python_structs() -> f64 {
    python(
        "
def serve(c):
    while True:
        m = c.recv()
        c.send(m)
        if m['id'] == 9: return
def trip(c, m): c.send(m); c.recv()
m = dict(id=0, name='worker-node-000123', tags=['alpha', 'beta', 'gamma'], values=[n * .5 for n in range(112)])
last = dict(m, id=9)
asleep = False
",
    )
}

/// Round trips in Python, as the functions above say; NaN without a Python.
fn python(setup: &str) -> f64 {
    let script = format!(
        "
import multiprocessing as mp, time
mp.set_start_method('fork')
{setup}
a, b = mp.Pipe()
p = mp.Process(target=serve, args=(b,)); p.start()
for _ in range(200): trip(a, m)
if asleep:
    ts = []
    for _ in range(500):
        time.sleep(300e-6)
        t = time.perf_counter(); trip(a, m); ts.append(time.perf_counter() - t)
    print(sorted(ts)[250] * 1e6)
else:
    t = time.perf_counter()
    for _ in range(3000): trip(a, m)
    print((time.perf_counter() - t) / 3000 * 1e6)
a.send(last) if isinstance(m, dict) else a.send_bytes(last)
p.join()
"
    );
    run_python(&script)
}

fn python_one_way(len: usize, count: u32) -> f64 {
    let count = (count / 8).max(3); // it takes long
    run_python(&format!(
        "
import multiprocessing as mp, time
mp.set_start_method('fork')
def drain(r, d):
    for _ in range({count} + 1): r.recv_bytes()
    d.send_bytes(b'!')
r, w = mp.Pipe(False); d, e = mp.Pipe(False)
p = mp.Process(target=drain, args=(r, e)); p.start()
m = bytes({len}); w.send_bytes(m)
t = time.perf_counter()
for _ in range({count}): w.send_bytes(m)
d.recv_bytes()
print({len} * {count} / (time.perf_counter() - t) / 1e9)
p.join()
"
    ))
}

fn run_python(script: &str) -> f64 {
    let output = Command::new("python3").arg("-c").arg(script).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(f64::NAN)
}
