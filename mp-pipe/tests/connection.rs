//! Ends within one process: what is sent arrives, whole, once, and in order.

use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use mp_pipe::{
    Bytes, Connection, Descriptor, Receiver, RecvError, SendError, Sender, duplex, simplex, wait,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(10);

/// Conformance: _TestConnection.test_sendbytes
///
/// A range outside the buffer is a panic of the slice, before anything is sent.
#[test]
fn any_part_of_a_buffer_is_a_message() {
    let (rx, tx) = simplex::<()>().unwrap();
    let message = b"abcdefghijklmnopqrstuvwxyz";
    for range in [0..26, 5..26, 7..15, 26..26, 26..26, 0..0] {
        tx.send_bytes(&message[range.clone()]).unwrap();
        assert_eq!(rx.recv_bytes().unwrap(), &message[range]);
    }
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for range in [27..27, 22..27, 26..27, 4..3] {
        assert!(message.get(range).is_none());
    }
}

/// Conformance: TestInvalidHandle.test_invalid_handles
///
/// A negative descriptor has no `OwnedFd`; one that is closed under its owner is found out.
#[test]
fn what_is_no_connected_socket_is_refused_at_once() {
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(Receiver::<()>::from_fd(reader.into()).is_err());
    assert!(Sender::<()>::from_fd(writer.into()).is_err());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(Connection::<(), ()>::from_fd(socket.into()).is_err());
}

#[test]
fn a_stream_cut_at_any_byte_gives_its_whole_messages_and_the_right_end() {
    let stream = b"\0\0\0\x03abc\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\x02xy\0\0\0\x01z";
    let whole: [(usize, &[u8]); 4] = [(7, b"abc"), (11, b""), (25, b"xy"), (30, b"z")];
    for cut in 0..=stream.len() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let conn = Connection::<(), ()>::try_from(ours).unwrap();
        theirs.write_all(&stream[..cut]).unwrap();
        drop(theirs);
        for (end, payload) in whole.iter().filter(|(end, _)| *end <= cut) {
            assert_eq!(&conn.recv_bytes().unwrap(), payload, "cut at {cut}, {end}");
        }
        let between = cut == 0 || whole.iter().any(|(end, _)| *end == cut);
        let end = conn.recv_bytes().unwrap_err();
        assert_eq!(
            matches!(end, RecvError::Disconnected),
            between,
            "cut at {cut}"
        );
        assert_eq!(
            matches!(end, RecvError::EndOfFile),
            !between,
            "cut at {cut}"
        );
    }
}

/// As many as this process may have.
fn allow_descriptors() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

#[test]
fn thousands_are_waited_for_at_once() {
    let count = 4000.min(allow_descriptors() as usize / 4);
    let pairs: Vec<_> = (0..count).map(|_| simplex::<usize>().unwrap()).collect();
    let readers: Vec<_> = pairs.iter().map(|(rx, _)| rx).collect();
    assert_eq!(wait(&readers, Duration::ZERO).unwrap(), []);
    for index in [count - 1, 0, 1023, 1024].map(|index| index.min(count - 1)) {
        pairs[index].1.send(&index).unwrap();
        assert_eq!(wait(&readers, LONG).unwrap(), [index]);
        assert_eq!(readers[index].recv().unwrap(), index);
    }
}

#[test]
fn a_thread_that_waits_sees_what_another_read_ahead() {
    let (rx, tx) = simplex::<u32>().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            let waiting = scope.spawn(|| wait(&[&rx], LONG).unwrap());
            tx.send(&1).unwrap();
            tx.send(&2).unwrap();
            assert_eq!(rx.recv().unwrap(), 1); // and reads 2 ahead, perhaps before the other looks
            assert_eq!(waiting.join().unwrap(), [0]);
            assert_eq!(rx.recv().unwrap(), 2);
        }
    });
}

