//! mp beside the kernel's floor and Python's `multiprocessing`, in one run.
//!
//! ```text
//! cargo run --release -p mp-bench                     every workload, as a Markdown table
//! cargo run --release -p mp-bench -- --workload lock  one of them
//! cargo run --release -p mp-bench -- --json FILE      the medians as JSON, too
//! cargo run --release -p mp-bench -- --plots FOLDER   an SVG picture of each workload, too
//! ```
//!
//! The contenders are separate programs, run in turns, several rounds, in a new order each time.
//! The table shows medians, and how mp stands to the floor and to Python: figures of one machine,
//! under whatever load it was; the ratios are what travels. A second table holds them against the
//! targets in `targets.rs`. The exit status is 0 only if mp's program and the floor's did not fail.

#![forbid(unsafe_code)]

mod cases;
mod plots;
mod targets;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use mp_bench::Figure;

use cases::{Case, medians};

/// Where the contenders are, and what to run.
struct Options {
    workload: Option<String>,
    rounds: usize,
    secs: f64,
    json: Option<PathBuf>,
    plots: Option<PathBuf>,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mp-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        workload: None,
        rounds: 3,
        secs: 0.2,
        json: None,
        plots: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .ok_or(format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--workload" => options.workload = Some(value),
            "--rounds" => options.rounds = value.parse().map_err(|_| "--rounds takes a number")?,
            "--secs" => options.secs = value.parse().map_err(|_| "--secs takes seconds")?,
            "--json" => options.json = Some(value.into()),
            "--plots" => options.plots = Some(value.into()),
            _ => return Err(format!("no option {argument}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<(), String> {
    let contenders = contenders()?;
    let mut workloads = contenders[0].workloads.clone();
    if let Some(one) = &options.workload {
        workloads.retain(|name| name == one);
        if workloads.is_empty() {
            return Err(format!("no workload {one}"));
        }
    }
    let (mut figures, mut failures) = (Vec::new(), Vec::new());
    for workload in &workloads {
        for round in 0..options.rounds {
            for turn in 0..contenders.len() {
                let contender = &contenders[(turn + round) % contenders.len()];
                eprintln!("{workload}, round {}: {}", round + 1, contender.name);
                match contender.measure(workload, options.secs) {
                    Ok(measured) => figures.extend(measured),
                    Err(failure) => failures.push(format!("{workload}: {failure}")),
                }
            }
        }
    }
    let cases = medians(&figures);
    let mut out = io::stdout().lock();
    print(&cases, &mut out)
        .and_then(|()| writeln!(out, "\n## Targets\n"))
        .and_then(|()| targets::print(&cases, &workloads, &mut out))
        .map_err(|error| error.to_string())?;
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&cases).expect("plain data");
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if let Some(folder) = &options.plots {
        plots::draw(&cases, folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}

/// A program that measures.
struct Contender {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<PathBuf>,
    /// What it can be asked for.
    workloads: Vec<String>,
    /// Python's ends by a signal where its pool can no longer be ended.
    may_fail: bool,
}

/// mp first; the floor beside this program; Python if there is one.
fn contenders() -> Result<Vec<Contender>, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = |name| here.with_file_name(name);
    for name in ["mp-contender", "mp-floor"] {
        if !beside(name).exists() {
            return Err(format!(
                "{name} is not built: cargo build --release -p mp-bench"
            ));
        }
    }
    let rust = |name, file| Contender {
        name,
        program: beside(file),
        arguments: Vec::new(),
        workloads: Vec::new(),
        may_fail: false,
    };
    let mut contenders = vec![
        rust("mp", "mp-contender").listed()?,
        rust("floor", "mp-floor").listed()?,
    ];
    let python = Contender {
        name: "python",
        program: "python3".into(),
        arguments: vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("python/contender.py")],
        workloads: Vec::new(),
        may_fail: true,
    };
    match python.listed() {
        Ok(python) if !python.workloads.is_empty() => contenders.push(python),
        _ => eprintln!("mp-bench: no python3 here, so its column stays empty"),
    }
    Ok(contenders)
}

impl Contender {
    fn listed(mut self) -> Result<Self, String> {
        let lines = self.output(&["--list"])?;
        self.workloads = lines.lines().map(str::to_owned).collect();
        Ok(self)
    }

    fn measure(&self, workload: &str, secs: f64) -> Result<Vec<Figure>, String> {
        if !self.workloads.iter().any(|name| name == workload) {
            return Ok(Vec::new());
        }
        let lines = self.output(&["--workload", workload, "--secs", &secs.to_string()])?;
        let figures = lines.lines().map(serde_json::from_str);
        Ok(figures.filter_map(Result::ok).collect())
    }

    /// What it prints; what it complains of goes where our own complaints go.
    fn output(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(arguments);
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        if !output.status.success() && !self.may_fail {
            return Err(format!("{} failed: {}", self.name, output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A row per case: mp, the floor, Python, and the ratios. Of several variants of one contender the
/// row names them all.
fn print(cases: &[Case], mut out: impl Write) -> io::Result<()> {
    writeln!(
        out,
        "| work | unit | mp | floor | Python | mp ÷ floor | mp ÷ Python |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for case in cases {
        let mine: Vec<_> = case.variants("mp").collect();
        for (name, value) in &mine {
            let floor = case.counterpart("floor", name);
            let python = case.counterpart("python", name);
            let label = name
                .strip_prefix("mp:")
                .map_or(String::new(), |v| format!(", {v}"));
            writeln!(
                out,
                "| {} {}{label} | {} | {} | {} | {} | {} | {} |",
                case.workload,
                case.param,
                case.unit,
                shown(Some(*value)),
                case.described(floor),
                case.described(python),
                ratio(*value, floor.map(|(_, value)| value)),
                ratio(*value, python.map(|(_, value)| value)),
            )?;
        }
    }
    Ok(())
}

fn ratio(mine: f64, other: Option<f64>) -> String {
    other.map_or("–".to_owned(), |other| shown(Some(mine / other)))
}

/// Three significant digits.
fn shown(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 1e6 => format!("{:.3} M", value / 1e6),
        Some(value) if value >= 1e4 => format!("{:.1} k", value / 1e3),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) if value >= 0.1 => format!("{value:.2}"),
        Some(value) => format!("{value:.4}"),
    }
}
