//! The floor: 32 bytes to another process and back, over a bare Unix socket.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use mp_process::Process;
use serde::{Deserialize, Serialize};

const LEN: usize = 32;
/// As long as the manager's server looks before it sleeps.
const SPIN: Duration = Duration::from_micros(50);

/// Where the server is, and how to wait for the answer.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Echo {
    path: PathBuf,
    polled: bool,
}

/// Sends back what it gets; a thread for each client. Ended by drop.
pub(crate) struct EchoServer {
    path: PathBuf,
    _child: Process<()>,
}

impl EchoServer {
    pub(crate) fn start() -> Self {
        let path = std::env::temp_dir().join(format!("mp-bench-echo-{}", std::process::id()));
        let child = Process::new(serve, (path.clone(),));
        let child = child.daemon(true).start().unwrap();
        while !path.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Self {
            path,
            _child: child,
        }
    }

    pub(crate) fn polled(&self) -> Echo {
        self.way(true)
    }

    pub(crate) fn asleep(&self) -> Echo {
        self.way(false)
    }

    fn way(&self, polled: bool) -> Echo {
        let path = self.path.clone();
        Echo { path, polled }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // it may not have come so far
    }
}

fn serve(path: PathBuf) {
    let listener = UnixListener::bind(path).unwrap();
    for socket in listener.incoming() {
        let mut socket = socket.unwrap();
        std::thread::spawn(move || {
            let mut message = [0; LEN];
            while socket.read_exact(&mut message).is_ok() {
                socket.write_all(&message).unwrap();
                // The client says how to wait for its next message.
                while message[0] == 1 && poll_exact(&mut socket, &mut message) {
                    socket.write_all(&message).unwrap();
                }
            }
        });
    }
}

pub(crate) struct EchoClient {
    socket: UnixStream,
    polled: bool,
}

impl EchoClient {
    pub(crate) fn connect(echo: &Echo) -> Self {
        Self {
            socket: UnixStream::connect(&echo.path).unwrap(),
            polled: echo.polled,
        }
    }

    pub(crate) fn call(&mut self) {
        let mut message = [u8::from(self.polled); LEN];
        self.socket.write_all(&message).unwrap();
        if self.polled {
            assert!(poll_exact(&mut self.socket, &mut message));
        } else {
            self.socket.read_exact(&mut message).unwrap();
        }
    }
}

/// Looks for a message for a moment without sleeping, then sleeps for one.
fn poll_exact(socket: &mut UnixStream, message: &mut [u8; LEN]) -> bool {
    let until = Instant::now() + SPIN;
    socket.set_nonblocking(true).unwrap();
    let found = loop {
        match socket.read(message) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::yield_now();
            }
            result => break result.unwrap_or(0) == LEN,
        }
    };
    socket.set_nonblocking(false).unwrap();
    found || socket.read_exact(message).is_ok()
}
