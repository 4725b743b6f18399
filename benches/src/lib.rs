//! What the measuring programs share: how long to measure, what to print, and the sizes.
//!
//! Each program understands `--list` and `--workload NAME --secs S`, measures once, and prints one
//! JSON line per figure. Who runs them interleaves several rounds and takes medians.

#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// One workload: measures, and reports through the context.
pub type Workload = fn(&Context);

/// What one invocation was asked to do.
#[derive(Debug)]
pub struct Context {
    workload: String,
    contender: &'static str,
    secs: f64,
}

/// One figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// The work, as `queue`.
    pub workload: String,
    /// Who did it, as `mp` or `floor:fork`.
    pub contender: String,
    /// Which case of it, as `1p1c/16B`.
    pub param: String,
    /// Of the value.
    pub unit: String,
    /// The median of what was measured.
    pub value: f64,
    /// Repetitions behind it.
    pub n: u64,
    /// What a reader has to know, as `hangs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Context {
    /// Wall time to aim for, for one figure.
    #[must_use]
    pub fn secs(&self) -> f64 {
        self.secs
    }

    /// Prints a figure of this program.
    pub fn report(&self, param: &str, unit: &str, value: f64, n: u64) {
        self.report_as(self.contender, param, unit, value, n, None);
    }

    /// Prints a figure of a variant, as `mp:fork`, with a note.
    #[allow(clippy::print_stdout, reason = "the program's output")]
    pub fn report_as(
        &self,
        contender: &str,
        param: &str,
        unit: &str,
        value: f64,
        n: u64,
        note: Option<&str>,
    ) {
        let figure = Figure {
            workload: self.workload.clone(),
            contender: contender.to_owned(),
            param: param.to_owned(),
            unit: unit.to_owned(),
            value,
            n,
            note: note.map(str::to_owned),
        };
        let line = serde_json::to_string(&figure).expect("plain data");
        println!("{line}");
    }

    /// Bytes per second and messages per second of one streaming run.
    pub fn report_rate(&self, param: &str, size: usize, n: u64, seconds: f64) {
        let bytes = size as f64 * n as f64;
        self.report(param, "MB/s", bytes / 1e6 / seconds, n);
        self.report(&format!("{param}/rate"), "msg/s", n as f64 / seconds, n);
    }
}

/// The `main` of a measuring program.
#[allow(clippy::print_stdout, reason = "the program's output")]
pub fn run(contender: &'static str, workloads: &[(&str, Workload)]) {
    let mut arguments = std::env::args().skip(1);
    let (mut name, mut secs) = (None, 0.25);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => {
                for (name, _) in workloads {
                    println!("{name}");
                }
                return;
            }
            "--workload" => name = arguments.next(),
            "--secs" => {
                secs = arguments
                    .next()
                    .and_then(|s| s.parse().ok())
                    .unwrap_or(secs)
            }
            other => usage(contender, &format!("no option {other}")),
        }
    }
    let name = name.unwrap_or_else(|| usage(contender, "no workload"));
    let Some((_, workload)) = workloads.iter().find(|(known, _)| *known == name) else {
        usage(contender, &format!("no workload {name}"));
    };
    workload(&Context {
        workload: name,
        contender,
        secs,
    });
}

fn usage(contender: &str, problem: &str) -> ! {
    eprintln!("{contender}: {problem}; use --list or --workload NAME [--secs S]");
    std::process::exit(2);
}

/// Message sizes of a stream: name, bytes, messages per run.
pub const STREAMS: [(&str, usize, u64); 4] = [
    ("64B", 64, 400_000),
    ("4KiB", 4096, 100_000),
    ("1MiB", 1 << 20, 600),
    ("64MiB", 64 << 20, 8),
];
/// Item sizes of a queue: name, bytes, items per run.
pub const ITEMS: [(&str, usize, u64); 3] = [
    ("16B", 16, 400_000),
    ("1KiB", 1024, 200_000),
    ("1MiB", 1 << 20, 600),
];
/// Tasks of one `map`.
pub const TASKS: u64 = 1_000_000;
/// Large arguments of one `map`, and their size.
pub const PAYLOADS: (usize, usize) = (1000, 1 << 20);
/// Tasks that only compute.
pub const CPU_TASKS: u64 = 64;
/// Workers of every pool.
pub const WORKERS: usize = 2;
/// What counts as a hang.
pub const HANG: Duration = Duration::from_secs(10);

