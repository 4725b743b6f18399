//! Children of tests: cases run again, forks, limits.

use std::{
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    thread,
    time::Duration,
};

use mp_core::{
    fd::{SockKind, socketpair},
    testing::{
        Case, Census, Child, ChildCommand, Rng, Watchdog, fork_child, kill_at_random, with_rlimit,
    },
    transfer,
};
use nix::{
    libc,
    sys::{resource::Resource, signal::Signal, wait::WaitStatus},
};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};

/// A descriptor as a handle: it travels as those of the crates above do.
struct Handle(OwnedFd);

impl Serialize for Handle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd("Handle", self.0.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize_fd("Handle", deserializer).map(Handle)
    }
}

#[test]
fn case_answers_through_a_handle() {
    let Some(case) = Case::get() else { return };
    assert!(Case::get().is_none(), "there is one socket only");
    let (text, handle): (String, Handle) = case.args();
    case.ready();
    let number: u32 = case.recv().unwrap();
    let mut file = std::fs::File::from(handle.0);
    write!(file, "{text} {number}").unwrap();
    case.send(&(number + 1));
}

#[test]
fn values_and_handles_reach_a_case_and_answers_come_back() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let args = ("number", Handle(writer.into()));
    let mut child = Child::case("case_answers_through_a_handle", &args).wait_ready();
    drop(args);
    child.send(&41_u32);
    assert_eq!(child.recv(), Some(42_u32));
    assert_eq!(child.recv::<u32>(), None);
    assert!(child.wait().success());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "number 41");
}

#[test]
fn case_panics() {
    if let Some(case) = Case::get() {
        case.ready();
        panic!("as it should");
    }
}

#[test]
fn a_case_that_panics_ends_with_101_and_its_message() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let child = ChildCommand::new("case_panics").capture_stderr().start(&());
    let (status, text) = child.wait_ready().wait_with_stderr();
    assert_eq!(status.code(), Some(101));
    assert!(text.contains("as it should"), "{text}");
}

#[test]
fn case_holds() {
    let Some(case) = Case::get() else { return };
    case.ready();
    case.hold()
}

#[test]
fn a_killed_case_tells_the_signal() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let mut child = Child::case("case_holds", &()).wait_ready();
    assert_eq!(child.kill().signal(), Some(libc::SIGKILL));
    let mut child = Child::case("case_holds", &()).wait_ready();
    child.signal(Signal::SIGTERM);
    assert_eq!(child.wait().signal(), Some(libc::SIGTERM));
}

#[test]
#[should_panic(expected = "is there a test of that name?")]
fn a_case_that_does_not_exist_is_told() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let _child = Child::case("no_such_case", &()).wait_ready();
}

#[test]
fn a_forked_child_runs_its_body_and_tells_how_it_ended() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let (ours, theirs) = socketpair(SockKind::Stream).unwrap();
    let child = fork_child(|| {
        nix::unistd::write(&theirs, b"x").unwrap();
    });
    child.wait_success();
    drop(theirs);
    let mut text = String::new();
    std::fs::File::from(ours).read_to_string(&mut text).unwrap();
    assert_eq!(text, "x");
    let mut child = fork_child(|| std::panic::resume_unwind(Box::new(())));
    assert!(matches!(child.wait(), WaitStatus::Exited(_, 101)));
    assert_eq!(child.try_wait(), Some(child.wait()));
}

#[test]
fn a_random_moment_is_not_always_the_same_and_ends_the_child() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let mut rng = Rng::from_env();
    let limit = Duration::from_millis(5);
    let mut delays = Vec::new();
    for _ in 0..8 {
        let mut child = fork_child(|| {
            loop {
                thread::park();
            }
        });
        delays.push(kill_at_random(child.pid(), &mut rng, limit));
        assert!(matches!(
            child.wait(),
            WaitStatus::Signaled(_, Signal::SIGKILL, _)
        ));
    }
    delays.sort();
    delays.dedup();
    assert!(
        delays.len() > 1 && delays.iter().all(|delay| *delay < limit),
        "{delays:?}"
    );
}

#[test]
fn a_limit_holds_in_the_child_only() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    with_rlimit(Resource::RLIMIT_NOFILE, 3, || {
        assert!(socketpair(SockKind::Stream).is_err());
    });
    assert!(socketpair(SockKind::Stream).is_ok());
}

#[test]
#[should_panic(expected = "the forked child ended with Exited")]
fn a_failure_under_a_limit_fails_the_test() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    with_rlimit(Resource::RLIMIT_NOFILE, 64, || {
        std::panic::resume_unwind(Box::new(()))
    });
}
