// One argument for a function of two.
use mp_process::Process;

fn add(a: u64, b: u64) -> u64 {
    a + b
}

fn main() {
    let _ = Process::new(add, (2_u64,));
}
