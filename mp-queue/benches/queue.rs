//! Items per second and time to a sleeping consumer, between processes.
//!
//!     cargo bench -p mp-queue [-- FILTER]
//!
//! Beside each: crossbeam's channel between threads of one process, a pipe, and Python's
//! `multiprocessing.Queue` (where there is a `python3`), in the same rounds, which take turns. Medians
//! of the rounds; under load only the ratios say something.

use std::{
    collections::BTreeMap,
    hint::black_box,
    io::{PipeReader, PipeWriter, Read, Write},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mp_core::{
    futex,
    primitive::{AtomicU32, AtomicU64, Ordering},
    shm::Mapping,
};
use mp_process::Process;
use mp_queue::{Bytes, Queue};

const ROUNDS: usize = 7;
/// What a third-level cache holds, more or less.
const CACHE: usize = 16 << 20;

/// Size of an item, and how many make a round.
const SIZES: [(&str, usize, u64); 4] = [
    ("16 B", 16, 1_200_000),
    ("1 KiB", 1024, 400_000),
    ("1 MiB", 1 << 20, 1_200),
    ("64 MiB", 64 << 20, 24),
];
const TEAMS: [(u64, u64); 3] = [(1, 1), (2, 2), (4, 1)];

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let is_wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter.as_str()))
    };
    for (size_name, size, count) in SIZES {
        for (producers, consumers) in TEAMS {
            let name = format!("{size_name} {producers}→{consumers}");
            if !is_wanted(&name) {
                continue;
            }
            let mut table = Table::new(&name, size);
            for _ in 0..ROUNDS {
                let team = Team {
                    producers,
                    consumers,
                    size,
                    count,
                };
                table.add("bytes", team.bytes());
                if size <= 1 << 10 {
                    table.add("struct", team.values());
                }
                if size <= 1 << 20 {
                    // Its threads would keep this process from forking.
                    let threads = Process::fork(|| team.crossbeam()).start().unwrap();
                    table.add("crossbeam (threads)", threads.join().unwrap());
                }
                if producers == 1 {
                    table.add("pipe", team.pipe());
                }
                if let Some(rate) = team.python() {
                    table.add("Python", rate);
                }
            }
            table.print();
        }
    }
    if is_wanted("wake") {
        wakes();
    }
}

/// Items per second of each contender, round by round.
struct Table {
    name: String,
    size: usize,
    rates: BTreeMap<&'static str, Vec<f64>>,
}

impl Table {
    fn new(name: &str, size: usize) -> Self {
        Self {
            name: name.to_owned(),
            size,
            rates: BTreeMap::new(),
        }
    }

    fn add(&mut self, contender: &'static str, rate: f64) {
        self.rates.entry(contender).or_default().push(rate);
    }

