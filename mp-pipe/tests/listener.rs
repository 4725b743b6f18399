//! Listeners and clients by address, with and without a key.

use std::{
    fs,
    io::{Read, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{SocketAddr, UnixStream},
        },
    },
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use mp_core::testing::{Watchdog, eventually, fork_child};
use mp_pipe::{
    AcceptError, Address, AuthError, AuthKey, Client, ConnectError, Connection, Digest, Listener,
    answer_challenge, deliver_challenge, duplex, simplex, wait,
};
use nix::unistd::{Uid, geteuid, setresuid};

const LONG: Duration = Duration::from_secs(10);
const NOBODY: Uid = Uid::from_raw(65_534);

/// One address of each family; each is free.
fn addresses(directory: &TempDir) -> [Address; 3] {
    let name = format!("mp-test-{}-{:p}", std::process::id(), directory);
    [
        Address::unix(directory.0.join("sock")),
        Address::abstract_name(name),
        Address::tcp("127.0.0.1:0").unwrap(),
    ]
}

struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        let template = format!("mp-listener-{}-XXXXXX", std::process::id());
        Self(nix::unistd::mkdtemp(&std::env::temp_dir().join(template)).unwrap())
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Conformance: _TestListener.test_context
/// Conformance: _TestListener.test_abstract_socket
/// Conformance: _TestListenerClient.test_issue16955
#[test]
fn messages_pass_both_ways_over_every_family() {
    let _dog = Watchdog::secs(60);
    let directory = TempDir::new();
    for address in addresses(&directory) {
        let listener = Listener::bind(address).unwrap();
        thread::scope(|scope| {
            let client = scope.spawn(|| Client::new().connect::<String, u64>(listener.address()));
            let there = listener.accept::<u64, String>().unwrap();
            let here = client.join().unwrap().unwrap();
            there.send(&7).unwrap();
            assert!(here.poll(LONG).unwrap());
            assert_eq!(here.recv().unwrap(), 7);
            here.send(&"seven".to_owned()).unwrap();
            assert_eq!(there.recv().unwrap(), "seven");
        });
        listener.close();
        let closed = listener.accept::<(), ()>();
        assert!(matches!(closed, Err(AcceptError::Closed)));
        let refused = Client::new().connect::<(), ()>(listener.address());
        assert!(
            matches!(refused, Err(ConnectError::Io { .. })),
            "{refused:?}"
        );
    }
}

