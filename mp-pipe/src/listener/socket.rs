//! What listens, and what it leaves in the file system.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        linux::fs::MetadataExt as _,
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use mp_core::{fd, hooks};
use nix::{
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
        stat::{Mode, fchmod},
    },
    unistd::geteuid,
};

use super::Peer;
use crate::{Address, Credentials, address::too_long, stream::Stream};

#[derive(Debug)]
pub(super) enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Socket {
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.set_nonblocking(true),
            Self::Tcp(socket) => socket.set_nonblocking(true),
        }
    }

    /// With the port that the system chose.
    pub(super) fn tcp_address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Unix(_) => Ok(None),
            Self::Tcp(socket) => socket.local_addr().map(Some),
        }
    }

    pub(super) fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Self::Unix(socket) => {
                let (stream, address) = socket.accept()?;
                let credentials = Credentials::of(stream.as_fd())?;
                let peer = Peer {
                    address: Address::from(&address),
                    credentials: Some(credentials),
                };
                Ok((Stream::Unix(stream), peer))
            }
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept()?;
                let peer = Peer {
                    address: Address::Tcp(address),
                    credentials: None,
                };
                Ok((Stream::Tcp(stream), peer))
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// A socket in the file system that this listener made, and perhaps its directory; gone when dropped.
#[derive(Debug)]
pub(super) struct Created {
    path: PathBuf,
    /// Device and inode: somebody may have put another file at the path since.
    identity: (u64, u64),
    directory: Option<PathBuf>,
    /// What a forked child has is its parent's.
    generation: u64,
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.generation != hooks::fork_generation() {
            return;
        }
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path); // somebody else was faster
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.st_dev(), metadata.st_ino()))
}

/// Listens at `path`; with it goes `directory`, if there is one.
pub(super) fn bind_unix(
    path: &Path,
    directory: Option<&Path>,
    mode: u32,
    depth: u32,
) -> io::Result<(Socket, Created)> {
    let address = UnixAddr::new(path).map_err(|_| too_long(&path.into()))?;
    let absolute = std::path::absolute(path)?;
    let socket = unix_socket()?;
    // Before it has a name: there is no moment in which others could connect.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    bind(socket.as_raw_fd(), &address)?;
    let created = Created {
        path: absolute,
        identity: identity(path)?,
        directory: directory.map(Path::to_owned),
        generation: hooks::fork_generation(),
    };
    listen(&socket, backlog(depth))?;
    let made = fs::symlink_metadata(path)?.permissions().mode() & 0o777;
    if made != mode {
        // The umask took bits away that were asked for; it never adds any.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok((Socket::Unix(socket.into()), created))
}

pub(super) fn bind_abstract(name: &[u8], depth: u32) -> io::Result<Socket> {
    let address = UnixAddr::new_abstract(name);
    let address = address.map_err(|_| too_long(&Address::abstract_name(name)))?;
    let socket = unix_socket()?;
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, backlog(depth))?;
    Ok(Socket::Unix(socket.into()))
}

pub(super) fn bind_tcp(address: SocketAddr, depth: u32) -> io::Result<Socket> {
    let socket = TcpListener::bind(address)?; // sets SO_REUSEADDR
    listen(&socket, backlog(depth))?; // again, for our backlog
    Ok(Socket::Tcp(socket))
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|errno| fd::explain(errno.into()))
}

fn backlog(depth: u32) -> Backlog {
    let depth = i32::try_from(depth).unwrap_or(i32::MAX);
    Backlog::new(depth).unwrap_or(Backlog::MAXCONN)
}

/// A directory that this user owns, if the system has one, else the common one.
pub(super) fn runtime_dir() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .filter(|path| {
            let owner = fs::metadata(path).map(|metadata| metadata.st_uid());
            owner.is_ok_and(|owner| owner == geteuid().as_raw())
        })
        .unwrap_or_else(std::env::temp_dir)
}
