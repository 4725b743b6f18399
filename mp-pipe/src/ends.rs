//! The typed ends, all over the same [`Channel`].

use std::{
    fmt, io,
    iter::FusedIterator,
    marker::PhantomData,
    net::TcpStream,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::Shutdown;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    Credentials, RecvError, SendError,
    channel::{self, Channel, DEFAULT_MAX_MESSAGE_LEN, Until},
    frame::Sink,
};

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

macro_rules! sending {
    ($end:ident<$($parameter:ident),+> sends $T:ident) => {
        impl<$($parameter),+> $end<$($parameter),+> {
            #[cfg(feature = "tokio")]
            pub(crate) fn channel(&self) -> &Channel {
                &self.channel
            }

            /// Sends `value`, waiting as long as the peer has no room for it.
            ///
            /// # Errors
            ///
            /// [`SendError::Disconnected`]: the peer is gone; what was sent but not received is lost.
            /// [`SendError::Encode`]: serde refused the value, or it holds handles that cannot travel
            /// over this connection; nothing was sent.
            pub fn send(&self, value: &$T) -> Result<(), SendError>
            where
                $T: Serialize,
            {
                self.channel.send(value, Until::Forever)
            }

            /// Sends `value`, waiting at most `timeout` for the peer to take it.
            ///
            /// # Errors
            ///
            /// As [`send`](Self::send), and [`SendError::TimedOut`]. If a part of the message was out
            /// by then nothing more can be sent; the peer sees the end of file inside a message.
            pub fn send_timeout(&self, value: &$T, timeout: Duration) -> Result<(), SendError>
            where
                $T: Serialize,
            {
                self.channel.send(value, timeout.into())
            }

            /// Sends `bytes` as one message, as they are. An empty message is a message.
            ///
            /// The peer receives them by `recv_bytes`; a Python peer does, too.
            ///
            /// # Errors
            ///
            /// As [`send`](Self::send), but for encoding.
            ///
            /// # Examples
            ///
            /// A part of a buffer is a slice of it:
            ///
            /// ```
            /// let (rx, tx) = mp_pipe::simplex::<()>()?;
            /// tx.send_bytes(&b"abcdef"[2..4])?;
            /// assert_eq!(rx.recv_bytes()?, b"cd");
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError> {
                self.channel.send_bytes(bytes, Until::Forever)
            }

            /// Sends `bytes` as one message, waiting at most `timeout` for the peer to take it.
            ///
            /// # Errors
            ///
            /// As [`send_timeout`](Self::send_timeout), but for encoding.
            pub fn send_bytes_timeout(
                &self,
                bytes: &[u8],
                timeout: Duration,
            ) -> Result<(), SendError> {
                self.channel.send_bytes(bytes, timeout.into())
            }
        }
    };
}

