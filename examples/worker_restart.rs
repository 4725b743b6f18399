//! A worker is killed with a job in hand; another one does that job, and none is lost.
//!
//! `cargo run --example worker_restart` prints
//!
//! ```text
//! process worker-1 (pid <pid>) was ended by signal 9 (SIGKILL)
//! it had this job in hand: pear
//! apple has 5 letters, says worker-1
//! plum has 4 letters, says worker-1
//! fig has 3 letters, says worker-2
//! pear has 4 letters, says worker-2
//! ```

use std::{collections::BTreeMap, thread};

use mp::{Event, Process, Queue};

/// Takes jobs until the queue is closed. One of them hangs when it is done for the first time.
fn work(jobs: Queue<String>, results: Queue<String>, hung: Event) {
    while let Ok(word) = jobs.get_claimed() {
        if *word == "pear" && !hung.is_set() {
            hung.set();
            loop {
                thread::park();
            }
        }
        let (letters, worker) = (word.len(), mp::current_process());
        let result = format!("{} has {letters} letters, says {}", *word, worker.name());
        results.put(result).expect("nobody closes it");
        // In hand until here: killed just before, a worker has done the job, and `take_lost` names it all
        // the same.
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let (jobs, results, hung) = (Queue::new()?, Queue::new()?, Event::new()?);
    let mut given = BTreeMap::new(); // by number, which is all that is known of a lost job
    for word in ["apple", "plum", "pear", "fig"] {
        given.insert(jobs.put_numbered(word.to_owned())?, word);
    }
    let start = |name: &str| {
        let arguments = (jobs.clone(), results.clone(), hung.clone());
        Process::new(work, arguments).name(name).start()
    };

    let worker = start("worker-1")?;
    hung.wait();
    worker.kill()?;
    println!("{}", worker.join().unwrap_err());
    for lost in jobs.take_lost()? {
        let word = given.remove(&lost.number).expect("it was given");
        println!("it had this job in hand: {word}");
        given.insert(jobs.put_numbered(word.to_owned())?, word);
    }

    let worker = start("worker-2")?;
    for result in results.iter().take(given.len()) {
        println!("{}", result?);
    }
    jobs.close();
    worker.join()?;
    Ok(())
}
