//! Ends children in all ways, and tells how each of them ended.
//!
//! `cargo run --example process_signals` prints
//!
//! ```text
//! sleeps: still alive after 50 ms
//! sleeps: exit code -15 after terminate()
//! process sleeps-2 (pid <pid>) was ended by signal 9 (SIGKILL)
//! process quits (pid <pid>) exited with code 3
//! process panics (pid <pid>) panicked at examples/process_signals.rs:<line>: index 7 of 3
//! returns: 42
//! ```

use std::{process, thread, time::Duration};

use mp::{ExitError, Process};

fn sleep(seconds: u64) {
    thread::sleep(Duration::from_secs(seconds));
}

fn quit(code: i32) {
    process::exit(code);
}

fn index(at: usize, len: usize) {
    assert!(at < len, "index {at} of {len}");
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let child = Process::new(sleep, (60,)).name("sleeps").start()?;
    if !child.join_timeout(Duration::from_millis(50))? {
        println!("{}: still alive after 50 ms", child.name());
    }
    child.terminate()?; // SIGTERM, which a child may handle
    child.wait()?;
    let code = child.exitcode().expect("it has ended");
    println!("{}: exit code {code} after terminate()", child.name());

    let child = Process::new(sleep, (60,)).name("sleeps-2").start()?;
    child.kill()?; // SIGKILL, which nobody can handle
    println!("{}", child.join().unwrap_err());

    let child = Process::new(quit, (3,)).name("quits").start()?;
    println!("{}", child.join().unwrap_err());

    // A panic is not printed by the child if its parent wants to tell it.
    let child = Process::new(index, (7, 3)).name("panics");
    let error = child.quiet_panics(true).start()?.join().unwrap_err();
    assert!(matches!(error, ExitError::Panic { .. }));
    println!("{error}");

    let child = Process::new(|a: u32, b: u32| a * b, (6, 7)).start()?;
    println!("returns: {}", child.join()?);
    Ok(())
}