    fn print(&mut self) {
        for (contender, rates) in &mut self.rates {
            let rate = median(rates);
            println!(
                "{:12} {contender:20} {:>12.0} items/s {:>9.0} MB/s   ({:.0} – {:.0})",
                self.name,
                rate,
                rate * self.size as f64 / 1e6,
                rates[0],
                rates[rates.len() - 1],
            );
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[derive(Clone, Copy)]
struct Team {
    producers: u64,
    consumers: u64,
    size: usize,
    count: u64,
}

impl Team {
    /// Through shared memory, `put_bytes` and `get_bytes_into`.
    fn bytes(self) -> f64 {
        // As many as fit into a cache, as far as any do.
        let bound = (CACHE / self.size).clamp(2, 1024);
        let queue = Queue::<Bytes>::bounded(bound).unwrap();
        // The length of the bytes is part of the item.
        let size = if self.size == 16 { 15 } else { self.size };
        let (giver, taker) = (queue.clone(), queue);
        self.processes(
            move |count| {
                let bytes = vec![1; size];
                (0..count).for_each(|_| giver.put_bytes(&bytes).unwrap());
            },
            move |count| {
                let mut bytes = Vec::new();
                (0..count).for_each(|_| taker.get_bytes_into(&mut bytes).unwrap());
            },
        )
    }

    /// Values that are encoded and decoded.
    fn values(self) -> f64 {
        fn run<T>(team: Team, value: T) -> f64
        where
            T: serde::Serialize + serde::de::DeserializeOwned + Clone + 'static,
        {
            let queue = Queue::<T>::bounded(1024).unwrap();
            let (giver, taker) = (queue.clone(), queue);
            team.processes(
                move |count| (0..count).for_each(|_| giver.put(value.clone()).unwrap()),
                move |count| (0..count).for_each(|_| drop(black_box(taker.get().unwrap()))),
            )
        }
        match self.size {
            16 => run(self, [1_u8; 16]),
            _ => run(self, (7_u64, Bytes::from(vec![1; 1014]))),
        }
    }

    fn crossbeam(self) -> f64 {
        let (giver, taker) = crossbeam_channel::bounded(1024);
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..self.producers {
                scope.spawn(|| {
                    let bytes = vec![1_u8; self.size];
                    for _ in 0..self.count / self.producers {
                        giver.send(bytes.clone()).unwrap();
                    }
                });
            }
            for _ in 0..self.consumers {
                scope.spawn(|| {
                    for _ in 0..self.count / self.consumers {
                        drop(black_box(taker.recv().unwrap()));
                    }
                });
            }
        });
        self.count as f64 / start.elapsed().as_secs_f64()
    }

    /// The kernel's own, for one producer and one consumer.
    fn pipe(self) -> f64 {
        let (mut taker, mut giver): (PipeReader, PipeWriter) = std::io::pipe().unwrap();
        let size = self.size;
        self.processes(
            move |count| {
                let bytes = vec![1; size];
                (0..count).for_each(|_| giver.write_all(&bytes).unwrap());
            },
            move |count| {
                let mut bytes = vec![0; size];
                (0..count).for_each(|_| taker.read_exact(&mut bytes).unwrap());
            },
        )
    }

    /// `multiprocessing.Queue`, with fewer of the items that it takes long for.
    fn python(self) -> Option<f64> {
        const SCRIPT: &str = "
import multiprocessing, sys, time
size, count, producers, consumers = map(int, sys.argv[1:])
def put(n):
    item = bytes(size)
    start.wait()
    for _ in range(n): queue.put(item)
def get(n):
    start.wait()
    for _ in range(n): queue.get()
mp = multiprocessing.get_context('fork')
queue, start = mp.Queue(1024 if size <= 65536 else 16), mp.Barrier(producers + consumers + 1)
team = [mp.Process(target=put, args=(count // producers,)) for _ in range(producers)]
team += [mp.Process(target=get, args=(count // consumers,)) for _ in range(consumers)]
for process in team: process.start()
start.wait()
begin = time.monotonic()
for process in team: process.join()
print(count / (time.monotonic() - begin))
";
        let count = if self.size <= 1 << 10 {
            self.count / 20
        } else {
            self.count.min(120)
        };
        let arguments = [self.size as u64, count, self.producers, self.consumers];
        let output = Command::new("python3")
            .args(["-c", SCRIPT])
            .args(arguments.map(|number| number.to_string()))
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    }

    /// Items per second, from the moment when all have started to the end of the last.
    fn processes(
        self,
        mut put: impl FnMut(u64) + 'static,
        mut get: impl FnMut(u64) + 'static,
    ) -> f64 {
        let gate = Queue::<()>::new().unwrap();
        let ready = Queue::<()>::new().unwrap();
        let mut children = Vec::new();
        let wait = || {
            ready.put(()).unwrap();
            let _ = gate.get(); // closed: go
        };
        // Forked one after the other: each child has copies of its own.
        for _ in 0..self.consumers {
            let count = self.count / self.consumers;
            children.push(
                Process::fork(|| {
                    wait();
                    get(count)
                })
                .start()
                .unwrap(),
            );
        }
        for _ in 0..self.producers {
            let count = self.count / self.producers;
            children.push(
                Process::fork(|| {
                    wait();
                    put(count)
                })
                .start()
                .unwrap(),
            );
        }
        children.iter().for_each(|_| ready.get().unwrap());
        let start = Instant::now();
        gate.close();
        for child in children {
            child.join().unwrap();
        }
        self.count as f64 / start.elapsed().as_secs_f64()
    }
}

/// From before `put` to after `get` in a consumer that has been asleep for a while, and the same
/// with a bare futex.
fn wakes() {
    let (mut queue_times, mut futex_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        queue_times.append(&mut queue_wakes());
        futex_times.append(&mut futex_wakes());
    }
    let (queue, floor) = (median(&mut queue_times), median(&mut futex_times));
    println!(
        "wake         queue {queue:.2} µs, futex {floor:.2} µs: {:.2} ×",
        queue / floor
    );
}

const WAKES: usize = 300;
const ASLEEP: Duration = Duration::from_micros(300);

fn now_nanos() -> u64 {
    let now = mp_core::deadline::Deadline::now().as_timespec();
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn queue_wakes() -> Vec<f64> {
    let (queue, times) = (Queue::<u64>::new().unwrap(), Queue::<f64>::new().unwrap());
    let child = Process::fork(|| {
        for _ in 0..WAKES {
            let sent = queue.get().unwrap();
            times.put((now_nanos() - sent) as f64 / 1e3).unwrap();
        }
    })
    .start()
    .unwrap();
    for _ in 0..WAKES {
        thread::sleep(ASLEEP);
        queue.put(now_nanos()).unwrap();
    }
    child.join().unwrap();
    times.drain().unwrap().map(Result::unwrap).collect()
}

fn futex_wakes() -> Vec<f64> {
    let mapping = Arc::new(Mapping::create("bench", 4096, 4096).unwrap());
    // SAFETY: on a page of its own, aligned, mapped as long as `mapping`, only used atomically.
    let sent = unsafe { AtomicU64::from_ptr(mapping.as_ptr().cast()) };
    // SAFETY: as above, behind the first.
    let word = unsafe { AtomicU32::from_ptr(mapping.as_ptr().wrapping_add(8).cast()) };
    let times = Queue::<f64>::new().unwrap();
    let child = Process::fork(|| {
        for n in 0..WAKES as u32 {
            while word.load(Ordering::Acquire) == n {
                futex::wait(word, n, None);
            }
            let sent = sent.load(Ordering::Relaxed);
            times.put((now_nanos() - sent) as f64 / 1e3).unwrap();
        }
    })
    .start()
    .unwrap();
    for n in 1..=WAKES as u32 {
        thread::sleep(ASLEEP);
        sent.store(now_nanos(), Ordering::Relaxed);
        word.store(n, Ordering::Release);
        futex::wake(word, 1);
    }
    child.join().unwrap();
    times.drain().unwrap().map(Result::unwrap).collect()
}
