//! A storm of signals interrupts system calls, and nobody above mp-core sees it.

use std::{io::IoSlice, os::fd::AsFd, thread, time::Duration};

use mp_core::{
    deadline::Deadline,
    fd::{self, Mode, SockKind},
    futex,
    primitive::{AtomicU32, Ordering},
    shm::Mapping,
    testing::{Census, SignalStorm, Watchdog},
};
use nix::{errno::Errno, libc};

#[test]
fn a_storm_interrupts_a_call_that_sleeps() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let _storm = SignalStorm::every(Duration::from_micros(500));
    let (reader, _writer) = std::io::pipe().unwrap();
    let result = nix::unistd::read(&reader, &mut [0]);
    assert_eq!(result, Err(Errno::EINTR));
}

#[test]
fn waits_in_a_storm_end_by_their_reason_only() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let _storm = SignalStorm::every(Duration::from_micros(500));
    let (ours, theirs) = fd::socketpair(SockKind::SeqPacket).unwrap();

    let until = Deadline::after(Duration::from_millis(50));
    assert!(!fd::poll_one(ours.as_fd(), libc::POLLIN, Some(until)).unwrap());
    assert!(until.is_over());

    let word = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            word.store(1, Ordering::Release);
            futex::wake_all(&word);
            let part = [IoSlice::new(b"x")];
            fd::send(theirs.as_fd(), &part, &[], Mode::Blocking).unwrap();
        });
        while word.load(Ordering::Acquire) == 0 {
            futex::wait(&word, 0, None);
        }
        let (mut buffer, mut fds) = ([0; 1], Vec::new());
        let len = fd::recv(ours.as_fd(), &mut buffer, &mut fds, Mode::Blocking).unwrap();
        assert_eq!((len, &buffer), (1, b"x"));
    });

    // Large enough that its allocation meets several signals.
    let mapping = Mapping::create("mp-storm", 64 << 20, 64 << 20).unwrap();
    mapping.punch(0..mapping.len()).unwrap();
}
