//! The same function in a child, made in each of the three ways: what is the same, what differs,
//! and how long it takes.
//!
//! `cargo run --release --example start_methods` for times that mean something.
use std::time::{Duration, Instant};

use mp::{Context, ExitStatus, Process, StartMethod};

fn answer(question: String) -> (u32, String) {
    (std::process::id(), format!("{question} 42"))
}

/// The median time from start to join, and a child's answer.
fn time(method: StartMethod) -> Result<(Duration, String), mp::Error> {
    let context = Context::new(method);
    let mut times = Vec::new();
    for _ in 0..21 {
        let begin = Instant::now();
        let child = context.process(answer, ("6 × 7 =".to_owned(),)).start()?;
        let pid = child.pid();
        let (said, _) = child.join()?;
        times.push(begin.elapsed());
        assert_eq!(said, pid);
    }
    times.sort();
    let child = context.process(answer, ("6 × 7 =".to_owned(),)).start()?;
    Ok((times[times.len() / 2], child.join()?.1))
}

fn main() -> Result<(), mp::Error> {
    mp::init();
    println!("the default is {}", mp::start_method());

    for method in StartMethod::all() {
        let (median, answer) = time(method)?;
        println!("{method:<10} {median:>9.1?}   {answer}");
    }

    // A fork is a copy of this process: its function may capture what is here, and borrow it.
    let words = ["what", "is", "here"].map(str::to_owned);
    let child = Process::fork(|| words.join(" ")).start()?;
    println!("a fork knows {:?}", child.join()?);

    // That is why there must be no other thread: what it was doing would be half done in the copy.
    let refused = std::thread::scope(|scope| {
        let started = || Process::fork(|| words.len()).start().map(drop);
        scope.spawn(started).join().expect("it does not panic")
    });
    println!("from a thread: {}", refused.expect_err("refused"));

    // The others start from any thread, and every child can be waited for, ended, and asked how.
    let child = std::thread::spawn(|| {
        let sleep = || std::thread::sleep(Duration::from_secs(60));
        Process::new(sleep, ())
            .start_method(StartMethod::ForkServer)
            .start()
    });
    let child = child.join().expect("it does not panic")?;
    child.terminate()?;
    assert_eq!(child.wait()?, ExitStatus::Signal(15));
    Ok(())
}
