use std::{
    io,
    net::TcpStream,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use mp_core::{deadline::Deadline, fd};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use crate::{
    Address, AuthError, Connection, Credentials,
    address::too_long,
    channel::Channel,
    handshake::{Exchange, Progress, Role},
    options::{Options, options},
    stream::Stream,
};

/// Connects to a [`Listener`](crate::Listener), or to one of Python's.
///
/// # Examples
///
/// ```
/// use mp_pipe::{Client, Listener};
///
/// let listener = Listener::new()?;
/// std::thread::scope(|scope| {
///     let client = scope.spawn(|| Client::new().connect::<String, u32>(listener.address()));
///     let there = listener.accept::<u32, String>().unwrap();
///     let here = client.join().unwrap().unwrap();
///     here.send(&"four".to_owned()).unwrap();
///     assert_eq!(there.recv().unwrap(), "four");
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is connected before `connect`"]
pub struct Client {
    options: Options,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there, or the system refused.
    #[error("cannot connect to {address}: {source}")]
    Io {
        /// Where.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The two sides did not prove the key to each other.
    #[error("cannot connect to {address}: {source}")]
    Auth {
        /// Where.
        address: Address,
        /// What went wrong.
        source: AuthError,
    },
}

options!(Client);

impl Client {
    /// With the key of this program, which its child processes inherit.
    #[allow(
        clippy::new_without_default,
        reason = "a key is nothing to have by default"
    )]
    pub fn new() -> Self {
        Self {
            options: Options::new(),
        }
    }

    /// How long connecting and the handshake may take together; [`HANDSHAKE_TIMEOUT`] by default.
    ///
    /// [`HANDSHAKE_TIMEOUT`]: crate::HANDSHAKE_TIMEOUT
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Connects to `address` and proves the key, in both directions.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Io`]: nobody listens there. [`ConnectError::Auth`]: the keys are different, or
    /// only one side has any.
    pub fn connect<S, R>(
        &self,
        address: impl Into<Address>,
    ) -> Result<Connection<S, R>, ConnectError> {
        let address = address.into();
        let until = Deadline::after(self.options.timeout);
        /// A listener under attack drops those who have not answered yet, oldest first.
        const ATTEMPTS: u32 = 3;
        for attempt in 1.. {
            let stream = match open(&address, until) {
                Ok(stream) => stream,
                Err(source) => return Err(ConnectError::Io { address, source }),
            };
            match self.shake_hands(&stream, until) {
                Ok(()) => {
                    return Channel::from_fd(stream.into(), self.options.max_message_len, true)
                        .map(Connection::new)
                        .map_err(|source| ConnectError::Io { address, source });
                }
                Err(AuthError::Disconnected) if attempt < ATTEMPTS && !until.is_over() => {}
                Err(source) => return Err(ConnectError::Auth { address, source }),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn shake_hands(&self, stream: &Stream, until: Deadline) -> Result<(), AuthError> {
        let Some(policy) = self.options.policy() else {
            return Ok(());
        };
        let mut exchange = Exchange::new(Role::Client, policy);
        loop {
            let events = match exchange.advance(&mut &*stream)? {
                Progress::Done => return Ok(()),
                Progress::Reading => libc::POLLIN,
                Progress::Writing => libc::POLLOUT,
            };
            let ready = fd::poll_one(stream.as_fd(), events, Some(until));
            if !ready.map_err(AuthError::Io)? {
                return Err(AuthError::TimedOut);
            }
        }
    }
}

fn open(address: &Address, until: Deadline) -> io::Result<Stream> {
    let stream = match address {
        Address::Unix(path) => {
            let name = UnixAddr::new(path.as_path()).map_err(|_| too_long(address))?;
            Stream::Unix(open_unix(&name, until)?)
        }
        Address::Abstract(name) => {
            let name = UnixAddr::new_abstract(name).map_err(|_| too_long(address))?;
            let stream = open_unix(&name, until)?;
            if !Credentials::of(stream.as_fd())?.are_ours() {
                let text = "the listener at this abstract address runs as another user";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
            }
            Stream::Unix(stream)
        }
        Address::Tcp(address) => {
            // Zero is no timeout for std.
            let timeout = until.remaining().max(Duration::from_millis(1));
            Stream::Tcp(TcpStream::connect_timeout(address, timeout)?)
        }
    };
    stream.prepare()?;
    Ok(stream)
}

/// A full backlog makes `connect` wait; the send timeout of the socket ends that.
fn open_unix(address: &UnixAddr, until: Deadline) -> io::Result<UnixStream> {
    let fd: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| fd::explain(errno.into()))?;
    loop {
        let left = until.remaining().max(Duration::from_millis(1));
        setsockopt(&fd, sockopt::SendTimeout, &time_val(left))?;
        match connect(fd.as_raw_fd(), address) {
            Ok(()) => break,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
    setsockopt(&fd, sockopt::SendTimeout, &time_val(Duration::ZERO))?;
    Ok(UnixStream::from(fd))
}

fn time_val(time: Duration) -> TimeVal {
    TimeVal::new(time.as_secs() as i64, i64::from(time.subsec_micros()))
}