#[test]
fn values_and_bytes_come_back_as_they_were() {
    #[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
    struct Record {
        id: u64,
        name: String,
        tags: Vec<Option<f64>>,
    }
    let record = Record {
        id: 7,
        name: "seven".into(),
        tags: vec![None, Some(0.5)],
    };
    let (a, b) = duplex::<Record, Record>().unwrap();
    a.send(&record).unwrap();
    let got = b.recv().unwrap();
    b.send(&got).unwrap();
    assert_eq!(a.recv().unwrap(), record);
    a.send_bytes(b"plain").unwrap();
    assert_eq!(b.recv_bytes().unwrap(), b"plain");
}

#[test]
fn poll_tells_without_consuming() {
    let (rx, tx) = simplex::<()>().unwrap();
    assert!(!rx.poll(Duration::ZERO).unwrap());
    let before = Instant::now();
    assert!(!rx.poll(SOON).unwrap());
    assert!(before.elapsed() >= SOON);
    tx.send_bytes(b"").unwrap();
    for _ in 0..3 {
        assert!(rx.poll(None).unwrap());
    }
    assert_eq!(rx.recv_bytes().unwrap(), b"");
    assert!(!rx.poll(Duration::ZERO).unwrap());
    drop(tx);
    assert!(rx.poll(LONG).unwrap());
    assert!(matches!(rx.recv_bytes(), Err(RecvError::Disconnected)));
}

#[test]
fn what_was_read_ahead_is_ready() {
    let (rx, tx) = simplex::<u32>().unwrap();
    for n in 0..100 {
        tx.send(&n).unwrap();
    }
    for n in 0..100 {
        assert!(rx.poll(Duration::ZERO).unwrap());
        assert_eq!(wait(&[rx.as_fd()], Duration::ZERO).unwrap(), [0]);
        assert_eq!(rx.try_recv().unwrap(), n);
    }
    assert!(!rx.poll(Duration::ZERO).unwrap());
    assert!(matches!(rx.try_recv(), Err(RecvError::Empty)));
}

#[test]
fn every_length_around_a_boundary_arrives() {
    let (rx, tx) = simplex::<()>().unwrap();
    let edges = [0_usize, 1, 4, 16 << 10, 64 << 10, 256 << 10];
    let lengths = edges
        .iter()
        .flat_map(|&edge| edge.saturating_sub(13)..=edge + 1);
    let lengths: Vec<usize> = lengths.chain([5 << 20]).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for &len in &lengths {
                tx.send_bytes(&pattern(len)).unwrap();
            }
        });
        let mut reused = Vec::new();
        for (index, &len) in lengths.iter().enumerate() {
            match index % 3 {
                0 => assert!(rx.recv_bytes().unwrap() == pattern(len)),
                1 => {
                    rx.recv_bytes_reuse(&mut reused).unwrap();
                    assert!(reused == pattern(len));
                }
                _ => {
                    let mut buffer = vec![0; len + 3];
                    assert_eq!(rx.recv_bytes_into(&mut buffer).unwrap(), len);
                    assert!(buffer[..len] == pattern(len));
                }
            }
        }
    });
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn a_short_buffer_keeps_the_whole_message() {
    let (rx, tx) = simplex::<()>().unwrap();
    for len in [5, 100_000] {
        std::thread::scope(|scope| {
            scope.spawn(|| tx.send_bytes(&pattern(len)).unwrap());
            let Err(RecvError::BufferTooShort { message }) = rx.recv_bytes_into(&mut [0; 4]) else {
                panic!("a message of {len} bytes in 4");
            };
            assert!(message == pattern(len));
        });
        tx.send_bytes(b"next").unwrap();
        assert_eq!(rx.recv_bytes().unwrap(), b"next");
    }
}

