//! A Python program and this one share a segment by its name.
//!
//!     cargo run --example python_shared_memory
//!
//! Rust makes the memory and a list in it, Python changes both, Rust reads what Python wrote.

use std::process::Command;

use mp::{ShareableList, SharedMemory};

/// Before Python 3.13 attaching registers a segment for removal: undone, since it is ours.
const SCRIPT: &str = "
import sys
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *args: None

memory = shared_memory.SharedMemory(sys.argv[1])
memory.buf[0] = sum(memory.buf[1:5])
memory.close()

items = shared_memory.ShareableList(name=sys.argv[2])
print('Python finds', list(items))
items[0] = items[0].upper()
items[1] = items[1] * 2
items.shm.close()
";

fn main() -> Result<(), mp::Error> {
    mp::init();

    let memory = SharedMemory::create(None, 5)?;
    memory.write(1, &[1, 2, 3, 4]);
    let items = ShareableList::create(None, ["spam".into(), 21.into(), true.into()])?;

    let python = Command::new("python3")
        .args(["-c", SCRIPT, memory.name(), items.shared_memory().name()])
        .status();
    match python {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            println!("skipped: python_shared_memory needs python3 ({error})");
            return Ok(());
        }
    }

    let mut sum = [0];
    memory.read(0, &mut sum);
    println!(
        "Python's sum is {}, its list {:?}",
        sum[0],
        items.to_vec().unwrap()
    );
    assert_eq!((sum, items.get(1)), ([10], Ok(42.into())));
    Ok(())
}
