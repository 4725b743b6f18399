//! The call styles of a pool.

mp_process::init_in_tests!();

use std::time::Duration;

use mp_core::testing::Watchdog;
use mp_pool::{Pool, TaskError};

fn square(x: u64) -> u64 {
    x * x
}

fn crash(_: u32) -> u32 {
    std::process::abort()
}

fn spin(_: u32) -> u32 {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn the_first_program_runs() {
    let _dog = Watchdog::secs(60);
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.map(|x: u64| x * x, 0..5).unwrap(), [0, 1, 4, 9, 16]);
    assert_eq!(pool.apply(|a: u32, b: u32| a + b, (40, 2)).unwrap(), 42);
    assert_eq!(
        pool.starmap(|a: u32, b: u32| a * b, [(1, 2), (3, 4)])
            .unwrap(),
        [2, 12]
    );
    let mut squares: Vec<u64> = pool
        .imap_unordered(square, 0..5)
        .collect::<Result<_, _>>()
        .unwrap();
    squares.sort();
    assert_eq!(squares, [0, 1, 4, 9, 16]);
    assert!(matches!(
        pool.apply(crash, (0,)),
        Err(TaskError::WorkerDied {
            signal: Some(6),
            ..
        })
    ));
    let slow = pool
        .task(spin, (0,))
        .timeout(Duration::from_millis(100))
        .submit();
    assert!(matches!(slow.get(), Err(TaskError::TimedOut { .. })));
    assert_eq!(pool.map(|x: u64| x + 1, 0..3).unwrap(), [1, 2, 3]);
    pool.close().join().unwrap();
}
