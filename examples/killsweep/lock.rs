//! Tellers move amounts between accounts under one lock; one after the other is killed and replaced.
//!
//! A teller writes down what it is about to change, changes it, and crosses that out. Who is told
//! that an owner died takes the change back, if it is still written down: then the books balance.

use std::{
    sync::atomic::{Ordering::SeqCst, fence},
    thread,
    time::Duration,
};

use mp::{Array, ArrayGuard, LockError, Process, RawArray, StartMethod};

use crate::report::{Options, Random, Report, Watch, join};

const TELLERS: usize = 4;
const ACCOUNTS: usize = 64;
const DEPOSIT: u64 = 1000;

// What is written down, before the accounts; then how many transfers there have been.
const OPEN: usize = 0;
const FROM: usize = 1;
const FROM_BEFORE: usize = 2;
const TO: usize = 3;
const TO_BEFORE: usize = 4;
const DONE_BEFORE: usize = 5;
const DONE: usize = 6;
const FIRST: usize = 7;

// Counters.
const STOP: usize = 0;
const NOTICES: usize = 1;
const TORN: usize = 2;
const SEEN: usize = 3;
const ACKED: usize = 4; // and one more for each teller

struct Bank {
    book: Array<u64>,
    counters: RawArray<u64>,
    tellers: Vec<Process>,
    method: StartMethod,
    incarnation: u64,
}

pub(crate) fn sweep(options: &Options) -> Result<Report, mp::Error> {
    let mut bank = Bank::open(options.method)?;
    let mut random = Random(options.seed);
    let (mut report, mut watch) = (Report::default(), Watch::new());
    while report.kills < options.kills && report.hangs == 0 {
        thread::sleep(Duration::from_micros(random.below(1500)));
        bank.replace(random.below(TELLERS as u64) as usize)?;
        report.kills += 1;
        report.hangs += u64::from(watch.is_stuck(&bank.counters[SEEN]));
    }
    if report.hangs == 0 {
        bank.close(&mut report)?;
    }
    report.worst_stall = watch.worst();
    Ok(report)
}

impl Bank {
    fn open(method: StartMethod) -> Result<Self, mp::Error> {
        let mut book = [0; FIRST + ACCOUNTS];
        book[FIRST..].fill(DEPOSIT);
        let mut bank = Self {
            book: Array::from_slice(&book)?,
            counters: RawArray::zeroed(ACKED + TELLERS)?,
            tellers: Vec::new(),
            method,
            incarnation: 0,
        };
        for teller in 0..TELLERS {
            let process = bank.teller(teller)?;
            bank.tellers.push(process);
        }
        Ok(bank)
    }

    fn teller(&self, teller: usize) -> Result<Process, mp::Error> {
        let args = (
            self.book.clone(),
            self.counters.clone(),
            teller,
            self.incarnation,
        );
        Ok(Process::new(work, args).start_method(self.method).start()?)
    }

    fn replace(&mut self, teller: usize) -> Result<(), mp::Error> {
        self.tellers[teller].kill()?;
        self.tellers[teller].wait()?;
        self.incarnation += 1;
        self.tellers[teller] = self.teller(teller)?;
        Ok(())
    }

    fn close(&mut self, report: &mut Report) -> Result<(), mp::Error> {
        self.counters[STOP].store(1, SeqCst);
        for teller in self.tellers.drain(..) {
            join(teller, report)?;
        }
        let book = enter(&self.book, &self.counters);
        let count = |counter: usize| self.counters[counter].load(SeqCst);
        let acked: u64 = (0..TELLERS).map(|teller| count(ACKED + teller)).sum();
        report.committed = book[DONE];
        // Each death with the lock is told once: these were in the hands of the killed.
        report.in_hand = count(NOTICES);
        report.doubled = count(NOTICES).saturating_sub(report.kills);
        report.lost = acked.saturating_sub(book[DONE]);
        report.torn = count(TORN);
        Ok(())
    }
}

fn work(book: Array<u64>, counters: RawArray<u64>, teller: usize, incarnation: u64) {
    let mut random = Random(teller as u64 ^ incarnation << 8);
    while counters[STOP].load(SeqCst) == 0 {
        let mut book = enter(&book, &counters);
        let from = FIRST + random.below(ACCOUNTS as u64) as usize;
        let to = FIRST + random.below(ACCOUNTS as u64) as usize;
        let amount = random.below(10).min(book[from]);
        transfer(&mut book, from, to, amount);
        drop(book);
        counters[ACKED + teller].fetch_add(1, SeqCst);
        counters[SEEN].fetch_add(1, SeqCst);
    }
}

/// Takes the lock, repairs what a dead teller left, and looks whether the books balance.
fn enter<'a>(book: &'a Array<u64>, counters: &RawArray<u64>) -> ArrayGuard<'a, u64> {
    let guard = match book.lock() {
        Ok(guard) => guard,
        Err(LockError::OwnerDied(mut died)) => {
            repair(died.get_mut());
            counters[NOTICES].fetch_add(1, SeqCst);
            died.into_guard()
        }
        Err(error) => panic!("{error}"),
    };
    let sum: u64 = guard[FIRST..].iter().sum();
    if guard[OPEN] != 0 || sum != DEPOSIT * ACCOUNTS as u64 {
        counters[TORN].fetch_add(1, SeqCst);
    }
    guard
}

/// The fences keep the order for who looks after a death; they cost the living nothing that shows.
fn transfer(book: &mut [u64], from: usize, to: usize, amount: u64) {
    book[FROM] = from as u64;
    book[FROM_BEFORE] = book[from];
    book[TO] = to as u64;
    book[TO_BEFORE] = book[to];
    book[DONE_BEFORE] = book[DONE];
    fence(SeqCst);
    book[OPEN] = 1;
    fence(SeqCst);
    book[from] -= amount;
    fence(SeqCst); // a death may come between the two
    book[to] += amount;
    book[DONE] += 1;
    fence(SeqCst);
    book[OPEN] = 0;
}

fn repair(book: &mut [u64]) {
    if book[OPEN] != 0 {
        let (from, to) = (book[FROM] as usize, book[TO] as usize);
        book[to] = book[TO_BEFORE];
        book[from] = book[FROM_BEFORE];
        book[DONE] = book[DONE_BEFORE];
        fence(SeqCst);
        book[OPEN] = 0;
    }
}
