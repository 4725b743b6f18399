//! What connections and senders have in common.

use std::time::Duration;

use serde::Serialize;

use super::{Connection, Sender};
#[cfg(feature = "tokio")]
use crate::channel::Channel;
use crate::{SendError, channel::Until};

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

sending!(Connection<S, R> sends S);
sending!(Sender<T> sends T);
