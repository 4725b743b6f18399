// Python: AssertionError, cannot start a process twice.
use mp_process::Process;

fn main() {
    let process = Process::new(|| (), ());
    process.start().unwrap();
    process.start().unwrap();
}
