//! Workers from the fork server. It stays when its children are gone, so no census is taken here.

mp_process::init_in_tests!();

use std::sync::Mutex;

use mp_core::testing::Watchdog;
use mp_pool::{Pool, PoolError, TaskError};
use mp_process::StartMethod;

static GREETING: Mutex<String> = Mutex::new(String::new());

fn greet(text: String) {
    *GREETING.lock().unwrap() = text;
}

#[test]
fn the_fork_server_makes_workers_and_replaces_them() {
    let _dog = Watchdog::secs(60);
    let builder = Pool::builder()
        .workers(2)
        .start_method(StartMethod::ForkServer);
    let pool = builder
        .initializer(greet, ("served".to_owned(),))
        .build()
        .unwrap();
    let ask = |_: u32| GREETING.lock().unwrap().clone();
    assert_eq!(pool.map(ask, 0..3).unwrap(), vec!["served"; 3]);
    let lost = pool.apply(|| -> u8 { std::process::abort() }, ());
    assert!(
        matches!(
            lost,
            Err(TaskError::WorkerDied {
                signal: Some(6),
                ..
            })
        ),
        "{lost:?}"
    );
    assert_eq!(pool.map(ask, 0..3).unwrap(), vec!["served"; 3]);
    pool.close().join().unwrap();
}

#[test]
fn forks_of_a_process_with_threads_are_refused() {
    let fork = Pool::builder()
        .workers(1)
        .start_method(StartMethod::Fork)
        .build();
    assert!(matches!(fork, Err(PoolError::Invalid(_))));
}