macro_rules! receiving {
    ($end:ident<$($parameter:ident),+> receives $T:ident) => {
        impl<$($parameter),+> $end<$($parameter),+> {
            /// Receives the next value, waiting for it.
            ///
            /// # Errors
            ///
            /// [`RecvError::Disconnected`] when all was received and the peer is gone;
            /// [`RecvError::EndOfFile`] when it went inside a message; [`RecvError::Decode`] when the
            /// message is no encoding of a value: it is consumed, and the next one can be received.
            pub fn recv(&self) -> Result<$T, RecvError>
            where
                $T: DeserializeOwned,
            {
                self.channel.recv(Until::Forever)
            }

            /// Receives the next value if a whole message is there.
            ///
            /// # Errors
            ///
            /// As [`recv`](Self::recv); [`RecvError::Empty`] if there is none, or another thread is
            /// receiving at this moment.
            pub fn try_recv(&self) -> Result<$T, RecvError>
            where
                $T: DeserializeOwned,
            {
                self.channel.recv(Until::Now)
            }

            /// Receives the next value, waiting at most `timeout` for it.
            ///
            /// What had arrived of a message by then is kept for the next call.
            ///
            /// # Errors
            ///
            /// As [`recv`](Self::recv); [`RecvError::Empty`] when the time was over.
            pub fn recv_timeout(&self, timeout: Duration) -> Result<$T, RecvError>
            where
                $T: DeserializeOwned,
            {
                self.channel.recv(timeout.into())
            }

            /// Receives the next message as the bytes it consists of.
            ///
            /// # Errors
            ///
            /// As [`recv`](Self::recv), but for decoding.
            pub fn recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
                self.bytes(u64::MAX, Until::Forever)
            }

            /// Receives the next message as bytes if a whole one is there.
            ///
            /// # Errors
            ///
            /// As [`try_recv`](Self::try_recv), but for decoding.
            pub fn try_recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
                self.bytes(u64::MAX, Until::Now)
            }

            /// Receives the next message as bytes, waiting at most `timeout` for it.
            ///
            /// # Errors
            ///
            /// As [`recv_timeout`](Self::recv_timeout), but for decoding.
            pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Vec<u8>, RecvError> {
                self.bytes(u64::MAX, timeout.into())
            }

            /// Receives the next message as bytes unless it is longer than `limit`.
            ///
            /// # Errors
            ///
            /// As [`recv_bytes`](Self::recv_bytes); [`RecvError::TooLarge`] for a longer one. The
            /// message stays, for a call with a higher limit. (The limit of the connection itself,
            /// see [`set_max_message_len`](Self::set_max_message_len), is final.)
            #[doc(alias = "maxlength")]
            pub fn recv_bytes_limit(&self, limit: usize) -> Result<Vec<u8>, RecvError> {
                self.bytes(limit as u64, Until::Forever)
            }

            /// Receives the next message into the front of `buffer`; its length.
            ///
            /// # Errors
            ///
            /// As [`recv_bytes`](Self::recv_bytes). [`RecvError::BufferTooShort`] holds the whole
            /// message if it does not fit.
            ///
            /// # Examples
            ///
            /// ```
            /// let (rx, tx) = mp_pipe::simplex::<()>()?;
            /// tx.send_bytes(b"hello")?;
            /// let mut buffer = *b"__________";
            /// assert_eq!(rx.recv_bytes_into(&mut buffer[3..])?, 5);
            /// assert_eq!(&buffer, b"___hello__");
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize, RecvError> {
                self.channel
                    .recv_bytes(Sink::Slice(buffer), u64::MAX, Until::Forever)
            }

            /// Receives the next message in place of the content of `buffer`, using its memory again.
            ///
            /// The fastest way to receive many large messages: fresh memory costs more than the copy.
            /// What `buffer` holds after an error is not specified.
            ///
            /// # Errors
            ///
            /// As [`recv_bytes`](Self::recv_bytes).
            ///
            /// # Examples
            ///
            /// ```
            /// let (rx, tx) = mp_pipe::simplex::<()>()?;
            /// tx.send_bytes(b"one")?;
            /// tx.send_bytes(b"three")?;
            /// let mut message = Vec::new();
            /// for expected in ["one", "three"] {
            ///     rx.recv_bytes_reuse(&mut message)?;
            ///     assert_eq!(message, expected.as_bytes());
            /// }
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn recv_bytes_reuse(&self, buffer: &mut Vec<u8>) -> Result<(), RecvError> {
                self.channel
                    .recv_bytes(Sink::Vec(buffer), u64::MAX, Until::Forever)
                    .map(drop)
            }

            fn bytes(&self, limit: u64, until: Until) -> Result<Vec<u8>, RecvError> {
                let mut bytes = Vec::new();
                self.channel.recv_bytes(Sink::Vec(&mut bytes), limit, until)?;
                Ok(bytes)
            }

            /// Whether a receive would find something within `timeout`: a message, or the end.
            ///
            /// `None` waits for ever, [`Duration::ZERO`] only looks. Nothing is consumed. A message may
            /// be there only in part: a receive can then still wait for the rest.
            ///
            /// # Errors
            ///
            /// The system refused.
            pub fn poll(&self, timeout: impl Into<Option<Duration>>) -> io::Result<bool> {
                self.channel.poll(timeout.into())
            }

            /// The values to come, waiting for each, until the peer is gone.
            ///
            /// A value that cannot be decoded is an `Err` between others; any other error is the last
            /// item. The regular end is no error.
            ///
            /// # Examples
            ///
            /// ```
            /// let (rx, tx) = mp_pipe::simplex::<u32>()?;
            /// for n in 1..=3 {
            ///     tx.send(&n)?;
            /// }
            /// drop(tx);
            /// assert_eq!(rx.iter().sum::<Result<u32, _>>()?, 6);
            /// # Ok::<(), Box<dyn std::error::Error>>(())
            /// ```
            pub fn iter(&self) -> Iter<'_, $T>
            where
                $T: DeserializeOwned,
            {
                Iter {
                    channel: &self.channel,
                    over: false,
                    types: PhantomData,
                }
            }

            /// Refuses messages of more than `len` bytes from now on: the first such message is
            /// [`RecvError::TooLarge`], is not received, and ends the receiving direction.
            ///
            /// Unlimited between ends made by [`duplex`](crate::duplex) and
            /// [`simplex`](crate::simplex), else [`DEFAULT_MAX_MESSAGE_LEN`].
            pub fn set_max_message_len(&self, len: u64) {
                self.channel.set_max_len(len);
            }
        }

        impl<'a, $($parameter),+> IntoIterator for &'a $end<$($parameter),+>
        where
            $T: DeserializeOwned,
        {
            type Item = Result<$T, RecvError>;
            type IntoIter = Iter<'a, $T>;

            fn into_iter(self) -> Iter<'a, $T> {
                self.iter()
            }
        }
    };
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
sending!(Connection<S, R> sends S);
sending!(Sender<T> sends T);
receiving!(Connection<S, R> receives R);
receiving!(Receiver<T> receives T);

/// Iterates over the values that an end receives; see [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    channel: &'a Channel,
    over: bool,
    types: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T, RecvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match self.channel.recv(Until::Forever) {
            Err(RecvError::Disconnected) => {
                self.over = true;
                None
            }
            result => {
                self.over = result.as_ref().is_err_and(RecvError::is_final);
                Some(result)
            }
        }
    }
}

impl<T: DeserializeOwned> FusedIterator for Iter<'_, T> {}
