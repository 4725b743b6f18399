//! mp, as its users write it, at every workload.

#![forbid(unsafe_code)]

mod asleep;
mod crash;
mod manager;
mod pipe;
mod pool;
mod process;
mod queue;
mod sync;

fn main() {
    if std::env::args().nth(1).as_deref() == Some(process::NOTHING) {
        return; // the floor that `process` executes
    }
    mp::init();
    mp_bench::run(
        "mp",
        &[
            ("process", process::start_and_join),
            ("pingpong", pipe::round_trip),
            ("oneway", pipe::stream),
            ("queue", queue::throughput),
            ("queue_wake", queue::wake),
            ("pool_map", pool::map),
            ("pool_apply", pool::apply),
            ("pool_cpu", pool::compute),
            ("lock", sync::locks),
            ("manager", manager::calls),
            ("asleep", asleep::all),
            ("crash", crash::all),
        ],
    );
}