/// Conformance: _TestListener.test_multiple_bind
#[test]
fn an_address_in_use_is_an_error() {
    let directory = TempDir::new();
    for address in addresses(&directory) {
        let listener = Listener::bind(address).unwrap();
        let error = Listener::bind(listener.address()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        let address = listener.address().clone();
        drop(listener);
        Listener::bind(address).unwrap();
    }
}

/// Conformance: _TestListenerClient.test_issue14725
#[test]
fn a_client_that_came_and_went_is_still_accepted() {
    let _dog = Watchdog::secs(60);
    let directory = TempDir::new();
    for address in addresses(&directory) {
        let listener = Listener::builder().unauthenticated().bind(address).unwrap();
        let client = Client::new().unauthenticated();
        let here = client.connect::<u8, ()>(listener.address()).unwrap();
        here.send(&42).unwrap();
        drop(here);
        let there = listener.accept::<(), u8>().unwrap();
        assert_eq!(there.recv().unwrap(), 42);
    }
}

#[test]
fn a_name_stands_for_its_ipv4_address_as_in_python() {
    let address = "localhost:80".parse::<Address>().unwrap();
    assert_eq!(address, Address::tcp("127.0.0.1:80").unwrap());
}

/// Conformance: TestInvalidFamily.test_invalid_family
#[test]
fn an_address_of_no_family_is_refused() {
    for text in [r"\\.\pipe\name", "neither", "127.0.0.1:notaport", ""] {
        let error = text.parse::<Address>().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{text}");
    }
}

#[test]
fn a_name_that_is_too_long_is_told_with_its_length() {
    for (address, length) in [
        (Address::unix(format!("/tmp/{}", "x".repeat(200))), 205),
        (Address::abstract_name("x".repeat(108)), 108),
    ] {
        let text = format!("107 bytes, this one has {length}: {address}");
        let error = Listener::bind(&address).unwrap_err();
        assert!(error.to_string().contains(&text), "{error}");
        let error = Client::new().connect::<(), ()>(&address).unwrap_err();
        assert!(error.to_string().contains(&text), "{error}");
    }
}

/// Conformance: _TestListener.test_empty_authkey
#[test]
fn an_empty_key_is_a_key() {
    let _dog = Watchdog::secs(60);
    let listener = Listener::builder().authkey("").bind_private().unwrap();
    connect_both(&listener, &Client::new().authkey("")).unwrap();
    let error = connect_both(&listener, &Client::new().authkey("x")).unwrap_err();
    assert!(matches!(error, AuthError::WrongKey | AuthError::Rejected));
}

/// One client, served by a listener in another thread for as long as it takes.
fn connect_both(listener: &Listener, client: &Client) -> Result<Connection<u8, u8>, AuthError> {
    thread::scope(|scope| {
        let (stop, stopped) = mp_pipe::simplex::<()>().unwrap();
        let server = scope.spawn(move || {
            // Keeps what it accepts until the client has its answer.
            let mut accepted = Vec::new();
            while stop.try_recv().is_err_and(|error| !error.is_final()) {
                if let Ok(conn) = listener.accept_timeout::<u8, u8>(Duration::from_millis(10)) {
                    accepted.push(conn);
                }
            }
            accepted
        });
        let connected = client.connect::<u8, u8>(listener.address());
        drop(stopped);
        server.join().unwrap();
        match connected {
            Ok(connection) => Ok(connection),
            Err(ConnectError::Auth { source, .. }) => Err(source),
            Err(error) => panic!("{error}"),
        }
    })
}

#[test]
fn every_digest_opens_a_connection_and_md5_only_where_asked_for() {
    let _dog = Watchdog::secs(60);
    for digest in [
        Digest::Sha256,
        Digest::Sha384,
        Digest::Sha3_256,
        Digest::Sha3_384,
    ] {
        let listener = Listener::builder().digest(digest).bind_private().unwrap();
        connect_both(&listener, &Client::new().digest(digest)).unwrap();
    }
    let listener = Listener::builder()
        .digest(Digest::Md5)
        .bind_private()
        .unwrap();
    let error = connect_both(&listener, &Client::new()).unwrap_err();
    assert!(matches!(error, AuthError::Digest(name) if name == "md5"));
    let listener = Listener::builder()
        .digest(Digest::Md5)
        .legacy_md5(true)
        .bind_private()
        .unwrap();
    connect_both(&listener, &Client::new().legacy_md5(true)).unwrap();
}

#[test]
fn a_wrong_key_is_told_to_the_client_and_counted_by_the_listener() {
    let _dog = Watchdog::secs(60);
    let listener = Listener::builder().authkey("right").bind_private().unwrap();
    let error = connect_both(&listener, &Client::new().authkey("wrong")).unwrap_err();
    assert!(matches!(error, AuthError::Rejected));
    assert_eq!(listener.rejections().wrong_key, 1);
    assert_eq!(listener.rejections().total(), 1);
    connect_both(&listener, &Client::new().authkey("right")).unwrap();
}

#[test]
fn a_key_on_one_side_only_is_an_error_within_the_deadline() {
    let _dog = Watchdog::secs(60);
    let short = Duration::from_millis(200);
    let open = Listener::builder()
        .unauthenticated()
        .bind_private()
        .unwrap();
    let error = connect_both(&open, &Client::new().timeout(short)).unwrap_err();
    assert!(matches!(error, AuthError::TimedOut), "{error}");

    let keyed = Listener::new().unwrap();
    let (there, here) = thread::scope(|scope| {
        let client = Client::new().unauthenticated();
        let here = client.connect::<u8, u8>(keyed.address()).unwrap();
        here.send_bytes(b"a request to a server without a key")
            .unwrap();
        let server = scope.spawn(|| keyed.accept_timeout::<u8, u8>(short));
        (server.join().unwrap(), here)
    });
    assert!(matches!(there, Err(AcceptError::TimedOut)));
    assert!(
        here.recv_bytes()
            .unwrap()
            .starts_with(b"#CHALLENGE#{sha256}")
    );
    assert_eq!(here.recv_bytes().unwrap(), b"#FAILURE#");
    assert!(here.recv_bytes().is_err());
}

/// Conformance: OtherTest.test_deliver_challenge_auth_failure
#[test]
fn an_answer_that_is_no_digest_is_a_wrong_key() {
    let (ours, theirs) = duplex::<(), ()>().unwrap();
    theirs.send_bytes(b"something bogus").unwrap();
    let error = deliver_challenge(&ours, &AuthKey::from("abc"), Digest::Sha256).unwrap_err();
    assert!(matches!(error, AuthError::WrongKey));
    assert!(theirs.recv_bytes().unwrap().starts_with(b"#CHALLENGE#"));
    assert_eq!(theirs.recv_bytes().unwrap(), b"#FAILURE#");
    theirs.send_bytes(b"something bogus").unwrap();
    let error = answer_challenge(&ours, &AuthKey::from("abc")).unwrap_err();
    assert!(matches!(error, AuthError::Protocol(_)));
}

#[test]
fn accept_times_out_and_the_listener_goes_on() {
    let _dog = Watchdog::secs(60);
    let listener = Listener::new().unwrap();
    let timeout = Duration::from_millis(30);
    let before = Instant::now();
    let result = listener.accept_timeout::<(), ()>(timeout);
    assert!(matches!(result, Err(AcceptError::TimedOut)));
    assert!(before.elapsed() >= timeout);
    connect_both(&listener, &Client::new()).unwrap();
}

#[test]
fn close_ends_an_accept_in_another_thread() {
    let _dog = Watchdog::secs(60);
    let listener = Listener::new().unwrap();
    thread::scope(|scope| {
        let accepting: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| listener.accept::<(), ()>()))
            .collect();
        thread::sleep(Duration::from_millis(20));
        listener.close();
        for accept in accepting {
            assert!(matches!(accept.join().unwrap(), Err(AcceptError::Closed)));
        }
    });
}

