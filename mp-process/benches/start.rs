//! What it costs to start a function in a child and to join it, beside the kernel's floors and Python.
//!
//! `cargo bench -p mp-process --bench start [-- ROUNDS [PARENT_MIB]...]` prints a table in Markdown:
//! medians of the starts of all rounds, in which the contenders take turns, for a parent that has touched so
//! much memory (0 and 1024 MiB unless said otherwise), and their ratio to the first of their kind. The floors:
//!
//! * executing this binary, to return from `main` at once, with the same environment;
//! * a server that was forked from this program when it was small, and forks a child for each byte
//!   that it gets, reaps it, and sends the byte back;
//! * a fork that ends at once, without and with a byte that it sends over a socket pair.
//!
//! `-- --only NAME COUNT [PAUSE_US]` does nothing but so many starts of one contender, with a pause
//! between them: to be looked at with `strace -f` or `perf stat`.
#![allow(unsafe_code)] // the floors: the raw calls

use std::{
    ffi::{CStr, c_char},
    hint::black_box,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
    ptr,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use mp_process::{Process, StartMethod};
use nix::libc;

/// How many starts of one contender follow each other, unless they take longer than [`TURN`].
const BURST: usize = 10;
const TURN: Duration = Duration::from_millis(40);

fn main() {
    if std::env::args().any(|argument| argument == "--nothing") {
        return;
    }
    mp_process::init();
    let arguments: Vec<_> = std::env::args().collect();
    SERVER.get_or_init(start_server); // small, as a server should be
    if let Some(at) = arguments.iter().position(|argument| argument == "--only") {
        let number = |at: usize| arguments.get(at)?.parse().ok();
        let pause = Duration::from_micros(number(at + 3).unwrap_or(0));
        return only(&arguments[at + 1], number(at + 2).expect("a count"), pause);
    }
    let numbers = arguments
        .iter()
        .filter_map(|argument| argument.parse().ok());
    let numbers: Vec<usize> = numbers.collect();
    let rounds = numbers.first().copied().unwrap_or(30);
    let sizes = if numbers.len() > 1 {
        &numbers[1..]
    } else {
        &[0, 1024]
    };
    let columns: Vec<_> = sizes.iter().map(|mib| medians(rounds, *mib)).collect();
    print_table(sizes, &columns);
}

fn only(wanted: &str, count: u64, pause: Duration) {
    let mut contenders = KINDS.into_iter().flatten();
    let found = contenders.find(|(name, _)| *name == wanted);
    let (_, start) = found.expect("the name of a contender");
    let times = (0..count).map(|_| {
        thread::sleep(pause);
        time_one(*start)
    });
    let mut times: Vec<_> = times.collect();
    times.sort();
    let [low, median, high] = [1, 5, 9].map(|tenth| micros(times[times.len() * tenth / 10]));
    println!("{wanted}: {median:.1} µs, a tenth below {low:.1}, a tenth above {high:.1}");
}

/// A name, and what starts, runs and joins once.
type Contender = (&'static str, fn());

/// What is compared, the floor of each kind first.
const KINDS: [&[Contender]; 3] = [
    &[
        ("vfork + exec of this binary", vfork_exec),
        ("posix_spawn of this binary", posix_spawn),
        ("std::process::Command", command),
        ("mp Spawn", || mp(StartMethod::Spawn)),
    ],
    &[
        ("bare fork server", ask_server),
        ("mp ForkServer", || mp(StartMethod::ForkServer)),
    ],
    &[
        ("fork + wait", fork_wait),
        ("fork + byte + wait", fork_byte_wait),
        ("mp Fork", || mp(StartMethod::Fork)),
    ],
];

/// The median of each contender in turn, in microseconds.
type Column = Vec<Vec<(String, f64)>>;

fn medians(rounds: usize, mib: usize) -> Column {
    let parent = black_box(vec![1_u8; mib << 20]);
    let mut times = KINDS.map(|kind| vec![Vec::new(); kind.len()]);
    for round in 0..=rounds {
        for (times, kind) in times.iter_mut().zip(KINDS) {
            for (times, (_, start)) in times.iter_mut().zip(kind) {
                let burst = burst(*start);
                if round > 0 {
                    times.extend(burst); // the first only warms up
                }
            }
        }
    }
    drop(parent);
    let mut column: Column = KINDS
        .into_iter()
        .zip(times)
        .map(|(kind, times)| {
            let medians = times.into_iter().map(|times| micros(median(times)));
            let names = kind.iter().map(|(name, _)| (*name).to_owned());
            names.zip(medians).collect()
        })
        .collect();
    for (method, kind) in ["spawn", "forkserver", "fork"].iter().zip(&mut column) {
        kind.extend(python(method, mib).map(|time| (format!("Python {method}"), time)));
    }
    column
}

fn burst(start: fn()) -> Vec<Duration> {
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < BURST && (times.is_empty() || begin.elapsed() < TURN) {
        times.push(time_one(start));
    }
    times
}

fn time_one(start: fn()) -> Duration {
    let begin = Instant::now();
    start();
    begin.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The same in Python, if it is there.
fn python(method: &str, mib: usize) -> Option<f64> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/start.py");
    let output = Command::new("python3")
        .args([script, method, &mib.to_string()])
        .output();
    String::from_utf8(output.ok()?.stdout)
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn print_table(sizes: &[usize], columns: &[Column]) {
    let titles: Vec<_> = sizes
        .iter()
        .map(|mib| format!(" parent with {mib} MiB | |"))
        .collect();
    println!("| start, run, join |{}", titles.concat());
    println!("|---|{}", "---:|---:|".repeat(sizes.len()));
    for kind in 0..KINDS.len() {
        for row in 0..columns[0][kind].len() {
            let cells = columns.iter().map(|column| {
                let (floor, time) = (column[kind][0].1, column[kind][row].1);
                format!(" {time:.0} µs | × {:.2} |", time / floor)
            });
            println!(
                "| {} |{}",
                columns[0][kind][row].0,
                cells.collect::<String>()
            );
        }
    }
}

fn mp(method: StartMethod) {
    Process::new(|| (), ())
        .start_method(method)
        .start()
        .unwrap()
        .join()
        .unwrap();
}

fn command() {
    let mut command = Command::new("/proc/self/exe");
    assert!(command.arg("--nothing").status().unwrap().success());
}

unsafe extern "C" {
    /// The environment of this process, as C has it.
    static environ: *const *const c_char;
}

fn environment() -> *const *const c_char {
    // SAFETY:
    // * this program never changes it.
    unsafe { environ }
}

const PROGRAM: &CStr = c"/proc/self/exe";
const ARGUMENTS: [*const c_char; 3] = [PROGRAM.as_ptr(), c"--nothing".as_ptr(), ptr::null()];

fn vfork_exec() {
    let environment = environment();
    #[allow(deprecated, reason = "the floor that everything else is measured by")]
    // SAFETY:
    // * the child only executes or exits.
    let pid = unsafe { libc::vfork() };
    if pid == 0 {
        // SAFETY:
        // * strings and arrays that end as they have to.
        unsafe { libc::execve(PROGRAM.as_ptr(), ARGUMENTS.as_ptr(), environment) };
        leave();
    }
    reap(pid);
}

fn posix_spawn() {
    let mut pid = 0;
    // SAFETY:
    // * strings and arrays that end as they have to.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            PROGRAM.as_ptr(),
            ptr::null(),
            ptr::null(),
            ARGUMENTS.as_ptr().cast(),
            environment().cast(),
        )
    };
    assert_eq!(error, 0);
    reap(pid);
}

fn fork_wait() {
    match fork() {
        0 => leave(),
        pid => reap(pid),
    }
}

fn fork_byte_wait() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    match fork() {
        0 => {
            drop(ours);
            theirs.write_all(b"x").unwrap();
            leave()
        }
        pid => {
            drop(theirs);
            ours.read_exact(&mut [0]).unwrap();
            reap(pid);
        }
    }
}

static SERVER: OnceLock<UnixStream> = OnceLock::new();

/// Forks a server that, for each byte, forks a child, reaps it, and sends the byte back.
fn start_server() -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    if fork() == 0 {
        drop(ours);
        let mut byte = [0];
        while theirs.read_exact(&mut byte).is_ok() {
            fork_wait();
            theirs.write_all(&byte).unwrap();
        }
        leave();
    }
    ours
}

fn ask_server() {
    let mut server = SERVER.get().expect("started in main");
    server.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
}

fn fork() -> i32 {
    // SAFETY:
    // * this program has one thread.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    pid
}

fn leave() -> ! {
    // SAFETY:
    // * nothing of the parent's is run.
    unsafe { libc::_exit(0) }
}

fn reap(pid: i32) {
    let mut status = -1;
    // SAFETY:
    // * a child of ours, and a place for its status.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((reaped, status), (pid, 0));
}
