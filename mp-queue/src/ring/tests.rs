//! The ring's arithmetic, alone in one process.

use std::{collections::VecDeque, time::Duration};

use mp_core::testing::Watchdog;

use super::*;

fn ring(config: Config) -> Ring {
    let mapping = Mapping::create("mp-ring-test", config.footprint(), 0).unwrap();
    Ring::create(Arc::new(mapping), &config).unwrap()
}

fn small() -> Ring {
    ring(Config {
        area: 16 << 10, // four chunks of a page
        ..Config::default()
    })
}

fn try_put(ring: &Ring, record: &[u8]) -> Result<u64, PutFailure> {
    ring.put(&[record], Patience::Never)
}

fn try_get(ring: &Ring) -> Result<Vec<u8>, GetFailure> {
    let mut out = Vec::new();
    ring.get(&mut out, Patience::Never).map(|_| out)
}

/// Numbers without a pattern, the same in each run.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (n >> 7)
}

fn record(n: u64, most: usize) -> Vec<u8> {
    let len = mix(n) as usize % (most + 1);
    (0..len).map(|i| mix(n + i as u64) as u8).collect()
}

#[test]
fn records_of_every_size_come_out_as_they_went_in() {
    for most in [0, 30, 700, 9000] {
        let ring = small();
        let mut expected = VecDeque::new();
        let (mut put, mut got) = (0_u64, 0_u64);
        for step in 0..20_000 {
            if mix(step ^ 7) % 7 < 4 {
                match try_put(&ring, &record(put, most)) {
                    Ok(number) => {
                        assert_eq!(number, put);
                        expected.push_back(record(put, most));
                        put += 1;
                    }
                    Err(PutFailure::Full) => assert!(!expected.is_empty()),
                    Err(other) => panic!("{other:?}"),
                }
            } else if let Some(first) = expected.pop_front() {
                assert_eq!(try_get(&ring).unwrap(), first, "record {got}");
                got += 1;
            } else {
                assert!(matches!(try_get(&ring), Err(GetFailure::Empty)));
            }
            assert_eq!(ring.len(), expected.len());
        }
        assert!(got > 5_000);
    }
}

#[test]
fn a_batch_keeps_order_and_takes_what_fits() {
    let ring = ring(Config {
        area: 16 << 10,
        max_items: 10,
        ..Config::default()
    });
    let mut batch = Batch::default();
    for n in 0..25_u8 {
        batch
            .push(|out| {
                out.extend([n; 100]);
                Ok::<_, ()>(())
            })
            .unwrap();
    }
    let refused: Result<(), u8> = batch.push(|out| {
        out.push(1);
        Err(9)
    });
    assert_eq!((refused, batch.bytes()), (Err(9), 2500));
    let mut put = 0;
    let mut next = 0_u8;
    let (mut out, mut ends) = (Vec::with_capacity(700), Vec::with_capacity(8));
    while (next as usize) < batch.len() {
        put += ring.put_batch(&batch, put, Patience::Never).unwrap();
        out.clear();
        ends.clear();
        let count = ring
            .get_batch(&mut out, &mut ends, 100, Patience::Never)
            .unwrap();
        assert_eq!(count, ends.len());
        let mut start = 0;
        for end in &ends {
            assert_eq!(out[start..*end], [next; 100]);
            (start, next) = (*end, next + 1);
        }
    }
    assert!(ring.is_empty());
}

#[test]
fn an_empty_ring_takes_the_largest_record_wherever_it_stands() {
    let ring = small();
    let largest = vec![7; ring.max_record()];
    for n in 0..50 {
        try_put(&ring, &record(n, 3000)).unwrap();
        try_get(&ring).unwrap();
        try_put(&ring, &largest).unwrap();
        assert_eq!(try_get(&ring).unwrap(), largest);
    }
    let more = vec![7; ring.max_record() + 1];
    assert!(matches!(
        try_put(&ring, &more),
        Err(PutFailure::TooLarge { len, limit }) if len == limit + 1
    ));
}

