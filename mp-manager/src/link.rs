//! The way to a server: over a session, or none at all inside the server itself.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    protocol::{Budget, Fault, PAGE_ITEMS, Request},
    reference::Reference,
    referent::{Call, Caller},
    server::{dispatch, info, state::State},
    session::Session,
    transport::Address,
};

#[derive(Clone, Debug)]
pub(crate) enum Link {
    Remote(Arc<Session>),
    Local(Arc<State>),
}

impl Link {
    pub(crate) fn server(&self) -> u128 {
        match self {
            Self::Remote(session) => session.server(),
            Self::Local(state) => state.id(),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        match self {
            Self::Remote(session) => session.address(),
            Self::Local(state) => &state.address,
        }
    }

    /// For a batch of elements.
    pub(crate) fn budget(&self) -> Budget {
        let max_message = match self {
            Self::Remote(session) => session.max_message(),
            Self::Local(state) => state.limits.message,
        };
        Budget::new(max_message, PAGE_ITEMS)
    }

    /// A reference that came with a reply.
    pub(crate) fn adopt(&self, id: u64) -> Option<Reference> {
        match self {
            Self::Remote(session) => Some(Reference::remote(session.clone(), id)),
            Self::Local(state) => state.slot(id).map(|slot| Reference::local(state, slot)),
        }
    }

    pub(crate) fn redeem(&self, object: u64, ticket: u128) -> Result<Reference, CallError> {
        match self {
            Self::Remote(session) => {
                session.ask(
                    "",
                    "redeem",
                    &Request::Redeem { object, ticket },
                    |_| Ok(()),
                )?;
                Ok(Reference::remote(session.clone(), object))
            }
            Self::Local(state) => state
                .redeem(object, ticket)
                .map(|slot| Reference::local(state, slot))
                .ok_or_else(|| CallError::not_found(format!("object {object:016x} any more"))),
        }
    }

    /// Makes an object; `args` are the arguments of its constructor.
    pub(crate) fn create<A: Serialize>(
        &self,
        kind: &str,
        args: &A,
    ) -> Result<Reference, CallError> {
        match self {
            Self::Remote(session) => {
                let id =
                    session.ask_with("", kind, &Request::Create { kind }, args, parse_plain)?;
                Ok(Reference::remote(session.clone(), id))
            }
            Self::Local(state) => mp_core::codec::with_buffer(|bytes| {
                mp_core::codec::encode_into(args, bytes)?;
                dispatch::create(state, &Caller::server(), kind, bytes)
                    .map(|slot| Reference::local(state, slot))
                    .map_err(|fault| CallError::from_fault(fault, kind, "new"))
            }),
        }
    }

    pub(crate) fn share(
        &self,
        name: &str,
        reference: &Reference,
        replace: bool,
    ) -> Result<(), CallError> {
        if reference.server() != self.server() {
            return Err(CallError::Denied {
                reason: "this object belongs to another manager".to_owned(),
            });
        }
        let object = reference.id();
        let request = Request::Share {
            name,
            object,
            replace,
        };
        match self {
            Self::Remote(session) => session.ask("", "share", &request, |_| Ok(())),
            Self::Local(state) => {
                let slot = reference.slot().cloned().or_else(|| state.slot(object));
                let slot = slot.ok_or_else(|| CallError::not_found("object any more"))?;
                state
                    .share(name, slot, replace)
                    .map_err(|fault| CallError::from_fault(fault, "", "share"))
            }
        }
    }

    pub(crate) fn unshare(&self, name: &str) -> Result<bool, CallError> {
        match self {
            Self::Remote(session) => {
                session.ask("", "unshare", &Request::Unshare { name }, parse_plain)
            }
            Self::Local(state) => Ok(state.unshare(name)),
        }
    }

    /// The kind and the object.
    pub(crate) fn find(&self, name: &str) -> Result<(String, Reference), CallError> {
        match self {
            Self::Remote(session) => {
                let (kind, id) = session.ask("", "find", &Request::Find { name }, parse_plain)?;
                Ok((kind, Reference::remote(session.clone(), id)))
            }
            Self::Local(state) => {
                let slot = state
                    .find(name)
                    .ok_or_else(|| CallError::not_found(format!("object named `{name}`")))?;
                Ok((slot.kind().to_string(), Reference::local(state, slot)))
            }
        }
    }

    pub(crate) fn info(&self, objects: bool) -> Result<info::DebugInfo, CallError> {
        match self {
            Self::Remote(session) => {
                session.ask("", "info", &Request::Info { objects }, parse_plain)
            }
            Self::Local(state) => Ok(info::collect(state, objects)),
        }
    }
}

/// Runs a method inside the server, for the server's own code.
pub(crate) fn call_here<R>(
    state: &Arc<State>,
    slot: &crate::server::state::Slot,
    method: &str,
    signature: u32,
    args: &[u8],
    read: impl FnOnce(&[u8]) -> R,
) -> Result<R, Fault> {
    mp_core::codec::with_buffer(|out| {
        let caller = Caller::server();
        let mut call = Call {
            state,
            caller: &caller,
            method,
            signature,
            args,
            out,
            granted: Vec::new(),
            unsent: None,
        };
        dispatch::run(slot, &mut call)?;
        let granted = std::mem::take(&mut call.granted);
        let result = read(out);
        drop(granted); // the proxies in the result have references of their own by now
        Ok(result)
    })
}

/// Decodes an answer of a type of ours.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CallError> {
    crate::protocol::parse(bytes)
        .map_err(|reason| mp_core::codec::DecodeError::new::<T>(reason).into())
}

/// The same for a type that borrows nothing from the message.
pub(crate) fn parse_plain<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CallError> {
    parse(bytes)
}
