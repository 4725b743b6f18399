//! What the locks cost, beside glibc's, a bare futex and Python's in the same run.
//!
//! `cargo bench -p mp-sync --bench sync [-- alone|two|wake]` prints a table in Markdown for each
//! part. Each row is the median of interleaved rounds; the ratio is to the first. Two processes mean
//! two processes, made by `fork`.
#![allow(unsafe_code)] // glibc's locks, and shared memory for them

use std::{
    cell::UnsafeCell, hint::black_box, mem::MaybeUninit, path::PathBuf, process::Command,
    time::Instant,
};

use mp_core::{
    futex,
    primitive::{AtomicU32, AtomicU64, Ordering, may_spin},
    robust::RobustMutex,
    shm::Mapping,
    testing::{fork_child, tool},
};
use mp_sync::{Condition, Event, Lock, RLock, RawValue, Semaphore, Value};
use nix::{
    libc,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

const ROUNDS: usize = 15;

/// A line of its own, as a lock and what it guards have in the types that are measured.
#[repr(C, align(128))]
struct Line<T>(T);

/// What lies in shared memory for the floors.
#[repr(C)]
struct Page {
    word: Line<AtomicU32>,
    other: Line<AtomicU32>,
    count: Line<AtomicU64>,
    plain: Line<UnsafeCell<u64>>,
    mutex: Line<RobustMutex>,
    pthread: Line<UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>>,
    semaphore: Line<UnsafeCell<MaybeUninit<libc::sem_t>>>,
}

fn page() -> &'static Page {
    let mapping = Box::leak(Box::new(Mapping::create("bench", 4096, 4096).unwrap()));
    let page = mapping.as_ptr().cast::<Page>();
    // SAFETY: inside the page.
    let mutex = unsafe { &raw mut (*page).mutex.0 };
    // SAFETY: zeroed, aligned, nobody uses it yet.
    unsafe { RobustMutex::init(mutex) }.unwrap();
    // SAFETY: mapped for good; every field is fine as zeros, or initialised above or below.
    let page = unsafe { &*page };
    let mut attr = MaybeUninit::uninit();
    // SAFETY: valid for writes.
    unsafe { libc::pthread_mutexattr_init(attr.as_mut_ptr()) };
    // SAFETY: initialised above.
    unsafe { libc::pthread_mutexattr_setpshared(attr.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED) };
    // SAFETY: nobody uses it yet.
    unsafe { libc::pthread_mutex_init(page.pthread.0.get().cast(), attr.as_ptr()) };
    // SAFETY: as above.
    unsafe { libc::sem_init(page.semaphore.0.get().cast(), 1, 1) };
    page
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

type Measure<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// Rows measured in turns, so that a change of the machine's speed meets all of them.
struct Table<'a> {
    title: &'a str,
    rows: Vec<(&'a str, Measure<'a>)>,
}

impl<'a> Table<'a> {
    fn new(title: &'a str) -> Self {
        Self {
            title,
            rows: Vec::new(),
        }
    }

    fn row(mut self, name: &'a str, measure: impl FnMut() -> f64 + 'a) -> Self {
        self.rows.push((name, Box::new(measure)));
        self
    }

    /// As a row, what Python takes for one `operation` of `sync.py`, if there is a Python.
    fn python(self, name: &'a str, operation: &'a str, calls: u32) -> Self {
        match tool("python3") {
            Some(python) => self.row(name, move || python_takes(&python, operation, calls)),
            None => self,
        }
    }

    /// Prints medians in nanoseconds, and the ratio to the first row.
    fn run(mut self) {
        let mut figures: Vec<Vec<f64>> = self.rows.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (row, figures) in self.rows.iter_mut().zip(&mut figures) {
                figures.push((row.1)());
            }
        }
        println!("\n| {} | ns | ratio |\n|---|---:|---:|", self.title);
        let medians: Vec<f64> = figures.into_iter().map(median).collect();
        for ((name, _), figure) in self.rows.iter().zip(&medians) {
            println!("| {name} | {figure:.1} | {:.2} |", figure / medians[0]);
        }
    }
}

fn python_takes(python: &PathBuf, operation: &str, calls: u32) -> f64 {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/sync.py");
    let output = Command::new(python)
        .args([script, operation, &calls.to_string()])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    printed
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{failed}"))
}

