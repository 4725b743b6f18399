//! Sockets by address: what listener and client have in common.

use std::{
    io,
    net::TcpStream,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        linux::net::TcpStreamExt as _,
        unix::net::UnixStream,
    },
};

use nix::{
    sys::socket::{MsgFlags, recv, send, setsockopt, sockopt},
    unistd::geteuid,
};

use crate::{channel::SOCKET_BUFFER, handshake::Wire};

/// The process at the other end of a Unix socket, as the kernel knows it: who connected, or who
/// listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// Its process.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Credentials {
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let peer = nix::sys::socket::getsockopt(&socket, sockopt::PeerCredentials)?;
        if peer.pid() == 0 && peer.uid() == u32::MAX {
            let text = "the kernel knows the peer of a Unix socket only";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(Self {
            pid: peer.pid(),
            uid: peer.uid(),
            gid: peer.gid(),
        })
    }

    pub(crate) fn are_ours(&self) -> bool {
        self.uid == geteuid().as_raw()
    }
}

/// A connected socket during its handshake.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Options that are wanted for the whole life of the connection.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                // A smaller buffer is slower for large messages, and no error.
                let _ = setsockopt(stream, sockopt::SndBuf, &SOCKET_BUFFER);
            }
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                // A peer whose machine is gone sends no end of file.
                setsockopt(stream, sockopt::KeepAlive, &true)?;
                setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
                setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
            }
        }
        Ok(())
    }

    /// Acknowledges at once what comes next: a peer with Nagle's algorithm (Python) sends its second
    /// small frame only when the first is acknowledged, which else takes 40 ms.
    pub(crate) fn hurry(&self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_quickack(true); // slower without, not wrong
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Unix(stream) => stream.into(),
            Stream::Tcp(stream) => stream.into(),
        }
    }
}

impl Wire for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.hurry();
        // Not recvmsg: descriptors from a stranger stay behind and are closed by the kernel.
        again(|| recv(self.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        again(|| send(self.as_fd().as_raw_fd(), bytes, flags))
    }
}

fn again(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}
