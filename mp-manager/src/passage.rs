//! How proxies travel inside values.
//!
//! What a proxy is encoded as depends on where the value goes; this thread remembers that while
//! serde runs.
//!
//! * **Into its own server** ([`pack`], as an argument or an element) a proxy is only the number of
//!   its object. The message lists these numbers beside the bytes, and the server keeps a
//!   reference for each of them beside the element. In an answer the list comes with one reference
//!   for each entry, and [`unpack`] gives them to the proxies inside.
//! * **Anywhere else** (to a child, through a pipe or queue) it takes a ticket: the server keeps a
//!   reference for whoever comes with it. Decoding redeems it, over this process's own session.

use std::{cell::RefCell, sync::Arc};

use mp_core::codec::{self, Bytes, DecodeError, EncodeError};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
    ser::Error as _,
};

use crate::{
    error::CallError,
    link::Link,
    protocol::{Encoded, Raw},
    reference::Reference,
    server::state::{Slot, State},
    session,
    transport::Address,
};

thread_local! {
    // Stacks: encoding one value may call another server, or the same.
    static PACKING: RefCell<Vec<Packing>> = const { RefCell::new(Vec::new()) };
    static UNPACKING: RefCell<Vec<Unpacking>> = const { RefCell::new(Vec::new()) };
    static HOST: RefCell<Vec<Arc<State>>> = const { RefCell::new(Vec::new()) };
    /// Why a proxy could not be decoded; postcard has no room for it.
    static REASON: RefCell<Option<String>> = const { RefCell::new(None) };
}

struct Packing {
    server: u128,
    /// The value is kept and decoded any number of times, which a ticket is not good for.
    kept: bool,
    refs: Vec<u64>,
    /// The same objects, which must not go before the value has arrived.
    held: Vec<Reference>,
}

struct Unpacking {
    server: u128,
    granted: Vec<Reference>,
}

/// What a proxy is encoded as.
#[derive(Serialize, Deserialize)]
enum Token {
    Here {
        kind: String,
        object: u64,
    },
    Ticket {
        kind: String,
        object: u64,
        server: u128,
        address: Address,
        ticket: u128,
    },
}

fn packing<R>(server: u128, kept: bool, run: impl FnOnce() -> R) -> (R, Packing) {
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            if std::thread::panicking() {
                PACKING.with_borrow_mut(Vec::pop);
            }
        }
    }
    PACKING.with_borrow_mut(|stack| {
        stack.push(Packing {
            server,
            kept,
            refs: Vec::new(),
            held: Vec::new(),
        });
    });
    let frame = Frame;
    let result = run();
    std::mem::forget(frame);
    let packing = PACKING
        .with_borrow_mut(Vec::pop)
        .expect("pushed above and popped by nobody else");
    (result, packing)
}

/// A value on its way to the server of a proxy, as [`Encoded`].
pub(crate) struct Pack<'a, T: ?Sized> {
    server: u128,
    kept: bool,
    value: &'a T,
}

/// A value that the server will keep.
pub(crate) fn pack<T: ?Sized>(server: u128, value: &T) -> Pack<'_, T> {
    Pack {
        server,
        kept: true,
        value,
    }
}

/// A value that the server's code will decode, once.
pub(crate) fn pack_args<T: ?Sized>(server: u128, value: &T) -> Pack<'_, T> {
    Pack {
        server,
        kept: false,
        value,
    }
}

impl<T: Serialize + ?Sized> Serialize for Pack<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        codec::with_buffer(|bytes| {
            let encode = || codec::encode_into(self.value, bytes);
            let (result, packing) = packing(self.server, self.kept, encode);
            result.map_err(S::Error::custom)?;
            Encoded {
                bytes: Raw(bytes),
                refs: packing.refs.into(),
            }
            .serialize(serializer)
        })
    }
}

/// A value that the server will keep, encoded already.
#[derive(Serialize)]
pub(crate) struct Packed {
    bytes: Bytes,
    refs: Vec<u64>,
    /// The value itself may be dropped before its encoding is sent.
    #[serde(skip)]
    _held: Vec<Reference>,
}

impl Packed {
    /// What it takes in a message, about.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + 16
    }
}

/// As [`pack`], at once.
pub(crate) fn pack_now<T: Serialize + ?Sized>(
    server: u128,
    value: &T,
) -> Result<Packed, EncodeError> {
    let mut bytes = Vec::new();
    let (result, packing) = packing(server, true, || codec::encode_into(value, &mut bytes));
    result?;
    Ok(Packed {
        bytes: bytes.into(),
        refs: packing.refs,
        _held: packing.held,
    })
}

/// Encodes a result of the server's own code; its objects are added to `granted`.
pub(crate) fn pack_here<T: Serialize + ?Sized>(
    state: &State,
    value: &T,
    bytes: &mut Vec<u8>,
    granted: &mut Vec<Arc<Slot>>,
) -> Result<Vec<u64>, EncodeError> {
    let (result, packing) = packing(state.id(), false, || codec::encode_into(value, bytes));
    result?;
    let slots = packing.held.iter().filter_map(Reference::slot);
    granted.extend(slots.cloned());
    Ok(packing.refs)
}

