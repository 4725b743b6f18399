//! One counted reference to an object of a server.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    error::{CallError, ConnectError},
    link::{self, Link},
    protocol::Request,
    server::state::{Slot, State},
    session::{self, Session},
    transport::Address,
};

/// A clone shares the reference; the last one gives it back.
#[derive(Clone)]
pub(crate) enum Reference {
    Remote(Arc<Remote>),
    /// In the server itself. The server is not kept alive by what its own objects refer to.
    Local {
        state: Weak<State>,
        slot: Arc<Slot>,
    },
}

pub(crate) struct Remote {
    id: u64,
    /// A forked child exchanges it for a session of its own, in which it takes a reference.
    session: Mutex<Arc<Session>>,
}

impl Reference {
    /// Takes over a reference that the server counts already.
    pub(crate) fn remote(session: Arc<Session>, id: u64) -> Self {
        Self::Remote(Arc::new(Remote {
            id,
            session: Mutex::new(session),
        }))
    }

    pub(crate) fn local(state: &Arc<State>, slot: Arc<Slot>) -> Self {
        Self::Local {
            state: Arc::downgrade(state),
            slot,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Remote(remote) => remote.id,
            Self::Local { slot, .. } => slot.id(),
        }
    }

    pub(crate) fn server(&self) -> u128 {
        match self {
            Self::Remote(remote) => remote.session.lock().server(),
            Self::Local { state, .. } => state.upgrade().map_or(0, |state| state.id()),
        }
    }

    pub(crate) fn slot(&self) -> Option<&Arc<Slot>> {
        match self {
            Self::Remote(_) => None,
            Self::Local { slot, .. } => Some(slot),
        }
    }

    pub(crate) fn link(&self) -> Option<Link> {
        match self {
            Self::Remote(remote) => remote.session().ok().map(Link::Remote),
            Self::Local { state, .. } => state.upgrade().map(Link::Local),
        }
    }

    /// Takes a ticket; with it, the server's address.
    pub(crate) fn issue(&self) -> Result<(Address, u128), CallError> {
        match self {
            Self::Remote(remote) => {
                let session = remote.session()?;
                let request = Request::Issue { object: remote.id };
                let ticket = session.ask("", "issue", &request, link::parse_plain)?;
                Ok((session.address().clone(), ticket))
            }
            Self::Local { state, slot } => {
                let state = state.upgrade().ok_or_else(|| CallError::died("here"))?;
                let ticket = state.issue(slot.clone(), 0);
                Ok((state.address.clone(), ticket))
            }
        }
    }

    /// Calls a method that gives back what the caller holds of the object: it is free afterwards,
    /// whatever happens.
    pub(crate) fn give_back<A: Serialize>(&self, kind: &str, method: &str, args: &A) {
        match self {
            Self::Remote(remote) => {
                // A forked child without a session holds nothing.
                if let Ok(session) = remote.session() {
                    let request = Request::Call {
                        object: remote.id,
                        signature: 0,
                        method,
                    };
                    session.give_back(&request, args);
                }
            }
            Self::Local { .. } => {
                // The server has ended, or has taken it back already.
                let _: Result<(), _> = self.call(kind, method, 0, args, |_, _| Ok(()));
            }
        }
    }

    /// Calls a method: `args` as they stand in the message, `read` is given the answer.
    pub(crate) fn call<A: Serialize, R>(
        &self,
        kind: &str,
        method: &str,
        signature: u32,
        args: &A,
        read: impl FnOnce(&Link, &[u8]) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        match self {
            Self::Remote(remote) => {
                let session = remote.session()?;
                let request = Request::Call {
                    object: remote.id,
                    signature,
                    method,
                };
                let link = Link::Remote(session.clone());
                session.ask_with(kind, method, &request, args, |bytes| read(&link, bytes))
            }
            Self::Local { state, slot } => {
                let state = state.upgrade().ok_or_else(|| CallError::died("here"))?;
                mp_core::codec::with_buffer(|bytes| {
                    mp_core::codec::encode_into(args, bytes)?;
                    let link = Link::Local(state.clone());
                    link::call_here(&state, slot, method, signature, bytes, |bytes| {
                        read(&link, bytes)
                    })
                    .map_err(|fault| CallError::from_fault(fault, kind, method))?
                })
            }
        }
    }
}

impl Remote {
    /// The session of this process.
    fn session(&self) -> Result<Arc<Session>, CallError> {
        let mut session = self.session.lock();
        if session.is_of_another_process() {
            let own =
                session::of_server(session.server(), session.address()).map_err(
                    |error| match error {
                        ConnectError::Denied { reason, .. } => CallError::Denied { reason },
                        error if session::is_death(&error) => session.died(),
                        error => CallError::NoConnection(error),
                    },
                )?;
            let request = Request::Acquire { object: self.id };
            own.ask("", "acquire", &request, |_| Ok(()))?;
            *session = own;
        }
        Ok(session.clone())
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.session.get_mut().release(self.id);
    }
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        (self.id(), self.server()) == (other.id(), other.server())
    }
}

impl Eq for Reference {}

impl std::hash::Hash for Reference {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.id(), self.server()).hash(state);
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:016x}", self.id())
    }
}
