//! What a careful build has to reach, and what makes people move: each with the figure it is held to.

use std::io::{self, Write};

use crate::{cases::Case, shown};

/// What one kind of work is held to.
struct Target {
    work: &'static str,
    workload: &'static str,
    param: &'static str,
    contender: &'static str,
    must: Goal,
    aim: Option<Goal>,
}

/// A bound on the figure itself, in its own unit, or on its ratio to another contender's.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
    TimesAtMost(f64, &'static str),
    TimesAtLeast(f64, &'static str),
}
use Goal::{AtLeast, AtMost, TimesAtLeast, TimesAtMost};

const fn row(
    work: &'static str,
    (workload, param, contender): (&'static str, &'static str, &'static str),
    must: Goal,
    aim: Option<Goal>,
) -> Target {
    Target {
        work,
        workload,
        param,
        contender,
        must,
        aim,
    }
}

#[rustfmt::skip] // a table
const TARGETS: &[Target] = &[
    row("start → run → join, spawn", ("process", "small", "mp:spawn"), TimesAtMost(1.08, "floor:exec-self"), None),
    row("… parent of 1 GiB", ("process", "rss1g", "mp:spawn"), TimesAtMost(1.08, "floor:exec-self"), None),
    row("start → run → join, fork server", ("process", "small", "mp:forkserver"), TimesAtMost(1.3, "floor:forkserver"), Some(AtMost(65.0))),
    row("… parent of 1 GiB", ("process", "rss1g", "mp:forkserver"), TimesAtMost(1.3, "floor:forkserver"), Some(AtMost(65.0))),
    row("start → run → join, fork", ("process", "small", "mp:fork"), TimesAtMost(1.2, "floor:fork"), Some(TimesAtMost(1.1, "floor:fork"))),
    row("… parent of 1 GiB", ("process", "rss1g", "mp:fork"), TimesAtMost(1.2, "floor:fork"), Some(TimesAtMost(1.1, "floor:fork"))),
    row("pipe round trip, 16 B, both awake", ("pingpong", "16B", "mp"), AtMost(4.0), Some(AtMost(1.0))),
    row("… peer asleep", ("asleep", "pipe/16B", "mp"), TimesAtMost(1.1, "floor:socketpair"), Some(TimesAtMost(1.0, "floor:socketpair"))),
    row("… a 1 KiB struct", ("pingpong", "1KiB-struct", "mp"), TimesAtMost(0.1, "python"), Some(AtMost(1.0))),
    row("pipe one way, 64 B", ("oneway", "64B", "mp"), TimesAtLeast(0.9, "floor"), Some(TimesAtLeast(3.0, "floor"))),
    row("… 1 MiB", ("oneway", "1MiB", "mp"), AtLeast(5000.0), Some(AtLeast(30_000.0))),
    row("… 64 MiB", ("oneway", "64MiB", "mp"), AtLeast(5000.0), Some(AtLeast(10_000.0))),
    row("queue, 16 B, 1 → 1", ("queue", "1p1c/16B", "mp"), AtLeast(10e6), Some(AtLeast(25e6))),
    row("… 2 → 2", ("queue", "2p2c/16B", "mp"), AtLeast(6e6), Some(AtLeast(15e6))),
    row("queue, 1 KiB, 1 → 1", ("queue", "1p1c/1KiB", "mp"), AtLeast(5e6), Some(AtLeast(10e6))),
    row("queue, 1 MiB, 1 → 1", ("queue", "1p1c/1MiB", "mp"), AtLeast(25e3), Some(AtLeast(40e3))),
    row("queue: a sleeping consumer has the item", ("queue_wake", "wake", "mp"), TimesAtMost(1.25, "floor:futex"), Some(TimesAtMost(1.05, "floor:futex"))),
    row("pool map, chunks of 1", ("pool_map", "trivial/chunk1", "mp"), AtLeast(2e6), Some(AtLeast(5e6))),
    row("pool map, chunks by itself", ("pool_map", "trivial/auto", "mp"), AtLeast(30e6), Some(AtLeast(100e6))),
    row("pool map, 1 MiB each", ("pool_map", "payload1MiB", "mp"), AtLeast(8000.0), Some(AtLeast(18_000.0))),
    row("pool apply, hot", ("pool_apply", "apply", "mp"), AtMost(10.0), Some(AtMost(2.0))),
    row("… worker asleep", ("asleep", "apply", "mp"), TimesAtMost(1.15, "floor:socketpair"), None),
    row("pool, computing, 1 → 2 workers", ("pool_cpu", "sha256/speedup", "mp"), AtLeast(1.93), Some(AtLeast(1.97))),
    row("lock and unlock", ("lock", "uncontended", "mp"), AtMost(16.0), Some(AtMost(11.0))),
    row("… two processes", ("lock", "contended2", "mp"), TimesAtMost(1.0, "floor:pthread-robust"), Some(AtMost(33.0))),
    row("value, atomic add", ("lock", "value-inc", "mp"), AtMost(6.0), Some(TimesAtMost(1.0, "floor:fetch_add"))),
    row("semaphore, acquire and release", ("lock", "sem-uncontended", "mp"), AtMost(12.0), Some(TimesAtMost(1.0, "floor:sem_t"))),
    row("event: a sleeper is awake", ("lock", "event-wake", "mp"), TimesAtMost(1.25, "floor:futex"), Some(TimesAtMost(1.05, "floor:futex"))),
    row("condition: a sleeper is awake", ("lock", "condition-wake", "mp"), TimesAtMost(1.25, "floor:futex"), Some(TimesAtMost(1.05, "floor:futex"))),
    row("managed dict, get, hot", ("manager", "get", "mp"), AtMost(5.0), Some(AtMost(2.0))),
    row("managed dict, set, hot", ("manager", "set", "mp"), AtMost(5.0), Some(AtMost(2.0))),
    row("managed dict, get, server asleep", ("asleep", "manager get", "mp"), TimesAtMost(1.1, "floor:socketpair"), None),
    row("managed dict, two clients", ("manager", "2clients-get", "mp"), AtLeast(400e3), Some(AtLeast(1e6))),
    row("a busy worker is killed → its caller is told", ("crash", "pool-worker", "mp"), TimesAtMost(2.0, "floor:waitpid"), Some(AtMost(0.2))),
    row("… the next apply", ("crash", "pool-usable-after", "mp"), AtMost(1.0), Some(AtMost(0.2))),
    row("… its replacement is ready", ("crash", "pool-replacement", "mp"), AtMost(2.0), None),
    row("a lock's owner is killed → the next has it", ("crash", "lock-owner", "mp"), AtMost(1.0), Some(AtMost(0.4))),
    row("a queue's reader is killed → the next reads", ("crash", "queue-reader", "mp"), AtMost(1.0), Some(AtMost(0.4))),
    row("a queue's writer is killed → the next writes", ("crash", "queue-writer", "mp"), AtMost(1.0), Some(AtMost(0.4))),
];

/// A row per target of `workloads`, with its verdict.
pub(crate) fn print(cases: &[Case], workloads: &[String], mut out: impl Write) -> io::Result<()> {
    writeln!(out, "| work | measured | must | aim | |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    let chosen = |target: &&Target| workloads.iter().any(|name| name == target.workload);
    for target in TARGETS.iter().filter(chosen) {
        match target.find(cases) {
            Some((case, value)) => target.print(case, value, &mut out)?,
            None => target.print_missing(&mut out)?,
        }
    }
    Ok(())
}

impl Target {
    fn find<'a>(&self, cases: &'a [Case]) -> Option<(&'a Case, f64)> {
        let case = cases
            .iter()
            .find(|case| case.workload == self.workload && case.param == self.param)?;
        Some((case, *case.medians.get(self.contender)?))
    }

    fn print_missing(&self, out: &mut impl Write) -> io::Result<()> {
        let must = self.must.described("");
        writeln!(
            out,
            "| {} | – | {} | – | not measured |",
            self.work,
            must.trim()
        )
    }

    fn print(&self, case: &Case, value: f64, out: &mut impl Write) -> io::Result<()> {
        let (must, aim) = (
            self.must.is_met(case, value),
            self.aim.and_then(|aim| aim.is_met(case, value)),
        );
        let verdict = match (must, aim) {
            (None, _) => "not measured",
            (Some(false), _) => "**missed**",
            (Some(true), Some(true)) => "aim",
            (Some(true), _) => "met",
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {verdict} |",
            self.work,
            self.must.measured(case, value),
            self.must.described(&case.unit),
            self.aim
                .map_or("–".to_owned(), |aim| aim.described(&case.unit)),
        )
    }
}

impl Goal {
    fn is_met(self, case: &Case, value: f64) -> Option<bool> {
        let ratio = |contender| Some(value / case.medians.get(contender)?);
        match self {
            AtMost(bound) => Some(value <= bound),
            AtLeast(bound) => Some(value >= bound),
            TimesAtMost(bound, contender) => Some(ratio(contender)? <= bound),
            TimesAtLeast(bound, contender) => Some(ratio(contender)? >= bound),
        }
    }

    /// The figure, and the ratio where the goal is one.
    fn measured(self, case: &Case, value: f64) -> String {
        let value_shown = format!("{} {}", shown(Some(value)), case.unit);
        let (TimesAtMost(_, contender) | TimesAtLeast(_, contender)) = self else {
            return value_shown;
        };
        case.medians
            .get(contender)
            .map_or(value_shown.clone(), |other| {
                format!("{:.2} × ({value_shown})", value / other)
            })
    }

    fn described(self, unit: &str) -> String {
        match self {
            AtMost(bound) => format!("≤ {} {unit}", shown(Some(bound))),
            AtLeast(bound) => format!("≥ {} {unit}", shown(Some(bound))),
            TimesAtMost(bound, contender) => format!("≤ {bound} × {}", named(contender)),
            TimesAtLeast(bound, contender) => format!("≥ {bound} × {}", named(contender)),
        }
    }
}

/// A contender as a reader of the table calls it.
fn named(contender: &str) -> &str {
    match contender {
        "python" => "Python",
        "floor" => "socketpair",
        other => other.trim_start_matches("floor:"),
    }
}
