//! From an address and a key to a socket whose peer has proved that key: mp-pipe's part.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use mp_core::authkey::AuthKey;
use mp_pipe::{AuthError, Client, Connection};

pub(crate) use mp_pipe::Address;

use crate::error::ConnectError;

pub(crate) fn connect(
    address: &Address,
    key: &AuthKey,
    timeout: Duration,
) -> Result<OwnedFd, ConnectError> {
    let named = || address.to_string();
    let client = Client::new().authkey(key.clone()).timeout(timeout);
    let connection = client
        .connect::<(), ()>(address)
        .map_err(|error| match error {
            mp_pipe::ConnectError::Io { source, .. } => ConnectError::Unreachable {
                address: named(),
                source,
            },
            mp_pipe::ConnectError::Auth { source, .. } => match source {
                AuthError::WrongKey | AuthError::Rejected => {
                    ConnectError::WrongKey { address: named() }
                }
                gone @ AuthError::Disconnected => ConnectError::Unreachable {
                    address: named(),
                    source: io::Error::new(io::ErrorKind::ConnectionReset, gone),
                },
                other => ConnectError::Unreachable {
                    address: named(),
                    source: io::Error::other(other),
                },
            },
            other => ConnectError::Unreachable {
                address: named(),
                source: io::Error::other(other),
            },
        })?;
    socket(connection).map_err(|source| ConnectError::Unreachable {
        address: named(),
        source,
    })
}

/// The socket of a connection: the handshake is over, and nothing came after it yet.
pub(crate) fn socket(connection: Connection<(), ()>) -> io::Result<OwnedFd> {
    connection.as_fd().try_clone_to_owned()
}
