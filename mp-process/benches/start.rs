//! What it costs to start a function in a child and to join it, beside the kernel's floors.
//!
//! `cargo bench -p mp-process --bench start [-- ROUNDS [PARENT_MIB]...]`: medians of interleaved rounds,
//! for a parent that has touched so much memory (0 and 1024 MiB unless said otherwise), and their
//! ratio to the floor of the same kind: executing this binary with nothing around it, a bare server
//! that forks on request, a bare fork.
#![allow(unsafe_code)] // the floors: the raw calls

use std::{
    ffi::{CStr, c_char},
    hint::black_box,
    io::{Read, Write},
    os::unix::net::UnixStream,
    ptr,
    sync::OnceLock,
    time::{Duration, Instant},
};

use mp_process::{Process, StartMethod};
use nix::libc;

/// How long one round of one contender takes at most; it starts at least one.
const ROUND: Duration = Duration::from_millis(40);

fn main() {
    if std::env::args().any(|argument| argument == "--nothing") {
        return;
    }
    mp_process::init();
    let numbers = std::env::args().filter_map(|argument| argument.parse::<usize>().ok());
    let numbers: Vec<_> = numbers.collect();
    let rounds = numbers.first().copied().unwrap_or(15);
    let sizes = if numbers.len() > 1 {
        &numbers[1..]
    } else {
        &[0, 1024]
    };
    SERVER.get_or_init(start_server); // small, as a server should be
    for size in sizes {
        compare(rounds, *size);
    }
}

/// A name, and what starts, runs and joins once.
type Contender = (&'static str, fn());

/// What is compared, the floor of each kind first.
const CONTENDERS: [&[Contender]; 3] = [
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
        ("mp Fork", || mp(StartMethod::Fork)),
    ],
];

fn compare(rounds: usize, mib: usize) {
    let parent = black_box(vec![1_u8; mib << 20]);
    let mut times: Vec<Vec<Vec<Duration>>> = CONTENDERS
        .iter()
        .map(|kind| vec![Vec::new(); kind.len()])
        .collect();
    for round in 0..=rounds {
        for (times, kind) in times.iter_mut().zip(CONTENDERS) {
            for (times, (_, start)) in times.iter_mut().zip(kind) {
                let time = time_one(*start);
                if round > 0 {
                    times.push(time); // the first only warms up
                }
            }
        }
    }
    println!(
        "start, run, join: medians of {rounds} rounds, parent with {} MiB",
        parent.len() >> 20
    );
    for (times, kind) in times.into_iter().zip(CONTENDERS) {
        let medians: Vec<_> = times.into_iter().map(median).collect();
        for ((name, _), time) in kind.iter().zip(&medians) {
            let ratio = time.as_secs_f64() / medians[0].as_secs_f64();
            println!(
                "  {name:<30} {:>9.1} µs   × {ratio:.3}",
                time.as_secs_f64() * 1e6
            );
        }
    }
}

/// The mean of the starts of one round.
fn time_one(start: fn()) -> Duration {
    let (begin, mut count) = (Instant::now(), 0);
    while count == 0 || begin.elapsed() < ROUND {
        start();
        count += 1;
    }
    begin.elapsed() / count
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
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
    let mut command = std::process::Command::new("/proc/self/exe");
    assert!(command.arg("--nothing").status().unwrap().success());
}

const PROGRAM: &CStr = c"/proc/self/exe";
const ARGUMENTS: [*const c_char; 3] = [PROGRAM.as_ptr(), c"--nothing".as_ptr(), ptr::null()];

fn vfork_exec() {
    let environment = [ptr::null::<c_char>()];
    #[allow(deprecated, reason = "the floor that everything else is measured by")]
    // SAFETY:
    // * the child only executes or exits.
    let pid = unsafe { libc::vfork() };
    if pid == 0 {
        // SAFETY:
        // * strings and arrays that end as they have to.
        unsafe { libc::execve(PROGRAM.as_ptr(), ARGUMENTS.as_ptr(), environment.as_ptr()) };
        leave();
    }
    reap(pid);
}

fn posix_spawn() {
    let environment = [ptr::null_mut::<c_char>()];
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
            environment.as_ptr(),
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
