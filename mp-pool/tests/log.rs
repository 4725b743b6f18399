//! What a pool tells a subscriber of `tracing`, and what that may do then.

mp_process::init_in_tests!();

use std::sync::Mutex;

use mp_core::testing::{Census, Watchdog};
use mp_pool::{Pool, PoolHandle, TaskError};

use self::lines::Lines;

mod lines;

/// The pool that the subscriber looks at.
static POOL: Mutex<Option<PoolHandle>> = Mutex::new(None);
/// What was logged in this process, with the number of the pool's workers.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Adds to the line what it sees of the pool.
fn look(line: String) {
    let pool = POOL.lock().unwrap();
    let workers = pool.as_ref().map(|pool| pool.stats().workers.len());
    LOGGED
        .lock()
        .unwrap()
        .push(format!("{line}workers={workers:?}"));
}

#[test]
fn a_subscriber_may_look_at_the_pool() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let curious = Lines {
        wanted: |metadata| metadata.target().starts_with("mp_"),
        take: look,
    };
    tracing::subscriber::set_global_default(curious).unwrap();
    let pool = Pool::builder().workers(1).break_all().build().unwrap();
    *POOL.lock().unwrap() = Some(pool.handle());
    let died = pool.apply(|| -> u8 { std::process::abort() }, ());
    assert!(matches!(died, Err(TaskError::WorkerDied { .. })));
    assert!(pool.close().join().is_err());
    *POOL.lock().unwrap() = None;
    let logged = LOGGED.lock().unwrap();
    for text in ["a worker ended", "a pool is broken"] {
        let line = logged.iter().find(|line| line.contains(text));
        assert!(
            line.is_some_and(|line| line.contains("workers=Some(0)")),
            "{logged:?}"
        );
    }
}
