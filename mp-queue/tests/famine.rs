//! Limits of the process: an error with the value in it, never a signal.

use std::time::Duration;

use mp_core::testing::{SignalStorm, Watchdog, serial, with_rlimit};
use mp_queue::{Bytes, PutError, Queue, TryGetError};
use nix::sys::resource::Resource;

#[test]
fn a_file_size_limit_makes_the_area_smaller() {
    let (_serial, _dog) = (serial(), Watchdog::secs(60));
    with_rlimit(Resource::RLIMIT_FSIZE, 8 << 20, || {
        let queue = Queue::<Bytes>::new().unwrap();
        assert!((1 << 20..8 << 20).contains(&queue.max_item_bytes()));
        let item = vec![1; 64 << 10];
        let mut put = 0;
        while queue.put_timeout_bytes(&item) {
            put += 1;
        }
        assert!(put >= 16, "{put}");
        let mut buffer = Vec::new();
        for _ in 0..put {
            queue.get_bytes_into(&mut buffer).unwrap();
        }
        let explicit = Queue::<u8>::builder().area(64 << 20).build();
        assert!(explicit.unwrap_err().to_string().contains("RLIMIT_FSIZE"));
    });
}

trait PutTimeoutBytes {
    fn put_timeout_bytes(&self, bytes: &[u8]) -> bool;
}

impl PutTimeoutBytes for Queue<Bytes> {
    fn put_timeout_bytes(&self, bytes: &[u8]) -> bool {
        self.put_timeout(bytes.into(), Duration::from_millis(1))
            .is_ok()
    }
}

#[test]
fn an_address_space_limit_makes_the_area_smaller() {
    let (_serial, _dog) = (serial(), Watchdog::secs(60));
    with_rlimit(Resource::RLIMIT_AS, 700 << 20, || {
        let queue = Queue::<u64>::new().unwrap();
        queue.put(1).unwrap();
        assert_eq!(queue.get().unwrap(), 1);
    });
}

#[test]
fn no_descriptor_is_an_error_that_names_the_limit() {
    let (_serial, _dog) = (serial(), Watchdog::secs(60));
    with_rlimit(Resource::RLIMIT_NOFILE, 20, || {
        let mut queues = Vec::new();
        let error = loop {
            match Queue::<u8>::new() {
                Ok(queue) => queues.push(queue),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        // Those that are there go on.
        for queue in &queues {
            queue.put(1).unwrap();
        }
        let claimed = queues[0].get_claimed();
        assert!(
            claimed
                .unwrap_err()
                .to_string()
                .contains("still in the queue")
        );
        assert_eq!(queues[0].get().unwrap(), 1);
    });
}

#[test]
fn an_area_that_is_full_waits_and_goes_on() {
    let (_serial, _dog) = (serial(), Watchdog::secs(60));
    let queue = Queue::<Bytes>::builder().area(1 << 20).build().unwrap();
    let item = vec![1; 1000];
    let mut put = 0;
    while queue.put_timeout_bytes(&item) {
        put += 1;
    }
    assert!(put > 900, "{put} items of 1000 bytes in a MiB");
    let large = queue.put_bytes(&vec![0; 2 << 20]).unwrap_err();
    assert!(matches!(large, PutError::TooLarge((), _)));
    queue.get().unwrap();
    assert_eq!(queue.drain().unwrap().len(), put - 1);
    assert!(queue.put_timeout_bytes(&item));
}

/// Signals interrupt every sleep a thousand times a second; nobody sees it.
#[test]
fn a_storm_of_signals_ends_no_wait_early() {
    let (_serial, _dog) = (serial(), Watchdog::secs(60));
    let _storm = SignalStorm::every(Duration::from_millis(1));
    let queue = Queue::<u32>::bounded(1).unwrap();
    let start = std::time::Instant::now();
    let empty = queue.get_timeout(Duration::from_millis(100));
    assert!(matches!(empty, Err(TryGetError::Empty)));
    queue.put(1).unwrap();
    assert!(queue.put_timeout(2, Duration::from_millis(100)).is_err());
    assert!(start.elapsed() >= Duration::from_millis(200));
}
