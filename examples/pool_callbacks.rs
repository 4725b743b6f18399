//! Callbacks, as in Python: one for the value, one for the error.
//!
//! `cargo run --example pool_callbacks` prints, in any order
//!
//! ```text
//! callback()       received: no. 2 ended normally
//! callback()       received: no. 4 ended normally
//! error_callback() received: the task panicked in worker <pid> at examples/pool_callbacks.rs:<line>: no. 1 in process <pid>
//! error_callback() received: the task panicked in worker <pid> at examples/pool_callbacks.rs:<line>: no. 3 in process <pid>
//! error_callback() received: the task panicked in worker <pid> at examples/pool_callbacks.rs:<line>: no. 5 in process <pid>
//! ```

use mp::Pool;

fn odd_fails(n: u32) -> String {
    assert!(
        n.is_multiple_of(2),
        "no. {n} in process {}",
        std::process::id()
    );
    format!("no. {n} ended normally")
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let pool = Pool::new(2)?;
    for n in 1..=5 {
        pool.apply_async(odd_fails, (n,))
            .on_success(|text| println!("callback()       received: {text}"))
            .on_error(|error| println!("error_callback() received: {error}"));
    }

    // All tasks are done, and all their callbacks have run, when `join` returns.
    pool.close().join()?;
    Ok(())
}
