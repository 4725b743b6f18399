//! Ends in other processes: what they pass on, and what is left when they die.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use mp_core::testing::{Census, Watchdog};
use mp_pipe::{
    Bytes, Connection, Descriptor, Receiver, RecvError, SendError, Sender, duplex, simplex, wait,
};
use mp_process::Process;

mp_process::init_in_tests!();

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

fn echo(conn: Connection<Bytes, Bytes>) {
    while let Ok(message) = conn.recv_bytes() {
        conn.send_bytes(&message).unwrap();
    }
}

/// Conformance: _TestConnection.test_connection
/// Conformance: _TestConnection.test_context
#[test]
fn a_child_echoes_values_bytes_and_sixteen_megabytes() {
    let _dog = Watchdog::secs(60);
    let (conn, there) = duplex::<Vec<f64>, Vec<f64>>().unwrap();
    let there: Connection<Bytes, Bytes> =
        Connection::from_fd(there.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let child = Process::new(echo, (there,)).start().unwrap();

    conn.send(&vec![1.0, 2.25]).unwrap();
    assert_eq!(conn.recv().unwrap(), [1.0, 2.25]);
    conn.send_bytes(b"hello world").unwrap();
    assert_eq!(conn.recv_bytes().unwrap(), b"hello world");

    let mut buffer = [0; 40];
    conn.send_bytes(b"hello").unwrap();
    assert_eq!(conn.recv_bytes_into(&mut buffer[30..]).unwrap(), 5);
    assert_eq!(&buffer[30..35], b"hello");
    conn.send_bytes(&[7; 50]).unwrap();
    match conn.recv_bytes_into(&mut buffer) {
        Err(RecvError::BufferTooShort { message }) => assert_eq!(message, [7; 50]),
        other => panic!("{other:?}"),
    }

    assert!(!conn.poll(Duration::ZERO).unwrap());
    let before = Instant::now();
    assert!(!conn.poll(SHORT).unwrap());
    assert!(before.elapsed() >= SHORT);
    conn.send_bytes(b"x").unwrap();
    assert!(conn.poll(LONG).unwrap());
    assert_eq!(conn.recv_bytes().unwrap(), b"x");

    let large: Vec<u8> = (0..16 << 20).map(|i| (i % 251) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| conn.send_bytes(&large).unwrap());
        assert!(conn.recv_bytes().unwrap() == large);
    });
    conn.shutdown().unwrap();
    assert!(matches!(conn.recv(), Err(RecvError::Disconnected)));
    assert!(matches!(
        conn.send_bytes(b"x"),
        Err(SendError::Disconnected)
    ));
    child.join().unwrap();
}

/// Conformance: _TestConnection.test_spawn_close
#[test]
fn the_parents_copy_of_an_end_may_go_right_after_the_start() {
    let _dog = Watchdog::secs(60);
    let (conn, there) = duplex::<Bytes, Bytes>().unwrap();
    let child = Process::new(echo, (there,)).start().unwrap(); // and `there` is gone
    conn.send_bytes(b"hello").unwrap();
    assert_eq!(conn.recv_bytes().unwrap(), b"hello");
    drop(conn);
    child.join().unwrap();
}

fn write_to(rx: Receiver<(Descriptor, String)>) {
    for message in &rx {
        let (file, text) = message.unwrap();
        File::from(file).write_all(text.as_bytes()).unwrap();
    }
}

