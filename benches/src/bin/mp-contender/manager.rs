//! A managed dict: single calls, and two clients at once.

use std::time::Instant;

use mp::{Barrier, Dict, Manager, Process};
use mp_bench::{Context, per_iteration};

const KEYS: u64 = 100;

fn read(dict: Dict<u64, u64>, start: Barrier, n: u64) {
    dict.get(&0).expect("served"); // connected by now
    start.wait().expect("both arrive");
    for i in 0..n {
        dict.get(&(i % KEYS)).expect("served");
    }
}

pub(crate) fn calls(context: &Context) {
    let manager = Manager::start().expect("a server");
    let dict = manager.dict::<u64, u64>().expect("a dict");
    let put = |n: u64| {
        for i in 0..n {
            dict.insert(i % KEYS, i).expect("served");
        }
    };
    put(KEYS);
    let (ns, n) = per_iteration(context.secs(), |n| {
        for i in 0..n {
            assert!(dict.get(&(i % KEYS)).expect("served").is_some());
        }
    });
    context.report("get", "us", ns / 1e3, n);
    let (ns, n) = per_iteration(context.secs(), put);
    context.report("set", "us", ns / 1e3, n);

    const TOTAL: u64 = 200_000;
    let start = Barrier::new(3).expect("a barrier");
    let children = [(); 2].map(|()| {
        let arguments = (dict.clone(), start.clone(), TOTAL / 2);
        Process::new(read, arguments).start().expect("a child")
    });
    start.wait().expect("both arrive");
    let begin = Instant::now();
    for child in children {
        child.join().expect("it ends well");
    }
    let rate = TOTAL as f64 / begin.elapsed().as_secs_f64();
    context.report("2clients-get", "ops/s", rate, TOTAL);
}