/// A record of about 1 KiB, with every kind of field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    id: u64,
    name: String,
    tags: Vec<String>,
    values: Vec<f64>,
}

impl Record {
    /// The same every time.
    #[must_use]
    pub fn sample() -> Self {
        Self {
            id: 1,
            name: "worker-node-000123".into(),
            tags: vec!["alpha".into(), "beta".into(), "gamma".into()],
            values: (0..112).map(|i| f64::from(i) * 0.5).collect(),
        }
    }
}

/// One unit of computing: SHA-256 over 4 MiB.
#[must_use]
pub fn hash_block(seed: u64) -> u64 {
    use sha2::Digest;
    thread_local!(static BLOCK: Vec<u8> = (0..4_usize << 20).map(|i| (i * 7 + 3) as u8).collect());
    BLOCK.with(|block| {
        let mut hasher = sha2::Sha256::new();
        hasher.update(seed.to_le_bytes());
        hasher.update(block);
        let digest = hasher.finalize();
        u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
    })
}

/// What a receiver looks at: the length, and both ends.
#[must_use]
pub fn peek(bytes: &[u8]) -> u64 {
    bytes.len() as u64 + u64::from(bytes[0]) + u64::from(bytes[bytes.len() - 1])
}

/// Nanoseconds per iteration of `f(iterations)`, repeated until one batch takes most of `secs`.
pub fn per_iteration(secs: f64, mut f: impl FnMut(u64)) -> (f64, u64) {
    let mut n = 8;
    f(n);
    loop {
        let start = Instant::now();
        f(n);
        let seconds = start.elapsed().as_secs_f64();
        if seconds >= secs * 0.7 {
            return (seconds * 1e9 / n as f64, n);
        }
        let growth = (secs / seconds.max(1e-9)).clamp(1.5, 64.0);
        n = (n as f64 * growth) as u64 + 1;
    }
}

/// How long the other side has been idle before a round trip that is to find it asleep.
pub const PAUSE: Duration = Duration::from_micros(400);

/// The median of many single round trips in microseconds, each after a [`PAUSE`].
pub fn after_pauses(mut trip: impl FnMut()) -> (f64, u64) {
    const ROUNDS: u64 = 400;
    trip(); // connected by now
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            thread::sleep(PAUSE);
            let start = Instant::now();
            trip();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    (median(&mut times), ROUNDS)
}

/// The median; sorts.
#[must_use]
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// 1 GiB of touched memory, for what a large parent costs.
#[must_use]
pub fn touched_gibibyte() -> Vec<u8> {
    let mut memory = vec![0_u8; 1 << 30];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    black_box(memory)
}

/// Milliseconds from `kill()` until `told()`, in its own thread, came back with `true` (an error);
/// the median of several rounds. `None`: it did not within [`HANG`].
pub fn time_to_tell<V>(
    rounds: usize,
    mut victim: impl FnMut() -> V,
    kill: impl Fn(&V),
    told: impl Fn(V) -> bool + Send + Clone + 'static,
) -> Option<(f64, bool)>
where
    V: Send + Clone + 'static,
{
    let (mut times, mut all_told) = (Vec::new(), true);
    for _ in 0..rounds {
        let victim = victim();
        let (sender, receiver) = mpsc::channel();
        let (waiting, told) = (victim.clone(), told.clone());
        thread::spawn(move || {
            let told = told(waiting);
            let _ = sender.send((Instant::now(), told));
        });
        thread::sleep(Duration::from_millis(20)); // the caller sleeps by now
        let start = Instant::now();
        kill(&victim);
        let (end, told) = receiver.recv_timeout(HANG).ok()?;
        all_told &= told;
        times.push(end.saturating_duration_since(start).as_secs_f64() * 1e3);
    }
    Some((median(&mut times), all_told))
}

/// `CLOCK_MONOTONIC`: one clock for all processes of the machine.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    Duration::from(now.expect("every Linux has it")).as_nanos() as u64
}

/// SIGKILL, to a process that is known to live.
pub fn kill(pid: u32) {
    use nix::{sys::signal, unistd::Pid};
    signal::kill(Pid::from_raw(pid as i32), signal::Signal::SIGKILL).expect("it lives");
}
