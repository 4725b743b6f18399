//! A large value that all tasks need: sent to each worker once, not with each task.
//!
//!     cargo run --release --example pool_share

use mp::{Pool, Share};

/// Which numbers below `limit` are prime.
fn sieve(limit: usize) -> Vec<bool> {
    let mut prime = vec![true; limit];
    prime[..2].fill(false);
    for n in (2..).take_while(|n| n * n < limit) {
        if prime[n] {
            (n * n..limit)
                .step_by(n)
                .for_each(|multiple| prime[multiple] = false);
        }
    }
    prime
}

/// In how many ways `n` is the sum of two primes.
fn sums(n: usize, prime: Share<Vec<bool>>) -> usize {
    (2..=n / 2).filter(|a| prime[*a] && prime[n - a]).count()
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let pool = Pool::new(2)?;
    let prime = pool.share(sieve(1_000_000))?;
    let even = (4..1_000_000).step_by(50_000);
    let ways = pool.starmap(sums, even.clone().map(|n| (n, prime.clone())))?;
    for (n, ways) in even.zip(&ways) {
        println!("{n} is the sum of two primes in {ways} ways");
    }
    assert!(ways.iter().all(|ways| *ways > 0), "Goldbach was wrong");

    pool.close().join()?;
    Ok(())
}
