// What a function pointer points to is known only when the program runs.
use mp_process::Process;

fn double(n: u64) -> u64 {
    2 * n
}

fn main() {
    let _ = Process::new(double as fn(u64) -> u64, (2,));
}
