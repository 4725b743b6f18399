//! The same by Python's `multiprocessing.Manager`.

use std::process::Command;

/// Prints the calls per second of so many client processes.
const SCRIPT: &str = "
import multiprocessing, sys, time
CALLS = 2000

def call(d, calls):
    for _ in range(calls // 2):
        d['key'] = 7
        d['key']

def client(d, ready, go, rates):
    call(d, 200)
    ready.release()
    go.wait()
    begin = time.perf_counter()
    call(d, CALLS)
    rates.put(CALLS / (time.perf_counter() - begin))

if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    clients = int(sys.argv[1])
    m = multiprocessing.Manager()
    d = m.dict(key=1)
    ready, go = multiprocessing.Semaphore(0), multiprocessing.Event()
    rates = multiprocessing.Queue()
    args = (d, ready, go, rates)
    children = [multiprocessing.Process(target=client, args=args) for _ in range(clients)]
    for child in children: child.start()
    for _ in children: ready.acquire()
    go.set()
    print(sum(rates.get() for _ in children))
    for child in children: child.join()
";

/// Calls per second of so many clients together; `None` without `python3`.
pub(crate) fn crowd(clients: usize) -> Option<f64> {
    let output = Command::new("python3")
        .args(["-c", SCRIPT, &clients.to_string()])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Seconds of one call.
pub(crate) fn per_call() -> Option<f64> {
    Some(1.0 / crowd(1)?)
}
