//! The kernel and the C library doing the same work, with nothing around: what cannot be beaten
//! without doing something else.

#![deny(unsafe_code)] // opened in `word` and `clib`

mod clib;
mod crash;
mod locks;
mod process;
mod rpc;
mod streams;
mod word;

fn main() {
    if std::env::args().nth(1).as_deref() == Some(process::NOTHING) {
        return; // the program that `process` executes
    }
    mp_bench::run(
        "floor",
        &[
            ("process", process::start_and_join),
            ("pingpong", streams::round_trip),
            ("oneway", streams::stream),
            ("queue", streams::pipe),
            ("queue_wake", word::wake),
            ("pool_map", rpc::workers),
            ("pool_apply", rpc::apply),
            ("pool_cpu", rpc::compute),
            ("lock", locks::all),
            ("manager", rpc::map),
            ("asleep", rpc::asleep),
            ("crash", crash::all),
        ],
    );
}
