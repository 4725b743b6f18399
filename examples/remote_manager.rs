//! Two programs, on one machine or on two, and what they share by address, key and name.
//!
//!     (umask 077; head -c 32 /dev/urandom | base64 >key)
//!     cargo run --example remote_manager serve 127.0.0.1:5000 <key     in one terminal
//!     cargo run --example remote_manager work  127.0.0.1:5000 <key     in others, as often as you like
//!
//! The key comes over standard input: every user of a machine can read the arguments of its programs.
//! The server has numbers to factor; each worker takes some, and the server prints what comes back.
//! Kill a worker in the middle: what it had taken is counted as lost, and the others go on.
//! Without arguments it plays all the parts itself. Beyond your own machine, tunnel the port (SSH):
//! the key proves who connects and encrypts nothing.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use mp::{AuthKey, Dict, Manager, manager::JoinableQueue, pipe::Address};

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
        .map(|_| hire(&me, &at, key))
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

/// This program once more, as a worker.
fn hire(me: &Path, address: &str, key: &str) -> io::Result<Child> {
    let mut command = Command::new(me);
    command.args(["work", address]).stdin(Stdio::piped());
    let mut worker = command.spawn()?;
    let mut stdin = worker.stdin.take().expect("it is piped");
    writeln!(stdin, "{key}")?;
    Ok(worker)
}

fn given_key() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let key = line.trim();
    if key.is_empty() {
        return Err(io::Error::other("the key is expected on standard input"));
    }
    Ok(key.to_owned())
}

/// A key as text, so that it makes one line.
fn random_key() -> String {
    let key = AuthKey::random();
    key.as_bytes().iter().map(|b| format!("{b:02x}")).collect()
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
        ["serve", address] => serve(address.parse()?, &given_key()?, 0),
        ["work", address] => work(address.parse()?, &given_key()?),
        [] => serve("127.0.0.1:0".parse()?, &random_key(), 2),
        _ => {
            eprintln!("remote_manager [serve ADDRESS <KEY | work ADDRESS <KEY]");
            std::process::exit(2);
        }
    }
}
