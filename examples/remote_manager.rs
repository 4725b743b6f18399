//! Two programs, on one machine or on two, and what they share by address, key and name.
//!
//!     cargo run --example remote_manager serve 127.0.0.1:5000 KEY     in one terminal
//!     cargo run --example remote_manager work  127.0.0.1:5000 KEY     in others, as often as you like
//!
//! The server has numbers to factor; each worker takes some, and the server prints what comes back.
//! Kill a worker in the middle: what it had taken is counted as lost, and the others go on.
//! Without arguments it plays all the parts itself. Beyond your own machine, tunnel the port (SSH):
//! the key proves who connects and encrypts nothing.

use std::{collections::BTreeMap, process::Command};

use mp::{Dict, Manager, manager::JoinableQueue, pipe::Address};

type Factors = Dict<u64, Vec<u64>>;

fn serve(address: Address, key: &str, workers: u32) -> Result<(), mp::Error> {
    let manager = Manager::builder().address(address).authkey(key).start()?;
    let numbers: JoinableQueue<u64> = manager.joinable_queue()?;
    let factors: Factors = manager.dict()?;
    numbers.put_many((1..=40).map(|n| 1_000_000_007 * n + 1))?;
    numbers.close()?;
    manager.share("numbers", &numbers)?;
    manager.share("factors", &factors)?;
    println!("serving at {}", manager.address());

    let me = std::env::current_exe()?;
    let at = manager.address().to_string();
    let mut children: Vec<_> = (0..workers)
        .map(|_| Command::new(&me).args(["work", at.as_str(), key]).spawn())
        .collect::<Result<_, _>>()?;
    numbers.join()?;
    for child in &mut children {
        child.wait()?;
    }
    let found: BTreeMap<_, _> = factors.items()?.into_iter().collect();
    for (number, factors) in found.iter().take(5) {
        println!("{number} = {factors:?}");
    }
    println!(
        "… {} numbers factored, {} lost",
        found.len(),
        numbers.lost()?
    );
    Ok(())
}

fn work(address: Address, key: &str) -> Result<(), mp::Error> {
    let manager = Manager::connect(address, key)?;
    let numbers: JoinableQueue<u64> = manager.find("numbers")?;
    let factors: Factors = manager.find("factors")?;
    let mut count = 0;
    for number in numbers.iter() {
        let number = number?;
        factors.insert(number, factor(number))?;
        numbers.task_done()?;
        count += 1;
    }
    println!("worker {} factored {count} numbers", std::process::id());
    Ok(())
}

fn factor(mut number: u64) -> Vec<u64> {
    let mut factors = Vec::new();
    let mut divisor = 2;
    while divisor * divisor <= number {
        while number.is_multiple_of(divisor) {
            factors.push(divisor);
            number /= divisor;
        }
        divisor += 1;
    }
    if number > 1 {
        factors.push(number);
    }
    factors
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address, key] => serve(address.parse()?, key, 0),
        ["work", address, key] => work(address.parse()?, key),
        [] => serve(
            "127.0.0.1:0".parse()?,
            "not a secret: others see arguments",
            2,
        ),
        _ => {
            eprintln!("remote_manager [serve ADDRESS KEY | work ADDRESS KEY]");
            std::process::exit(2);
        }
    }
}
