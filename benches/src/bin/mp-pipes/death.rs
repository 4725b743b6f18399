//! How long after the SIGKILL of its peer a receiver knows.

use std::{io::Read, time::Instant};

use mp_core::testing::fork_child;
use nix::sys::signal::Signal;

use crate::{Workload, raw};

pub(crate) fn workload() -> Workload {
    Workload {
        name: "peer killed → its receiver knows".into(),
        unit: "µs",
        contenders: vec![("socketpair", Box::new(socketpair)), ("mp", Box::new(mp))],
        len: None,
    }
}

/// Kills a child that alone holds `there`, and waits until `receive` returns.
fn told<T>(there: T, receive: impl FnOnce()) -> f64 {
    let child = fork_child(|| {
        let _kept = &there;
        loop {
            std::thread::park();
        }
    });
    drop(there);
    let began = Instant::now();
    child.signal(Signal::SIGKILL);
    receive();
    began.elapsed().as_secs_f64() * 1e6
}

fn socketpair() -> f64 {
    let (mut here, there) = raw::socketpair();
    told(there, || {
        assert_eq!(here.read(&mut [0]).expect("an end"), 0)
    })
}

fn mp() -> f64 {
    let (here, there) = mp::duplex::<(), ()>().expect("a pair");
    told(there, || drop(here.recv_bytes().expect_err("an end")))
}
