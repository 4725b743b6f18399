//! Arguments with blocks of bytes: they lie in memory that all workers see, for as long as a task
//! needs them.

mp_process::init_in_tests!();

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::{Bytes, Part, Pool, TaskError};
use serde::{Serialize, Serializer, ser::Error as _};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

const MIB: usize = 1 << 20;

fn block(byte: usize, len: usize) -> Bytes {
    vec![byte as u8; len].into()
}

/// Bytes that the system has given to the areas of this process' pools.
fn area_in_use() -> u64 {
    let fds = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(Result::ok);
    let areas = fds.filter(|fd| {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        target.to_string_lossy().contains("mp-pool-hub")
    });
    let blocks = areas.filter_map(|fd| Some(fs::metadata(fd.path()).ok()?.blocks()));
    blocks.sum::<u64>() * 512
}

/// What a pool keeps for the next ones, and a little.
const KEPT: u64 = (64 + 4) << 20;

type Mixed = (usize, Bytes, String, Vec<Bytes>);

fn mixed(n: usize) -> Mixed {
    let text = "no block, but as long as one".repeat(1000);
    let many = vec![block(n, 20_000), block(n, 3), block(n + 1, 40_000)];
    (n, block(n + 2, 100_000), text, many)
}

#[test]
fn blocks_among_other_arguments_arrive_in_any_chunks() {
    let _guards = guarded(120);
    let pool = Pool::new(2).unwrap();
    for chunk in [1, 3, 20] {
        let tasks = pool.tasks(|mixed: Mixed| mixed, (0..20).map(mixed));
        let back = tasks.chunksize(chunk).map().unwrap();
        assert!(back.into_iter().eq((0..20).map(mixed)), "chunks of {chunk}");
    }
    let tasks = pool.tasks(|mixed: Mixed| mixed, (0..20).map(mixed));
    let back = tasks.chunksize(3).imap().map(Result::unwrap);
    assert!(back.eq((0..20).map(mixed)));
}

/// Dies the first time; `once` tells.
fn dies_once((n, bytes, once): (usize, Bytes, String)) -> bool {
    if n == 2 && fs::remove_file(once).is_ok() {
        std::process::abort();
    }
    bytes == block(n, MIB)
}

#[test]
fn what_a_dead_worker_had_not_done_still_has_its_blocks() {
    let _guards = guarded(120);
    let pool = Pool::new(1).unwrap();
    for chunk in [1, 4] {
        let name = format!("mp-pool-blocks-{}-{chunk}", std::process::id());
        let once = std::env::temp_dir().join(name);
        fs::write(&once, "").unwrap();
        let path = once.to_str().unwrap().to_owned();
        let items = (0..8).map(|n| (n, block(n, MIB), path.clone()));
        let tasks = pool.tasks(dies_once, items).chunksize(chunk).retries(1);
        assert_eq!(tasks.map().unwrap(), vec![true; 8], "chunks of {chunk}");
        assert!(!once.exists(), "a worker died on the way");
    }
}

#[test]
fn memory_of_blocks_is_used_again_and_given_back() {
    let _guards = guarded(120);
    let pool = Pool::new(2).unwrap();
    let len = |bytes: Bytes| bytes.len();
    let many = pool.tasks(len, (0..300).map(|n| block(n, MIB)));
    assert_eq!(many.chunksize(1).map().unwrap(), vec![MIB; 300]);
    assert!(area_in_use() <= KEPT, "{} bytes", area_in_use());
    let chunks = pool.map(len, (0..300).map(|n| block(n, MIB)));
    assert_eq!(chunks.unwrap(), vec![MIB; 300]);
    assert!(area_in_use() <= KEPT, "{} bytes", area_in_use());
}

/// Has no encoding.
struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("not on a Monday"))
    }
}

impl<'de> serde::Deserialize<'de> for Refuses {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Ok(Self)
    }
}

#[test]
fn what_was_not_accepted_or_not_done_holds_no_memory() {
    let _guards = guarded(120);
    let pool = Pool::new(1).unwrap();
    for n in 0..20 {
        let refused = pool.apply(|_: Bytes, _: Refuses| (), (block(n, 10 * MIB), Refuses));
        let Err(TaskError::Encode { what, reason }) = refused else {
            panic!("{refused:?}");
        };
        assert!(
            what == Part::Arguments && reason.contains("Monday"),
            "{reason}"
        );
    }
    assert!(area_in_use() <= KEPT, "{} bytes", area_in_use());
    let sleep = |_: Bytes| std::thread::sleep(Duration::from_secs(60));
    let waiting = pool.map_async(sleep, (0..20).map(|n| block(n, 10 * MIB)));
    assert!(area_in_use() > KEPT);
    assert!(waiting.cancel());
    assert!(matches!(waiting.get(), Err(TaskError::Cancelled)));
    eventually(30, || area_in_use() <= KEPT);
    let handle = pool.handle();
    pool.close().join().unwrap();
    let late = handle.apply(|bytes: Bytes| bytes.len(), (block(0, 80 * MIB),));
    assert_eq!(late, Err(TaskError::Closed));
    assert!(area_in_use() <= KEPT, "{} bytes", area_in_use());
}

#[test]
#[ignore = "takes 5 GiB: ci/large-messages.sh"]
fn a_gibibyte_goes_there_and_back() {
    let _guards = guarded(300);
    let pool = Pool::new(1).unwrap();
    let gib = 1 << 30;
    let len = |bytes: Bytes| (bytes.len(), bytes[0], bytes[bytes.len() - 1]);
    assert_eq!(pool.apply(len, (block(7, gib),)), Ok((gib, 7, 7)));
    let back = pool.apply(|len: usize| block(9, len), (gib,)).unwrap();
    assert!(back.len() == gib && back.iter().all(|byte| *byte == 9));
}
