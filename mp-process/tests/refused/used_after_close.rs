// Python: ValueError, process object is closed.
use mp_process::Process;

fn main() {
    let child = Process::new(|| (), ()).start().unwrap();
    child.close().unwrap();
    child.is_alive();
}
