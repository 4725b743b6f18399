//! In which order tasks begin.

mp_process::init_in_tests!();

use std::{collections::VecDeque, thread, time::Duration};

use mp_core::testing::{Census, Gate, Watchdog};
use mp_pool::{AsyncResult, Pool};

fn hold(key: String) {
    Gate::pass(&key);
}

fn nap() {
    thread::sleep(Duration::from_millis(2));
}

/// More than can begin before a task whose turn it is.
const MANY: u32 = 1000;

/// Submits tasks one after the other, `ahead` of them at a time, until all of `first` are done; how many.
fn submitted_until_done(pool: &Pool, first: &[AsyncResult<()>], ahead: usize) -> u32 {
    let (mut later, mut count) = (VecDeque::new(), 0);
    while !first.iter().all(AsyncResult::ready) && count < MANY {
        while later.len() < ahead {
            later.push_back(pool.apply_async(nap, ()));
            count += 1;
        }
        let oldest: AsyncResult<()> = later.pop_front().unwrap();
        oldest.get().unwrap();
    }
    count
}

#[test]
fn later_tasks_do_not_pass_one_that_waits_behind_a_long_one() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let pool = Pool::new(2).unwrap();
    // Two go on at once, more than one has to wait: in a lane, or in the backlog as well.
    for ahead in [2, 3, 6] {
        let gate = Gate::new();
        let long = pool.apply_async(hold, (gate.key(),));
        let first = [(); 3].map(|()| pool.apply_async(nap, ()));
        let count = submitted_until_done(&pool, &first, ahead);
        assert!(count < MANY, "of {ahead} at a time all went ahead of it");
        gate.open();
        long.get().unwrap();
    }
}
