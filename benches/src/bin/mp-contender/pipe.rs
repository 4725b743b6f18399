//! Connections: round trips, and one-way streams.

use std::time::Instant;

use mp::{Connection, Process, Receiver, Sender};
use mp_bench::{Context, Record, STREAMS, peek, per_iteration};

fn echo<T>(connection: Connection<T, T>)
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    for value in connection.iter() {
        connection
            .send(&value.expect("a value"))
            .expect("the peer reads");
    }
}

pub(crate) fn round_trip(context: &Context) {
    measure(context, "16B", echo::<[u8; 16]>, &[1; 16]);
    measure(context, "1KiB-struct", echo::<Record>, &Record::sample());
}

fn measure<T, F>(context: &Context, param: &str, echo: F, value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + 'static,
    F: mp::Target<(Connection<T, T>,), Output = ()>,
{
    let (here, there) = mp::duplex::<T, T>().expect("a connection");
    let child = Process::new(echo, (there,)).start().expect("a child");
    let (ns, n) = per_iteration(context.secs(), |n| {
        for _ in 0..n {
            here.send(value).expect("the echo reads");
            assert!(here.recv().expect("the echo answers") == *value);
        }
    });
    drop(here);
    child.join().expect("the echo ends well");
    context.report(param, "us", ns / 1e3, n);
}

/// Reads `n` messages into a buffer of its own, and acknowledges the last.
fn drain(messages: Receiver<mp::Bytes>, ack: Sender<u64>, n: u64) {
    let (mut buffer, mut sum) = (Vec::new(), 0);
    for _ in 0..n {
        messages.recv_bytes_reuse(&mut buffer).expect("a message");
        sum += peek(&buffer);
    }
    ack.send(&sum).expect("the parent waits");
}

pub(crate) fn stream(context: &Context) {
    for (param, size, n) in STREAMS {
        let (reader, writer) = mp::simplex::<mp::Bytes>().expect("a pipe");
        let (acknowledged, ack) = mp::simplex::<u64>().expect("a pipe");
        let child = Process::new(drain, (reader, ack, n + 1))
            .start()
            .expect("a child");
        let message = vec![1; size];
        writer.send_bytes(&message).expect("the child reads"); // it runs by now
        let start = Instant::now();
        for _ in 0..n {
            writer.send_bytes(&message).expect("the child reads");
        }
        acknowledged.recv().expect("all were read");
        let seconds = start.elapsed().as_secs_f64();
        child.join().expect("the reader ends well");
        context.report_rate(param, size, n, seconds);
    }
}
