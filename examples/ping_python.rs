//! A Python program at the other end: it connects to our listener with `multiprocessing.connection`.
//!
//! `cargo run --example ping_python` starts a few lines of Python by itself (if there is a `python3`).
//! Pythons before 3.12 can prove the key with MD5 only, so that is allowed here.

use std::process::{Command, Stdio};

use mp::pipe::{Listener, RecvError};

/// Upper-cases what it is sent. The key comes over standard input, where no other user can see it.
const PYTHON: &str = r#"
import sys
from multiprocessing.connection import Client
key = bytes.fromhex(sys.stdin.readline())
with Client(sys.argv[1], authkey=key) as conn:
    conn.send_bytes(b"python " + sys.version.split()[0].encode())
    try:
        while True:
            conn.send_bytes(conn.recv_bytes().upper())
    except EOFError:
        pass
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = mp::AuthKey::random();
    let listener = Listener::builder()
        .authkey(key.clone())
        .legacy_md5(true)
        .bind_private()?;

    let python = Command::new("python3")
        .args(["-c", PYTHON, &listener.address().to_string()])
        .stdin(Stdio::piped())
        .spawn();
    let mut python = match python {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: ping_python needs python3 ({error})");
            return Ok(());
        }
    };
    if let Some(mut stdin) = python.stdin.take() {
        use std::io::Write as _;
        let hex: String = key.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        writeln!(stdin, "{hex}")?;
    }

    // Bytes only: what Python pickles is not decoded here, and needs not be trusted.
    let conn = listener.accept::<(), ()>()?;
    println!("connected: {}", conn.recv_bytes()?.escape_ascii());
    for word in ["ping", "fünf", ""] {
        conn.send_bytes(word.as_bytes())?;
        match conn.recv_bytes() {
            Ok(answer) => println!("{word:?} -> {:?}", String::from_utf8_lossy(&answer)),
            Err(RecvError::Disconnected) => return Err("Python hung up".into()),
            Err(error) => return Err(error.into()),
        }
    }
    drop(conn);
    python.wait()?;
    Ok(())
}
