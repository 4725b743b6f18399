//! A bar that follows a map.

mp_process::init_in_tests!();

use std::thread;

use mp_core::testing::{Census, Gate, Watchdog, eventually};
use mp_pool::{Pool, indicatif::ProgressBar};

fn id(x: u64) -> u64 {
    x
}

#[test]
fn the_bar_of_an_imap_moves_with_each_value() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    let bar = ProgressBar::hidden();
    let values = pool.tasks(id, vec![0; 20]).progress(bar.clone()).imap();
    for (given, value) in (1..).zip(values) {
        assert_eq!((value, bar.position()), (Ok(0), given));
    }
    assert_eq!(bar.position(), 20);
}

/// The last task runs until the gate is open.
fn hold_the_last((number, key): (u64, String)) {
    if number == 99 {
        Gate::pass(&key);
    }
}

#[test]
fn the_bar_tells_what_is_done_of_a_map_that_hangs() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    for async_first in [true, false] {
        let gate = Gate::new();
        let bar = ProgressBar::hidden();
        let items: Vec<_> = (0..100).map(|number| (number, gate.key())).collect();
        let tasks = pool
            .tasks(hold_the_last, items)
            .chunksize(1)
            .progress(bar.clone());
        let map = thread::spawn(move || match async_first {
            true => tasks.map_async().get(),
            false => tasks.map(),
        });
        eventually(50, || bar.position() == 99);
        assert!(!map.is_finished());
        gate.open();
        assert_eq!(map.join().unwrap().unwrap().len(), 100);
        assert_eq!(bar.position(), 100);
    }
}
