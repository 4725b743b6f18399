//! Results in the order in which they are there, and what was not there in time.
//!
//! `cargo run --example as_completed` prints
//!
//! ```text
//! slept for 10 ms
//! slept for 200 ms
//! slept for 800 ms
//! slept for 10 ms
//! 1 (of 2) results unfinished
//! stopped: 1
//! ```

use std::{thread::sleep, time::Duration};

use mp::{Pool, as_completed};

fn nap(millis: u64) -> u64 {
    sleep(Duration::from_millis(millis));
    millis
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let pool = Pool::new(2)?;
    let naps = |all: &[u64]| -> Vec<_> {
        let naps = all.iter().map(|millis| pool.apply_async(nap, (*millis,)));
        naps.collect()
    };
    for result in as_completed(naps(&[800, 10, 200])) {
        println!("slept for {} ms", result.get()?);
    }

    let mut completed = as_completed(naps(&[10, 60_000])).timeout(Duration::from_secs(2));
    for result in completed.by_ref() {
        match result {
            Ok(result) => println!("slept for {} ms", result.get()?),
            Err(error) => println!("{error}"),
        }
    }
    let unfinished = completed.into_unfinished();
    let stopped = unfinished.iter().filter(|result| result.cancel());
    println!("stopped: {}", stopped.count());
    Ok(())
}
