//! The life of a child, seen by its parent.

use std::{io::Read, time::Duration};

use mp_core::testing::{Census, Watchdog};
use mp_process::{ExitError, ExitStatus, Process};

mp_process::init_in_tests!();

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded() -> (Watchdog, Census) {
    // Nothing here makes such names, but other runs of tests do, and may be killed.
    let census = Census::take().allow("/tmp/mp-").allow("/dev/shm/");
    (Watchdog::secs(60), census)
}

fn sleep_for(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

#[test]
fn the_value_comes_back() {
    let _guarded = guarded();
    let child = Process::new(|a: u32, b: u32| a + b, (40, 2))
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 42);
}

#[test]
fn large_arguments_and_values_travel() {
    let _guarded = guarded();
    let text = "x".repeat(3 << 20);
    let child = Process::new(|text: String| text + "y", (text,))
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap().len(), (3 << 20) + 1);
}

#[test]
fn a_panic_comes_with_message_and_place() {
    let _guarded = guarded();
    let child = Process::new(
        |what: String| -> u32 { panic!("broken: {what}") },
        ("it".to_owned(),),
    )
    .quiet_panics(true)
    .start()
    .unwrap();
    child.wait().unwrap();
    assert_eq!(child.exitcode(), Some(101));
    match child.join() {
        Err(ExitError::Panic {
            message, location, ..
        }) => {
            assert_eq!(message, "broken: it");
            assert!(location.unwrap().contains("process.rs:"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn exit_codes_and_signals_are_told() {
    let _guarded = guarded();
    let child = Process::new(|code: i32| std::process::exit(code), (3,)).start();
    let child: Process<()> = child.unwrap();
    assert!(matches!(child.join(), Err(ExitError::Code { code: 3, .. })));
    let child = Process::new(sleep_for, (60,)).start().unwrap();
    assert!(!child.join_timeout(Duration::from_millis(50)).unwrap());
    assert!(child.is_alive());
    child.terminate().unwrap();
    assert_eq!(child.wait().unwrap(), ExitStatus::Signal(15));
    assert_eq!(child.exitcode(), Some(-15));
    let child = Process::new(sleep_for, (60,)).start().unwrap();
    child.kill().unwrap();
    assert!(matches!(
        child.join(),
        Err(ExitError::Signal { signal: 9, .. })
    ));
}

#[test]
fn a_child_runs_in_the_main_thread_as_if_it_were_in_main() {
    let _guarded = guarded();
    fn look() -> (bool, Option<String>, Vec<String>, bool) {
        let mut args: Vec<String> = std::env::args().collect();
        args.remove(0);
        let thread = std::thread::spawn(|| 3).join().unwrap() == 3;
        (
            nix::unistd::gettid() == nix::unistd::getpid(),
            std::thread::current().name().map(str::to_owned),
            args,
            thread,
        )
    }
    let child = Process::new(look, ()).start().unwrap();
    let (main, name, args, thread) = child.join().unwrap();
    assert!(main && thread);
    assert_eq!(name.as_deref(), Some("main"));
    assert_eq!(args, std::env::args().skip(1).collect::<Vec<_>>());
}

#[test]
fn a_stack_overflow_is_told_by_the_runtime() {
    let _guarded = guarded();
    fn overflow(depth: u64) -> u64 {
        let below = if depth == u64::MAX {
            0
        } else {
            overflow(depth + 1)
        };
        std::hint::black_box(below) + 1
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = Process::new(overflow, (0,)).stderr(writer).start().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("thread 'main'") && text.contains("has overflowed its stack"),
        "{text}"
    );
    assert!(matches!(
        child.join(),
        Err(ExitError::Signal { signal: 6, .. })
    ));
}

#[test]
fn standard_output_is_what_the_child_wrote_and_no_more() {
    let _guarded = guarded();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = Process::new(
        || {
            println!("one");
            print!("two");
        },
        (),
    )
    .stdout(writer)
    .start()
    .unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo");
    child.join().unwrap();
}
