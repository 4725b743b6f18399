//! `sha256sum` over whole directories, in a pool of worker processes.
//!
//! ```text
//! cargo run --release --example sha256sum -- /usr/share > sums
//! find /usr/share -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | cmp - sums
//! ```
//!
//! With `--kill-workers` a random worker is killed ten times a second meanwhile; the output is the
//! same to the byte.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufWriter, IsTerminal, Read, Write},
    num::NonZeroUsize,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use mp::{Bytes, Pool, PoolHandle, WorkerState};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// Print the SHA-256 of every regular file below the directories, sorted by path.
///
/// Prints what coreutils' sha256sum prints. A file that cannot be read costs one line on standard
/// error and exit status 1; the others are hashed.
#[derive(Parser)]
struct Args {
    /// How many worker processes [default: the usable CPUs]
    #[arg(short = 'j', long = "jobs", value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// Kill a random worker ten times a second while the job runs; the output stays the same
    #[arg(long)]
    kill_workers: bool,

    /// Directories to walk, or single files
    #[arg(required = true, value_name = "DIR")]
    roots: Vec<PathBuf>,
}

/// A worker whose file has cost so many others already is spared.
const KILLS_PER_FILE: u32 = 3;

/// How many workers a file may cost before it fails: some more, for kills that were meant for a
/// worker's last file and hit its next.
const RETRIES: u32 = 16;

fn main() -> ExitCode {
    mp::init();
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sha256sum: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Hashes everything; whether every file could be read.
fn run(args: &Args) -> Result<bool, mp::Error> {
    let start = Instant::now();
    let (names, mut complete) = walk(&args.roots);
    let workers = args.workers.map_or_else(mp::cpu_count, NonZeroUsize::get);
    let pool = Pool::builder().workers(workers).retries(RETRIES).build()?;
    let killer = args.kill_workers.then(|| Killer::start(pool.handle()));

    let bar = progress_bar(names.len());
    let mut out = BufWriter::new(io::stdout().lock());
    let mut bytes = 0;
    let names_as_bytes = names.iter().map(|name| Bytes::from(&name[..]));
    for (name, result) in names.iter().zip(pool.imap(digest, names_as_bytes)) {
        match result? {
            Ok(file) => {
                write_line(&mut out, &file.digest, name)?;
                bytes += file.len;
            }
            Err(reason) => {
                bar.suspend(|| report(name, &reason));
                complete = false;
            }
        }
        bar.inc(1);
        bar.set_message(rate(bytes, start));
    }
    out.flush()?;
    bar.finish_and_clear();

    let killed = killer.map(Killer::stop);
    let restarts = pool.restarts();
    pool.close().join()?;
    summary(names.len(), bytes, start, workers, restarts, killed);
    Ok(complete)
}

/// Every regular file below `roots`, sorted by the bytes of its path as coreutils' `sort` does in
/// the C locale; and whether every directory could be read.
fn walk(roots: &[PathBuf]) -> (Vec<Name>, bool) {
    let mut names = Vec::new();
    let mut complete = true;
    for root in roots {
        for entry in WalkDir::new(root).follow_root_links(false) {
            match entry {
                Ok(entry) if entry.file_type().is_file() => {
                    names.push(entry.into_path().into_os_string().into_vec().into());
                }
                Ok(_) => {}
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    let reason = error.into_io_error().map_or("loop".to_owned(), text);
                    report(path.as_os_str().as_bytes(), &reason);
                    complete = false;
                }
            }
        }
    }
    names.sort_unstable();
    (names, complete)
}

/// A path: any bytes but NUL.
type Name = Box<[u8]>;

#[derive(serde::Serialize, serde::Deserialize)]
struct Hashed {
    digest: [u8; 32],
    len: u64,
}

/// What a worker does: one file, read in pieces.
fn digest(name: Bytes) -> Result<Hashed, String> {
    let mut file = File::open(Path::new(OsStr::from_bytes(&name))).map_err(text)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 128 * 1024];
    let mut len = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&piece[..n]);
                len += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(text(error)),
        }
    }
    let digest = hasher.finalize().into();
    Ok(Hashed { digest, len })
}

/// An error in the words of coreutils: without Rust's "(os error 13)".
fn text(error: io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn report(name: &[u8], reason: &str) {
    eprintln!("sha256sum: {}: {reason}", String::from_utf8_lossy(name));
}

/// `<hex>  <name>`; a name with a newline, carriage return or backslash is escaped, and the line
/// says so by a backslash in front.
fn write_line(out: &mut impl Write, digest: &[u8], name: &[u8]) -> io::Result<()> {
    let escaped = name.iter().any(|byte| b"\\\n\r".contains(byte));
    if escaped {
        out.write_all(b"\\")?;
    }
    for byte in digest {
        write!(out, "{byte:02x}")?;
    }
    out.write_all(b"  ")?;
    if !escaped {
        out.write_all(name)?;
        return out.write_all(b"\n");
    }
    for byte in name {
        match byte {
            b'\\' => out.write_all(b"\\\\")?,
            b'\n' => out.write_all(b"\\n")?,
            b'\r' => out.write_all(b"\\r")?,
            byte => out.write_all(&[*byte])?,
        }
    }
    out.write_all(b"\n")
}

/// On standard error, and only if that is a terminal.
fn progress_bar(files: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} files  {msg}  {eta} left")
        .expect("a valid template");
    ProgressBar::new(files as u64).with_style(style)
}

fn rate(bytes: u64, start: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let per_second = HumanBytes((bytes as f64 / seconds) as u64);
    format!("{}  {per_second}/s", HumanBytes(bytes))
}

fn summary(
    files: usize,
    bytes: u64,
    start: Instant,
    workers: usize,
    restarts: u64,
    killed: Option<Kills>,
) {
    let seconds = start.elapsed().as_secs_f64();
    let speed = bytes as f64 / 1e6 / seconds;
    eprint!(
        "{files} files, {bytes} bytes, {seconds:.2} s, {speed:.1} MB/s, {workers} workers, {restarts} restarts"
    );
    if let Some(Kills { killed, spared }) = killed {
        eprint!(", {killed} killed, {spared} spared");
    }
    eprintln!();
}

/// What the demonstration did.
#[derive(Default)]
struct Kills {
    killed: u64,
    spared: u64,
}

/// A thread that kills a random worker ten times a second.
struct Killer {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<Kills>,
}

impl Killer {
    fn start(pool: PoolHandle) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut kills = Kills::default();
            while let Err(mpsc::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(Duration::from_millis(100))
            {
                kills.one(&pool);
            }
            kills
        });
        Self { stop, thread }
    }

    fn stop(self) -> Kills {
        drop(self.stop);
        self.thread.join().expect("the killer does not panic")
    }
}

impl Kills {
    fn one(&mut self, pool: &PoolHandle) {
        let mut workers = pool.stats().workers;
        workers.retain(|worker| worker.state == WorkerState::Running);
        let Some(worker) = workers.get(fastrand::usize(..workers.len().max(1))) else {
            return; // all are being replaced
        };
        if worker.attempts >= KILLS_PER_FILE {
            self.spared += 1;
        } else if kill(Pid::from_raw(worker.pid as i32), Signal::SIGKILL).is_ok() {
            self.killed += 1;
        }
    }
}
