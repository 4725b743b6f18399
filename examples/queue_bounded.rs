//! A queue that can be full, that can be waited for with patience or without, and that ends.
//!
//! `cargo run --example queue_bounded` prints
//!
//! ```text
//! full: 3 comes back
//! 2 in the queue
//! got 1
//! got 2
//! nothing came within 10 ms
//! from two children: [0, 1, 2, 100, 101, 102]
//! closed: nothing can be put any more
//! ```

use std::time::Duration;

use mp::{Process, Queue, TryGetError, TryPutError};

fn produce(queue: Queue<u64>, from: u64) {
    for n in from..from + 3 {
        queue.put(n).expect("the parent closes when all is done"); // waits while it is full
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let queue = Queue::bounded(2)?;
    queue.put(1)?;
    queue.try_put(2)?;
    if let Err(TryPutError::Full(value)) = queue.try_put(3) {
        println!("full: {value} comes back");
    }
    println!("{} in the queue", queue.len());
    println!("got {}", queue.get()?);
    println!("got {}", queue.try_get()?);
    if let Err(TryGetError::Empty) = queue.get_timeout(Duration::from_millis(10)) {
        println!("nothing came within 10 ms");
    }

    let children = [0, 100].map(|from| Process::new(produce, (queue.clone(), from)).start());
    let mut values: Vec<u64> = queue.iter().take(6).collect::<Result<_, _>>()?;
    values.sort();
    println!("from two children: {values:?}");
    for child in children {
        child?.join()?;
    }

    queue.close(); // for everybody: what is in it could still be taken
    if queue.put(4).is_err() {
        println!("closed: nothing can be put any more");
    }
    Ok(())
}
