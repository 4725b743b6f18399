//! The watchdog ends what hangs, tells where it hangs, and leaves nothing alive.

use std::{fs, os::unix::process::ExitStatusExt, process::Command, thread, time::Duration};

use mp_core::testing::{Case, Census, Child, ChildCommand, Watchdog, eventually};
use nix::libc;

fn start_hanging(name: &str) -> Child {
    let command = ChildCommand::new(name).capture_stderr();
    command.env("MP_WATCHDOG_FACTOR", "0.01").start(&())
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn start_sleeper() -> u32 {
    Command::new("sleep").arg("1000").spawn().unwrap().id()
}

#[test]
#[allow(clippy::zombie_processes, reason = "the watchdog has to find it")]
fn case_hangs_with_a_thread() {
    let Some(case) = Case::get() else { return };
    let _dog = Watchdog::secs(10); // times 0.01
    case.send(&start_sleeper());
    thread::scope(|scope| {
        let stuck = thread::Builder::new().name("stuck-here".into());
        stuck.spawn_scoped(scope, thread::park).unwrap();
        case.hold()
    })
}

#[test]
fn case_hangs_without_a_thread() {
    let Some(case) = Case::get() else { return };
    let _dog = Watchdog::secs_without_thread(10);
    case.send(&start_sleeper());
    case.hold()
}

fn check_bitten(mut child: Child, test: &str) -> String {
    let sleeper: u32 = child.recv().unwrap();
    let (status, report) = child.wait_with_stderr();
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}\n{report}");
    assert!(report.contains(&format!("test {test:?}")), "{report}");
    assert!(
        report.contains(&format!("process {sleeper} \"sleep\"")),
        "{report}"
    );
    assert!(report.contains("recvmsg"), "{report}");
    eventually(10, || !is_alive(sleeper));
    report
}

#[test]
fn a_test_that_hangs_is_ended_with_a_report_and_all_its_processes() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let child = start_hanging("case_hangs_with_a_thread");
    let report = check_bitten(child, "case_hangs_with_a_thread");
    assert!(report.contains("\"stuck-here\" state S"), "{report}");
    assert!(report.contains("futex"), "{report}");
}

#[test]
fn a_watchdog_without_thread_does_the_same() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    check_bitten(
        start_hanging("case_hangs_without_a_thread"),
        "case_hangs_without_a_thread",
    );
}

#[test]
fn case_is_in_time() {
    let Some(case) = Case::get() else { return };
    let limit = Duration::from_secs(10).mul_f64(0.01);
    for make in [Watchdog::secs, Watchdog::secs_without_thread] {
        drop(make(10));
        thread::sleep(limit * 12); // patience is at most 8
    }
    case.send(&true);
}

#[test]
fn a_test_that_ends_in_time_is_left_alone() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let mut child = start_hanging("case_is_in_time");
    let in_time = child.recv();
    let (status, report) = child.wait_with_stderr();
    assert_eq!(in_time, Some(true), "{report}");
    assert!(status.success(), "{report}");
}