#[test]
fn a_limit_of_one_call_leaves_the_message_where_it_is() {
    let (rx, tx) = simplex::<()>().unwrap();
    tx.send_bytes(&[1; 100]).unwrap();
    let error = rx.recv_bytes_limit(99).unwrap_err();
    assert!(matches!(
        error,
        RecvError::OverLimit {
            len: 100,
            limit: 99
        }
    ));
    assert!(!error.is_final());
    assert_eq!(rx.recv_bytes_limit(100).unwrap(), [1; 100]);
}

#[test]
fn a_limit_of_one_call_holds_for_a_message_that_has_arrived_in_part() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let conn = Connection::<(), ()>::try_from(ours).unwrap();
    let payload = pattern(100_000);
    theirs.write_all(&100_000_u32.to_be_bytes()).unwrap();
    theirs.write_all(&payload[..50_000]).unwrap();
    let early = conn.recv_bytes_timeout(Duration::from_millis(2));
    assert!(matches!(early, Err(RecvError::Empty)));
    theirs.write_all(&payload[50_000..]).unwrap();
    let error = conn.recv_bytes_limit(99_999).unwrap_err();
    assert!(matches!(error, RecvError::OverLimit { len: 100_000, .. }));
    assert!(conn.recv_bytes_limit(100_000).unwrap() == payload);
}

#[test]
fn a_limit_of_the_connection_ends_its_receiving_direction_only() {
    let (a, b) = duplex::<(), ()>().unwrap();
    a.set_max_message_len(99);
    b.send_bytes(&[1; 100]).unwrap();
    let error = a.recv_bytes().unwrap_err();
    assert!(matches!(
        error,
        RecvError::TooLarge {
            len: 100,
            limit: 99
        }
    ));
    assert!(matches!(a.recv_bytes(), Err(RecvError::Disconnected)));
    a.send_bytes(b"still here").unwrap();
    assert_eq!(b.recv_bytes().unwrap(), b"still here");
    assert!(matches!(b.send_bytes(b"x"), Err(SendError::Disconnected)));
}

#[test]
fn hostile_headers_are_errors_without_an_allocation() {
    let cases: [(&[u8], &str); 6] = [
        (&[0x80, 0, 0, 0], "negative length -2147483648"),
        (&[0xff, 0xff, 0xff, 0xfe], "negative length -2"),
        (&[0xff; 12], "negative length -1"),
        (
            &[0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            "negative length -9223372036854775808",
        ),
        (
            &[
                0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
            "a message of 9223372036854775807 bytes",
        ),
        (&[0x7f, 0xff, 0xff, 0xff], "a message of 2147483647 bytes"),
    ];
    for (header, text) in cases {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let conn = Connection::<(), ()>::try_from(ours).unwrap();
        theirs.write_all(header).unwrap();
        let error = conn.recv_bytes().unwrap_err();
        assert!(error.to_string().contains(text), "{header:?}: {error}");
        assert!(matches!(conn.recv_bytes(), Err(RecvError::Disconnected)));
    }
}

#[test]
fn the_long_header_is_taken_for_short_messages_too() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let conn = Connection::<(), ()>::try_from(ours).unwrap();
    let mut bytes = vec![0xff; 4];
    bytes.extend(3_u64.to_be_bytes());
    bytes.extend(b"abc\0\0\0\0");
    theirs.write_all(&bytes).unwrap();
    assert_eq!(conn.recv_bytes().unwrap(), b"abc");
    assert_eq!(conn.recv_bytes().unwrap(), b"");
    conn.send_bytes(b"xy").unwrap();
    let mut got = [0; 6];
    theirs.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"\0\0\0\x02xy");
}

#[test]
fn a_peer_may_send_byte_by_byte() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let conn = Connection::<(), String>::try_from(ours).unwrap();
    for byte in b"\0\0\0\x04\x03abc\0\0\0\x02\x01z" {
        assert!(matches!(conn.try_recv(), Err(RecvError::Empty)));
        theirs.write_all(&[*byte]).unwrap();
        if *byte == b'c' {
            assert_eq!(conn.try_recv().unwrap(), "abc");
        }
    }
    assert_eq!(conn.recv().unwrap(), "z");
}

