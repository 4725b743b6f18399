//! Sockets and pipes: round trips, and one-way streams.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use mp_bench::{Context, ITEMS, STREAMS, peek, per_iteration};
use mp_core::{primitive::may_spin, testing::fork_child};

pub(crate) fn round_trip(context: &Context) {
    for (param, size) in [("16B", 16), ("1KiB-struct", 1024)] {
        echo(
            context,
            "floor:socketpair",
            param,
            size,
            |stream, buffer| stream.read_exact(buffer),
        );
        if may_spin() {
            echo(context, "floor:socketpair-polled", param, size, read_polled);
        }
    }
}

/// Looks without sleeping for a moment first, as both sides of a busy connection can.
fn read_polled(stream: &mut UnixStream, buffer: &mut [u8]) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let begin = Instant::now();
    let mut read = 0;
    while read < buffer.len() {
        match stream.read(&mut buffer[read..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => read += n,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            Err(_) if begin.elapsed() > Duration::from_micros(50) => {
                stream.set_nonblocking(false)?;
                stream.read_exact(&mut buffer[read..])?;
                stream.set_nonblocking(true)?;
                break;
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn echo(
    context: &Context,
    name: &str,
    param: &str,
    size: usize,
    read: impl Fn(&mut UnixStream, &mut [u8]) -> io::Result<()>,
) {
    let (mut here, mut there) = UnixStream::pair().expect("sockets");
    let mut child = fork_child(|| {
        let mut message = vec![0; size];
        while read(&mut there, &mut message).is_ok() {
            there.write_all(&message).expect("the parent reads");
        }
    });
    let mut message = vec![1; size];
    let (ns, n) = per_iteration(context.secs(), |n| {
        for _ in 0..n {
            here.write_all(&message).expect("the echo reads");
            read(&mut here, &mut message).expect("and answers");
        }
    });
    child.kill();
    context.report_as(name, param, "us", ns / 1e3, n, None);
}

pub(crate) fn stream(context: &Context) {
    for (param, size, n) in STREAMS {
        let (mut here, mut there) = UnixStream::pair().expect("sockets");
        let child = fork_child(|| {
            let mut message = vec![0; size];
            for _ in 0..=n {
                there.read_exact(&mut message).expect("a message");
                std::hint::black_box(peek(&message));
            }
            there.write_all(&[1]).expect("the parent waits");
        });
        let message = vec![1; size];
        here.write_all(&message).expect("the child reads");
        let start = Instant::now();
        for _ in 0..n {
            here.write_all(&message).expect("the child reads");
        }
        here.read_exact(&mut [0]).expect("all were read");
        let seconds = start.elapsed().as_secs_f64();
        child.wait_success();
        context.report_rate(param, size, n, seconds);
    }
}

/// A pipe as a queue from one to one: the kernel keeps what was put.
pub(crate) fn pipe(context: &Context) {
    for (param, size, n) in ITEMS {
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        let start = Instant::now();
        let child = fork_child(|| {
            let mut item = vec![0; size];
            for _ in 0..n {
                reader.read_exact(&mut item).expect("an item");
                std::hint::black_box(peek(&item));
            }
        });
        let item = vec![1; size];
        for _ in 0..n {
            writer.write_all(&item).expect("the child reads");
        }
        child.wait_success();
        let rate = n as f64 / start.elapsed().as_secs_f64();
        context.report_as(
            "floor:pipe",
            &format!("1p1c/{param}"),
            "items/s",
            rate,
            n,
            None,
        );
    }
}
