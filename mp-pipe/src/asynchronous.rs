#![allow(unsafe_code)] // tokio wants a promise about the descriptor

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::unix::AsyncFd, sync::Mutex};

use crate::{
    Connection, Receiver, RecvError, SendError, Sender,
    channel::{Channel, Encoded},
};

/// An end of a connection whose operations are awaited, on a tokio runtime: feature `tokio`.
///
/// Made by `into_async` of [`Connection`], [`Receiver`] and [`Sender`]. Any number of tasks may share
/// it by reference; messages are whole. [`into_inner`](Self::into_inner) gives the end back.
///
/// # Examples
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
/// let (here, there) = mp_pipe::duplex::<u32, String>()?;
/// let (here, there) = (here.into_async()?, there.into_async()?);
/// here.send(&3).await?;
/// let n = there.recv().await?;
/// there.send(&"x".repeat(n as usize)).await?;
/// assert_eq!(here.recv().await?, "xxx");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Async<E: AsFd> {
    end: AsyncFd<Registered<E>>,
    /// One task at a time waits to receive: what it reads ahead is for the next.
    receiving: Mutex<()>,
    /// One task at a time sends, so that its frame stays in one piece.
    sending: Mutex<()>,
}

/// tokio asks for the number of the descriptor.
struct Registered<E>(E);

impl<E: AsFd> AsRawFd for Registered<E> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Ends the sending direction if the future of a send is dropped in the middle of its frame.
struct Unfinished<'a>(Option<&'a Channel>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.0 {
            channel.give_up_frame();
        }
    }
}

impl<E: AsFd> Async<E> {
    fn new(end: E) -> io::Result<Self> {
        // SAFETY: an end owns its descriptor as long as it lives, and its number never changes.
        let end = unsafe { AsyncFd::register(Registered(end)) };
        Ok(Self {
            end: end.map_err(io::Error::from)?,
            receiving: Mutex::new(()),
            sending: Mutex::new(()),
        })
    }

    /// The end, for blocking use.
    pub fn into_inner(self) -> E {
        self.end.into_inner().0
    }

    /// The end, for its other methods. Those that wait block the runtime.
    ///
    /// While a receive is awaited, receive in no other way, and do not send the end itself to another
    /// process: the task that waits sees what happens to the socket, not what is read ahead or moved.
    pub fn get_ref(&self) -> &E {
        &self.end.get_ref().0
    }

    async fn receive<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, RecvError>,
    ) -> Result<T, RecvError> {
        let _turn = self.receiving.lock().await;
        loop {
            match attempt() {
                Err(RecvError::Empty) => {}
                result => return result,
            }
            let mut ready = self.end.readable().await.map_err(RecvError::Io)?;
            match attempt() {
                Err(RecvError::Empty) => ready.clear_ready(),
                result => return result,
            }
        }
    }

    async fn transmit(&self, channel: &Channel, frame: &[u8]) -> Result<(), SendError> {
        let _turn = self.sending.lock().await;
        let mut unfinished = Unfinished(None);
        let mut sent = 0;
        while sent < frame.len() {
            // First without waiting: a direction that has ended need not become writable any more.
            match channel.send_part(&frame[sent..]) {
                Ok(more) => {
                    sent += more;
                    unfinished.0 = (sent < frame.len()).then_some(channel);
                }
                Err(SendError::TimedOut) => {
                    let mut ready = self.end.writable().await.map_err(SendError::Io)?;
                    match channel.send_part(&frame[sent..]) {
                        Ok(more) => {
                            sent += more;
                            unfinished.0 = (sent < frame.len()).then_some(channel);
                        }
                        Err(SendError::TimedOut) => ready.clear_ready(),
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<E: AsFd + fmt::Debug> fmt::Debug for Async<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Async").field(self.get_ref()).finish()
    }
}

macro_rules! into_async {
    ($end:ident<$($parameter:ident),+>) => {
        impl<$($parameter),+> $end<$($parameter),+> {
            /// This end, awaited instead of blocking.
            ///
            /// # Errors
            ///
            /// The runtime cannot take its descriptor.
            ///
            /// # Panics
            ///
            /// There is no tokio runtime with IO enabled.
            pub fn into_async(self) -> io::Result<Async<Self>> {
                Async::new(self)
            }
        }
    };
}

macro_rules! receiving {
    ($end:ident<$($parameter:ident),+> receives $T:ident) => {
        impl<$($parameter),+> Async<$end<$($parameter),+>> {
            /// Receives the next value. Dropping the future loses nothing.
            ///
            /// # Errors
            ///
            /// As the blocking `recv`.
            pub async fn recv(&self) -> Result<$T, RecvError>
            where
                $T: DeserializeOwned,
            {
                self.receive(|| self.get_ref().try_recv()).await
            }

            /// Receives the next message as bytes. Dropping the future loses nothing.
            ///
            /// # Errors
            ///
            /// As the blocking `recv_bytes`.
            pub async fn recv_bytes(&self) -> Result<Vec<u8>, RecvError> {
                self.receive(|| self.get_ref().try_recv_bytes()).await
            }
        }
    };
}

macro_rules! sending {
    ($end:ident<$($parameter:ident),+> sends $T:ident) => {
        impl<$($parameter),+> Async<$end<$($parameter),+>> {
            /// Sends `value`. A value that holds handles is sent in one piece once there is room for
            /// its beginning, and may block for the rest of it.
            ///
            /// Dropping the future in the middle of a message ends the sending direction: the peer
            /// sees the end of file inside a message.
            ///
            /// # Errors
            ///
            /// As the blocking `send`.
            pub async fn send(&self, value: &$T) -> Result<(), SendError>
            where
                $T: Serialize,
            {
                let channel = self.get_ref().channel();
                match channel.encode(value)? {
                    Encoded::Plain { buffer, start } => self.transmit(channel, &buffer[start..]).await,
                    Encoded::WithHandles => {
                        let _turn = self.sending.lock().await;
                        let ready = self.end.writable().await.map_err(SendError::Io)?;
                        drop(ready);
                        self.get_ref().send(value)
                    }
                }
            }

            /// Sends `bytes` as one message. Dropping the future is as with [`send`](Self::send).
            ///
            /// # Errors
            ///
            /// As the blocking `send_bytes`.
            pub async fn send_bytes(&self, bytes: &[u8]) -> Result<(), SendError> {
                let channel = self.get_ref().channel();
                self.transmit(channel, &channel.frame(bytes)).await
            }
        }
    };
}

into_async!(Connection<S, R>);
into_async!(Receiver<T>);
into_async!(Sender<T>);
receiving!(Connection<S, R> receives R);
receiving!(Receiver<T> receives T);
sending!(Connection<S, R> sends S);
sending!(Sender<T> sends T);
