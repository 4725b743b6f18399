use std::{
    fs::File,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    process::{ChildStderr, ChildStdin, ChildStdout},
};

use mp_core::transfer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A file, socket, or whatever else has a descriptor, as part of a message.
///
/// Sending duplicates it: sender and receiver have the same open file, with one offset. It travels
/// over connections that are Unix sockets (all but TCP) and as an argument or result of a process.
///
/// # Process death
///
/// A descriptor that nobody received is closed by the kernel with the connection that carries it.
///
/// # Examples
///
/// ```
/// use std::{fs::File, io::Write};
/// use mp_pipe::{Descriptor, simplex};
///
/// let (rx, tx) = simplex::<(String, Descriptor)>()?;
/// tx.send(&("for the bin".to_owned(), File::create("/dev/null")?.into()))?;
/// let (text, file) = rx.recv()?;
/// File::from(file).write_all(text.as_bytes())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "send_handle")]
#[doc(alias = "DupFd")]
#[derive(Debug)]
pub struct Descriptor(OwnedFd);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd("Descriptor", self.0.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize_fd("Descriptor", deserializer).map(Self)
    }
}

impl From<Descriptor> for OwnedFd {
    fn from(descriptor: Descriptor) -> Self {
        descriptor.0
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

macro_rules! into_descriptor {
    ($($type:ty),*) => {
        $(impl From<$type> for Descriptor {
            fn from(file: $type) -> Self {
                Self(file.into())
            }
        })*
    };
}

/// What a descriptor may be turned back into; whether it is one shows at the first use.
macro_rules! from_descriptor {
    ($($type:ty),*) => {
        $(impl From<Descriptor> for $type {
            fn from(descriptor: Descriptor) -> Self {
                descriptor.0.into()
            }
        })*
    };
}

into_descriptor!(
    File,
    UnixStream,
    UnixListener,
    UnixDatagram,
    TcpStream,
    TcpListener,
    UdpSocket
);
into_descriptor!(ChildStdin, ChildStdout, ChildStderr);
from_descriptor!(
    File,
    UnixStream,
    UnixListener,
    UnixDatagram,
    TcpStream,
    TcpListener,
    UdpSocket
);
