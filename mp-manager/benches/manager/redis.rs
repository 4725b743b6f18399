//! A string in Redis, over a Unix socket.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Ended by drop.
pub(crate) struct RedisServer {
    child: Child,
    directory: PathBuf,
}

impl RedisServer {
    /// `None` where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("mp-bench-redis-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(directory.join("socket"))
            .stdout(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            let _ = std::fs::remove_dir(&directory); // a leftover does no harm
            return None;
        };
        let server = Self { child, directory };
        let until = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(server.path()).is_err() {
            assert!(Instant::now() < until, "redis-server does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(server)
    }

    pub(crate) fn path(&self) -> String {
        self.directory.join("socket").to_str().unwrap().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) struct RedisClient(UnixStream);

impl RedisClient {
    pub(crate) fn connect(path: &str) -> Self {
        let mut client = Self(UnixStream::connect(path).unwrap());
        client.set();
        client
    }

    pub(crate) fn set(&mut self) {
        self.ask(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\n7\r\n", b"+OK\r\n");
    }

    pub(crate) fn get(&mut self) {
        self.ask(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n", b"$1\r\n7\r\n");
    }

    fn ask<const LEN: usize>(&mut self, request: &[u8], answer: &[u8; LEN]) {
        self.0.write_all(request).unwrap();
        let mut answered = [0; LEN];
        self.0.read_exact(&mut answered).unwrap();
        assert_eq!(&answered, answer);
    }
}
