#![doc = "All six crates in one program; this is a page of the documentation, too."]
// Two children take jobs from a queue, report through pipes, add up in shared memory and fill a
// managed dict; a pool does the same sum.
//
// `cargo run --example tour` prints
//
// ```text
// 10 jobs were done
// the sum of their squares is 385
// the dict has 10 squares; that of 7 is 49
// the pool agrees: true
// ```
use mp::{Dict, Manager, Pool, Process, Queue, Sender, Value};

fn work(jobs: Queue<u64>, done: Sender<u64>, sum: Value<u64>, squares: Dict<u64, u64>) {
    for job in jobs.iter() {
        let job = job.expect("the parent puts numbers"); // the loop ends when the queue is closed
        *sum.lock().expect("nobody dies in here") += job * job;
        squares.insert(job, job * job).expect("the manager lives");
        done.send(&job).expect("the parent listens");
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let manager = Manager::start()?;
    let (jobs, sum, squares) = (Queue::new()?, Value::new(0)?, manager.dict()?);
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (reports, done) = mp::simplex::<u64>()?;
        let arguments = (jobs.clone(), done, sum.clone(), squares.clone());
        workers.push((Process::new(work, arguments).start()?, reports));
    }
    jobs.put_many((1..=10).collect::<Vec<_>>())?;
    jobs.close();

    let mut jobs_done = 0;
    for (worker, reports) in workers {
        jobs_done += reports.iter().count(); // until the worker's end is closed
        worker.join()?;
    }
    println!("{jobs_done} jobs were done");
    println!("the sum of their squares is {}", sum.get()?);
    let (len, of_seven) = (squares.len()?, squares.get(&7)?.expect("it was a job"));
    println!("the dict has {len} squares; that of 7 is {of_seven}");

    let squares = Pool::new(2)?.map(|n: u64| n * n, 1..=10)?;
    let agrees = squares.into_iter().sum::<u64>() == sum.get()?;
    println!("the pool agrees: {agrees}");
    Ok(())
}
