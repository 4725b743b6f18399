//! What a simple queue promises between processes.

use mp_core::testing::{Census, Watchdog};
use mp_process::Process;
use mp_queue::{GetError, PutError, SimpleQueue};

mp_process::init_in_tests!();

fn look_put_look(queue: SimpleQueue<bool>) {
    queue.put(queue.is_empty()).unwrap();
    queue.put(queue.is_empty()).unwrap();
}

/// Conformance: TestSimpleQueue.test_empty
#[test]
fn both_sides_see_whether_it_is_empty() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let queue = SimpleQueue::new().unwrap();
    assert!(queue.is_empty());
    let child = Process::new(look_put_look, (queue.clone(),))
        .start()
        .unwrap();
    child.join().unwrap();
    assert!(!queue.is_empty());
    assert!(queue.get().unwrap());
    assert!(!queue.get().unwrap());
    assert!(queue.is_empty());
}

/// Conformance: TestSimpleQueue.test_close
#[test]
fn it_may_be_closed_twice() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let queue = SimpleQueue::<u32>::new().unwrap();
    queue.close();
    queue.close();
    assert!(queue.is_closed());
}

/// Conformance: TestSimpleQueue.test_closed
#[test]
fn closing_closes_both_ends() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let queue = SimpleQueue::new().unwrap();
    queue.put(1).unwrap();
    queue.close();
    assert!(matches!(queue.put(2), Err(PutError::Closed(2))));
    assert_eq!(queue.get().unwrap(), 1);
    assert!(matches!(queue.get(), Err(GetError::Closed)));
}
