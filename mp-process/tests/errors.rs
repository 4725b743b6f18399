//! What cannot be done is an error that names the process and says why; nothing is left of it.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
};

use mp_core::testing::{Census, Watchdog};
use mp_process::{ExitError, Fd, Process, Ready, StartError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

mp_process::init_in_tests!();

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded() -> (Watchdog, Census) {
    // Nothing here makes such names, but other runs of tests do, and may be killed.
    let census = Census::take().allow("/tmp/mp-").allow("/dev/shm/");
    (Watchdog::secs(60), census)
}

/// Travels as its number, unless that is the one that it refuses at one end.
struct Fussy(u8);

const NOT_OUT: u8 = 1;
const NOT_IN: u8 = 2;
const PANICS_OUT: u8 = 3;
const PANICS_IN: u8 = 4;

impl Serialize for Fussy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            NOT_OUT => Err(ser::Error::custom("it stays where it is")),
            PANICS_OUT => panic!("while it was encoded"),
            number => serializer.serialize_u8(number),
        }
    }
}

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            NOT_IN => Err(de::Error::custom("it is not let in")),
            PANICS_IN => panic!("while it was decoded"),
            number => Ok(Self(number)),
        }
    }
}

fn pass(number: u8) -> Result<(), String> {
    let child = Process::new(|_: Fussy| (), (Fussy(number),));
    let child = child.name("passer").quiet_panics(true).start();
    child
        .map_err(|error| error.to_string())?
        .join()
        .map_err(|error| error.to_string())
}

fn give(number: u8) -> Result<Fussy, ExitError> {
    let child = Process::new(Fussy, (number,))
        .name("giver")
        .quiet_panics(true);
    child.start().unwrap().join()
}

#[test]
fn an_argument_that_does_not_travel_is_an_error_of_the_start() {
    let _guard = guarded();
    let error = Process::new(|_: Fussy| (), (Fussy(NOT_OUT),))
        .name("passer")
        .start();
    let error = error.unwrap_err();
    assert!(matches!(error, StartError::Encode { .. }));
    let text = error.to_string();
    assert!(
        text.contains("passer") && text.contains("it stays where it is"),
        "{text}"
    );
    assert!(pass(0).is_ok());
}

#[test]
fn an_argument_that_does_not_arrive_is_told_by_the_join() {
    let _guard = guarded();
    let text = pass(NOT_IN).unwrap_err();
    assert!(
        text.contains("passer") && text.contains("did not begin"),
        "{text}"
    );
    let text = pass(PANICS_IN).unwrap_err();
    assert!(text.contains("while it was decoded"), "{text}");
}

#[test]
fn a_value_that_does_not_travel_is_told_by_the_join() {
    let _guard = guarded();
    assert_eq!(give(0).unwrap().0, 0);
    match give(NOT_OUT) {
        Err(ExitError::Encode { name, reason, .. }) => {
            assert_eq!(name, "giver");
            assert!(reason.contains("it stays where it is"), "{reason}");
        }
        other => panic!("{:?}", other.err()),
    }
    assert!(matches!(give(NOT_IN), Err(ExitError::Decode { .. })));
    assert!(matches!(give(PANICS_OUT), Err(ExitError::Panic { .. })));
}

#[test]
fn a_panic_while_arguments_are_encoded_is_the_callers() {
    let _guard = guarded();
    let start = || Process::new(|_: Fussy| (), (Fussy(PANICS_OUT),)).start();
    assert!(std::panic::catch_unwind(start).is_err());
}

