//! The same with a type of one's own: state in the struct, work in `run`.
//!
//! `cargo run --example process_struct` prints
//!
//! ```text
//! I am no. 1, my name is P, greeter has pid <pid>
//! ```

use mp::{Event, Process, Run};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greeter {
    seq: u32,
    letter: char,
    go: Event,
}

impl Run for Greeter {
    type Output = usize;

    fn run(self) -> usize {
        self.go.wait();
        let me = mp::current_process();
        println!(
            "I am no. {}, my name is {}, {} has pid {}",
            self.seq,
            self.letter,
            me.name(),
            me.pid()
        );
        self.letter.len_utf8()
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let go = Event::new()?;
    let child = Process::run(Greeter {
        seq: 1,
        letter: 'P',
        go: go.clone(),
    })
    .name("greeter")
    .daemon(true)
    .start()?;
    assert_eq!(child.name(), "greeter");
    assert!(child.is_alive());
    assert_eq!(child.exitcode(), None);
    go.set();

    // What the function returned comes back from `join`: Python has no such thing.
    assert_eq!(child.join()?, 1);
    Ok(())
}
