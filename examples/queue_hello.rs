//! The smallest queue: a child puts, the parent gets.
//!
//! `cargo run --example queue_hello` prints
//!
//! ```text
//! hello from a child
//! ```

use mp::{Process, Queue};

fn greet(queue: Queue<String>, name: String) {
    queue.put(format!("hello from {name}")).unwrap();
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let queue = Queue::new()?;
    let child = Process::new(greet, (queue.clone(), "a child".to_owned())).start()?;
    println!("{}", queue.get()?);
    child.join()?;
    Ok(())
}
