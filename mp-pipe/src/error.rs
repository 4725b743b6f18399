use std::io;

use mp_core::codec::{DecodeError, EncodeError};

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The other end is closed, or its process is gone.
    #[error("the other end of the connection is closed, or its process is gone")]
    Disconnected,
    /// The value refused to be encoded, or holds a handle that cannot travel this way; nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The peer made no room in time. If a part of the message was out already, the sending
    /// direction is closed: the next message would be taken for the rest of this one.
    #[error("the peer did not take the message in time")]
    TimedOut,
    /// This end was sent to another process and lives on there.
    #[error("this end of the connection was sent to another process, and can be used there only")]
    Moved,
    /// The system refused.
    #[error("cannot send through the connection: {0}")]
    Io(#[source] io::Error),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// Everything that was sent has been received, and the other end is closed or its process gone.
    #[error("the other end of the connection is closed, or its process is gone")]
    Disconnected,
    /// The other end is gone, and what it sent last ends inside a message.
    #[error("the other end of the connection was closed or died in the middle of a message")]
    EndOfFile,
    /// No message yet: from `try_recv` at once, from `recv_timeout` when the time was over.
    #[error("no message was received in time")]
    Empty,
    /// The next message is longer than this connection accepts. The receiving direction is closed.
    #[error("a message of {len} bytes is longer than the limit of {limit}")]
    TooLarge {
        /// Length of the message.
        len: u64,
        /// What was allowed.
        limit: u64,
    },
    /// The next message is longer than this call of
    /// [`recv_bytes_limit`](crate::Receiver::recv_bytes_limit) accepts. It stays where it is.
    #[error("the next message, of {len} bytes, is longer than the {limit} that this call accepts")]
    OverLimit {
        /// Length of the message.
        len: u64,
        /// What was allowed.
        limit: u64,
    },
    /// The buffer of [`recv_bytes_into`](crate::Receiver::recv_bytes_into) is too short; the whole
    /// message is in here, and the connection goes on.
    #[error("a message of {} bytes does not fit the buffer", message.len())]
    BufferTooShort {
        /// The message.
        message: Vec<u8>,
    },
    /// What came is no frame: the peer does not speak this protocol. The receiving direction is closed.
    #[error("the peer sent something that is not a message: negative length {0}")]
    InvalidFrame(i64),
    /// The message is not the encoding of a value of the expected type; it was consumed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// This end was sent to another process and lives on there.
    #[error("this end of the connection was sent to another process, and can be used there only")]
    Moved,
    /// The system refused, for instance a descriptor for which this process has no room. What had
    /// arrived of the message is lost, so the receiving direction is closed.
    #[error("cannot receive from the connection: {0}")]
    Io(#[source] io::Error),
}

impl RecvError {
    /// Whether the connection is over: no later call will receive a message.
    ///
    /// ```
    /// # use mp_pipe::simplex;
    /// let (rx, tx) = simplex::<u8>()?;
    /// assert!(!rx.try_recv().unwrap_err().is_final());
    /// drop(tx);
    /// assert!(rx.try_recv().unwrap_err().is_final());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Empty
            | Self::OverLimit { .. }
            | Self::Decode(_)
            | Self::BufferTooShort { .. } => false,
            Self::Disconnected
            | Self::EndOfFile
            | Self::TooLarge { .. }
            | Self::InvalidFrame(_)
            | Self::Moved
            | Self::Io(_) => true,
        }
    }
}
