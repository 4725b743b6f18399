//! Why a call on a managed object failed.

use std::fmt;

use mp_core::codec::{DecodeError, EncodeError};

use crate::protocol::Fault;

/// Why a call on a managed object has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server process is gone, with all its objects. The call may or may not have been done.
    ///
    /// Or this client had to end its session: a guard was dropped when there was no connection to
    /// tell the server. Then a new [`connect`](crate::Client::connect) helps.
    #[error(
        "the manager at {address} is gone and its objects with it: start or connect to another"
    )]
    ServerDied {
        /// Where it served.
        address: String,
    },
    /// Every connection of this client is in use, and there is no other for this call: no
    /// descriptor is left, or the server has no time or place for one more. Nothing was called. The
    /// server lives, as far as is known, and with it all that this client holds.
    #[error("no further connection to the manager for this call: {0}")]
    NoConnection(#[source] ConnectError),
    /// The method panicked; the server and the object live on.
    #[error("`{method}` panicked in the manager: {message}")]
    Panicked {
        /// Type and method.
        method: String,
        /// What the panic said.
        message: String,
    },
    /// There is no such object, name, type or method.
    #[error("the manager has no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The server refuses: a quota, a method that is not exposed, an object of another type.
    #[error("the manager refuses: {reason}")]
    Denied {
        /// Why.
        reason: String,
    },
    /// The object refuses: a lock released by who does not hold it, an index beyond the end.
    #[error("`{method}` refused: {reason}")]
    Refused {
        /// Type and method.
        method: String,
        /// Why.
        reason: String,
    },
    /// Request or reply would be longer than the server allows.
    #[error("a message of {len} bytes is longer than the {limit} that this manager allows")]
    TooLarge {
        /// Its length.
        len: u64,
        /// The limit, see [`Builder::max_message`](crate::Builder::max_message).
        limit: u64,
    },
    /// An argument has no encoding; nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The reply is not what was expected: perhaps the object holds values of another type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl CallError {
    pub(crate) fn died(address: impl fmt::Display) -> Self {
        Self::ServerDied {
            address: address.to_string(),
        }
    }

    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// What the server answered to a call of `method` on a `kind`.
    #[cold]
    pub(crate) fn from_fault(fault: Fault, kind: &str, method: &str) -> Self {
        let named = || {
            if kind.is_empty() {
                method.to_owned()
            } else {
                format!("{kind}.{method}")
            }
        };
        match fault {
            Fault::NotFound(what) => Self::NotFound { what },
            Fault::Denied(reason) => Self::Denied { reason },
            Fault::Refused(reason) => Self::Refused {
                method: named(),
                reason,
            },
            Fault::Arguments(reason) => Self::Refused {
                method: named(),
                reason: format!("arguments: {reason}"),
            },
            Fault::Panicked(message) => Self::Panicked {
                method: named(),
                message,
            },
            Fault::TooLarge { len, limit } => Self::TooLarge { len, limit },
            Fault::Encode(reason) => Self::Refused {
                method: named(),
                reason: format!("the result cannot be sent: {reason}"),
            },
        }
    }
}

/// Why no connection to a manager was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there, or the system refused.
    #[error("no connection to the manager at {address}")]
    Unreachable {
        /// Where it was tried.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The key is not the server's.
    #[error("the manager at {address} does not accept this key")]
    WrongKey {
        /// Where it was tried.
        address: String,
    },
    /// What answers there is no manager, or one of another version.
    #[error("what listens at {address} is not a manager of this version: {reason}")]
    Protocol {
        /// Where it was tried.
        address: String,
        /// What did not fit.
        reason: String,
    },
    /// The server has as many connections as it allows.
    #[error("the manager at {address} refuses: {reason}")]
    Denied {
        /// Where it was tried.
        address: String,
        /// Why.
        reason: String,
    },
}