#[test]
fn every_kind_of_panic_is_told() {
    fn panic_with(kind: u8) {
        match kind {
            0 => panic!("plain"),
            1 => panic!("number {}", 1),
            2 => std::panic::panic_any(2_u64),
            _ => std::panic::resume_unwind(Box::new("without the hook".to_owned())),
        }
    }
    let _guard = guarded();
    let texts = ["plain", "number 1", "not a text", "without the hook"];
    for (kind, text) in (0..).zip(texts) {
        let child = Process::new(panic_with, (kind,))
            .quiet_panics(true)
            .start()
            .unwrap();
        match child.join() {
            Err(ExitError::Panic {
                message, location, ..
            }) => {
                assert!(message.contains(text), "{message}");
                assert_eq!(location.is_some(), kind < 3, "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_panic_that_was_caught_is_not_told_for_another() {
    fn catch_one_and_raise_another() {
        assert!(std::panic::catch_unwind(|| panic!("caught")).is_err());
        std::panic::resume_unwind(Box::new("raised"));
    }
    fn raise_what_was_caught() {
        let caught = std::panic::catch_unwind(|| panic!("raised")).unwrap_err();
        std::panic::resume_unwind(caught);
    }
    let _guard = guarded();
    let told = |child: Process<(), Ready<'_>>| {
        let child = child.quiet_panics(true).start().unwrap();
        match child.join() {
            Err(ExitError::Panic {
                message, location, ..
            }) => (message, location.is_some()),
            other => panic!("{other:?}"),
        }
    };
    let raised = |with_place| ("raised".to_owned(), with_place);
    let another = Process::new(catch_one_and_raise_another, ());
    assert_eq!(told(another), raised(false));
    assert_eq!(told(Process::new(raise_what_was_caught, ())), raised(true));
}

#[test]
fn a_backtrace_comes_along_where_it_is_asked_for() {
    #[inline(never)]
    fn deep_inside() {
        panic!("with a backtrace")
    }
    let _guard = guarded();
    for (ask, comes) in [("1", true), ("0", false)] {
        let child = Process::new(deep_inside, ())
            .quiet_panics(true)
            .env("RUST_BACKTRACE", ask);
        match child.start().unwrap().join() {
            Err(ExitError::Panic { backtrace, .. }) => {
                let told = backtrace.is_some_and(|trace| trace.contains("deep_inside"));
                assert_eq!(told, comes);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn descriptors_travel_both_ways() {
    fn answer(question: Fd) -> (String, Fd) {
        let mut text = String::new();
        File::from(OwnedFd::from(question))
            .read_to_string(&mut text)
            .unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        write!(writer, "{text}!").unwrap();
        (text, Fd::from(OwnedFd::from(reader)))
    }
    let _guard = guarded();
    let (reader, mut writer) = std::io::pipe().unwrap();
    write!(writer, "hello").unwrap();
    drop(writer);
    let child = Process::new(answer, (Fd::from(OwnedFd::from(reader)),))
        .start()
        .unwrap();
    let (text, answer) = child.join().unwrap();
    assert_eq!(text, "hello");
    let mut text = String::new();
    File::from(OwnedFd::from(answer))
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "hello!");
}

#[test]
fn as_many_descriptors_as_the_kernel_takes_and_not_one_more() {
    let _guard = guarded();
    let null = File::open("/dev/null").unwrap();
    let fds = |count: usize| -> Vec<Fd> {
        let fd = || Fd::from(null.as_fd().try_clone_to_owned().unwrap());
        (0..count).map(|_| fd()).collect()
    };
    // One is the standard output, which children of a test get that way.
    let count = mp_core::fd::MAX_FDS - 1;
    let child = Process::new(|fds: Vec<Fd>| fds.len(), (fds(count),))
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), count);
    let error = Process::new(|fds: Vec<Fd>| fds.len(), (fds(count + 1),))
        .start()
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("253"), "{text}");
}

#[test]
fn a_value_of_a_child_that_dies_later_is_not_believed() {
    fn crash_at_exit() -> u32 {
        mp_process::at_exit(0, || std::process::abort());
        42
    }
    let _guard = guarded();
    let child = Process::new(crash_at_exit, ()).start().unwrap();
    assert!(matches!(
        child.join(),
        Err(ExitError::Signal { signal: 6, .. })
    ));
}

#[test]
fn every_error_names_its_process() {
    let _guard = guarded();
    let child = Process::new(|| -> u32 { std::process::exit(9) }, ())
        .name("nine")
        .start()
        .unwrap();
    let pid = child.pid();
    let error = child.join().unwrap_err();
    assert_eq!((error.name(), error.pid()), ("nine", pid));
    assert_eq!(
        error.to_string(),
        format!("process nine (pid {pid}) exited with code 9")
    );
}
