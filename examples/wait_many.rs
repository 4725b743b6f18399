//! Which of many is ready: connections, a listener, and the end of processes, all in one call.
//!
//! `cargo run --example wait_many`

use std::{os::fd::AsFd, time::Duration};

use mp::{Process, Receiver, RecvError, Sender};

fn worker(id: u32, tx: Sender<String>) {
    for step in 1..=3 {
        std::thread::sleep(Duration::from_millis(10 * u64::from(id)));
        let _ = tx.send(&format!("worker {id}: step {step}"));
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let mut readers: Vec<Receiver<String>> = Vec::new();
    let mut children = Vec::new();
    for id in 1..=4 {
        let (rx, tx) = mp::simplex()?;
        readers.push(rx);
        children.push(Process::new(worker, (id, tx)).start()?);
    }

    while !readers.is_empty() || !children.is_empty() {
        // Receivers first, then the sentinels of the processes: anything that is `AsFd`.
        let mut objects: Vec<&dyn AsFd> = readers.iter().map(|rx| rx as &dyn AsFd).collect();
        objects.extend(children.iter().map(|child| child as &dyn AsFd));
        let ready = mp::wait(&objects, Duration::from_secs(5))?;
        assert!(!ready.is_empty(), "every worker is quick");

        let receivers = readers.len();
        for index in ready.into_iter().rev() {
            if index >= receivers {
                let child = children.remove(index - receivers);
                println!("{} ended", child.name().to_owned());
                child.join()?;
                continue;
            }
            match readers[index].recv() {
                Ok(text) => println!("{text}"),
                Err(RecvError::Disconnected) => drop(readers.remove(index)),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
