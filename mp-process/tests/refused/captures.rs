// A captured number is `Copy`, so only its size gives it away.
use mp_process::Process;

fn main() {
    let factor = 3_u64;
    let _ = Process::new(move |n: u64| n * factor, (2,));
}