fn per_call(calls: u32, mut call: impl FnMut()) -> f64 {
    let begun = Instant::now();
    for _ in 0..calls {
        call();
    }
    begun.elapsed().as_nanos() as f64 / f64::from(calls)
}

const CALLS: u32 = 200_000;

fn uncontended() {
    let page = page();
    let (lock, rlock, semaphore) = (
        Lock::new().unwrap(),
        RLock::new().unwrap(),
        Semaphore::new(1).unwrap(),
    );
    let value = Value::new(0_u64).unwrap();
    Table::new("lock and unlock, alone")
        .row("glibc robust mutex", || {
            per_call(CALLS, || {
                page.mutex.0.lock().unwrap();
                // SAFETY: locked.
                unsafe { page.mutex.0.unlock() };
            })
        })
        .row("glibc plain mutex", || {
            per_call(CALLS, || {
                // SAFETY: initialised.
                unsafe { libc::pthread_mutex_lock(page.pthread.0.get().cast()) };
                // SAFETY: locked.
                unsafe { libc::pthread_mutex_unlock(page.pthread.0.get().cast()) };
            })
        })
        .row("Lock", || per_call(CALLS, || drop(black_box(lock.lock()))))
        .row("RLock", || {
            per_call(CALLS, || drop(black_box(rlock.lock())))
        })
        .row("Value<u64>: lock and add", || {
            per_call(CALLS, || *value.lock().unwrap() += 1)
        })
        .python("Python's Lock", "lock", 20_000)
        .python("Python's RLock", "rlock", 20_000)
        .run();
    Table::new("a permit taken and given back, alone")
        .row("glibc sem_t", || {
            per_call(CALLS, || {
                // SAFETY: initialised.
                unsafe { libc::sem_wait(page.semaphore.0.get().cast()) };
                // SAFETY: as above.
                unsafe { libc::sem_post(page.semaphore.0.get().cast()) };
            })
        })
        .row("Semaphore", || {
            per_call(CALLS, || drop(black_box(semaphore.acquire())))
        })
        .python("Python's Semaphore", "permit", 20_000)
        .run();
    let raw = RawValue::new(0_u64).unwrap();
    Table::new("adding to a shared integer, alone")
        .row("AtomicU64::fetch_add", || {
            per_call(CALLS, || {
                page.count.0.fetch_add(1, Ordering::Relaxed);
            })
        })
        .row("RawValue<u64>::fetch_add", || {
            per_call(CALLS, || {
                raw.fetch_add(1, Ordering::Relaxed);
            })
        })
        .python("Python's Value", "add", 20_000)
        .run();
}

/// Two processes do `call` as often as they can; nanoseconds per call of both together.
fn both(page: &Page, call: impl Fn()) -> f64 {
    const EACH: u32 = 200_000;
    page.word.0.store(0, Ordering::SeqCst);
    let meet = || {
        page.word.0.fetch_add(1, Ordering::SeqCst);
        while page.word.0.load(Ordering::SeqCst) < 2 {
            std::hint::spin_loop();
        }
    };
    let child = fork_child(|| {
        meet();
        (0..EACH).for_each(|_| call());
    });
    meet();
    let begun = Instant::now();
    (0..EACH).for_each(|_| call());
    child.wait_success();
    begun.elapsed().as_nanos() as f64 / f64::from(2 * EACH)
}

fn contended() {
    let page = page();
    let (lock, value) = (Lock::new().unwrap(), Value::new(0_u64).unwrap());
    let semaphore = Semaphore::new(1).unwrap();
    Table::new("one increment of two processes at once")
        .row("glibc robust mutex", || {
            both(page, || {
                page.mutex.0.lock().unwrap();
                // SAFETY: locked.
                unsafe { *page.plain.0.get() += 1 };
                // SAFETY: locked.
                unsafe { page.mutex.0.unlock() };
            })
        })
        .row("Lock", || {
            both(page, || {
                let _guard = lock.lock().unwrap();
                // SAFETY: locked.
                unsafe { *page.plain.0.get() += 1 };
            })
        })
        .row("Value<u64>", || both(page, || *value.lock().unwrap() += 1))
        .row("Semaphore of one", || {
            both(page, || {
                let _permit = semaphore.acquire().unwrap();
                // SAFETY: one permit.
                unsafe { *page.plain.0.get() += 1 };
            })
        })
        .python("Python's Value", "two", 5_000)
        .run();
}