#[test]
fn a_timeout_inside_a_message_keeps_what_has_arrived() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let conn = Connection::<(), ()>::try_from(ours).unwrap();
    let payload = pattern(100_000);
    theirs.write_all(&100_000_u32.to_be_bytes()).unwrap();
    for chunk in payload.chunks(30_000) {
        let early = conn.recv_bytes_timeout(Duration::from_millis(2));
        assert!(matches!(early, Err(RecvError::Empty)));
        theirs.write_all(chunk).unwrap();
    }
    assert!(conn.recv_bytes_timeout(LONG).unwrap() == payload);
}

#[test]
fn an_end_inside_a_message_is_told_from_an_end_between_messages() {
    for (bytes, inside) in [
        (&b""[..], false),
        (b"\0\0\0\x01a", false),
        (b"\0", true),
        (b"\0\0\0\x05abcd", true),
        (b"\0\0\xff\xff begun", true),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let conn = Connection::<(), ()>::try_from(ours).unwrap();
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        let end = loop {
            match conn.recv_bytes() {
                Ok(_) => {}
                Err(end) => break end,
            }
        };
        assert_eq!(matches!(end, RecvError::EndOfFile), inside, "{bytes:?}");
        assert!(matches!(conn.recv_bytes(), Err(RecvError::Disconnected)));
    }
}

#[test]
fn sending_to_a_closed_end_is_an_error_and_no_signal() {
    let (rx, tx) = simplex::<u8>().unwrap();
    drop(rx);
    assert!(matches!(tx.send(&1), Err(SendError::Disconnected)));
    assert!(matches!(tx.send_bytes(&[1]), Err(SendError::Disconnected)));
}

#[test]
fn what_was_sent_before_a_close_can_be_received() {
    let (rx, tx) = simplex::<u8>().unwrap();
    tx.send(&1).unwrap();
    tx.send(&2).unwrap();
    drop(tx);
    let got: Vec<u8> = rx.iter().map(Result::unwrap).collect();
    assert_eq!(got, [1, 2]);
    assert!(rx.iter().next().is_none());
}

#[test]
fn a_message_of_another_type_is_consumed() {
    let (ours, theirs) = duplex::<(), ()>().unwrap();
    let fd = ours.as_fd().try_clone_to_owned().unwrap();
    drop(ours);
    let conn = Connection::<(), Vec<String>>::from_fd(fd).unwrap();
    theirs.send_bytes(&[0xff; 3]).unwrap();
    theirs.send_bytes(&[1, 1, b'a']).unwrap();
    assert!(matches!(conn.recv(), Err(RecvError::Decode(_))));
    assert_eq!(conn.recv().unwrap(), ["a"]);
}

struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

#[test]
fn a_value_that_refuses_leaves_the_connection_usable() {
    let (ours, theirs) = duplex::<(), ()>().unwrap();
    let fd = ours.as_fd().try_clone_to_owned().unwrap();
    let conn = Sender::<Refuses>::from_fd(fd).unwrap();
    let error = conn.send(&Refuses).unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
    conn.send_bytes(b"after").unwrap();
    assert_eq!(theirs.recv_bytes().unwrap(), b"after");
}

#[test]
fn why_a_value_with_an_end_in_it_does_not_leave_is_told_as_it_is() {
    let (ours, _theirs) = duplex::<(), ()>().unwrap();
    let (_rx, tx) = simplex::<u8>().unwrap();

    let error = carrier(&ours).send(&(&tx, Refuses)).unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
    let error = carrier(&ours).send(&[&tx, &tx]).unwrap_err();
    assert!(
        error.to_string().contains("is it in the value twice"),
        "{error}"
    );
    tx.send(&1).unwrap(); // it has not left

    carrier(&ours).send(&tx).unwrap();
    let error = carrier(&ours).send(&tx).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("was sent to another process already"),
        "{error}"
    );
}

