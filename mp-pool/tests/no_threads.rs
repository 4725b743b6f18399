//! A pool in a program that can start no thread. Without a test harness, which would start some.

use mp_core::testing::{Census, Watchdog};
use mp_pool::{Executor, Pool};
use mp_process::Process;

/// Texts of the errors of an executor and of a pool, which leave nothing behind.
fn refused() -> [String; 2] {
    let _census = Census::take();
    let executor = Executor::new(1).unwrap_err();
    [executor, Pool::new(2).unwrap_err()].map(|error| error.to_string())
}

/// What the system refuses is the size of the stacks.
///
/// Conformance: ProcessPoolExecutorTest.test_python_finalization_error
fn a_pool_whose_threads_cannot_be_started_is_an_error() {
    let _dog = Watchdog::secs(60);
    let process = Process::new(refused, ()).env("RUST_MIN_STACK", (1_u64 << 60).to_string());
    for error in process.start().unwrap().join().unwrap() {
        assert!(error.starts_with("the pool cannot be set up"), "{error}");
    }
}

fn main() {
    mp_process::init();
    a_pool_whose_threads_cannot_be_started_is_an_error();
    println!("test result: ok. 1 passed");
}