/// Conformance: _TestConnection.test_fd_transfer
#[test]
fn a_child_writes_to_a_file_that_it_was_sent() {
    let _dog = Watchdog::secs(60);
    let path = std::env::temp_dir().join(format!("mp-pipe-{}", std::process::id()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let (rx, tx) = simplex().unwrap();
    let child = Process::new(write_to, (rx,)).start().unwrap();
    for text in ["foo", "bar"] {
        let copy = file.try_clone().unwrap();
        tx.send(&(copy.into(), text.to_owned())).unwrap();
    }
    drop(tx);
    child.join().unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "foobar");
}

/// Conformance: _TestConnection.test_missing_fd_transfer
#[test]
fn a_message_without_its_descriptor_is_an_error() {
    let (rx, tx) = simplex::<Descriptor>().unwrap();
    tx.send_bytes(&[0]).unwrap(); // "the first descriptor that came along"
    let error = rx.recv().unwrap_err();
    assert!(matches!(error, RecvError::Decode(_)), "{error}");
    tx.send(&File::open("/dev/null").unwrap().into()).unwrap();
    rx.recv().unwrap();
}

fn read_all(rx: Receiver<(Connection<(), Bytes>, Descriptor)>, tx: Sender<(Bytes, String)>) {
    for message in &rx {
        let (conn, socket) = message.unwrap();
        let from_conn = conn.recv_bytes().unwrap();
        assert!(matches!(conn.recv_bytes(), Err(RecvError::Disconnected)));
        let mut from_socket = String::new();
        UnixStream::from(socket)
            .read_to_string(&mut from_socket)
            .unwrap();
        tx.send(&(from_conn.into(), from_socket)).unwrap();
    }
}

/// Conformance: _TestPicklingConnections.test_pickling
#[test]
fn connections_and_sockets_are_sent_to_a_running_process() {
    let _dog = Watchdog::secs(60);
    let (rx, to_child) = simplex().unwrap();
    let (from_child, tx) = simplex().unwrap();
    let child = Process::new(read_all, (rx, tx)).start().unwrap();
    let listener = mp_pipe::Listener::new().unwrap();
    for round in 0..3 {
        let client = std::thread::spawn({
            let address = listener.address().clone();
            move || {
                let client = mp_pipe::Client::new();
                let conn = client.connect::<Bytes, ()>(&address).unwrap();
                conn.send_bytes(format!("hello {round}").as_bytes())
                    .unwrap();
            }
        });
        let accepted = listener.accept().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        to_child.send(&(accepted, theirs.into())).unwrap();
        client.join().unwrap();
        write!(ours, "socket {round}").unwrap();
        drop(ours);
        let (from_conn, from_socket) = from_child.recv().unwrap();
        assert_eq!(&*from_conn, format!("hello {round}").as_bytes());
        assert_eq!(from_socket, format!("socket {round}"));
    }
    drop(to_child);
    child.join().unwrap();
}

/// Ends that travel through an end.
type Ends = (Option<Sender<String>>, Option<Receiver<String>>);

fn use_ends(rx: Receiver<Ends>, tx: Sender<String>) {
    for message in &rx {
        let (writer, reader) = message.unwrap();
        if let Some(writer) = writer {
            writer.send(&"hello from the child".to_owned()).unwrap();
        }
        if let Some(reader) = reader {
            tx.send(&reader.recv().unwrap()).unwrap();
        }
    }
}

/// Conformance: _TestPicklingConnections.test_access
#[test]
fn a_sent_end_keeps_its_direction_and_its_sender_may_close() {
    let _dog = Watchdog::secs(60);
    let (rx, to_child) = simplex().unwrap();
    let (from_child, tx) = simplex().unwrap();
    let child = Process::new(use_ends, (rx, tx)).start().unwrap();

    let (reader, writer) = simplex().unwrap();
    to_child.send(&(Some(writer), None)).unwrap(); // and dropped at once
    assert_eq!(reader.recv().unwrap(), "hello from the child");
    assert!(matches!(reader.recv(), Err(RecvError::Disconnected)));

    let (reader, writer) = simplex().unwrap();
    to_child.send(&(None, Some(reader))).unwrap();
    writer.send(&"foobar".to_owned()).unwrap();
    assert_eq!(from_child.recv().unwrap(), "foobar");
    drop(to_child);
    child.join().unwrap();
}

fn poll_only(rx: Descriptor, ready: Sender<()>) {
    let rx = Receiver::<Bytes>::from_fd(rx.into()).unwrap();
    ready.send(&()).unwrap();
    for _ in 0..200 {
        rx.poll(Duration::from_millis(1)).unwrap();
    }
}

/// Conformance: _TestPoll.test_empty_string
/// Conformance: _TestPoll.test_boundaries
#[test]
fn polling_in_one_process_takes_nothing_from_another() {
    let _dog = Watchdog::secs(60);
    let (rx, tx) = simplex::<Bytes>().unwrap();
    let (ready, tell) = simplex().unwrap();
    let copy: Descriptor = rx.as_fd().try_clone_to_owned().unwrap().into();
    let child = Process::new(poll_only, (copy, tell)).start().unwrap();
    ready.recv().unwrap();
    let messages: [&[u8]; 3] = [b"", b"first", &[2; 100_000]];
    for _ in 0..50 {
        for message in messages {
            tx.send_bytes(message).unwrap();
        }
        for message in messages {
            assert!(rx.poll(LONG).unwrap() && rx.poll(Duration::ZERO).unwrap());
            assert!(rx.recv_bytes().unwrap() == message);
        }
    }
    child.join().unwrap();
}

fn send_and_hang(tx: Sender<Bytes>, whole: u32, part: bool) {
    for n in 0..whole {
        tx.send_bytes(&n.to_le_bytes()).unwrap();
    }
    if part {
        // A frame of 9 bytes, of which 4 arrive.
        let mut raw = File::from(tx.as_fd().try_clone_to_owned().unwrap());
        raw.write_all(b"\0\0\0\x09half").unwrap();
    }
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_peer_is_told_at_once_and_its_whole_messages_stay() {
    let _dog = Watchdog::secs(60);
    for part in [false, true] {
        let (rx, tx) = simplex::<Bytes>().unwrap();
        let child = Process::new(send_and_hang, (tx, 5, part)).start().unwrap();
        for n in 0..5_u32 {
            assert_eq!(rx.recv_bytes().unwrap(), n.to_le_bytes());
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (rx.recv_bytes(), Instant::now()));
            std::thread::sleep(Duration::from_millis(20)); // so that it waits, most probably
            let killed = Instant::now();
            child.kill().unwrap();
            let (end, told) = waiting.join().unwrap();
            assert_eq!(matches!(end, Err(RecvError::EndOfFile)), part, "{end:?}");
            assert!(end.is_err());
            // 100 ms is the promise; a loaded machine gets twenty times that.
            assert!(told.duration_since(killed) < 20 * SHORT);
        });
        assert!(child.join().is_err());
    }
}

