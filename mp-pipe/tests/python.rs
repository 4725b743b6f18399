//! A real Python at the other end, as listener and as client, over Unix sockets and TCP.

use std::{
    io::Write,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use mp_core::testing::{Watchdog, skip, tool};
use mp_pipe::{
    AcceptError, Address, AuthError, Client, ConnectError, Connection, Digest, Listener,
};

const LONG: Duration = Duration::from_secs(20);

/// Python's side of every test. A Python before 3.12 speaks MD5 only: `modern` gives it the two
/// functions of the later ones, so that both handshakes meet the rest of a real `multiprocessing`.
const PRELUDE: &str = r#"
import sys, os, hmac, multiprocessing.connection as mc
from multiprocessing import AuthenticationError
def modern(digest='sha256'):
    if sys.version_info >= (3, 12):
        real = mc.deliver_challenge
        mc.deliver_challenge = lambda c, k: real(c, k, digest)
        return
    def mac(key, message):
        name, _, _ = message[1:].partition(b'}')
        assert name in (b'sha256', b'sha384', b'sha3_256', b'sha3_384'), name
        return b'{' + name + b'}' + hmac.new(key, message, name.decode()).digest()
    def deliver_challenge(c, key):
        message = b'{' + digest.encode() + b'}' + os.urandom(40)
        c.send_bytes(mc.CHALLENGE + message)
        if not hmac.compare_digest(c.recv_bytes(256), mac(key, message)):
            c.send_bytes(mc.FAILURE)
            raise AuthenticationError('digest received was wrong')
        c.send_bytes(mc.WELCOME)
    def answer_challenge(c, key):
        message = c.recv_bytes(256)
        assert message[:len(mc.CHALLENGE)] == mc.CHALLENGE, message
        c.send_bytes(mac(key, message[len(mc.CHALLENGE):]))
        if c.recv_bytes(256) != mc.WELCOME:
            raise AuthenticationError('digest sent was rejected')
    mc.deliver_challenge, mc.answer_challenge = deliver_challenge, answer_challenge
def echo(c):
    try:
        while True: c.send_bytes(c.recv_bytes())
    except EOFError: pass
def address(text):
    if text[0] == '@': return '\0' + text[1:]
    if '/' in text: return text
    host, port = text.rsplit(':', 1)
    return host, int(port)
where, key = address(sys.argv[1]), sys.argv[2].encode()
"#;

/// The Python 3 of this machine, and each one from 3.12 that it has beside it, on the path or in
/// pyenv's place. A skipped test says so.
fn pythons(test: &str) -> Vec<PathBuf> {
    let names = ["python3", "python3.12", "python3.13", "python3.14"];
    let mut candidates: Vec<_> = names.iter().filter_map(|name| tool(name)).collect();
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = pyenv.or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    let versions = pyenv.and_then(|root| root.join("versions").read_dir().ok());
    for version in versions.into_iter().flatten().flatten() {
        if version.file_name().to_string_lossy().starts_with("3.1") {
            candidates.push(version.path().join("bin/python3"));
        }
    }
    let mut found: Vec<PathBuf> = Vec::new();
    let mut seen = Vec::new();
    for candidate in candidates {
        let script = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)";
        let output = Command::new(&candidate).args(["-c", script]).output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            continue; // a shim for a version that is not selected
        };
        let text = String::from_utf8_lossy(&output.stdout);
        // The program itself: what is on the path may be a script that looks for it each time.
        let Some((version, program)) = text.trim().split_once(' ') else {
            continue;
        };
        let minor = version.split('.').nth(1);
        let old = minor.is_some_and(|minor| minor.parse().unwrap_or(0) < 12);
        if !seen.contains(&version.to_owned()) && (found.is_empty() || !old) {
            seen.push(version.to_owned());
            found.push(program.into());
        }
    }
    if found.is_empty() {
        skip(test, "python3");
    }
    found
}

