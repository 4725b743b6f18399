use std::{fs, io, time::Duration};

use nix::unistd::mkdtemp;

use super::{
    Listener,
    socket::{bind_abstract, bind_tcp, bind_unix, runtime_dir},
};
use crate::{
    Address,
    options::{Options, options},
};

/// How many peers a listener shakes hands with at the same time.
pub const MAX_HALF_OPEN: usize = 256;

/// How many connections wait in the kernel until they are accepted; `net.core.somaxconn` caps it.
pub const DEFAULT_BACKLOG: u32 = 4096;

/// What a listener may be told before it listens. See [`Listener::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing listens before `bind` or `bind_private`"]
pub struct Builder {
    pub(super) options: Options,
    backlog: u32,
    mode: u32,
    pub(super) max_half_open: usize,
}

options!(Builder);

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            options: Options::new(),
            backlog: DEFAULT_BACKLOG,
            mode: 0o600,
            max_half_open: MAX_HALF_OPEN,
        }
    }

    /// How many connections wait in the kernel; [`DEFAULT_BACKLOG`] by default.
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// The permissions of a Unix path; 0600 by default.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// How long the handshake of one peer may take; [`HANDSHAKE_TIMEOUT`] by default.
    ///
    /// [`HANDSHAKE_TIMEOUT`]: crate::HANDSHAKE_TIMEOUT
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// How many handshakes go on at the same time, at least one; [`MAX_HALF_OPEN`] by default.
    pub fn max_half_open(mut self, max: usize) -> Self {
        self.max_half_open = max.max(1);
        self
    }

    /// Listens at `address`.
    ///
    /// # Errors
    ///
    /// The address is in use (for a path: something exists there), not allowed, or too long.
    pub fn bind(self, address: impl Into<Address>) -> io::Result<Listener> {
        let address = address.into();
        let (socket, created) = match &address {
            Address::Unix(path) => {
                let (socket, created) = bind_unix(path, None, self.mode, self.backlog)?;
                (socket, Some(created))
            }
            Address::Abstract(name) => (bind_abstract(name, self.backlog)?, None),
            Address::Tcp(address) => (bind_tcp(*address, self.backlog)?, None),
        };
        let address = socket.tcp_address()?.map_or(address, Address::Tcp);
        Listener::over(self, socket, address, created)
    }

    /// Listens on a Unix socket in a fresh directory with mode 0700, below `$XDG_RUNTIME_DIR` or the
    /// directory for temporary files.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub fn bind_private(self) -> io::Result<Listener> {
        // With the pid in it: whoever finds it after a kill sees whose it was.
        let template = format!("mp-{}-XXXXXX", std::process::id());
        let directory = mkdtemp(&runtime_dir().join(template))?;
        let path = directory.join("listener");
        match bind_unix(&path, Some(&directory), self.mode, self.backlog) {
            Ok((socket, created)) => {
                Listener::over(self, socket, Address::Unix(path), Some(created))
            }
            Err(error) => {
                let _ = fs::remove_dir(&directory); // gone already if the socket was there
                Err(error)
            }
        }
    }
}
