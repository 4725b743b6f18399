//! A process that does nothing, made each way the kernel offers.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
};

use mp_bench::{Context, per_iteration, touched_gibibyte};
use mp_core::testing::fork_child;

/// The argument that makes this program end at once.
pub(crate) const NOTHING: &str = "--nothing";

pub(crate) fn start_and_join(context: &Context) {
    measure(context, "floor:fork", || fork_child(|| ()).wait_success());
    // std uses posix_spawn, which borrows the parent's memory as vfork does.
    measure(context, "floor:posix_spawn", || {
        let status = Command::new("/proc/self/exe")
            .arg(NOTHING)
            .env_clear()
            .status();
        assert!(status.expect("it starts").success());
    });
    // A small server that forks: one request, one child, one reply when the child is gone.
    let (mut here, mut there) = UnixStream::pair().expect("sockets");
    let mut server = fork_child(|| {
        let mut byte = [0];
        while there.read(&mut byte).is_ok_and(|n| n == 1 && byte[0] == 1) {
            fork_child(|| ()).wait_success();
            there.write_all(&byte).expect("the client waits");
        }
    });
    measure(context, "floor:forkserver", || {
        let mut byte = [1];
        here.write_all(&byte).expect("the server reads");
        here.read_exact(&mut byte).expect("and answers");
    });
    server.kill();
    measure(context, "floor:thread", || {
        std::thread::spawn(|| ()).join().expect("it ends well");
    });
}

fn measure(context: &Context, name: &str, mut once: impl FnMut()) {
    for param in ["small", "rss1g"] {
        let memory = (param == "rss1g").then(touched_gibibyte);
        let (ns, n) = per_iteration(context.secs(), |n| (0..n).for_each(|_| once()));
        context.report_as(name, param, "us", ns / 1e3, n, None);
        drop(memory);
    }
}