fn python(program: &PathBuf, script: &str, address: &str, key: &str) -> Child {
    Command::new(program)
        .args(["-c", &format!("{PRELUDE}\n{script}"), address, key])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the script printed; it has to end well.
fn finish(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How the two sides prove the key: what Python is told, what the digest is, whether MD5 is allowed.
const HANDSHAKES: [(&str, Digest, bool); 5] = [
    ("modern()", Digest::Sha256, false),
    ("modern('sha384')", Digest::Sha384, false),
    ("modern('sha3_256')", Digest::Sha3_256, false),
    ("modern('sha3_384')", Digest::Sha3_384, false),
    ("pass", Digest::Sha256, true), // as installed: up to 3.11 that is MD5
];

fn families(test: &str) -> [Address; 3] {
    let path = std::env::temp_dir().join(format!("mp-{test}-{}", std::process::id()));
    [
        Address::unix(path),
        Address::abstract_name(format!("mp-{test}-{}", std::process::id())),
        Address::tcp("127.0.0.1:0").unwrap(),
    ]
}

/// True once: the longest messages and all digests are for one Python only.
fn only_first() -> impl Iterator<Item = bool> {
    std::iter::once(true).chain(std::iter::repeat(false))
}

/// How many families are tried: for what differs in the digest only, one does.
fn reach(handshake: usize) -> usize {
    if (1..4).contains(&handshake) { 1 } else { 3 }
}

/// 0 B to 100 MB there and back.
fn exchange(connection: &Connection<(), ()>, most: usize) {
    let lengths = [
        0,
        1,
        256,
        16383,
        16384,
        16385,
        65_537,
        1_000_000,
        100_000_000,
    ];
    for len in lengths.into_iter().filter(|len| *len <= most) {
        let pattern: Vec<u8> = (0..=252).collect();
        let mut message = pattern.repeat(len / pattern.len() + 1);
        message.truncate(len);
        thread::scope(|scope| {
            scope.spawn(|| connection.send_bytes(&message).unwrap());
            assert!(connection.recv_bytes().unwrap() == message, "{len} bytes");
        });
    }
}

#[test]
fn python_connects_to_our_listener() {
    let _dog = Watchdog::secs(120);
    for (program, first) in pythons("python_connects_to_our_listener")
        .iter()
        .zip(only_first())
    {
        for (index, (setup, digest, md5)) in HANDSHAKES.into_iter().enumerate() {
            if !first && index > 0 {
                continue; // all digests with one Python, the default one with all
            }
            let all = first && index == 0;
            for address in families("client").into_iter().take(reach(index)) {
                let listener = Listener::builder()
                    .authkey("secret")
                    .digest(digest)
                    .legacy_md5(md5)
                    .bind(address)
                    .unwrap();
                let script = format!("{setup}\necho(mc.Client(where, authkey=key))");
                let child = python(program, &script, &listener.address().to_string(), "secret");
                let connection = listener.accept_timeout::<(), ()>(LONG).unwrap();
                exchange(&connection, if all { usize::MAX } else { 70_000 });
                drop(connection);
                finish(child);
            }
        }
    }
}

#[test]
fn we_connect_to_pythons_listener() {
    let _dog = Watchdog::secs(120);
    for (program, first) in pythons("we_connect_to_pythons_listener")
        .iter()
        .zip(only_first())
    {
        for (index, (setup, digest, md5)) in HANDSHAKES.into_iter().enumerate() {
            if !first && index > 0 {
                continue; // all digests with one Python, the default one with all
            }
            let all = first && index == 0;
            for address in families("listener").into_iter().take(reach(index)) {
                let script = format!(
                    "{setup}
with mc.Listener(where, authkey=key) as l:
    a = l.address
    if isinstance(a, bytes): a = a.decode()
    print(a if isinstance(a, str) else '%s:%d' % a, flush=True)
    echo(l.accept())"
                );
                let mut child = python(program, &script, &address.to_string(), "secret");
                let address = first_line(&mut child).parse::<Address>().unwrap();
                let connection = Client::new()
                    .authkey("secret")
                    .digest(digest)
                    .legacy_md5(md5)
                    .connect::<(), ()>(address)
                    .unwrap();
                exchange(&connection, if all { usize::MAX } else { 70_000 });
                drop(connection);
                finish(child);
            }
        }
    }
}

fn first_line(child: &mut Child) -> String {
    use std::io::Read as _;
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn a_python_with_a_wrong_key_is_refused_and_the_next_is_served() {
    let _dog = Watchdog::secs(60);
    for program in pythons("a_python_with_a_wrong_key_is_refused_and_the_next_is_served") {
        for (setup, _, md5) in [HANDSHAKES[0], HANDSHAKES[4]] {
            for address in families("wrong") {
                let listener = Listener::builder()
                    .authkey("right")
                    .legacy_md5(md5)
                    .bind(address)
                    .unwrap();
                let script = format!(
                    "{setup}
try: mc.Client(where, authkey=key)
except AuthenticationError as e: print(e)
else: print('let in')"
                );
                let address = listener.address().to_string();
                let wrong = python(&program, &script, &address, "wrong");
                thread::scope(|scope| {
                    let accepted = scope.spawn(|| listener.accept_timeout::<(), ()>(LONG));
                    assert_eq!(finish(wrong), "digest sent was rejected\n");
                    let script =
                        format!("{setup}\nmc.Client(where, authkey=key).send_bytes(b'hi')");
                    finish(python(&program, &script, &address, "right"));
                    let connection = accepted.join().unwrap().unwrap();
                    assert_eq!(connection.recv_bytes().unwrap(), b"hi");
                });
                assert_eq!(listener.rejections().wrong_key, 1);
            }
        }
    }
}

#[test]
fn a_python_listener_with_another_key_is_an_error_here_and_there() {
    let _dog = Watchdog::secs(60);
    for program in pythons("a_python_listener_with_another_key_is_an_error_here_and_there") {
        for (setup, _, md5) in [HANDSHAKES[0], HANDSHAKES[4]] {
            let script = format!(
                "{setup}
l = mc.Listener(where, authkey=key); print('%s:%d' % l.address, flush=True)
try: l.accept()
except AuthenticationError as e: print(e)"
            );
            let mut child = python(&program, &script, "127.0.0.1:0", "right");
            let address = first_line(&mut child).parse::<Address>().unwrap();
            let client = Client::new().authkey("wrong").legacy_md5(md5);
            match client.connect::<(), ()>(address) {
                Err(ConnectError::Auth { source, .. }) => {
                    assert!(matches!(source, AuthError::Rejected), "{source}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(finish(child), "digest received was wrong\n");
        }
    }
}

#[test]
fn md5_is_refused_unless_it_was_asked_for() {
    let _dog = Watchdog::secs(60);
    for program in pythons("md5_is_refused_unless_it_was_asked_for") {
        let listener = Listener::builder()
            .authkey("secret")
            .bind_private()
            .unwrap();
        let script = "
def md5(key, message): return hmac.new(key, message, 'md5').digest()
c = mc.Client(where)
message = c.recv_bytes()[len(b'#CHALLENGE#'):]
c.send_bytes(md5(key, message))
print(c.recv_bytes())";
        let child = python(&program, script, &listener.address().to_string(), "secret");
        thread::scope(|scope| {
            let accepted = scope.spawn(|| listener.accept_timeout::<(), ()>(LONG));
            assert_eq!(finish(child), "b'#FAILURE#'\n");
            listener.close();
            assert!(matches!(accepted.join().unwrap(), Err(AcceptError::Closed)));
        });
        let rejections = listener.rejections();
        assert_eq!((rejections.digest, rejections.wrong_key), (1, 0));
    }
}

#[test]
fn an_inherited_end_of_pythons_pipe_is_a_connection() {
    let _dog = Watchdog::secs(60);
    for program in pythons("an_inherited_end_of_pythons_pipe_is_a_connection") {
        // Python gets our end as its standard input, and makes a Connection of it.
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let script = "echo(mc.Connection(os.dup(0)))";
        let child = Command::new(&program)
            .args(["-c", &format!("{PRELUDE}\n{script}"), "127.0.0.1:0", ""])
            .stdin(std::os::fd::OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let connection = Connection::<(), ()>::try_from(ours).unwrap();
        exchange(&connection, 1_000_000);
        assert!(!connection.poll(Duration::ZERO).unwrap());
        drop(connection);
        finish(child);
    }
    std::io::stdout().flush().unwrap();
}
