//! `RwLock`: many readers or one writer, alive or dead.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    thread,
    time::{Duration, Instant},
};

use mp_core::testing::{Census, Watchdog, eventually, fork_child};
use mp_sync::{Event, LockError, RawArray, RwLock, TryLockError};
use nix::sys::signal::{Signal, raise};

const SHORT: Duration = Duration::from_millis(30);

#[test]
fn readers_share_and_a_writer_excludes() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let lock = RwLock::new().unwrap();
    let readers = (lock.read().unwrap(), lock.try_read().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(lock.read_timeout(SHORT).unwrap());
            assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
            let begun = Instant::now();
            let timed = lock.write_timeout(SHORT);
            assert!(matches!(timed, Err(TryLockError::TimedOut)) && begun.elapsed() >= SHORT);
            drop(lock.try_read().unwrap()); // who gave up keeps nobody out
        });
    });
    assert!(format!("{lock:?}").contains("readers: 2"));
    drop(readers);
    let writer = lock.write().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(lock.try_read(), Err(TryLockError::WouldBlock)));
            assert!(matches!(
                lock.read_timeout(SHORT),
                Err(TryLockError::TimedOut)
            ));
            assert!(matches!(lock.try_write(), Err(TryLockError::WouldBlock)));
        });
    });
    drop(writer);
    drop(lock.read().unwrap());
}

#[test]
fn waiting_for_oneself_is_an_error_and_reading_again_is_none() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let lock = RwLock::new().unwrap();
    let outer = lock.read().unwrap();
    assert!(matches!(lock.write(), Err(LockError::Deadlock)));
    thread::scope(|scope| {
        let writer = scope.spawn(|| drop(lock.write().unwrap()));
        // Soon the writer waits, and keeps new readers out, but not those who are inside.
        let is_kept_out = || {
            let other = scope.spawn(|| lock.try_read().is_err());
            other.join().unwrap()
        };
        eventually(30, is_kept_out);
        drop(lock.read().unwrap());
        drop(outer);
        writer.join().unwrap();
    });
    let _writer = lock.write().unwrap();
    assert!(matches!(lock.read(), Err(LockError::Deadlock)));
    assert!(matches!(lock.write(), Err(LockError::Deadlock)));
}

#[test]
fn processes_never_see_a_writer_beside_anybody() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let lock = RwLock::new().unwrap();
    let inside = RawArray::<i32>::zeroed(1).unwrap();
    let enter = |count: i32| -> &AtomicI32 {
        let before = inside[0].fetch_add(count, Ordering::SeqCst);
        assert!(if count == 1 { before >= 0 } else { before == 0 });
        &inside[0]
    };
    let work = || {
        for round in 0..2_000 {
            if round % 4 == 0 {
                let _writer = lock.write().unwrap();
                enter(-1000).fetch_add(1000, Ordering::SeqCst);
            } else {
                let _reader = lock.read().unwrap();
                enter(1).fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
    let children = [(); 3].map(|()| fork_child(work));
    work();
    for child in children {
        child.wait_success();
    }
}

#[test]
fn a_dead_reader_keeps_no_writer_out() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let lock = RwLock::new().unwrap();
    let mut child = fork_child(|| {
        let _reader = lock.read().unwrap();
        raise(Signal::SIGKILL).unwrap();
    });
    child.wait();
    let begun = Instant::now();
    drop(lock.write().unwrap()); // without a notice: nothing was changed
    eprintln!(
        "death of a reader: the writer goes on after {:?}",
        begun.elapsed()
    );
}

#[test]
fn a_dead_writer_is_told_to_readers_until_a_writer_accepts() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (lock, held) = (RwLock::new().unwrap(), Event::new().unwrap());
    let mut child = fork_child(|| {
        let _writer = lock.write().unwrap();
        held.set();
        loop {
            thread::park();
        }
    });
    held.wait();
    thread::scope(|scope| {
        let reader = scope.spawn(|| lock.read().is_err_and(|error| error.is_owner_died()));
        child.kill();
        assert!(reader.join().unwrap());
    });
    drop(lock.read().unwrap_err().into_guard());
    assert!(matches!(lock.try_read(), Err(TryLockError::OwnerDied(_))));
    drop(lock.write().unwrap_err().into_guard());
    drop(lock.read().unwrap());
    drop(lock.write().unwrap());
}
