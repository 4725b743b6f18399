//! Children that end badly, and what their parent is told: each costs nobody but itself.
//!
//! `cargo run --example crash_and_report` prints
//!
//! ```text
//! process segfault (pid <pid>) was ended by signal 11 (SIGSEGV)
//! process hog (pid <pid>) was ended by signal 6 (SIGABRT), probably by its memory limit (<number> of 100 MiB used)
//! process panics (pid <pid>) panicked at examples/crash_and_report.rs:<line>: index out of bounds: the len is 1 but the index is 3
//!     for an editor: examples/crash_and_report.rs:<line>
//! process quits (pid <pid>) exited with code 3
//! process overflows (pid <pid>) was ended by signal 6 (SIGABRT)
//! process killed (pid <pid>) was ended by signal 9 (SIGKILL)
//! ```
#![allow(unsafe_code)] // one of them reads where nothing is

use std::time::Duration;

use mp::{ExitError, Process};

fn segfault(address: usize) -> u8 {
    // SAFETY: there is none; that is the point.
    unsafe { std::ptr::without_provenance::<u8>(address).read_volatile() }
}

fn hog(mebibytes: usize) -> usize {
    let mut memory = Vec::new();
    for _ in 0..mebibytes {
        memory.push(vec![1_u8; 1 << 20]);
    }
    memory.len()
}

fn index(words: Vec<String>, at: usize) -> String {
    words[at].clone()
}

fn give_up(code: i32) {
    std::process::exit(code);
}

fn overflow(depth: u64) -> u64 {
    if depth == u64::MAX {
        0
    } else {
        std::hint::black_box(overflow(depth + 1)) + 1
    }
}

fn sleep(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    // All at once; the text of each error is made for its reader.
    let segfault = Process::new(segfault, (8,)).name("segfault").start()?;
    let hog = Process::new(hog, (400,))
        .name("hog")
        .memory_limit(100 << 20)
        .start()?;
    let panics = Process::new(index, (vec!["one".to_owned()], 3))
        .name("panics")
        .quiet_panics(true) // only to its parent
        .start()?;
    let quits = Process::new(give_up, (3,)).name("quits").start()?;
    let overflows = Process::new(overflow, (0,)).name("overflows").start()?;
    let killed = Process::new(sleep, (60,)).name("killed").start()?;
    killed.kill()?;

    println!("{}", segfault.join().unwrap_err());
    println!("{}", hog.join().unwrap_err());
    let error = panics.join().unwrap_err();
    println!("{error}");
    if let ExitError::Panic {
        location: Some(location),
        ..
    } = error
    {
        println!("    for an editor: {location}");
    }
    println!("{}", quits.join().unwrap_err());
    println!("{}", overflows.join().unwrap_err());
    println!("{}", killed.join().unwrap_err());

    // And this process is none the worse for it.
    assert_eq!(
        Process::new(|a: u32, b: u32| a + b, (40, 2))
            .start()?
            .join()?,
        42
    );
    Ok(())
}
