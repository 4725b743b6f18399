//! A type of one's own in a manager: a bank with accounts that live in the server.
//!
//! The trait says what clients can ask for, the macro makes a proxy of it, and the server runs
//! the implementation. Two clerks, each a process of its own, move money at the same time.

use std::{collections::BTreeMap, sync::Mutex};

use mp::{
    List, Manager, Process,
    manager::{CallError, Client, managed},
};

managed! {
    /// Accounts by name.
    trait Bank => BankProxy {
        /// Opens an account with so much on it.
        fn open(&self, name: String, balance: u64);
        /// Moves money, if there is enough.
        fn transfer(&self, from: String, to: String, amount: u64) -> Result<(), String>;
        /// What is on all accounts.
        fn balances(&self) -> BTreeMap<String, u64>;
        /// Everything that was refused: an object of its own, which stays live.
        fn refused(&self) -> List<String>;
        /// Is wrong about something.
        fn audit(&self);
    }
}

struct Vault {
    accounts: Mutex<BTreeMap<String, u64>>,
    refused: List<String>,
}

impl Bank for Vault {
    fn open(&self, name: String, balance: u64) {
        self.accounts.lock().unwrap().insert(name, balance);
    }

    fn transfer(&self, from: String, to: String, amount: u64) -> Result<(), String> {
        let mut accounts = self.accounts.lock().unwrap();
        let have = accounts
            .get(&from)
            .copied()
            .ok_or_else(|| format!("no account {from}"))?;
        if !accounts.contains_key(&to) {
            return Err(format!("no account {to}"));
        }
        let Some(rest) = have.checked_sub(amount) else {
            drop(accounts);
            let text = format!("{from} has {have}, not {amount}");
            self.refused
                .push(text.clone())
                .map_err(|error| error.to_string())?;
            return Err(text);
        };
        accounts.insert(from, rest);
        *accounts.get_mut(&to).expect("seen above") += amount;
        Ok(())
    }

    fn balances(&self) -> BTreeMap<String, u64> {
        self.accounts.lock().unwrap().clone()
    }

    fn refused(&self) -> List<String> {
        self.refused.clone()
    }

    fn audit(&self) {
        panic!("the books do not balance");
    }
}

fn clerk(bank: BankProxy, from: String, to: String) -> u32 {
    let transfer = || {
        bank.transfer(from.clone(), to.clone(), 7)
            .expect("the bank is open")
    };
    (0..200).map(|_| transfer()).filter(Result::is_ok).count() as u32
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let manager = Manager::builder()
        .setup(|registry| {
            BankProxy::register(registry, |()| Vault {
                accounts: Mutex::default(),
                refused: Client::here()
                    .expect("this runs in the server")
                    .list()
                    .expect("and is cheap"),
            });
        })
        .start()?;
    let bank: BankProxy = manager.create(&())?;
    bank.open("ann".to_owned(), 1000)?;
    bank.open("bob".to_owned(), 100)?;

    let clerks = [("ann", "bob"), ("bob", "ann")].map(|(from, to)| {
        let args = (bank.clone(), from.to_owned(), to.to_owned());
        Process::new(clerk, args).start()
    });
    for clerk in clerks {
        let clerk = clerk?;
        let name = clerk.name().to_owned();
        println!("{name} made {} transfers", clerk.join()?);
    }
    let balances = bank.balances()?;
    println!(
        "{balances:?}, {} transfers were refused",
        bank.refused()?.len()?
    );
    assert_eq!(balances.values().sum::<u64>(), 1100, "no money is lost");

    // A method that fails or panics is its caller's error; the object and the server live on.
    let answer = bank.transfer("eve".to_owned(), "bob".to_owned(), 1)?;
    assert_eq!(answer, Err("no account eve".to_owned()));
    match bank.audit() {
        Err(CallError::Panicked { message, .. }) => println!("the audit panicked: {message}"),
        other => unreachable!("{other:?}"),
    }
    assert_eq!(bank.balances()?, balances);
    Ok(())
}