/// A sender of any `T` over the socket of `end`.
fn carrier<T>(end: &Connection<(), ()>) -> Sender<T> {
    Sender::from_fd(end.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn threads_sharing_an_end_never_mix_messages() {
    let (rx, tx) = simplex::<Bytes>().unwrap();
    let (threads, each) = (4_u8, 300_usize);
    let mut counts = vec![0; threads as usize];
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..threads)
            .map(|thread| {
                let tx = &tx;
                scope.spawn(move || {
                    for n in 0..each {
                        let len = [3, 500, 20_000, 300_000][n % 4];
                        tx.send(&Bytes::from(vec![thread; len])).unwrap();
                    }
                })
            })
            .collect();
        let receivers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = vec![0; threads as usize];
                    for message in &rx {
                        let message = message.unwrap();
                        assert!(message.iter().all(|&byte| byte == message[0]));
                        assert!([3, 500, 20_000, 300_000].contains(&message.len()));
                        seen[message[0] as usize] += 1;
                    }
                    seen
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        tx.shutdown().unwrap();
        for receiver in receivers {
            for (count, seen) in counts.iter_mut().zip(receiver.join().unwrap()) {
                *count += seen;
            }
        }
    });
    assert_eq!(counts, vec![each; threads as usize]);
}

#[test]
fn a_peer_that_does_not_take_a_message_is_a_timeout() {
    let (rx, tx) = simplex::<()>().unwrap();
    let message = vec![0; 1 << 20];
    let error = loop {
        match tx.send_bytes_timeout(&message, SOON) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SendError::TimedOut));
    assert!(matches!(tx.send_bytes(b"x"), Err(SendError::Disconnected)));
    let end = loop {
        match rx.recv_bytes() {
            Ok(got) => assert_eq!(got.len(), message.len()),
            Err(end) => break end,
        }
    };
    assert!(matches!(end, RecvError::EndOfFile));
}

#[test]
fn shutdown_ends_a_receive_in_another_thread() {
    let (a, _b) = duplex::<(), u8>().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| a.recv());
        std::thread::sleep(SOON);
        a.shutdown().unwrap();
        assert!(matches!(
            waiting.join().unwrap(),
            Err(RecvError::Disconnected)
        ));
    });
}

#[test]
fn an_end_travels_with_what_it_has_read_ahead() {
    let (carrier_rx, carrier_tx) = simplex::<Receiver<String>>().unwrap();
    let (rx, tx) = simplex::<String>().unwrap();
    for text in ["one", "two", "three"] {
        tx.send(&text.to_owned()).unwrap();
    }
    assert_eq!(rx.recv().unwrap(), "one"); // "two" and "three" are read ahead
    carrier_tx.send(&rx).unwrap();
    assert!(matches!(rx.recv(), Err(RecvError::Moved)));
    assert!(matches!(carrier_tx.send(&rx), Err(SendError::Encode(_))));
    let arrived = carrier_rx.recv().unwrap();
    assert!(arrived.poll(Duration::ZERO).unwrap());
    assert_eq!(arrived.recv().unwrap(), "two");
    tx.send(&"four".to_owned()).unwrap();
    drop(tx);
    let rest: Vec<String> = arrived.iter().map(Result::unwrap).collect();
    assert_eq!(rest, ["three", "four"]);
}

#[test]
fn a_moved_end_is_closed_here() {
    let (carrier_rx, carrier_tx) = simplex::<Sender<u8>>().unwrap();
    let (rx, tx) = simplex::<u8>().unwrap();
    carrier_tx.send(&tx).unwrap();
    drop(carrier_rx.recv().unwrap());
    assert!(matches!(rx.recv(), Err(RecvError::Disconnected))); // though `tx` is still in scope
    assert!(matches!(tx.send(&1), Err(SendError::Moved)));
}

