//! Connections beside the bare kernel, ipc-channel and Python, in one run:
//!
//! ```text
//! cargo run --release -p mp-bench --features peers --bin mp-pipes             everything, as Markdown
//! cargo run --release -p mp-bench --features peers --bin mp-pipes -- "64 B"   what has that in its name
//! cargo run --release -p mp-bench --bin mp-pipes -- storm                     a listener under attack
//! ```
//!
//! The contenders of a workload take turns; each figure is the median of its rounds. "socketpair" and
//! "pipe" are the kernel alone, the first with buffers as large as mp's. Without the feature `peers`
//! ipc-channel is left out, without a `python3` Python is.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the program's output")]

mod death;
mod python;
mod raw;
mod storm;
mod stream;
mod trips;

const ROUNDS: usize = 5;

/// A name, and one round that gives a figure; NaN if this machine lacks the contender.
type Contender = (&'static str, Box<dyn Fn() -> f64>);

/// Contenders that do the same work. The first is what the others are compared with.
struct Workload {
    name: String,
    unit: &'static str,
    contenders: Vec<Contender>,
    /// Bytes in a message, where the figures are MB/s.
    len: Option<usize>,
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("{cpus} CPUs; median (least – most) of {ROUNDS} rounds in turns");
    if filter == "storm" {
        return storm::run();
    }
    let workloads = trips::workloads()
        .into_iter()
        .chain(stream::workloads())
        .chain([death::workload()]);
    for workload in workloads.filter(|workload| workload.name.contains(&filter)) {
        print(&workload, &measure(&workload.contenders));
    }
}

/// The figures of each contender, sorted.
fn measure(contenders: &[Contender]) -> Vec<Vec<f64>> {
    let mut figures = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        for ((_, round), figures) in contenders.iter().zip(&mut figures) {
            figures.push(round());
        }
    }
    for figures in &mut figures {
        figures.sort_by(f64::total_cmp);
    }
    figures
}

fn print(workload: &Workload, figures: &[Vec<f64>]) {
    let rate = workload.len.map_or("", |_| " messages/s |");
    println!(
        "\n| {} | {} | least – most | × first |{rate}",
        workload.name, workload.unit
    );
    println!(
        "|---|---:|---:|---:|{}",
        workload.len.map_or("", |_| "---:|")
    );
    let first = figures[0][ROUNDS / 2];
    for ((name, _), figures) in workload.contenders.iter().zip(figures) {
        let (least, median, most) = (figures[0], figures[ROUNDS / 2], figures[ROUNDS - 1]);
        if median.is_nan() {
            continue;
        }
        print!(
            "| {name} | {median:.2} | {least:.2} – {most:.2} | {:.2} |",
            median / first
        );
        match workload.len {
            Some(len) => println!(" {:.0} |", median * 1e6 / len as f64),
            None => println!(),
        }
    }
}
