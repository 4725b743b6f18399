//! Calls on a managed dict, beside a bare Unix socket, Redis and Python's manager in the same run.
//!
//! `cargo bench -p mp-manager` prints Markdown; `-- hot asleep crowd` chooses tables. Figures are
//! medians of interleaved rounds. `redis-server` and `python3` take part where they are installed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mp_manager::Manager;

use crate::{
    contender::{Contender, Load},
    echo::EchoServer,
    redis::RedisServer,
};

mod contender;
mod echo;
mod python;
mod redis;

const ROUNDS: usize = 5;

fn main() {
    mp_process::init();
    let sections: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let wanted = |name: &str| sections.is_empty() || sections.iter().any(|wanted| wanted == name);

    let manager = Manager::start().unwrap();
    let dict = manager.dict_from([("key".to_owned(), 1_u64)]).unwrap();
    let echo = EchoServer::start();
    let redis = RedisServer::start();
    let mut loads = vec![
        ("bare socket, polled", Load::Echo(echo.polled())),
        ("bare socket, asleep", Load::Echo(echo.asleep())),
        ("mp get, set", Load::GetSet(dict.clone())),
        ("mp get_many of 100", Load::GetMany(dict.clone())),
    ];
    match &redis {
        Some(redis) => loads.push(("Redis GET, SET", Load::Redis(redis.path()))),
        None => println!("(without Redis: it needs `redis-server`)\n"),
    }

    if wanted("hot") {
        hot(&loads);
    }
    if wanted("asleep") {
        asleep(&loads);
    }
    if wanted("crowd") {
        crowd(&loads);
    }
}

/// One client that calls without a pause.
fn hot(loads: &[(&'static str, Load)]) {
    let mut table = Table::default();
    for _ in 0..ROUNDS {
        for (name, load) in loads {
            let mut contender = Contender::connect(load);
            contender.call(2_000);
            table.add(name, "µs", contender.per_call() * 1e6);
        }
        if let Some(seconds) = python::per_call() {
            table.add("Python get, set", "µs", seconds * 1e6);
        }
    }
    println!("One client that calls without a pause, µs per call:\n");
    table.print(&["µs"], "bare socket, polled");
}

/// One client that calls now and then: the server sleeps in between.
fn asleep(loads: &[(&'static str, Load)]) {
    let mut table = Table::default();
    let loads = loads
        .iter()
        .filter(|(name, _)| *name != "bare socket, polled");
    let mut contenders: Vec<_> = loads
        .map(|(name, load)| (*name, Contender::connect(load)))
        .collect();
    for _ in 0..400 {
        for (name, contender) in &mut contenders {
            std::thread::sleep(Duration::from_millis(1));
            let begin = Instant::now();
            contender.call_once();
            table.add(name, "µs", begin.elapsed().as_secs_f64() * 1e6);
        }
    }
    println!("One client that calls now and then, a sleeping server, µs per call:\n");
    table.print(&["µs"], "bare socket, asleep");
}

/// Client processes that call without a pause, all together.
fn crowd(loads: &[(&'static str, Load)]) {
    const CROWDS: [(usize, &str); 3] = [(1, "1 client"), (2, "2 clients"), (4, "4 clients")];
    let mut table = Table::default();
    for _ in 0..ROUNDS {
        for (clients, column) in CROWDS {
            for (name, load) in loads {
                table.add(name, column, contender::crowd(load, clients) / 1e3);
            }
            if let Some(rate) = python::crowd(clients) {
                table.add("Python get, set", column, rate / 1e3);
            }
        }
    }
    println!("Clients that call without a pause, thousand calls per second, all together:\n");
    table.print(&CROWDS.map(|(_, column)| column), "bare socket, asleep");
}

/// Samples by row and column, in the order in which they came.
#[derive(Default)]
struct Table {
    rows: Vec<&'static str>,
    cells: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

impl Table {
    fn add(&mut self, row: &'static str, column: &'static str, value: f64) {
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
        self.cells.entry((row, column)).or_default().push(value);
    }

    fn median(&self, row: &'static str, column: &'static str) -> f64 {
        let mut samples = self.cells[&(row, column)].clone();
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    }

    /// Each figure with its ratio to the same column of `floor`.
    fn print(&self, columns: &[&'static str], floor: &'static str) {
        println!("| | {} |", columns.join(" | "));
        println!("|---{}|", "|---:".repeat(columns.len()));
        for row in &self.rows {
            let cells = columns.iter().map(|column| {
                let value = self.median(row, column);
                format!("{value:.1} ({:.2} ×)", value / self.median(floor, column))
            });
            println!("| {row} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        println!();
    }
}