/// Where the two of a [`ping_pong`] run.
#[derive(Clone, Copy)]
struct Cpus(usize, usize);

fn run_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// A round trip between two processes, halved: what one wake-up costs.
fn ping_pong(cpus: Cpus, ping: impl Fn(), pong: impl Fn()) -> f64 {
    const TRIPS: u32 = 3_000;
    let child = fork_child(|| {
        run_on(cpus.1);
        (0..TRIPS).for_each(|_| pong());
        mp_core::hooks::run_exit_hooks();
    });
    run_on(cpus.0);
    let begun = Instant::now();
    (0..TRIPS).for_each(|_| ping());
    let elapsed = begun.elapsed();
    child.wait_success();
    elapsed.as_nanos() as f64 / f64::from(2 * TRIPS)
}

/// The usable CPUs, at most two.
fn usable() -> Vec<usize> {
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
    let usable = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    usable.take(2).collect()
}

fn wakes() {
    let usable = usable();
    // By a process of its own: who may run on one CPU only does not spin before it sleeps.
    let on_one = fork_child(|| {
        run_on(usable[0]);
        wakes_on(Cpus(usable[0], usable[0]), "one sleeper woken, on one CPU");
    });
    on_one.wait_success();
    if let [first, second] = usable[..] {
        assert!(may_spin());
        wakes_on(Cpus(first, second), "one sleeper woken, from CPU to CPU");
    }
}

fn wakes_on(cpus: Cpus, title: &str) {
    let page = page();
    let (there, back) = (Event::new().unwrap(), Event::new().unwrap());
    let (turn, changed) = (Value::new(0_u32).unwrap(), Condition::new().unwrap());
    let (full, empty) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
    let wait = |word: &AtomicU32| {
        while word.swap(0, Ordering::SeqCst) == 0 {
            futex::wait(word, 0, None);
        }
    };
    let wake = |word: &AtomicU32| {
        word.store(1, Ordering::SeqCst);
        futex::wake(word, 1);
    };
    let take_turn = |mine: u32| {
        let mut turn = changed
            .wait_while(turn.lock().unwrap(), |turn| **turn != mine)
            .unwrap();
        *turn = 1 - mine;
        drop(turn);
        changed.notify_one();
    };
    let table = Table::new(title)
        .row("futex", || {
            ping_pong(
                cpus,
                || {
                    wake(&page.word.0);
                    wait(&page.other.0);
                },
                || {
                    wait(&page.word.0);
                    wake(&page.other.0);
                },
            )
        })
        .row("Event", || {
            ping_pong(
                cpus,
                || {
                    there.set();
                    back.wait();
                    back.clear();
                },
                || {
                    there.wait();
                    there.clear();
                    back.set();
                },
            )
        })
        .row("Condition", || {
            ping_pong(cpus, || take_turn(0), || take_turn(1))
        })
        .row("Semaphore", || {
            ping_pong(
                cpus,
                || {
                    full.release().unwrap();
                    empty.acquire().unwrap().forget();
                },
                || {
                    full.acquire().unwrap().forget();
                    empty.release().unwrap();
                },
            )
        });
    if cpus.0 == cpus.1 {
        // Python's processes run where this one does, and so on one CPU.
        table
            .python("Python's Event", "event", 500)
            .python("Python's Condition", "condition", 500)
            .python("Python's Semaphore", "semaphore", 500)
            .run();
    } else {
        table.run();
    }
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    println!("median of {ROUNDS} rounds, {} CPUs", usable().len());
    let parts: [(&str, fn()); 3] = [("alone", uncontended), ("two", contended), ("wake", wakes)];
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    for (name, part) in parts {
        let named = |name: &&str| chosen.iter().any(|arg| arg == name);
        if named(&name) || !parts.iter().any(|(other, _)| named(other)) {
            fork_child(part).wait_success(); // whether it may spin is asked once in a process
        }
    }
}
