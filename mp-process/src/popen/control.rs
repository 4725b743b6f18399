//! What a program and its fork server tell each other: one packet each, over their socket.

use std::{
    io::{self, IoSlice},
    os::fd::{BorrowedFd, OwnedFd},
};

use mp_core::{
    codec,
    fd::{self, Mode},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// From the [program](super::forkserver) to its [zygote](super::zygote).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Fork children that wait for something to do.
    Fork { count: u32 },
    /// Tell how this child ends, with what it had used, even if the kernel remembers its status.
    Watch { pid: u32, number: u64 },
}

/// From the zygote to the program.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// The zygote is ready.
    Ready {
        /// Whether the kernel tells the status of a process after it was reaped; the zygote then
        /// does not have to.
        keeps_status: bool,
    },
    /// The program starts threads before `init()`, in `main` or before it: forking it would not be safe.
    Threaded { threads: u32 },
    /// A child waits; its bootstrap socket and its pidfd come along. The number is its own for ever:
    /// its pid may be another's once it was reaped, which may be before its end is asked for.
    Parked { pid: u32, number: u64 },
    /// A child could not be made.
    Refused { errno: i32 },
    /// A child has ended. Sent before it is reaped.
    Ended {
        number: u64,
        /// As `wait` gives it.
        status: i32,
        peak_rss: Option<u64>,
    },
}

/// Longer than any packet.
const PACKET: usize = 64;

/// Sends one message; [`io::ErrorKind::BrokenPipe`] if the peer is gone.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    codec::with_buffer(|packet| {
        codec::encode_into(message, packet).map_err(io::Error::other)?;
        match fd::send(socket, &[IoSlice::new(packet)], fds, Mode::Blocking) {
            // It left something unread behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            sent => sent.map(drop),
        }
    })
}

/// Receives what is there; `None` if the peer is gone.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (mut packet, mut fds) = ([0; PACKET], Vec::new());
    match fd::recv(socket, &mut packet, &mut fds, Mode::NonBlocking) {
        Ok(0) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
        Ok(len) => {
            let message = codec::decode(&packet[..len]).map_err(io::Error::other)?;
            Ok(Some((message, fds)))
        }
    }
}
