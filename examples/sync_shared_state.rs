//! Shared values and what keeps their changes apart: locks, a barrier, an event, permits, a condition.
//!
//! `cargo run --example sync_shared_state` prints
//!
//! ```text
//! the balance is 20000
//! the cells are [0.0, 0.5, 1.0, 1.5]
//! at most 2 of 5 at a time: true
//! the condition came with 3
//! the last holder died with the lock, which is free again
//! ```

use std::sync::atomic::Ordering::SeqCst;

use mp::{Array, Barrier, Condition, Event, Lock, Process, RawValue, Semaphore, Value};

/// Both children begin at once, and no update is lost.
fn deposit(balance: Value<i64>, start: Barrier) {
    start.wait().unwrap();
    for _ in 0..10_000 {
        *balance.lock().unwrap() += 1;
    }
}

fn fill(cells: Array<f64>, done: Event) {
    for (i, cell) in cells.lock().unwrap().iter_mut().enumerate() {
        *cell = i as f64 / 2.0;
    }
    done.set();
}

/// Holds a permit for a while; `inside` and `most` are atomics that all processes share.
fn visit(seats: Semaphore, inside: RawValue<u32>, most: RawValue<u32>) {
    let _seat = seats.acquire().unwrap(); // goes back at the end, whatever the end is
    most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
    std::thread::yield_now();
    inside.fetch_sub(1, SeqCst);
}

fn count_up(stage: Value<u32>, changed: Condition) {
    for _ in 0..3 {
        *stage.lock().unwrap() += 1;
        changed.notify_all();
    }
}

fn die_holding(lock: Lock) {
    let _guard = lock.lock().unwrap();
    std::process::abort();
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let (balance, start) = (Value::new(0_i64)?, Barrier::new(2)?);
    let children =
        [(); 2].map(|()| Process::new(deposit, (balance.clone(), start.clone())).start());
    for child in children {
        child?.join()?;
    }
    println!("the balance is {}", balance.get()?);

    let (cells, done) = (Array::zeroed(4)?, Event::new()?);
    let child = Process::new(fill, (cells.clone(), done.clone())).start()?;
    done.wait();
    println!("the cells are {:?}", cells.to_vec()?);
    child.join()?;

    let seats = Semaphore::new(2)?;
    let (inside, most) = (RawValue::new(0_u32)?, RawValue::new(0_u32)?);
    let visitors = [(); 5].map(|()| {
        let arguments = (seats.clone(), inside.clone(), most.clone());
        Process::new(visit, arguments).start()
    });
    for visitor in visitors {
        visitor?.join()?;
    }
    println!("at most 2 of 5 at a time: {}", most.get() <= 2);

    let (stage, changed) = (Value::new(0_u32)?, Condition::new()?);
    let child = Process::new(count_up, (stage.clone(), changed.clone())).start()?;
    let reached = changed.wait_while(stage.lock()?, |stage| **stage < 3)?;
    println!("the condition came with {}", *reached);
    drop(reached);
    child.join()?;

    // Who dies with a lock does not take it along: the next one has it, and is told.
    let lock = Lock::new()?;
    let died = Process::new(die_holding, (lock.clone(),)).start()?.join();
    assert!(died.is_err());
    let told = lock.lock().expect_err("the last holder died");
    drop(told.into_guard()); // what the lock guards has been looked at, and is fine
    drop(lock.lock()?);
    println!("the last holder died with the lock, which is free again");
    Ok(())
}