#[test]
fn a_private_listener_is_open_to_its_user_only_and_leaves_nothing() {
    let listener = Listener::new().unwrap();
    let Address::Unix(path) = listener.address().clone() else {
        panic!("a private listener is a path");
    };
    let directory = path.parent().unwrap().to_owned();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&directory).unwrap().permissions().mode() & 0o777,
        0o700
    );
    drop(listener);
    assert!(!directory.exists());
}

#[test]
fn the_mode_of_a_path_is_what_was_asked_for() {
    let directory = TempDir::new();
    let path = directory.0.join("sock");
    for mode in [0o600, 0o666, 0o660] {
        let _listener = Listener::builder().mode(mode).bind(path.as_path()).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            mode
        );
    }
}

#[test]
fn a_file_that_somebody_else_put_at_the_path_is_not_removed() {
    let directory = TempDir::new();
    let path = directory.0.join("sock");
    let listener = Listener::bind(path.as_path()).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    drop(listener);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

#[test]
fn a_forked_child_lets_go_of_its_copy_and_its_parent_goes_on() {
    let _dog = Watchdog::secs(60);
    let directory = TempDir::new();
    for address in addresses(&directory) {
        let listener = Listener::bind(address).unwrap();
        let mut listener = Some(listener);
        fork_child(|| drop(listener.take())).wait_success();
        connect_both(listener.as_ref().unwrap(), &Client::new()).unwrap();
    }
}

#[test]
fn connections_beyond_the_backlog_wait_until_their_time_is_over() {
    let _dog = Watchdog::secs(60);
    let backlog = 2;
    let builder = Listener::builder().unauthenticated().backlog(backlog);
    let listener = builder.bind_private().unwrap();
    let client = Client::new()
        .unauthenticated()
        .timeout(Duration::from_millis(50));
    let mut waiting = Vec::new();
    let error = loop {
        match client.connect::<u8, u8>(listener.address()) {
            Ok(connection) => waiting.push(connection),
            Err(ConnectError::Io { source, .. }) => break source,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(waiting.len(), backlog as usize + 1); // the kernel lets in one more
    for connection in &waiting {
        connection.send(&1).unwrap();
        assert_eq!(listener.accept::<u8, u8>().unwrap().recv().unwrap(), 1);
    }
    client.connect::<u8, u8>(listener.address()).unwrap();
}

/// Needs two users, so only root can show it.
#[test]
fn another_user_is_refused_at_an_abstract_name() {
    let _dog = Watchdog::secs(60);
    if !geteuid().is_root() {
        return;
    }
    let become_nobody = || setresuid(NOBODY, NOBODY, NOBODY).unwrap();
    let name = |role| Address::abstract_name(format!("mp-{role}-{}", std::process::id()));

    // Its client: our listener does not even challenge it.
    let listener = Listener::bind(name("ours")).unwrap();
    let child = fork_child(|| {
        become_nobody();
        let refused = Client::new().connect::<u8, u8>(listener.address());
        assert!(matches!(refused, Err(ConnectError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied));
        // Without our client's own check:
        let Address::Abstract(name) = listener.address() else {
            unreachable!("bound to a name")
        };
        let name = SocketAddr::from_abstract_name(name).unwrap();
        let mut stream = UnixStream::connect_addr(&name).unwrap();
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got); // returns, as the listener hung up
        assert!(got.is_empty());
    });
    while listener.rejections().foreign < 2 {
        let accepted = listener.accept_timeout::<u8, u8>(Duration::from_millis(10));
        assert!(matches!(accepted, Err(AcceptError::TimedOut)));
    }
    child.wait_success();

    // Its listener: our client says nothing to it.
    let (ready, tell) = simplex::<()>().unwrap();
    let address = name("theirs");
    let mut child = fork_child(|| {
        become_nobody();
        let listener = Listener::bind(&address).unwrap();
        tell.send(&()).unwrap();
        let _ = listener.accept::<u8, u8>(); // until it is killed
    });
    ready.recv().unwrap();
    let refused = Client::new().connect::<u8, u8>(&address);
    assert!(matches!(refused, Err(ConnectError::Io { source, .. })
        if source.kind() == std::io::ErrorKind::PermissionDenied));
    child.kill();
}

#[test]
fn the_last_peer_is_known() {
    let _dog = Watchdog::secs(60);
    let directory = TempDir::new();
    for address in addresses(&directory) {
        let listener = Listener::bind(address).unwrap();
        assert_eq!(listener.last_accepted(), None);
        let connection = connect_both(&listener, &Client::new()).unwrap();
        let peer = listener.last_accepted().unwrap();
        match listener.address() {
            Address::Tcp(_) => {
                assert!(matches!(peer.address, Address::Tcp(address) if address.port() != 0));
                assert_eq!(peer.credentials, None);
                assert!(connection.peer_credentials().is_err());
            }
            _ => {
                assert_eq!(peer.address, Address::unix(""));
                let credentials = peer.credentials.unwrap();
                assert_eq!(credentials.pid as u32, std::process::id());
                assert_eq!(connection.peer_credentials().unwrap(), credentials);
            }
        }
    }
}

/// As a program does that waits for a listener beside other things.
fn accept_when_ready(listener: &Listener) -> Connection<u8, u8> {
    loop {
        assert_eq!(wait(&[listener], None).unwrap(), [0]);
        match listener.accept_timeout(Duration::ZERO) {
            Err(AcceptError::TimedOut) => {}
            result => break result.unwrap(),
        }
    }
}

#[test]
fn a_listener_can_be_waited_for() {
    let _dog = Watchdog::secs(60);
    let listener = Listener::new().unwrap();
    assert_eq!(wait(&[&listener], Duration::ZERO).unwrap(), []);
    thread::scope(|scope| {
        let client = scope.spawn(|| Client::new().connect::<u8, u8>(listener.address()));
        let accepted = accept_when_ready(&listener);
        client.join().unwrap().unwrap();
        drop(accepted);
    });
}

#[test]
fn a_listener_stays_ready_while_there_is_another_connection_to_accept() {
    let _dog = Watchdog::secs(60);
    let builder = Listener::builder().unauthenticated();
    let listener = builder.bind_private().unwrap();
    let client = Client::new().unauthenticated();
    let _waiting = [(); 3].map(|()| client.connect::<u8, u8>(listener.address()).unwrap());
    for _ in 0..3 {
        assert_eq!(wait(&[&listener], Duration::ZERO).unwrap(), [0]);
        listener.accept_timeout::<u8, u8>(Duration::ZERO).unwrap();
    }
    // The last look at the socket may still be to come.
    let none = listener.accept_timeout::<u8, u8>(Duration::ZERO);
    assert!(matches!(none, Err(AcceptError::TimedOut)), "{none:?}");
    assert_eq!(wait(&[&listener], Duration::ZERO).unwrap(), []);
}

/// Connects, and has been challenged once this returns.
fn mute(listener: &Listener) -> UnixStream {
    let Address::Unix(path) = listener.address() else {
        panic!("a private listener is a path");
    };
    let mut stream = UnixStream::connect(path).unwrap();
    let none = listener.accept_timeout::<u8, u8>(Duration::ZERO);
    assert!(matches!(none, Err(AcceptError::TimedOut)), "{none:?}");
    stream.read_exact(&mut [0; 4 + 59]).unwrap();
    stream
}

#[test]
fn a_listener_is_ready_when_the_time_of_a_mute_peer_is_over() {
    let _dog = Watchdog::secs(60);
    let builder = Listener::builder().handshake_timeout(Duration::from_millis(100));
    let listener = builder.bind_private().unwrap();
    let mut peer = mute(&listener);
    while listener.rejections().timed_out == 0 {
        assert_eq!(wait(&[&listener], None).unwrap(), [0]);
        let none = listener.accept_timeout::<u8, u8>(Duration::ZERO);
        assert!(matches!(none, Err(AcceptError::TimedOut)), "{none:?}");
    }
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    assert_eq!(wait(&[&listener], Duration::ZERO).unwrap(), []);
}

#[test]
fn a_listener_that_is_waited_for_lets_in_who_comes_after_many_mute_peers() {
    let _dog = Watchdog::secs(60);
    let builder = Listener::builder().max_half_open(4);
    let listener = builder.bind_private().unwrap();
    let Address::Unix(path) = listener.address() else {
        panic!("a private listener is a path");
    };
    let _mute = [(); 12].map(|()| UnixStream::connect(path).unwrap());
    thread::scope(|scope| {
        let client = scope.spawn(|| Client::new().connect::<u8, u8>(listener.address()));
        let accepted = accept_when_ready(&listener);
        client.join().unwrap().unwrap();
        drop(accepted);
    });
}

#[test]
fn a_peer_that_is_dropped_sees_it_though_a_forked_child_has_a_copy() {
    let _dog = Watchdog::secs(60);
    let late = |listener: &Listener, _: &mut UnixStream| {
        let accepted = listener.accept_timeout::<u8, u8>(Duration::from_millis(300));
        assert!(matches!(accepted, Err(AcceptError::TimedOut)));
        assert_eq!(listener.rejections().timed_out, 1);
    };
    let wrong = |listener: &Listener, peer: &mut UnixStream| {
        peer.write_all(&[0xff; 12]).unwrap();
        let accepted = listener.accept_timeout::<u8, u8>(Duration::ZERO);
        assert!(matches!(accepted, Err(AcceptError::TimedOut)));
        assert_eq!(listener.rejections().protocol, 1);
    };
    let closed = |listener: &Listener, _: &mut UnixStream| listener.close();
    type Drops<'a> = &'a dyn Fn(&Listener, &mut UnixStream);
    for (drops, timeout) in [
        (&late as Drops<'_>, 100),
        (&wrong, 10_000),
        (&closed, 10_000),
    ] {
        let builder = Listener::builder().handshake_timeout(Duration::from_millis(timeout));
        let listener = builder.bind_private().unwrap();
        let mut peer = mute(&listener);
        let mut child = fork_child(|| {
            loop {
                thread::park();
            }
        });
        drops(&listener, &mut peer);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        drop(peer); // which would make a connection that is left readable for ever
        let ready = wait(&[&listener], Duration::ZERO).unwrap();
        let closed = listener.accept_timeout::<u8, u8>(Duration::ZERO);
        assert_eq!(
            ready.len(),
            usize::from(matches!(closed, Err(AcceptError::Closed)))
        );
        child.kill();
    }
}

#[test]
fn a_peer_that_has_to_go_for_newer_ones_sees_it_though_a_forked_child_has_a_copy() {
    let _dog = Watchdog::secs(60);
    let builder = Listener::builder().max_half_open(1);
    let listener = builder.bind_private().unwrap();
    let mut peer = mute(&listener);
    let mut child = fork_child(|| {
        loop {
            thread::park();
        }
    });
    connect_both(&listener, &Client::new()).unwrap();
    assert_eq!(listener.rejections().evicted, 1);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    drop(peer);
    assert_eq!(wait(&[&listener], Duration::ZERO).unwrap(), []);
    child.kill();
}

/// Whether the process sleeps, rather than runs or wants to.
fn sleeps(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, state) = stat.rsplit_once(") ").unwrap();
    state.starts_with('S')
}

#[test]
fn a_forked_copy_sleeps_in_accept_and_leaves_its_parent_what_that_has_taken() {
    let _dog = Watchdog::secs(60);
    let builder = Listener::builder().unauthenticated();
    let listener = builder.bind_private().unwrap();
    let client = Client::new().unauthenticated();
    let connect = || client.connect::<(), u8>(listener.address()).unwrap();
    let [first, second] = [(); 2].map(|()| connect());
    // It takes both from the system.
    listener.accept::<u8, ()>().unwrap().send(&1).unwrap();
    assert_eq!(first.recv().unwrap(), 1);

    let (ready, tell) = simplex::<bool>().unwrap();
    let child = fork_child(|| {
        let none = listener.accept_timeout::<u8, ()>(Duration::ZERO);
        let none = matches!(none, Err(AcceptError::TimedOut));
        tell.send(&none).unwrap();
        listener.accept::<u8, ()>().unwrap().send(&3).unwrap();
    });
    let none = ready.recv().unwrap();
    eventually(20, || sleeps(child.pid()));
    assert!(none, "it took what is its parent's");
    assert_eq!(connect().recv().unwrap(), 3);
    child.wait_success();

    assert_eq!(wait(&[&listener], Duration::ZERO).unwrap(), [0]);
    let accepted = listener.accept_timeout::<u8, ()>(Duration::ZERO);
    accepted.unwrap().send(&2).unwrap();
    assert_eq!(second.recv().unwrap(), 2);
}

#[test]
fn a_listener_is_ready_when_a_time_is_over_though_a_forked_copy_was_in_accept() {
    let _dog = Watchdog::secs(60);
    let builder = Listener::builder().handshake_timeout(Duration::from_millis(100));
    let listener = builder.bind_private().unwrap();
    let mut peer = mute(&listener);
    fork_child(|| {
        let none = listener.accept_timeout::<u8, u8>(Duration::from_millis(300));
        assert!(matches!(none, Err(AcceptError::TimedOut)), "{none:?}");
    })
    .wait_success();
    while listener.rejections().timed_out == 0 {
        assert_eq!(wait(&[&listener], LONG).unwrap(), [0]);
        let none = listener.accept_timeout::<u8, u8>(Duration::ZERO);
        assert!(matches!(none, Err(AcceptError::TimedOut)), "{none:?}");
    }
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

/// Conformance: TestTimeouts.test_timeout
#[test]
fn accepted_connections_wait_without_a_timeout() {
    let _dog = Watchdog::secs(60);
    let directory = TempDir::new();
    for address in addresses(&directory) {
        let listener = Listener::bind(address).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let client = Client::new().timeout(Duration::from_millis(500));
                let connection = client.connect::<u8, u8>(listener.address()).unwrap();
                thread::sleep(Duration::from_millis(700)); // beyond every timeout in sight
                connection.send(&1).unwrap();
                assert_eq!(connection.recv().unwrap(), 2);
            });
            let connection = listener.accept::<u8, u8>().unwrap();
            assert_eq!(connection.recv().unwrap(), 1);
            thread::sleep(Duration::from_millis(700));
            connection.send(&2).unwrap();
        });
    }
}
