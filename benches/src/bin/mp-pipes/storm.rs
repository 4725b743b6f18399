//! A listener under attack: thousands of connections that never prove the key, and an honest client
//! beside them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use mp::{Address, Client, Connection, Listener, pipe::AcceptError};
use mp_core::testing::{Forked, fork_child, memory_rss};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Connections that are open at the same time.
const STORM: usize = 10_000;

/// Processes that attack.
const ATTACKERS: usize = 4;

/// How long the attackers keep their connections, and make new ones for those that were dropped.
const LASTS: Duration = Duration::from_secs(3);

trait Stream: Read + Write {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

/// What an honest client saw.
type Report = Vec<Duration>;

pub(crate) fn run() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    println!(
        "\n| {STORM} connections that prove nothing, at | honest clients served | median | slowest | memory grown by | dropped |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    let tcp = Address::tcp("127.0.0.1:0").expect("loopback");
    for listener in [Listener::new(), Listener::bind(tcp)] {
        storm(&listener.expect("an address"));
    }
}

fn storm(listener: &Listener) {
    let (reports, report) = mp::simplex::<Report>().expect("a pair");
    let attackers: Vec<Forked> = (0..ATTACKERS)
        .map(|number| fork_child(|| attack(listener.address(), number)))
        .collect();
    let honest = fork_child(|| {
        report
            .send(&be_honest(listener.address()))
            .expect("a parent")
    });
    drop(report);
    let before = memory_rss();
    let most = AtomicUsize::new(0);
    let mut served = thread::scope(|scope| {
        scope.spawn(|| serve(listener, &most));
        let served = reports.recv().expect("the honest client reports");
        listener.close();
        served
    });
    honest.wait_success();
    drop(attackers);
    served.sort();
    println!(
        "| {} | {} | {:.1} ms | {:.1} ms | {:.1} MiB | {} |",
        listener.address(),
        served.len(),
        served[served.len() / 2].as_secs_f64() * 1e3,
        served[served.len() - 1].as_secs_f64() * 1e3,
        // Relaxed: the thread that wrote it has been joined.
        most.load(Ordering::Relaxed).saturating_sub(before) as f64 / f64::from(1 << 20),
        listener.rejections().total(),
    );
}

/// One thread per connection that got in.
fn serve(listener: &Listener, most: &AtomicUsize) {
    thread::scope(|scope| {
        loop {
            match listener.accept::<(), ()>() {
                Ok(connection) => {
                    most.fetch_max(memory_rss(), Ordering::Relaxed); // read after the join
                    scope.spawn(move || echo(&connection));
                }
                Err(AcceptError::Closed) => return,
                Err(error) => panic!("{error}"),
            }
        }
    });
}

fn echo(connection: &Connection<(), ()>) {
    while let Ok(message) = connection.recv_bytes() {
        if connection.send_bytes(&message).is_err() {
            return;
        }
    }
}

/// Connects, is served, leaves, and again, as long as the storm lasts; how long each time took.
fn be_honest(address: &Address) -> Report {
    let end = Instant::now() + LASTS;
    let mut served = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        let connection = Client::new()
            .connect::<(), ()>(address)
            .expect("to be let in");
        connection.send_bytes(b"are you there?").expect("a server");
        assert_eq!(
            connection.recv_bytes().expect("an answer"),
            b"are you there?"
        );
        served.push(began.elapsed());
    }
    served
}

/// Keeps a share of the storm open until it is killed: mute ones, slow ones, and liars.
fn attack(address: &Address, number: usize) {
    let mut open = Vec::new();
    for turn in (number..).step_by(ATTACKERS) {
        let Ok(mut stream) = dial(address) else {
            continue; // out of ports, or refused
        };
        let _ = match turn % 3 {
            0 => Ok(()),
            1 => stream.write_all(b"\0\0\0\x28{sha256}"),
            _ => stream.write_all(b"\0\0\0\x09#WELCOME#"),
        };
        match open.len() < STORM / ATTACKERS {
            true => open.push(stream),
            false => open[turn / ATTACKERS % (STORM / ATTACKERS)] = stream,
        }
    }
}

fn dial(address: &Address) -> std::io::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path)?),
        Address::Tcp(address) => Box::new(TcpStream::connect(address)?),
        other => unreachable!("no storm at {other}"),
    })
}
