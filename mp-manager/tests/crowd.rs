//! Clients and the server's threads on the same CPUs.

use std::fs;

use mp_core::testing::{Watchdog, cpus, stay_on};
use mp_manager::Manager;
use nix::{
    sched::{sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

mp_process::init_in_tests!();

/// The server's thread for the only client.
fn server_thread(manager: &Manager) -> Pid {
    let server = manager.process().unwrap().pid();
    let tasks = fs::read_dir(format!("/proc/{server}/task")).unwrap();
    let tids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    let is_it = |tid: &String| {
        let name = fs::read_to_string(format!("/proc/{server}/task/{tid}/comm"));
        name.is_ok_and(|name| name.trim() == "mp-client")
    };
    let tid = tids.into_iter().find(is_it).unwrap();
    Pid::from_raw(tid.parse().unwrap())
}

/// Where it runs, or did so last.
fn cpu_of(thread: Pid) -> usize {
    let stat = fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // Field 39 of proc(5); the third is the first after the name.
    fields.split_whitespace().nth(36).unwrap().parse().unwrap()
}

#[test]
fn a_server_thread_that_met_its_client_on_one_cpu_may_run_anywhere() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let value = manager.value(&0_u32).unwrap();
    let thread = server_thread(&manager);
    let all = sched_getaffinity(thread).unwrap();
    let cpus = cpus();
    stay_on(cpus[0]);
    let one = sched_getaffinity(Pid::from_raw(0)).unwrap();
    sched_setaffinity(thread, &one).unwrap();
    sched_setaffinity(thread, &all).unwrap();
    let mut calls = 0;
    loop {
        for _ in 0..100 {
            value.set(&calls).unwrap();
            assert_eq!(value.get().unwrap(), calls);
            calls += 1;
        }
        if cpus.len() == 1 || (cpu_of(thread) != cpus[0] && calls >= 10_000) {
            break;
        }
    }
    assert_eq!(sched_getaffinity(thread).unwrap(), all);
}
