//! From SIGKILL until the kernel tells.

use std::sync::{Arc, Mutex};

use mp_bench::{Context, kill, time_to_tell};
use mp_core::{primitive::Ordering, testing::fork_child};
use nix::libc;

use crate::{clib::PthreadMutex, word::Page};

pub(crate) fn all(context: &Context) {
    const ROUNDS: usize = 15;
    let told = time_to_tell(
        ROUNDS,
        || {
            let child = fork_child(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
            (child.pid(), Arc::new(Mutex::new(child)))
        },
        |(pid, _)| kill(*pid),
        |(_, child)| {
            child.lock().expect("one waiter").wait();
            true
        },
    );
    for param in ["worker", "pool-worker"] {
        report(context, "floor:waitpid", param, ROUNDS, told);
    }
    lock_owner(context);
}

fn lock_owner(context: &Context) {
    const ROUNDS: usize = 5;
    let told = time_to_tell(
        ROUNDS,
        || {
            let page: &'static Page = Box::leak(Box::new(Page::new())); // a waiter may outlive us
            PthreadMutex::new(page, 4, true);
            let held = page.word(0);
            let child = fork_child(|| {
                PthreadMutex::attach(page, 4).lock();
                held.store(1, Ordering::Release);
                loop {
                    std::hint::spin_loop();
                }
            });
            while held.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            (child.pid(), page, Arc::new(Mutex::new(child)))
        },
        |(pid, _, _)| kill(*pid),
        |(_, page, child)| {
            let died = PthreadMutex::attach(page, 4).lock() == libc::EOWNERDEAD;
            child.lock().expect("one waiter").wait();
            died
        },
    );
    report(context, "floor:pthread-robust", "lock-owner", ROUNDS, told);
}

fn report(context: &Context, name: &str, param: &str, rounds: usize, told: Option<(f64, bool)>) {
    if let Some((ms, true)) = told {
        context.report_as(name, param, "ms", ms, rounds as u64, None);
    }
}
