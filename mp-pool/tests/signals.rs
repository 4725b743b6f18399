//! Signals that end a program with a pool: nothing of it is left, and its workers say nothing.

mp_process::init_in_tests!();

use std::{fs, path::PathBuf, time::Duration};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::Pool;
use mp_process::{ExitStatus, Process};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

/// A program with a pool in the middle of its work; tells the process ids of its workers.
fn program(file: String) {
    let pool = Pool::new(3).unwrap();
    pool.map(|n: u64| n, 0..10).unwrap();
    let pids: Vec<String> = pool.pids().iter().map(ToString::to_string).collect();
    let news = format!("{file}.new");
    fs::write(&news, pids.join(" ")).unwrap();
    fs::rename(&news, &file).unwrap();
    let _ = pool.map(
        |ms: u64| std::thread::sleep(Duration::from_millis(ms)),
        vec![60_000; 10],
    );
}

fn is_gone(pid: u32) -> bool {
    // A zombie that its new parent has not reaped yet does not run.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// Ends such a program by `signal`; how it ended, and what it and its workers printed.
fn end_by(name: &str, signal: Signal, send: fn(Pid, Signal) -> nix::Result<()>) -> String {
    let base = format!("mp-pool-{name}-{}", std::process::id());
    let [pids, output]: [PathBuf; 2] =
        ["pids", "output"].map(|end| std::env::temp_dir().join(format!("{base}.{end}")));
    let told = fs::File::create(&output).unwrap();
    let child = Process::new(program, (pids.to_str().unwrap().to_owned(),))
        .process_group(0)
        .stdout(told.try_clone().unwrap())
        .stderr(told)
        .start()
        .unwrap();
    eventually(60, || pids.exists());
    let workers: Vec<u32> = fs::read_to_string(&pids)
        .unwrap()
        .split(' ')
        .map(|pid| pid.parse().unwrap())
        .collect();
    assert_eq!(workers.len(), 3);
    send(Pid::from_raw(child.pid() as i32), signal).unwrap();
    assert_eq!(child.wait().unwrap(), ExitStatus::Signal(signal as i32));
    for pid in workers {
        eventually(30, || is_gone(pid));
    }
    let printed = fs::read_to_string(&output).unwrap();
    for file in [pids, output] {
        fs::remove_file(file).unwrap();
    }
    printed
}

#[test]
fn ctrl_c_reaches_the_program_alone_and_ends_all_of_it() {
    let _guards = guarded(120);
    // What a terminal does: the signal goes to the whole foreground process group.
    assert_eq!(end_by("interrupt", Signal::SIGINT, killpg), "");
}

#[test]
fn sigterm_and_sigkill_to_the_program_end_its_workers() {
    let _guards = guarded(120);
    assert_eq!(end_by("terminate", Signal::SIGTERM, kill), "");
    assert_eq!(end_by("kill", Signal::SIGKILL, kill), "");
}
