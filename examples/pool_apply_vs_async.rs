//! `apply` waits for each task, `apply_async` only for all of them.
//!
//! `cargo run --example pool_apply_vs_async` prints
//!
//! ```text
//! apply:       0 was done by <pid>
//! apply:       1 was done by <pid>
//! apply:       2 was done by <pid>
//! apply:       3 was done by <pid>
//! one after the other: <time>
//!
//! apply_async: 0 was done by <pid>
//! apply_async: 1 was done by <pid>
//! apply_async: 2 was done by <pid>
//! apply_async: 3 was done by <pid>
//! side by side:        <time>
//! ```

use std::time::{Duration, Instant};

use mp::Pool;

fn work(n: u32) -> (u32, u32) {
    std::thread::sleep(Duration::from_millis(100));
    (n, std::process::id())
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let pool = Pool::new(4)?;

    let start = Instant::now();
    for n in 0..4 {
        let (n, pid) = pool.apply(work, (n,))?;
        println!("apply:       {n} was done by {pid}");
    }
    println!("one after the other: {:?}\n", start.elapsed());

    let start = Instant::now();
    let results: Vec<_> = (0..4).map(|n| pool.apply_async(work, (n,))).collect();
    for result in results {
        let (n, pid) = result.get()?;
        println!("apply_async: {n} was done by {pid}");
    }
    println!("side by side:        {:?}", start.elapsed());

    pool.close().join()?;
    Ok(())
}
