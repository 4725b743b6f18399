//! A program that forks its own children, and has pools. Alone in its process, as it sets what holds for
//! all of it.

mp_process::init_in_tests!();

use std::sync::atomic::{AtomicU32, Ordering};

use mp_core::testing::{Census, Watchdog};
use mp_pool::{Executor, Pool};
use mp_process::StartMethod;

/// A fork would have a copy of what is here.
static MARK: AtomicU32 = AtomicU32::new(0);

/// Conformance: ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context
#[test]
fn workers_are_spawned_unless_told_otherwise() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    mp_process::set_start_method(StartMethod::Fork);
    MARK.store(1, Ordering::SeqCst);
    let limited = Pool::builder().workers(1).max_tasks_per_child(1);
    for executor in [Executor::new(1).unwrap(), limited.executor().unwrap()] {
        let mark = executor.submit(|| MARK.load(Ordering::SeqCst), ());
        assert_eq!(mark.get().unwrap(), 0);
    }
}