/// Decodes a value of a reply; its proxies get the references that came with it.
pub(crate) fn unpack<T: DeserializeOwned>(
    link: &Link,
    encoded: &Encoded<'_>,
) -> Result<T, CallError> {
    if encoded.refs.is_empty() {
        return Ok(decode(encoded.bytes.0)?);
    }
    let granted = encoded
        .refs
        .iter()
        .filter_map(|id| link.adopt(*id))
        .collect();
    Ok(unpacking(link.server(), granted, || {
        decode(encoded.bytes.0)
    })?)
}

/// Decodes arguments in the server.
pub(crate) fn unpack_here<T: DeserializeOwned>(
    state: &Arc<State>,
    bytes: &[u8],
    slots: Vec<Arc<Slot>>,
) -> Result<T, DecodeError> {
    let granted = slots.into_iter().map(|slot| Reference::local(state, slot));
    unpacking(state.id(), granted.collect(), || decode(bytes))
}

fn unpacking<R>(server: u128, granted: Vec<Reference>, run: impl FnOnce() -> R) -> R {
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            // Popped first, dropped then: a reference that nobody took is given back.
            let unpacking = UNPACKING.with_borrow_mut(Vec::pop);
            drop(unpacking);
        }
    }
    UNPACKING.with_borrow_mut(|stack| stack.push(Unpacking { server, granted }));
    let _frame = Frame;
    run()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    REASON.set(None);
    codec::decode(bytes).map_err(|error| match REASON.take() {
        Some(reason) => DecodeError::new::<T>(reason),
        None => error,
    })
}

/// Runs `run` as code of this server: [`Client::here`](crate::Client::here).
pub(crate) fn hosted<R>(state: &Arc<State>, run: impl FnOnce() -> R) -> R {
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            let host = HOST.with_borrow_mut(Vec::pop);
            drop(host);
        }
    }
    HOST.with_borrow_mut(|stack| stack.push(state.clone()));
    let _frame = Frame;
    run()
}

/// The server that this thread runs code of.
pub(crate) fn host() -> Option<Arc<State>> {
    HOST.with_borrow(|stack| stack.last().cloned())
}

/// Encodes a proxy.
pub(crate) fn serialize<S: Serializer>(
    kind: &str,
    reference: &Reference,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    /// Where the value goes.
    enum Way {
        Home,
        Abroad { kept: bool },
    }
    let server = reference.server();
    let object = reference.id();
    let way = PACKING.with_borrow_mut(|stack| match stack.last_mut() {
        Some(packing) if packing.server == server => {
            packing.refs.push(object);
            packing.held.push(reference.clone());
            Way::Home
        }
        packing => Way::Abroad {
            kept: packing.is_some_and(|packing| packing.kept),
        },
    });
    let kind = kind.to_owned();
    match way {
        Way::Home => Token::Here { kind, object },
        Way::Abroad { kept: true } => {
            return Err(S::Error::custom(format_args!(
                "this {kind} belongs to another manager: an object can keep proxies of its own \
                 manager only; share it there by name, and keep the name"
            )));
        }
        Way::Abroad { kept: false } => {
            let (address, ticket) = reference.issue().map_err(S::Error::custom)?;
            Token::Ticket {
                kind,
                object,
                server,
                address,
                ticket,
            }
        }
    }
    .serialize(serializer)
}

/// Decodes a proxy to an object of this `kind`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    kind: &str,
    deserializer: D,
) -> Result<Reference, D::Error> {
    let token = Token::deserialize(deserializer)?;
    find(kind, token).map_err(|reason| {
        let error = D::Error::custom(&reason);
        REASON.set(Some(reason));
        error
    })
}

fn find(expected: &str, token: Token) -> Result<Reference, String> {
    let (Token::Here { kind, .. } | Token::Ticket { kind, .. }) = &token;
    if kind != expected && !expected.is_empty() {
        return Err(format!("this is a proxy of a {kind}, not of a {expected}"));
    }
    match token {
        Token::Here { object, .. } => UNPACKING.with_borrow(|stack| {
            stack
                .last()
                .and_then(|frame| frame.granted.iter().find(|known| known.id() == object))
                .cloned()
                .ok_or_else(|| {
                    "this proxy was encoded as an element of its manager, and is decoded elsewhere"
                        .to_owned()
                })
        }),
        Token::Ticket {
            object,
            server,
            address,
            ticket,
            ..
        } => {
            let known = UNPACKING.with_borrow(|stack| {
                let frame = stack.last().filter(|frame| frame.server == server)?;
                frame.granted.first().cloned()
            });
            let link = match (known, host()) {
                (Some(reference), _) => reference.link(),
                (None, Some(state)) if state.id() == server => Some(Link::Local(state)),
                _ => None,
            };
            let link = match link {
                Some(link) => link,
                None => Link::Remote(
                    session::of_server(server, &address).map_err(|error| error.to_string())?,
                ),
            };
            link.redeem(object, ticket)
                .map_err(|error| error.to_string())
        }
    }
}
