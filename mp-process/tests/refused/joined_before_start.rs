// Python: AssertionError, can only join a started process.
use mp_process::Process;

fn main() {
    let process = Process::new(|| (), ());
    process.join().unwrap();
}
