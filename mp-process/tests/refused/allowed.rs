// Not refused: it is here so that the cases beside it are built, not only checked.
use mp_process::Process;

fn main() {
    mp_process::init();
    let factor = 3;
    let child = Process::new(|n: u64, factor: u64| n * factor, (2, factor));
    assert_eq!(child.start().unwrap().join().unwrap(), 6);
}