#[test]
fn an_end_that_could_not_leave_stays_usable() {
    let (carrier_rx, carrier_tx) = simplex::<Sender<u8>>().unwrap();
    let (rx, tx) = simplex::<u8>().unwrap();
    drop(carrier_rx);
    assert!(matches!(carrier_tx.send(&tx), Err(SendError::Disconnected)));
    tx.send(&1).unwrap();
    assert_eq!(rx.recv().unwrap(), 1);
    let (_rx, twice) = simplex::<(Sender<u8>, Sender<u8>)>().unwrap();
    let fd = tx.as_fd().try_clone_to_owned().unwrap();
    let pair = (tx, Sender::from_fd(fd).unwrap());
    twice.send(&pair).unwrap();
    assert!(matches!(pair.0.send(&1), Err(SendError::Moved)));
}

#[test]
fn descriptors_stay_with_their_message_between_others() {
    let (carrier_rx, carrier_tx) = simplex::<(u32, Option<Sender<u32>>, Bytes)>().unwrap();
    let mut receivers = Vec::new();
    std::thread::scope(|scope| {
        let receivers = &mut receivers;
        scope.spawn(move || {
            for n in 0..200_u32 {
                let padding = Bytes::from(vec![0; [0, 10, 1000, 50_000][n as usize % 4]]);
                if n % 3 == 0 {
                    let (rx, tx) = simplex().unwrap();
                    carrier_tx.send(&(n, Some(tx), padding)).unwrap();
                    receivers.push((n, rx));
                } else {
                    carrier_tx.send(&(n, None, padding)).unwrap();
                }
            }
        });
        for message in &carrier_rx {
            if let (n, Some(tx), _) = message.unwrap() {
                tx.send(&n).unwrap();
            }
        }
    });
    assert_eq!(receivers.len(), 67);
    for (n, rx) in receivers {
        assert_eq!(rx.recv().unwrap(), n);
    }
}

/// So many handles, and bytes to fill up the message.
type Handles = (Vec<Descriptor>, Bytes);

fn handles(count: usize, padding: usize) -> Handles {
    let file = std::fs::File::open("/dev/null").unwrap();
    let handles = (0..count).map(|_| file.try_clone().unwrap().into());
    (handles.collect(), Bytes::from(vec![7; padding]))
}

#[test]
fn many_handles_in_messages_that_follow_each_other_arrive_with_their_own() {
    allow_descriptors();
    let cases = [
        // A long message; of the next only the header is read with it, and all of its handles.
        [(0, 20_000), (200, 0), (200, 0), (1, 0)],
        // The end of what one call reads ahead is in the middle of the second.
        [(1, 15_000), (0, 15_900), (253, 15_900), (253, 15_900)],
        [(253, 20_000), (253, 20_000), (253, 0), (253, 0)],
        [(253, 0), (253, 0), (253, 0), (253, 0)],
    ];
    for case in cases {
        let (rx, tx) = simplex::<Handles>().unwrap();
        for (count, padding) in case {
            tx.send(&handles(count, padding)).unwrap();
        }
        for (count, padding) in case {
            let (handles, bytes) = rx.recv().unwrap();
            assert_eq!((handles.len(), bytes.len()), (count, padding), "{case:?}");
        }
    }
}

#[test]
fn ends_are_not_plain_data() {
    let (rx, _tx) = simplex::<u8>().unwrap();
    let mut out = Vec::new();
    let error = mp_core::codec::encode_into(&rx, &mut out).unwrap_err();
    assert!(error.to_string().contains("Receiver"), "{error}");
}

#[test]
fn only_stream_sockets_become_connections() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Connection::<(), ()>::from_fd(file.into()).is_err());
    let datagrams = std::os::unix::net::UnixDatagram::pair().unwrap().0;
    assert!(Receiver::<()>::from_fd(datagrams.into()).is_err());
}
