//! One way: a child reports its progress while it works, and its parent reads until the child is done.
//!
//! Writing on the reading end would not compile: `Sender` and `Receiver` are different types.
//!
//! `cargo run --example pipe_simplex` prints
//!
//! ```text
//! up to  25000:  2762 primes
//! up to  50000:  5133 primes
//! up to  75000:  7393 primes
//! up to 100000:  9592 primes
//! together:       9592 primes
//! ```

use std::time::Duration;

use mp::{Process, Sender};

fn count_primes(limit: u32, progress: Sender<(u32, usize)>) -> usize {
    let mut found = 0;
    for n in 2..=limit {
        if (2..).take_while(|d| d * d <= n).all(|d| n % d != 0) {
            found += 1;
        }
        if n % (limit / 4) == 0 && progress.send(&(n, found)).is_err() {
            break; // nobody listens any more
        }
    }
    found
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let (rx, tx) = mp::simplex()?;
    let child = Process::new(count_primes, (100_000, tx)).start()?;
    while rx.poll(Duration::from_secs(5))? {
        // The end moved to the child; when the child ends, it is closed.
        let Ok((n, found)) = rx.recv() else { break };
        println!("up to {n:>6}: {found:>5} primes");
    }
    println!("together:      {:>5} primes", child.join()?);
    Ok(())
}
