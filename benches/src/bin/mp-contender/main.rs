//! mp, as its users write it, at every workload of the peer benchmark.

#![forbid(unsafe_code)]

mod crash;
mod manager;
mod pipe;
mod pool;
mod process;
mod queue;
mod sync;

fn main() {
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
            ("crash", crash::all),
        ],
    );
}
