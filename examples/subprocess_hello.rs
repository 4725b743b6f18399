//! Programs instead of functions: what they print, what they are told, and how they end.
//!
//! `cargo run --example subprocess_hello` prints
//!
//! ```text
//! echo said "hello\n"
//! tr made "HELLO" of it
//! `false` exited with code 1
//! the status of a shell line: 3
//! `sleep 60` had not ended after 50ms
//! a pipeline: "a\nb\n"
//! ```

use std::time::Duration;

use mp::subprocess::{self, Program};

fn main() -> Result<(), mp::Error> {
    // No `init`: programs are not functions of this one.
    let done = Program::from(["echo", "hello"]).capture_output().run()?;
    println!("echo said {:?}", done.stdout_text());

    let done = Program::from(["tr", "a-z", "A-Z"])
        .input("hello")
        .capture_output();
    println!("tr made {:?} of it", done.run()?.stdout_text());

    // `check` makes a bad end an error.
    let error = Program::new("false").check().run().unwrap_err();
    println!("{error}");
    let (status, _output) = subprocess::getstatusoutput("exit 3")?;
    println!("the status of a shell line: {status}");

    // After the time limit the program is dead, and so is what it has started.
    let slow = Program::from(["sleep", "60"]).timeout(Duration::from_millis(50));
    println!("{}", slow.run().unwrap_err());

    let sorted = Program::from(["printf", "b\\na\\n"]) | "sort";
    println!(
        "a pipeline: {:?}",
        sorted.capture_output().run()?.stdout_text()
    );
    Ok(())
}
