//! Many processes log through one queue into one file: every line whole, each process's lines in
//! order, also while some of them are killed.
//!
//!     cargo run --release --example log_collector [-- FILE]

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use mp::{Process, Queue};

const WORKERS: u32 = 6;
const LINES: u32 = 2000;
/// So many workers are killed in the middle of it.
const VICTIMS: u32 = 2;

/// What goes through the queue: worker, number of the line, text. `None` ends the collector.
type Entry = Option<(u32, u32, String)>;

/// Works, and tells about it.
fn work(log: Queue<Entry>, worker: u32, lines: u32) {
    for line in 0..lines {
        let text = format!("step {line} in process {}", std::process::id());
        log.put(Some((worker, line, text))).unwrap();
    }
}

/// The only one that touches the file.
fn collect(log: Queue<Entry>, path: PathBuf) -> io::Result<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut written = 0;
    while let Some((worker, line, text)) = log.get().expect("the queue stays open") {
        writeln!(file, "worker-{worker} {line} {text}")?;
        written += 1;
        if log.is_empty() {
            file.flush()?; // nothing to do: what has come can be read
        }
    }
    file.flush()?;
    Ok(written)
}

fn main() -> Result<(), mp::Error> {
    mp::init();
    let path = env::args_os().nth(1).map_or_else(
        || env::temp_dir().join(format!("log_collector-{}.log", std::process::id())),
        PathBuf::from,
    );

    let log = Queue::bounded(1000)?;
    let collector = Process::new(
        |log, path| collect(log, path).map_err(|error| error.to_string()),
        (log.clone(), path.clone()),
    )
    .start()?;
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        // Two of them would never end.
        let lines = if worker < VICTIMS { u32::MAX } else { LINES };
        workers.push(Process::new(work, (log.clone(), worker, lines)).start()?);
    }

    thread::sleep(Duration::from_millis(5));
    for victim in &workers[..VICTIMS as usize] {
        victim.kill()?; // wherever it is
    }
    let ends: Vec<bool> = workers
        .into_iter()
        .map(|worker| worker.join().is_ok())
        .collect();
    log.put(None)?; // behind everything that was logged
    let written = collector.join()?.map_err(io::Error::other)?;

    let lines = check(&path)?;
    println!(
        "{written} lines of {WORKERS} processes in {}",
        path.display()
    );
    for (worker, count) in &lines {
        println!("  {worker}: {count} lines, in order");
    }
    println!("{VICTIMS} of them were killed; what they had logged is there");
    assert_eq!(lines.values().sum::<u64>(), written);
    for (worker, ended) in ends.into_iter().enumerate() {
        assert_eq!(ended, worker >= VICTIMS as usize);
        let count = lines.get(&format!("worker-{worker}"));
        assert!(
            !ended || count == Some(&LINES.into()),
            "worker {worker} lost lines"
        );
    }
    if env::args_os().nth(1).is_none() {
        std::fs::remove_file(&path)?;
    }
    Ok(())
}

/// Reads the file again: each line whole, and the lines of each worker from 0 on without a gap.
fn check(path: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let line = line?;
        let mut words = line.split(' ');
        let (Some(worker), Some(number)) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("a torn line: {line}")));
        };
        let count = next.entry(worker.to_owned()).or_default();
        if number != count.to_string() || !line.contains(&format!("step {count} in process ")) {
            return Err(io::Error::other(format!("out of order: {line}")));
        }
        *count += 1;
    }
    Ok(next)
}
