//! Tellers in several processes move money between accounts while one after another is killed.
//!
//!     cargo run --example bank
//!
//! The lock survives its owner, and tells the next one. What a dead teller had begun was written
//! down first, so the next one takes it back, and no money is made or lost.

use std::{
    sync::atomic::{Ordering, fence},
    thread,
    time::Duration,
};

use mp::{Array, ArrayGuard, LockError, Process};

const ACCOUNTS: usize = 8;
const TELLERS: u64 = 4;
const KILLS: usize = 40;

/// The accounts, and behind them what is being changed: account and amount, from and to. The first of
/// these is -1 while nothing is: it is written last, and crossed out last.
const BOOK: usize = ACCOUNTS + 4;

fn tell(book: Array<i64>, mut seed: u64) {
    loop {
        let mut book = enter(&book);
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let (from, to) = (
            (seed >> 33) as usize % ACCOUNTS,
            (seed >> 40) as usize % ACCOUNTS,
        );
        let amount = (seed >> 50) as i64 % 100;

        // The fences keep the order for who looks after a death, which may come between any two.
        let before = [book[from], to as i64, book[to]];
        book[ACCOUNTS + 1..].copy_from_slice(&before);
        fence(Ordering::SeqCst); // all of it is written down before it counts ...
        book[ACCOUNTS] = from as i64;
        fence(Ordering::SeqCst); // ... and counts before anything is changed
        book[from] -= amount;
        thread::sleep(Duration::from_micros(20)); // many will be killed right here
        book[to] += amount;
        fence(Ordering::SeqCst);
        book[ACCOUNTS] = -1; // crossed out
    }
}

/// Takes the lock; repairs the book if whoever had it died.
fn enter(book: &Array<i64>) -> ArrayGuard<'_, i64> {
    match book.lock() {
        Ok(book) => book,
        Err(LockError::OwnerDied(mut died)) => {
            let book = died.get_mut();
            if book[ACCOUNTS] >= 0 {
                let [from, from_before, to, to_before] = [0, 1, 2, 3].map(|i| book[ACCOUNTS + i]);
                book[to as usize] = to_before;
                book[from as usize] = from_before;
                fence(Ordering::SeqCst); // who repairs may be killed, too
                book[ACCOUNTS] = -1;
                fence(Ordering::SeqCst); // before the next change is written down
            }
            died.into_guard() // repaired: the next owner is not told again
        }
        Err(error) => panic!("{error}"),
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let mut start = [0; BOOK];
    start[..ACCOUNTS].fill(1000);
    start[ACCOUNTS] = -1;
    let book = Array::from_slice(&start)?;
    let hire = |seed| {
        Process::new(tell, (book.clone(), seed))
            .daemon(true)
            .start()
    };
    let mut tellers = (0..TELLERS).map(hire).collect::<Result<Vec<_>, _>>()?;

    for kill in 0..KILLS {
        thread::sleep(Duration::from_millis(5));
        let victim = &mut tellers[kill % TELLERS as usize];
        victim.kill()?;
        victim.wait()?;
        *victim = hire(TELLERS + kill as u64)?;
        let total: i64 = enter(&book)[..ACCOUNTS].iter().sum();
        assert_eq!(total, 1000 * ACCOUNTS as i64);
    }
    println!(
        "{KILLS} tellers killed, and the accounts hold {:?}",
        &enter(&book)[..ACCOUNTS]
    );
    Ok(())
}
