//! Many workers, one after the other, leave nothing in the program that had them.
//!
//! `MP_RECYCLED=N` says how many; `ci/soak-pool.sh` does it with ten thousand.

mp_process::init_in_tests!();

use std::{env, fs};

use mp_core::testing::{Census, Watchdog, eventually, memory_rss};
use mp_pool::Pool;

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn recycled_workers_leave_nothing_behind() {
    /// What the allocator may hold back, however many workers there were.
    const SLACK: usize = 4 << 20;
    let count = env::var("MP_RECYCLED").map_or(200, |count| count.parse().unwrap());
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let _census = Census::take().allow("/tmp/mp-");
    let _watchdog = Watchdog::secs(120 + count / 20);
    let pool = Pool::builder().workers(2).max_tasks_per_child(1);
    let pool = pool.build().unwrap();
    let recycle = |count: u64| {
        let restarts = pool.restarts();
        let results = pool.map(|n: u64| n + 1, 0..count).unwrap();
        assert_eq!(results, (1..=count).collect::<Vec<_>>());
        eventually(30, || {
            pool.restarts() == restarts + count && pool.ready() == 2
        });
    };
    recycle(50);
    let (descriptors, memory) = (open_descriptors(), memory_rss());
    recycle(count);
    // The keeper may still be letting go of the last one; as it may have been above.
    eventually(30, || open_descriptors() <= descriptors);
    let grown = memory_rss().saturating_sub(memory);
    assert!(grown < SLACK, "{grown} bytes more after {count} workers");
    println!("{count} workers, {} KiB more", grown >> 10);
    pool.close().join().unwrap();
}
