//! Kills processes at random moments while they work flat out, and accounts for every item.
//!
//!     cargo run --release --example killsweep -- --kills 10000 [--target queue] [--seed S]
//!
//! The last line has the result; the exit status is 0 only if nothing was lost, doubled or torn and
//! nobody hung. A target is `queue`, `lock` or `pool`: a module with a `sweep` function, see `TARGETS`.

mod board;
mod lock;
mod pool;
mod queue;
mod report;

use std::process::ExitCode;

use mp::StartMethod;
use report::{Options, Report};

/// What can be swept.
const TARGETS: [(&str, Sweep); 3] = [
    ("queue", queue::sweep),
    ("lock", lock::sweep),
    ("pool", pool::sweep),
];

type Sweep = fn(&Options) -> Result<Report, mp::Error>;

fn main() -> Result<ExitCode, mp::Error> {
    mp::init();
    let (name, sweep, options) = match parse(std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(message) => {
            let names = TARGETS.map(|(name, _)| name).join("|");
            eprintln!("{message}\nusage: killsweep [--kills N] [--target {names}] [--seed S]");
            return Ok(ExitCode::from(2));
        }
    };
    println!("seed {}", options.seed);
    let report = sweep(&options)?;
    println!("killsweep target={name} {report}");
    let flaws = report.lost + report.doubled + report.torn + report.hangs;
    Ok(ExitCode::from(u8::from(flaws > 0)))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<(&'static str, Sweep, Options), String> {
    let (mut target, mut options) = (
        TARGETS[0],
        Options {
            kills: 1000,
            seed: 1,
            method: StartMethod::Fork, // the quickest: this is about ends
        },
    );
    while let Some(flag) = args.next() {
        let value = args.next().ok_or(format!("{flag} needs a value"))?;
        let number = || {
            value
                .parse()
                .map_err(|_| format!("{flag} {value}: not a number"))
        };
        match flag.as_str() {
            "--kills" => options.kills = number()?,
            "--seed" => options.seed = number()?,
            "--target" => {
                let found = TARGETS.iter().find(|(name, _)| *name == value);
                target = *found.ok_or(format!("no target {value}"))?;
            }
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    Ok((target.0, target.1, options))
}
