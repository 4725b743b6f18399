//! A value shared by all tasks: each worker gets it once, and it goes when nobody needs it.

mp_process::init_in_tests!();

use std::{
    collections::VecDeque,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::{Pool, PoolHandle, Share, TaskError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

/// Notes in a file where it is decoded and where it is dropped.
#[derive(Debug, Serialize)]
struct Table {
    squares: Vec<u64>,
    log: PathBuf,
}

impl Table {
    fn note(log: &Path, what: &str) {
        let mut log = fs::File::options().append(true).open(log).unwrap();
        let line = format!("{what} {}\n", std::process::id());
        log.write_all(line.as_bytes()).unwrap(); // at once: somebody may be reading
    }
}

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (squares, log): (_, PathBuf) = Deserialize::deserialize(deserializer)?;
        Self::note(&log, "decoded");
        Ok(Self { squares, log })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        Self::note(&self.log, "dropped");
    }
}

const LEN: u64 = 100_000;

/// A table, and its log, which is removed at the end.
struct Log(PathBuf);

impl Log {
    fn new(name: &str) -> Self {
        let name = format!("mp-pool-share-{}-{name}", std::process::id());
        let log = std::env::temp_dir().join(name);
        fs::write(&log, "").unwrap();
        Self(log)
    }

    fn table(&self) -> Table {
        Table {
            squares: (0..LEN).map(|n| n * n).collect(),
            log: self.0.clone(),
        }
    }

    /// The processes that have noted this.
    fn who(&self, what: &str) -> Vec<u32> {
        let text = fs::read_to_string(&self.0).unwrap();
        let notes = text.lines().filter_map(|line| line.strip_prefix(what));
        let mut pids: Vec<u32> = notes.map(|pid| pid.trim().parse().unwrap()).collect();
        pids.sort_unstable();
        pids
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn look_up(n: u64, table: Share<Table>) -> u64 {
    table.squares[n as usize]
}

#[test]
fn each_worker_decodes_a_shared_value_once() {
    let _guards = guarded(120);
    let log = Log::new("once");
    let pool = Pool::new(2).unwrap();
    let table = pool.share(log.table()).unwrap();
    for chunk in [1, 7] {
        let tasks = (0..500).map(|n| (n, table.clone()));
        let squares = pool.startasks(look_up, tasks).chunksize(chunk).map();
        assert!(squares.unwrap().into_iter().eq((0..500).map(|n| n * n)));
    }
    let squares = pool.imap(
        |(n, table)| look_up(n, table),
        (0..100).map(|n| (n, table.clone())),
    );
    assert!(squares.map(Result::unwrap).eq((0..100).map(|n| n * n)));
    assert_eq!(table.squares[3], 9, "it is here as well");
    let mut once = log.who("decoded");
    once.dedup();
    assert_eq!(once, log.who("decoded"));
    assert!((1..=2).contains(&once.len()));
}

#[test]
fn a_worker_that_replaces_another_gets_it_as_well() {
    let _guards = guarded(120);
    let log = Log::new("again");
    let pool = Pool::new(1).unwrap();
    let table = pool.share(log.table()).unwrap();
    for n in 0..3 {
        assert_eq!(pool.apply(look_up, (n, table.clone())), Ok(n * n));
        let died = pool.apply(
            |_: Share<Table>| -> u32 { std::process::abort() },
            (table.clone(),),
        );
        assert!(matches!(died, Err(TaskError::WorkerDied { .. })));
    }
    assert_eq!(log.who("decoded").len(), 3);
}

#[test]
fn a_shared_value_goes_with_its_last_handle() {
    let _guards = guarded(120);
    let log = Log::new("gone");
    let pool = Pool::new(1).unwrap();
    let table = pool.share(log.table()).unwrap();
    // The tasks keep it while they are on their way.
    let late = pool.map_async(
        |(n, table): (u64, Share<Table>)| look_up(n, table),
        (0..100).map(|n| (n, table.clone())),
    );
    drop(table);
    assert!(late.get().unwrap().into_iter().eq((0..100).map(|n| n * n)));
    let here = std::process::id();
    assert!(log.who("dropped").contains(&here));
    eventually(30, || log.who("dropped").iter().any(|pid| *pid != here));
    // Its memory is used again, and nothing is mixed up.
    for n in 1..4 {
        let another = pool.share(vec![n; 200_000]).unwrap();
        let first = pool.apply(|many: Share<Vec<u64>>| many[0], (another,));
        assert_eq!(first, Ok(n));
    }
}

/// Uses a pool while it is encoded for a task of that pool itself.
enum Meddles {
    Here(Share<String>, PoolHandle),
    There(Share<String>, usize),
}

impl Serialize for Meddles {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self::Here(text, pool) = self else {
            unreachable!("it is not sent back");
        };
        // The value in between is another, so that what the first one holds could get lost.
        let other = pool.share("other".to_owned()).unwrap();
        let len = pool.apply(|text: Share<String>| text.len(), (other,));
        (text, len.unwrap()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Meddles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (text, len) = Deserialize::deserialize(deserializer)?;
        Ok(Self::There(text, len))
    }
}

fn sum(meddled: Meddles) -> usize {
    match meddled {
        Meddles::Here(..) => 0,
        Meddles::There(text, len) => text.len() + len,
    }
}

#[test]
fn a_pool_can_be_used_while_arguments_for_it_are_encoded() {
    let _guards = guarded(120);
    let pool = Pool::new(1).unwrap();
    let text = pool.share("text".to_owned()).unwrap();
    let meddles = Meddles::Here(text, pool.handle());
    assert_eq!(pool.apply(sum, (meddles,)), Ok(4 + 5));
}

#[test]
fn a_shared_value_is_for_its_own_pool_and_only_an_argument() {
    let _guards = guarded(120);
    let [pool, other] = [1, 1].map(|workers| Pool::new(workers).unwrap());
    let text = pool.share("text".to_owned()).unwrap();
    let refused = other.apply(|text: Share<String>| text.len(), (text.clone(),));
    let Err(TaskError::Encode { reason, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("the pool that shares it"), "{reason}");
    let back = pool.apply(|text: Share<String>| text, (text.clone(),));
    assert!(matches!(back, Err(TaskError::Encode { .. })), "{back:?}");
    assert_eq!(pool.apply(|text: Share<String>| text.len(), (text,)), Ok(4));
}

/// How many of these are in this process.
static THERE: AtomicUsize = AtomicUsize::new(0);

struct Counted;

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <()>::deserialize(deserializer)?;
        THERE.fetch_add(1, Ordering::SeqCst);
        Ok(Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THERE.fetch_sub(1, Ordering::SeqCst);
    }
}

fn count(_: Share<Counted>) -> usize {
    thread::sleep(Duration::from_millis(1)); // so that it finds the next task when it is done
    THERE.load(Ordering::SeqCst)
}

#[test]
fn a_worker_that_is_never_idle_forgets_what_nobody_shares() {
    let _guards = guarded(120);
    let pool = Pool::new(1).unwrap();
    let mut flying = VecDeque::new();
    for _ in 0..300 {
        let value = pool.share(Counted).unwrap();
        flying.push_back(pool.apply_async(count, (value,)));
        if flying.len() == 8 {
            let there = flying.pop_front().unwrap().get().unwrap();
            assert!(there <= 4 * 8, "{there}");
        }
    }
    assert!(flying.into_iter().all(|result| result.get().is_ok()));
}
