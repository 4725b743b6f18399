//! `submit`, `map` and `shutdown`, as in Python's `concurrent.futures`.
//!
//! `cargo run --example executor` prints
//!
//! ```text
//! 1099726899285419 is prime: false
//! 1099726899285421 is prime: false
//! 97 is prime: true
//! 98 is prime: false
//! 112272535095293 is prime: true
//! worker <pid> died with the task: signal 6 (SIGABRT)
//! ```

use mp::{Executor, TaskError};

fn is_prime(n: u64) -> bool {
    n > 1
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let executor = Executor::new(2)?;
    let one = executor.submit(is_prime, (112_272_535_095_293,));
    let numbers = [1_099_726_899_285_419, 1_099_726_899_285_421, 97, 98];
    // Lazy: a few numbers ahead of what is asked for, so the input may be endless.
    for (number, prime) in numbers.iter().zip(executor.map(is_prime, numbers)) {
        println!("{number} is prime: {}", prime?);
    }
    println!("112272535095293 is prime: {}", one.get()?);

    // A crash is the error of its task, and of no other.
    let crash = executor.submit(|| std::process::abort(), ());
    let outcome: Result<(), TaskError> = crash.get();
    println!("{}", outcome.unwrap_err());

    executor.shutdown(true, false)?; // dropping it would do the same
    Ok(())
}