#[test]
fn bytes_are_bounded_with_their_headers() {
    let ring = ring(Config {
        area: 1 << 20,
        max_bytes: 100,
        ..Config::default()
    });
    assert_eq!(ring.max_record(), 92);
    for _ in 0..100 {
        try_put(&ring, &[1; 40]).unwrap();
        try_put(&ring, &[1; 40]).unwrap();
        assert!(matches!(try_put(&ring, &[1; 1]), Err(PutFailure::Full)));
        try_get(&ring).unwrap();
        try_get(&ring).unwrap();
        try_put(&ring, &[1; 92]).unwrap();
        try_get(&ring).unwrap();
    }
}

#[test]
fn a_queue_that_is_kept_short_stays_in_its_first_chunks() {
    let ring = ring(Config::default());
    for n in 0..300_000 {
        try_put(&ring, &record(n, 100)).unwrap();
        if n > 10 {
            try_get(&ring).unwrap();
        }
    }
    let side = &ring.memory.header().put;
    let allocated = side.allocated.load(Ordering::Relaxed);
    assert!(allocated <= 512 << 10, "{allocated} bytes");
}

#[test]
fn what_a_long_queue_took_is_given_back_once_it_is_cold() {
    let ring = ring(Config::default());
    let record = vec![3; 1 << 20];
    for _ in 0..64 {
        try_put(&ring, &record).unwrap();
    }
    while try_get(&ring).is_ok() {}
    let allocated = || {
        let blocks = std::fs::metadata(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&ring.mapping().fd())
        ))
        .unwrap();
        std::os::unix::fs::MetadataExt::blocks(&blocks) * 512
    };
    assert!(allocated() >= 64 << 20);
    // Warm still: a second has not passed.
    ring.trim().unwrap();
    assert!(allocated() >= 64 << 20);
    let last_large = &ring.memory.header().tail.last_large;
    last_large.store(1, Ordering::Relaxed);
    ring.trim().unwrap();
    assert!(allocated() <= 17 << 20, "{}", allocated());
    assert_eq!(last_large.load(Ordering::Relaxed), 0, "nothing more to do");
    // And it goes on, where the tail's chunk was given back too.
    for _ in 0..64 {
        try_put(&ring, &record).unwrap();
    }
    assert_eq!(try_get(&ring).unwrap(), record);
}

#[test]
fn patience_is_kept_and_ends() {
    let ring = ring(Config {
        max_items: 1,
        ..Config::default()
    });
    let soon = || Patience::Until(Deadline::after(Duration::from_millis(20)));
    let start = std::time::Instant::now();
    assert!(matches!(
        ring.get(&mut Vec::new(), soon()),
        Err(GetFailure::Empty)
    ));
    ring.put(&[b"a"], soon()).unwrap();
    assert!(matches!(ring.put(&[b"b"], soon()), Err(PutFailure::Full)));
    assert!(start.elapsed() >= Duration::from_millis(40));
}

#[test]
fn a_closed_ring_is_drained_and_takes_nothing() {
    let ring = small();
    try_put(&ring, b"last").unwrap();
    ring.close().unwrap();
    ring.close().unwrap();
    assert!(matches!(try_put(&ring, b"more"), Err(PutFailure::Closed)));
    assert_eq!(try_get(&ring).unwrap(), b"last");
    assert!(matches!(try_get(&ring), Err(GetFailure::Closed)));
    let again = Ring::attach(Arc::clone(ring.mapping())).unwrap();
    assert!(again.is_closed() && again.is_empty());
}

#[test]
fn numbers_go_on_where_the_count_wraps() {
    let ring = small();
    let near = (1_u64 << 27) - 3;
    for (side, word) in [
        (&ring.memory.header().put, &ring.memory.header().tail.word),
        (&ring.memory.header().get, &*ring.memory.header().head),
    ] {
        side.number.store(near, Ordering::Relaxed);
        side.seen.store(near << 1, Ordering::Relaxed);
        word.store(near << 1, Ordering::Relaxed);
    }
    for n in 0..6 {
        assert_eq!(try_put(&ring, &[n]).unwrap(), near + u64::from(n));
        assert_eq!(ring.put_count(), near + u64::from(n) + 1);
        assert_eq!(try_get(&ring).unwrap(), [n]);
        assert_eq!(ring.get_count(), near + u64::from(n) + 1);
    }
}

