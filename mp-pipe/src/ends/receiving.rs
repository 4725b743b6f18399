//! What connections and receivers have in common.

use std::{io, iter::FusedIterator, marker::PhantomData, time::Duration};

use serde::de::DeserializeOwned;

use super::{Connection, Receiver};
use crate::{
    RecvError,
    channel::{Channel, Until},
    frame::Sink,
};

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
            /// As [`recv_bytes`](Self::recv_bytes); [`RecvError::OverLimit`] for a longer one. The
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
            /// [`simplex`](crate::simplex), else
            /// [`DEFAULT_MAX_MESSAGE_LEN`](crate::DEFAULT_MAX_MESSAGE_LEN).
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
