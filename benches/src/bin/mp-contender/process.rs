//! Start, a trivial function, join; from a small parent and from one with 1 GiB.

use mp::{Process, StartMethod};
use mp_bench::{Context, per_iteration, touched_gibibyte};

fn increment(x: u64) -> u64 {
    x + 1
}

pub(crate) fn start_and_join(context: &Context) {
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
