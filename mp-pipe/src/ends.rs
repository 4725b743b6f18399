//! The typed ends, all over the same [`Channel`].

use std::{
    fmt, io,
    marker::PhantomData,
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use nix::sys::socket::Shutdown;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Credentials,
    channel::{self, Channel, DEFAULT_MAX_MESSAGE_LEN},
};

#[cfg(doc)]
use crate::{RecvError, SendError};

mod receiving;
mod sending;

pub use self::receiving::Iter;

/// One end of a connection in both directions: sends values of `S`, receives values of `R`.
///
/// Made by [`duplex`], by a [`Listener`](crate::Listener) or by a [`Client`](crate::Client). Any
/// number of threads may share it by reference; each message is sent and received whole, and one
/// thread may send while another receives. An end can be part of a message, or an argument or
/// result of a process: it moves there, with what it has read ahead, and answers
/// [`Moved`](SendError::Moved) here once it has left.
///
/// Two peers that send each other more than the socket holds (megabytes) before either receives
/// wait for each other for ever; so do Python's.
///
/// # Process death
///
/// When the peer's process ends in whatever way, its end is closed by the kernel: what it sent
/// whole can still be received, then comes [`RecvError::Disconnected`], or
/// [`RecvError::EndOfFile`] if it died inside a message, at once. Sending to it is
/// [`SendError::Disconnected`], never a SIGPIPE.
///
/// # Examples
///
/// ```
/// let (here, there) = mp_pipe::duplex::<u64, String>()?;
/// here.send(&6)?;
/// let n = there.recv()?;
/// there.send(&"six".repeat(n as usize / 3))?;
/// assert_eq!(here.recv()?, "sixsix");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.connection.Connection")]
pub struct Connection<S, R> {
    channel: Arc<Channel>,
    types: PhantomData<fn(S) -> R>,
}

/// The writing end of [`simplex`]: sends values of `T`.
///
/// Shared by threads, moved to processes, and closed as a [`Connection`] is.
///
/// # Process death
///
/// When the receiver is dropped, or its process gone, sending is [`SendError::Disconnected`].
pub struct Sender<T> {
    channel: Arc<Channel>,
    types: PhantomData<fn(T)>,
}

/// The reading end of [`simplex`]: receives values of `T`.
///
/// Shared by threads, moved to processes, and closed as a [`Connection`] is.
///
/// # Process death
///
/// When the sender is dropped, or its process gone, what it sent whole can still be received; then
/// comes [`RecvError::Disconnected`], or [`RecvError::EndOfFile`] if it died inside a message.
pub struct Receiver<T> {
    channel: Arc<Channel>,
    types: PhantomData<fn() -> T>,
}

/// A pair of connected ends; what one sends as `S` the other receives, and the reverse with `R`.
///
/// # Errors
///
/// Out of descriptors or memory.
///
/// # Examples
///
/// ```
/// use mp_pipe::duplex;
///
/// let (a, b) = duplex::<u8, char>()?;
/// a.send(&42)?;
/// assert_eq!(b.recv()?, 42);
/// b.send(&'x')?;
/// assert_eq!(a.recv()?, 'x');
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.Pipe")]
pub fn duplex<S, R>() -> io::Result<(Connection<S, R>, Connection<R, S>)> {
    let (a, b) = channel::pair()?;
    Ok((Connection::new(a), Connection::new(b)))
}

/// A one-way pair: what the sender sends, the receiver receives.
///
/// # Errors
///
/// Out of descriptors or memory.
///
/// # Examples
///
/// ```
/// let (rx, tx) = mp_pipe::simplex::<Vec<f32>>()?;
/// tx.send(&vec![1.0, 2.0])?;
/// drop(tx);
/// assert_eq!(rx.iter().count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Writing on the reading end, or the other way round, does not compile:
///
/// ```compile_fail,E0599
/// let (rx, tx) = mp_pipe::simplex::<u8>()?;
/// rx.send(&1)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "Pipe(duplex=False)")]
pub fn simplex<T>() -> io::Result<(Receiver<T>, Sender<T>)> {
    let (a, b) = channel::pair()?;
    Ok((Receiver::new(a), Sender::new(b)))
}

macro_rules! end {
    ($end:ident<$($parameter:ident),+>) => {
        impl<$($parameter),+> $end<$($parameter),+> {
            pub(crate) fn new(channel: Channel) -> Self {
                Self {
                    channel: Arc::new(channel),
                    types: PhantomData,
                }
            }

            /// An end over a connected stream socket from elsewhere: inherited, received, or made by
            /// other code.
            ///
            /// Whether the peer means the same types is not checked. Only this end may read from the
            /// socket: it reads ahead.
            ///
            /// # Errors
            ///
            /// It is no stream socket.
            pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
                Channel::from_fd(fd, DEFAULT_MAX_MESSAGE_LEN, true).map(Self::new)
            }

            /// Ends the connection in both directions, now and for all who share it.
            ///
            /// Threads that wait in it return, here and at the peer; what was sent before can still be
            /// received there. Dropping an end closes it as well; this is for an end in use.
            ///
            /// # Errors
            ///
            /// The system refused.
            #[doc(alias = "close")]
            pub fn shutdown(&self) -> io::Result<()> {
                self.channel.shutdown(Shutdown::Both)
            }
        }

        impl<$($parameter),+> TryFrom<OwnedFd> for $end<$($parameter),+> {
            type Error = io::Error;

            fn try_from(fd: OwnedFd) -> io::Result<Self> {
                Self::from_fd(fd)
            }
        }

        impl<$($parameter),+> TryFrom<UnixStream> for $end<$($parameter),+> {
            type Error = io::Error;

            fn try_from(stream: UnixStream) -> io::Result<Self> {
                Self::from_fd(stream.into())
            }
        }

        impl<$($parameter),+> TryFrom<TcpStream> for $end<$($parameter),+> {
            type Error = io::Error;

            fn try_from(stream: TcpStream) -> io::Result<Self> {
                Self::from_fd(stream.into())
            }
        }

        /// The socket, for [`wait`](crate::wait()) and for options. Reading it directly mixes up the
        /// messages; and its readiness alone does not show messages that were read ahead.
        impl<$($parameter),+> AsFd for $end<$($parameter),+> {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.channel.as_fd()
            }
        }

        impl<$($parameter),+> fmt::Debug for $end<$($parameter),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($end))
                    .field("fd", &self.channel.as_fd())
                    .finish_non_exhaustive()
            }
        }

        /// Moves the end into a message or to a process.
        impl<$($parameter),+> Serialize for $end<$($parameter),+> {
            fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
                channel::serialize(&self.channel, stringify!($end), serializer)
            }
        }

        impl<'de, $($parameter),+> Deserialize<'de> for $end<$($parameter),+> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Ok(Self {
                    channel: channel::deserialize(deserializer)?,
                    types: PhantomData,
                })
            }
        }
    };
}

impl<S, R> Connection<S, R> {
    /// The process at the other end, as the kernel knows it: who connected, who listened, or who made
    /// the pair.
    ///
    /// # Errors
    ///
    /// The connection is not a Unix socket.
    pub fn peer_credentials(&self) -> io::Result<Credentials> {
        Credentials::of(self.channel.as_fd())
    }
}

end!(Connection<S, R>);
end!(Sender<T>);
end!(Receiver<T>);
