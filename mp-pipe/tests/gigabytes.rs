//! Messages beyond the short header: more than 2 GiB. They take as much memory on both sides, and
//! minutes in a debug build, so they are run by `ci/large-messages.sh`.

use std::{
    os::fd::OwnedFd,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use mp_core::testing::{Watchdog, skip, tool};
use mp_pipe::{Connection, Receiver, Sender, simplex};
use mp_process::Process;

mp_process::init_in_tests!();

/// The first length that needs the long header, and a few.
const LEN: usize = (1 << 31) + 5;

/// Differs between any two places that a mixed-up copy could confuse.
fn pattern(index: usize) -> u8 {
    (index % 251) as u8 ^ (index >> 20) as u8
}

fn is_whole(message: &[u8]) -> bool {
    let mut bytes = message.iter().enumerate();
    message.len() == LEN && bytes.all(|(index, &byte)| byte == pattern(index))
}

fn message() -> Vec<u8> {
    (0..LEN).map(pattern).collect()
}

fn check(rx: Receiver<()>, tx: Sender<bool>) {
    let fresh = rx.recv_bytes().unwrap();
    tx.send(&is_whole(&fresh)).unwrap();
    let mut buffer = fresh;
    buffer.fill(0);
    let len = rx.recv_bytes_into(&mut buffer).unwrap();
    tx.send(&is_whole(&buffer[..len])).unwrap();
    tx.send(&(rx.recv_bytes().unwrap() == b"next")).unwrap();
}

#[test]
#[ignore = "takes 4 GiB: ci/large-messages.sh"]
fn more_than_two_gigabytes_arrive_whole_in_another_process() {
    let _dog = Watchdog::secs(300);
    let (rx, tx) = simplex::<()>().unwrap();
    let (whole, tell) = simplex::<bool>().unwrap();
    let child = Process::new(check, (rx, tell)).start().unwrap();
    let message = message();
    tx.send_bytes(&message).unwrap();
    assert!(whole.recv().unwrap());
    tx.send_bytes(&message).unwrap();
    assert!(whole.recv().unwrap());
    tx.send_bytes(b"next").unwrap();
    assert!(whole.recv().unwrap());
    child.join().unwrap();
}

#[test]
#[ignore = "takes 9 GiB: ci/large-messages.sh"]
fn python_takes_and_gives_more_than_two_gigabytes() {
    const ECHO: &str = "
import os, multiprocessing.connection as mc
c = mc.Connection(os.dup(0))
c.send_bytes(c.recv_bytes())
c.send_bytes(c.recv_bytes())
";
    let _dog = Watchdog::secs(300);
    let Some(python) = tool("python3") else {
        return skip("python_takes_and_gives_more_than_two_gigabytes", "python3");
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Command::new(python)
        .args(["-c", ECHO])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let connection = Connection::<(), ()>::try_from(ours).unwrap();
    connection.set_max_message_len(LEN as u64);
    let message = message();
    connection.send_bytes(&message).unwrap();
    drop(message);
    assert!(is_whole(&connection.recv_bytes().unwrap()));
    connection.send_bytes(b"next").unwrap();
    assert_eq!(connection.recv_bytes().unwrap(), b"next");
    assert!(child.wait().unwrap().success());
}
