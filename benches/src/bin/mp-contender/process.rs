//! Start, a trivial function, join; from a small parent and from one with 1 GiB.

use std::process::Command;

use mp::{Process, StartMethod};
use mp_bench::{Context, per_iteration, touched_gibibyte};

fn increment(x: u64) -> u64 {
    x + 1
}

/// The argument that makes this program end at once.
pub(crate) const NOTHING: &str = "--nothing";

pub(crate) fn start_and_join(context: &Context) {
    exec_self(context);
    for (name, method) in [
        ("mp:spawn", StartMethod::Spawn),
        ("mp:forkserver", StartMethod::ForkServer),
        ("mp:fork", StartMethod::Fork),
    ] {
        for param in ["small", "rss1g"] {
            let memory = (param == "rss1g").then(touched_gibibyte);
            let once = || {
                let child = Process::new(increment, (1,)).start_method(method);
                let child = child.start().expect("the child starts");
                assert_eq!(child.join().expect("and ends well"), 2);
            };
            let (ns, n) = per_iteration(context.secs(), |n| (0..n).for_each(|_| once()));
            context.report_as(name, param, "us", ns / 1e3, n, None);
            drop(memory);
        }
    }
}

/// The floor of a spawn: this same program, with nothing to do. std uses posix_spawn, which borrows
/// the parent's memory as vfork does.
fn exec_self(context: &Context) {
    for param in ["small", "rss1g"] {
        let memory = (param == "rss1g").then(touched_gibibyte);
        let once = || {
            let status = Command::new("/proc/self/exe").arg(NOTHING).status();
            assert!(status.expect("it starts").success());
        };
        let (ns, n) = per_iteration(context.secs(), |n| (0..n).for_each(|_| once()));
        context.report_as("floor:exec-self", param, "us", ns / 1e3, n, None);
        drop(memory);
    }
}
