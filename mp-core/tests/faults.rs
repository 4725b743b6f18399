//! Failures of system calls reach the caller, and leave nothing half-made behind.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, IoSlice},
    os::fd::{AsFd, OwnedFd},
};

use mp_core::{
    fd::{self, Mode, SockKind},
    shm::Mapping,
    testing::{
        Census, Watchdog,
        faults::{self, Fault},
        skip,
    },
};
use nix::{errno::Errno, libc};

/// Runs only where calls can be failed.
macro_rules! needs_faults {
    ($name:literal) => {
        if !faults::is_available() {
            return skip($name, "ptrace");
        }
        let _census = Census::take();
        let _dog = Watchdog::secs(120);
    };
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn shared_mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/memfd:")).count()
}

/// In a victim: the marked call gives a value or an error, and after an error there is nothing more
/// than before.
fn all_or_nothing<T>(mark: &faults::Mark, make: impl FnOnce() -> io::Result<T>) {
    let before = (open_descriptors(), shared_mappings());
    let made = mark.call(make);
    if let Err(error) = made {
        assert!(error.raw_os_error() != Some(libc::EINTR), "{error}");
        assert_eq!(
            (open_descriptors(), shared_mappings()),
            before,
            "after {error}"
        );
    }
}

#[test]
fn every_call_of_the_marked_one_is_seen_and_fails_as_told() {
    needs_faults!("every_call_of_the_marked_one_is_seen_and_fails_as_told");
    let mut seen = BTreeSet::new();
    let failures = faults::for_every_failure(
        || fd::socketpair(SockKind::SeqPacket).unwrap(),
        |(_, theirs), mark| {
            let (mut pair, mut buffer) = (Vec::new(), [0; 4]);
            let result = mark.call(|| {
                pair.push(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?);
                nix::unistd::read(&pair[0].0, &mut buffer[..0])
            });
            // Tells the test what it saw.
            let errno = result.err().map_or(0, |errno| errno as i32);
            nix::unistd::write(theirs, &errno.to_ne_bytes()).unwrap();
        },
        |(ours, _), fault| {
            let mut errno = [0; 4];
            nix::unistd::read(&ours, &mut errno).unwrap();
            let errno = Errno::from_raw(i32::from_ne_bytes(errno));
            match fault {
                Fault::None => assert_eq!(errno, Errno::from_raw(0)),
                Fault::Failed(place, told) => {
                    assert_eq!(errno, told, "{fault}");
                    seen.insert((place.index, place.to_string()));
                }
                other => panic!("nobody was killed: {other}"),
            }
        },
    );
    assert_eq!(failures, 4); // EMFILE and ENFILE, EINTR and EIO
    let seen: Vec<String> = seen.into_iter().map(|(_, text)| text).collect();
    assert_eq!(seen, ["system call 0 (pipe2)", "system call 1 (read)"]);
}

#[test]
fn kills_fall_before_and_after_each_call() {
    needs_faults!("kills_fall_before_and_after_each_call");
    let mut seen = Vec::new();
    let kills = faults::for_every_kill(
        || std::io::pipe().unwrap(),
        |(_, writer), mark| {
            mark.call(|| {
                nix::unistd::write(writer, b"a").unwrap();
                nix::unistd::write(writer, b"b").unwrap();
            });
        },
        |(reader, writer), _| {
            drop(writer);
            seen.push(io::read_to_string(reader).unwrap());
        },
    );
    assert_eq!(kills, 4);
    assert_eq!(seen, ["ab", "", "a", "a", "ab"]);
}

#[test]
fn a_call_that_sleeps_is_the_last_kill() {
    needs_faults!("a_call_that_sleeps_is_the_last_kill");
    let mut asleep = 0;
    let kills = faults::for_every_kill(
        || std::io::pipe().unwrap(),
        |(reader, _), mark| {
            let _ = mark.call(|| nix::unistd::read(reader, &mut [0]));
        },
        |_, fault| asleep += usize::from(matches!(fault, Fault::KilledAsleep(_))),
    );
    assert_eq!((kills, asleep), (1, 1));
}

#[test]
fn a_failed_mapping_leaves_nothing_behind() {
    needs_faults!("a_failed_mapping_leaves_nothing_behind");
    let failures = faults::for_every_failure(
        || (),
        |(), mark| all_or_nothing(mark, || Mapping::create("mp-test", 1 << 20, 1 << 20)),
        |(), _| (),
    );
    assert!(failures >= 8, "{failures}");
    let failures = faults::for_every_failure(
        || Mapping::create("mp-test", 4096, 4096).unwrap(),
        |mapping, mark| {
            let copy = mapping.fd().try_clone_to_owned().unwrap();
            let attached = mark.call(|| Mapping::attach(copy));
            assert!(attached.is_ok() || shared_mappings() == 1);
        },
        |mapping, _| drop(mapping),
    );
    assert!(failures >= 1, "{failures}");
}

#[test]
fn interrupted_sends_receives_and_polls_go_on() {
    needs_faults!("interrupted_sends_receives_and_polls_go_on");
    let failures = faults::for_every_failure(
        || fd::socketpair(SockKind::SeqPacket).unwrap(),
        |(ours, theirs), mark| {
            let (mut buffer, mut fds) = ([0; 4], Vec::<OwnedFd>::new());
            let result = mark.call(|| {
                let passed = [ours.as_fd()];
                fd::send(
                    ours.as_fd(),
                    &[IoSlice::new(b"ping")],
                    &passed,
                    Mode::Blocking,
                )?;
                fd::poll_one(theirs.as_fd(), libc::POLLIN, None)?;
                fd::recv(theirs.as_fd(), &mut buffer, &mut fds, Mode::Blocking)
            });
            match result {
                Ok(len) => assert_eq!((&buffer[..len], fds.len()), (&b"ping"[..], 1)),
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::Interrupted);
                    assert_eq!(fds.len(), 0);
                }
            }
        },
        |_, _| (),
    );
    assert!(failures >= 7, "{failures}");
}

#[test]
#[should_panic(expected = "the victim came to Some(Exited")]
fn a_victim_that_cannot_live_with_a_failure_fails_the_test() {
    if !faults::is_available() {
        skip(
            "a_victim_that_cannot_live_with_a_failure_fails_the_test",
            "ptrace",
        );
        panic!("the victim came to Some(Exited");
    }
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    faults::for_every_failure(
        || (),
        |(), mark| {
            let pair = mark.call(std::io::pipe);
            if pair.is_err() {
                std::panic::resume_unwind(Box::new(())); // a panic without its message
            }
        },
        |(), _| (),
    );
}