fn receive_a_little(rx: Receiver<Bytes>, tx: Sender<()>) {
    rx.recv_bytes().unwrap();
    tx.send(&()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_sender_that_waits_learns_that_its_receiver_was_killed() {
    let _dog = Watchdog::secs(60);
    let (rx, tx) = simplex::<Bytes>().unwrap();
    let (received, tell) = simplex().unwrap();
    let child = Process::new(receive_a_little, (rx, tell)).start().unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let message = vec![0; 1 << 20];
            loop {
                if let Err(error) = tx.send_bytes(&message) {
                    break error;
                }
            }
        });
        received.recv().unwrap();
        std::thread::sleep(Duration::from_millis(20)); // so that it waits for room
        child.kill().unwrap();
        assert!(matches!(sender.join().unwrap(), SendError::Disconnected));
    });
    assert!(child.join().is_err());
}

fn send_ten(tx: Sender<(u32, u32)>, id: u32, slow: bool) {
    for n in 0..10 {
        if slow {
            std::thread::sleep(Duration::from_millis(u64::from(n * 7 % 5 * 5)));
        }
        tx.send(&(n, id)).unwrap();
    }
}

/// Conformance: TestWait.test_wait
/// Conformance: TestWait.test_wait_slow
#[test]
fn waiting_on_four_children_yields_every_message_once() {
    let _dog = Watchdog::secs(60);
    for slow in [false, true] {
        let mut children = Vec::new();
        let mut readers = Vec::new();
        for id in 0..4 {
            let (rx, tx) = simplex().unwrap();
            readers.push(rx);
            children.push(Process::new(send_ten, (tx, id, slow)).start().unwrap());
        }
        let mut messages = Vec::new();
        while !readers.is_empty() {
            let ready = wait(&readers, LONG).unwrap();
            assert!(!ready.is_empty());
            for index in ready.into_iter().rev() {
                match readers[index].recv() {
                    Ok(message) => messages.push(message),
                    Err(RecvError::Disconnected) => drop(readers.remove(index)),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        messages.sort_unstable();
        let expected: Vec<_> = (0..10)
            .flat_map(|n| (0..4).map(move |id| (n, id)))
            .collect();
        assert_eq!(messages, expected);
        for child in children {
            child.join().unwrap();
        }
    }
}

fn write_lines(address: String, slow: bool) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    for n in 0..10 {
        if slow {
            std::thread::sleep(Duration::from_millis(3));
        }
        writeln!(stream, "{n}").unwrap();
    }
}

/// Conformance: TestWait.test_wait_socket
#[test]
fn plain_sockets_can_be_waited_for_to_their_end() {
    let _dog = Watchdog::secs(60);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let children: Vec<_> = [false, true, false, true]
        .map(|slow| {
            Process::new(write_lines, (address.clone(), slow))
                .start()
                .unwrap()
        })
        .into();
    let mut sockets: Vec<_> = (0..4)
        .map(|_| (listener.accept().unwrap().0, String::new()))
        .collect();
    let mut texts = Vec::new();
    while !sockets.is_empty() {
        let fds: Vec<_> = sockets.iter().map(|(socket, _)| socket).collect();
        for index in wait(&fds, LONG).unwrap().into_iter().rev() {
            let mut buffer = [0; 7];
            match sockets[index].0.read(&mut buffer).unwrap() {
                0 => texts.push(sockets.remove(index).1),
                n => sockets[index].1 += std::str::from_utf8(&buffer[..n]).unwrap(),
            }
        }
    }
    let expected: String = (0..10).map(|n| format!("{n}\n")).collect();
    assert_eq!(texts, [(); 4].map(|()| expected.clone()));
    for child in children {
        child.join().unwrap();
    }
}

fn wait_for(rx: Receiver<()>) {
    rx.recv().unwrap();
}

/// Conformance: TestWait.test_wait_integer
/// Conformance: TestWait.test_wait_timeout
/// Conformance: TestWait.test_neg_timeout
#[test]
fn sentinels_and_connections_are_waited_for_together() {
    let _dog = Watchdog::secs(60);
    let (rx, go) = simplex().unwrap();
    let child = Process::new(wait_for, (rx,)).start().unwrap();
    let (a, b) = duplex::<u8, u8>().unwrap();
    let sentinel = child.as_fd();
    let objects: [&dyn AsFd; 3] = [&a, &sentinel, &b];
    let before = Instant::now();
    assert_eq!(wait(&objects, SHORT).unwrap(), []);
    assert!(before.elapsed() >= SHORT);
    assert_eq!(wait(&objects, Duration::ZERO).unwrap(), []);

    go.send(&()).unwrap();
    assert_eq!(wait(&objects, LONG).unwrap(), [1]);
    a.send(&1).unwrap();
    assert_eq!(wait(&objects, LONG).unwrap(), [1, 2]);
    b.send(&2).unwrap();
    assert_eq!(wait(&objects, LONG).unwrap(), [0, 1, 2]);
    assert_eq!(wait(&[&a, &a], LONG).unwrap(), [0, 1]);
    child.join().unwrap();
}

#[test]
fn nothing_is_left_behind() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    for _ in 0..3 {
        let (conn, there) = duplex::<Bytes, Bytes>().unwrap();
        let child = Process::new(echo, (there,)).start().unwrap();
        let (rx, tx) = simplex::<Sender<u8>>().unwrap();
        let (_keep, moved) = simplex::<u8>().unwrap();
        tx.send(&moved).unwrap();
        drop((rx, tx, conn)); // with an end in it that nobody received
        child.join().unwrap();
    }
    census.check();
}
