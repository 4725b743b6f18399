use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Where a listener listens.
///
/// From a text as Python infers it: with a leading NUL (or `@`) an abstract name, with a slash a
/// path, else `host:port`.
///
/// # Examples
///
/// ```
/// use mp_pipe::Address;
///
/// assert_eq!("/run/x/sock".parse::<Address>()?, Address::unix("/run/x/sock"));
/// assert_eq!("\0name".parse::<Address>()?, Address::abstract_name("name"));
/// assert_eq!("127.0.0.1:80".parse::<Address>()?.to_string(), "127.0.0.1:80");
/// assert!(r"\\.\pipe\name".parse::<Address>().is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Address {
    /// A Unix socket in the file system; the permissions of the file apply.
    Unix(PathBuf),
    /// A Unix socket in Linux' abstract namespace. It has no permissions, so both sides check that
    /// the other runs as the same user.
    Abstract(Vec<u8>),
    /// TCP. Beyond the loopback device nothing keeps others from reading and changing what is sent
    /// after the handshake: tunnel it (SSH, WireGuard, TLS).
    Tcp(SocketAddr),
}

impl Address {
    /// A path in the file system.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::Unix(path.into())
    }

    /// A name in the abstract namespace, without the leading NUL.
    pub fn abstract_name(name: impl Into<Vec<u8>>) -> Self {
        Self::Abstract(name.into())
    }

    /// A host and port; port 0 lets the system choose one when it is listened on. Of a name with
    /// several addresses it is the first of IPv4, where Python listens and connects, else the first.
    ///
    /// # Errors
    ///
    /// The name is not known.
    pub fn tcp(address: impl ToSocketAddrs) -> io::Result<Self> {
        let addresses: Vec<_> = address.to_socket_addrs()?.collect();
        let ours = addresses.iter().find(|address| address.is_ipv4());
        ours.or(addresses.first())
            .map(|address| Self::Tcp(*address))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
    }
}

impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        if let Some(name) = text.strip_prefix(['\0', '@']) {
            return Ok(Self::abstract_name(name));
        }
        if text.starts_with(r"\\") {
            let text = format!("address {text:?}: pipes of that family exist on Windows only");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if text.contains('/') {
            return Ok(Self::unix(text));
        }
        Self::tcp(text).map_err(|error| {
            let text =
                format!("address {text:?} is neither a path nor a host with a port: {error}");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::unix(path)
    }
}

impl From<&std::os::unix::net::SocketAddr> for Address {
    /// An unnamed socket has the empty path, as in Python.
    fn from(address: &std::os::unix::net::SocketAddr) -> Self {
        use std::os::linux::net::SocketAddrExt as _;
        match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => Self::unix(path),
            (None, Some(name)) => Self::abstract_name(name),
            (None, None) => Self::unix(""),
        }
    }
}

/// The kernel's limit for names of Unix sockets, as an error that says so.
pub(crate) fn too_long(address: &Address) -> io::Error {
    let len = match address {
        Address::Unix(path) => path.as_os_str().len(),
        Address::Abstract(name) => name.len(),
        Address::Tcp(_) => 0, // has no name
    };
    let text = format!("a socket path may have 107 bytes, this one has {len}: {address}");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
