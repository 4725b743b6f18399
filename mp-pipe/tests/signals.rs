//! A signal that is handled interrupts nothing that this crate does.
#![allow(unsafe_code)] // a signal handler

use std::time::Duration;

use mp_core::{
    primitive::{AtomicU32, Ordering},
    testing::{Watchdog, eventually},
};
use mp_pipe::{Address, Bytes, Client, Connection, Listener, Receiver, Sender, duplex, simplex};
use mp_process::Process;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

mp_process::init_in_tests!();

const SIGUSR1: i32 = Signal::SIGUSR1 as i32;

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed); // a number for the test, nothing beside it
}

/// Without SA_RESTART: every call that waits is interrupted.
fn handle_signals() {
    let action = SigAction::new(
        SigHandler::Handler(count),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler only adds to an atomic.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
}

/// Large enough that sending it waits for the receiver, whatever the buffers.
const LARGE: usize = 32 << 20;

fn exchange(conn: Connection<Bytes, String>, ready: Sender<()>) -> u32 {
    handle_signals();
    ready.send(&()).unwrap();
    assert_eq!(conn.recv().unwrap(), "go");
    conn.send(&Bytes::from(vec![b'x'; LARGE])).unwrap();
    SIGNALS.load(Ordering::Relaxed)
}

/// Conformance: TestIgnoreEINTR.test_ignore
#[test]
fn signals_do_not_end_a_receive_or_tear_a_large_send() {
    let _dog = Watchdog::secs(60);
    let (conn, there) = duplex().unwrap();
    let (ready, tell) = simplex().unwrap();
    let child = Process::new(exchange, (there, tell)).start().unwrap();
    ready.recv().unwrap();
    for _ in 0..20 {
        child.child().signal(SIGUSR1).unwrap(); // while it waits to receive
        std::thread::sleep(Duration::from_millis(1));
    }
    conn.send(&"go".to_owned()).unwrap();
    assert!(conn.poll(None).unwrap());
    for _ in 0..20 {
        child.child().signal(SIGUSR1).unwrap(); // while it waits for room
        std::thread::sleep(Duration::from_millis(1));
    }
    let message: Bytes = conn.recv().unwrap();
    assert!(message.len() == LARGE && message.iter().all(|&byte| byte == b'x'));
    assert!(child.join().unwrap() > 0);
}

fn accept_one(address: Sender<Address>, go: Receiver<()>) -> (u32, u8) {
    handle_signals();
    let listener = Listener::new().unwrap();
    address.send(listener.address()).unwrap();
    let conn = listener.accept::<(), u8>().unwrap();
    let got = conn.recv().unwrap();
    go.recv().unwrap();
    (SIGNALS.load(Ordering::Relaxed), got)
}

/// Conformance: TestIgnoreEINTR.test_ignore_listener
#[test]
fn signals_do_not_end_an_accept() {
    let _dog = Watchdog::secs(60);
    let (address, tell) = simplex().unwrap();
    let (rx, go) = simplex().unwrap();
    let child = Process::new(accept_one, (tell, rx)).start().unwrap();
    let address: Address = address.recv().unwrap();
    for _ in 0..20 {
        child.child().signal(SIGUSR1).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let conn = Client::new().connect::<u8, ()>(&address).unwrap();
    conn.send(&42).unwrap();
    go.send(&()).unwrap();
    let (signals, got) = child.join().unwrap();
    assert_eq!(got, 42);
    assert!(signals > 0);
}

#[test]
fn waiting_for_many_is_not_interrupted() {
    let _dog = Watchdog::secs(60);
    handle_signals();
    let (rx, tx) = simplex::<u8>().unwrap();
    let before = SIGNALS.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| mp_pipe::wait(&[&rx], Duration::from_secs(30)));
        eventually(30, || {
            nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGUSR1).unwrap();
            SIGNALS.load(Ordering::Relaxed) >= before + 20
        });
        tx.send(&1).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), [0]);
    });
}