#[test]
fn memory_that_is_no_ring_is_refused() {
    let mapping = Arc::new(Mapping::create("mp-ring-test", 1 << 20, 4096).unwrap());
    assert!(Ring::attach(Arc::clone(&mapping)).is_err());
    assert!(Ring::create(mapping, &Config::default()).is_err());
}

/// Somebody declared itself hungry and died: the others step aside once, for a moment.
#[test]
fn hunger_of_the_dead_holds_up_nobody() {
    let _dog = Watchdog::secs(60);
    let ring = small();
    let header = ring.memory.header();
    for hunger in [header.put.hunger(), header.get.hunger()] {
        let mut dead = Turn::new(hunger, Patience::Forever);
        dead.declare();
        assert_ne!(hunger.declared(), 0);
        std::mem::forget(dead);
    }
    ring.put(&[b"on"], Patience::Forever).unwrap();
    let mut out = Vec::new();
    ring.get(&mut out, Patience::Forever).unwrap();
    assert_eq!(out, b"on");
    for hunger in [header.put.hunger(), header.get.hunger()] {
        assert_eq!(hunger.declared(), 0, "cleared by who had to wait for it");
    }
}

/// Whatever a broken peer writes there is at most a short wait; who may not wait does not.
#[test]
fn no_value_of_the_hunger_word_strands_anybody() {
    let _dog = Watchdog::secs(60);
    let ring = small();
    let hunger = ring.memory.header().put.hunger();
    for step in 0..64 {
        hunger.declare(hunger.declared(), mix(step) as u32);
        try_put(&ring, b"1").unwrap();
        ring.put(&[b"2"], Patience::Forever).unwrap();
        for _ in 0..2 {
            try_get(&ring).unwrap();
        }
    }
}

#[test]
fn who_is_overtaken_for_long_is_hungry_until_served() {
    let _dog = Watchdog::secs(60);
    let ring = small();
    let hunger = ring.memory.header().get.hunger();
    let mut turn = Turn::new(hunger, Patience::Forever);
    turn.refused(5);
    while !turn.is_hungry() {
        turn.refused(5); // nobody else was served
    }
    turn.refused(5);
    assert_eq!(hunger.declared(), 0, "waits, but nobody overtook it");
    turn.refused(6);
    assert_ne!(hunger.declared(), 0);
    let other = Turn::new(hunger, Patience::Forever);
    turn.declare(); // anew, or the other might find it stale
    let declared = hunger.declared();
    drop(other);
    assert_eq!(hunger.declared(), declared, "only who declared it ends it");
    drop(turn);
    assert_eq!(hunger.declared(), 0);
}

/// Killed between the last count and the end of what it ends, which is too long to be stepped through.
#[test]
fn the_next_owner_of_the_lock_ends_orphans_only_if_the_last_count_was_stored() {
    let _dog = Watchdog::secs(60);
    let ring = small();
    for record in [b"1", b"2"] {
        try_put(&ring, record).unwrap();
    }
    let (_, claim) = ring
        .get_claimed(&mut Vec::new(), Patience::Never, true)
        .unwrap();
    ring.abandon(claim.unwrap());
    ring.finish(done::Finished::Unclaimed).unwrap();
    let header = &ring.memory.header().done;
    let die = |count| {
        header
            .intent
            .store(1 << 32 | u64::from(done::ALL_DONE), Ordering::Relaxed);
        header.count.store(count, Ordering::Relaxed);
        ring.complete_intent();
        assert_eq!(header.intent.load(Ordering::Relaxed), 0);
    };
    die(1);
    assert_eq!((ring.unfinished(), ring.count_lost().unwrap()), (1, 1));
    die(2);
    assert_eq!((ring.unfinished(), ring.count_lost().unwrap()), (0, 0));
}
