//! Named memory that goes with the server.
#![cfg(feature = "sync")]

use std::io::ErrorKind;

use mp_core::testing::Watchdog;
use mp_manager::{CallError, Manager, SharedMemory};
use mp_process::Process;
use mp_sync::Item;
use nix::sys::signal::{Signal, kill};

mp_process::init_in_tests!();

fn write(memory: SharedMemory) {
    memory.attach().unwrap().write(3, b"here");
}

/// Before the start there is no manager to ask.
///
/// Conformance: _TestSharedMemory.test_shared_memory_SharedMemoryManager_basics
#[test]
fn memory_and_lists_of_a_server_go_with_it() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let memory = manager.shared_memory(64).unwrap();
    let list = manager
        .shareable_list(["howdy".into(), Item::Int(42), Item::None])
        .unwrap();
    Process::new(write, (memory.clone(),))
        .start()
        .unwrap()
        .join()
        .unwrap();
    let here = memory.attach().unwrap();
    let mut text = [0; 4];
    here.read(3, &mut text);
    assert_eq!(&text, b"here");
    assert_eq!(list.attach().unwrap().get(1).unwrap(), Item::Int(42));
    let dropped = manager.shared_memory(8).unwrap();
    let names = [
        memory.name().unwrap(),
        list.name().unwrap(),
        dropped.name().unwrap(),
    ];
    drop(dropped);
    let gone = |name: &str| {
        mp_sync::SharedMemory::attach(name).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    // The drop is a message without an answer; this one comes after it.
    manager.number_of_objects().unwrap();
    assert!(gone(&names[2]));
    manager.shutdown().unwrap();
    assert!(gone(&names[0]) && gone(&names[1]));
    here.read(3, &mut text);
    assert_eq!(&text, b"here", "who has it mapped keeps it");
    assert!(matches!(memory.name(), Err(CallError::ServerDied { .. })));
}

/// Conformance: _TestSharedMemory.test_shared_memory_SharedMemoryServer_ignores_sigint
#[test]
fn ctrl_c_leaves_the_memory_alone() {
    let _dog = Watchdog::secs(60);
    let before = signals(std::process::id());
    let manager = Manager::start().unwrap();
    let memory = manager.shared_memory(64).unwrap();
    let server = manager.process().unwrap().pid();
    kill(nix::unistd::Pid::from_raw(server as i32), Signal::SIGINT).unwrap();
    let another = manager.shared_memory(64).unwrap();
    assert_ne!(memory.name().unwrap(), another.name().unwrap());
    assert_eq!(signals(std::process::id()), before, "ours is unchanged");
}

/// What the process ignores and catches.
fn signals(pid: u32) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let lines = status.lines().map(str::to_owned);
    lines
        .filter(|line| line.starts_with("SigIgn") || line.starts_with("SigCgt"))
        .collect()
}

/// The program that the next test starts: in a process of its own, to see what it prints.
#[test]
fn a_program_with_memory() {
    if std::env::var_os("MP_MANAGER_PROGRAM").is_none() {
        return; // part of the test below
    }
    let manager = Manager::start().unwrap();
    let memory = manager.shared_memory(64).unwrap();
    memory.attach().unwrap().write(0, b"x");
    manager.shutdown().unwrap();
}

/// Conformance: _TestSharedMemory.test_shared_memory_SharedMemoryManager_reuses_resource_tracker
#[test]
fn a_clean_shutdown_prints_nothing() {
    let _dog = Watchdog::secs(60);
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(program)
        .args(["--exact", "a_program_with_memory"])
        .env("MP_MANAGER_PROGRAM", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.is_empty(), "{printed}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}
