//! What client and server say to each other.
//!
//! Frames are those of `multiprocessing.connection`: four bytes of length, big endian, then the
//! payload. A connection begins with the handshake that proves the key (mp-pipe), then [`Hello`]
//! and [`Welcome`]. On one machine the server's welcome comes with shared memory, and all further
//! bytes go through that (`mp_core::duplex`) instead of the socket. After that each frame of the client is a [`Request`], and each frame of the
//! server answers the oldest request that has no answer yet. [`Request::Release`] has none.
//!
//! A client may send several requests before it reads the answers. A frame is a header in postcard
//! and, behind it, what the header's variant says: the arguments, or the result.
//!
//! No type here refers to itself, and every length is checked against the frame before anything is
//! allocated for it. The first payload of a native client begins with [`MAGIC`]; a pickle begins
//! with `0x80`, which leaves room for clients that speak Python's requests.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The first bytes of a native client.
pub(crate) const MAGIC: [u8; 4] = *b"mp-m";
/// Changes with every change that the other side would not understand.
pub(crate) const VERSION: u16 = 3;
/// Longest frame, unless the server says otherwise.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Longest [`Hello`].
pub(crate) const MAX_HELLO: usize = 256;
/// Bytes of elements in one page of an iteration, or in one batch of a bulk operation.
const PAGE_BYTES: usize = 256 << 10;
/// Elements in one page or batch.
pub(crate) const PAGE_ITEMS: usize = 4096;
/// Why a server denies one more channel to a session that it does not know: it has ended, or was
/// another server's.
pub(crate) const SESSION_ENDED: &str = "the session has ended";

/// What a client says first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u16,
    /// A further channel of a session, or a new one.
    pub(crate) session: Option<u128>,
    /// For `debug_info`.
    pub(crate) pid: u32,
    /// Whether frames may go through shared memory: the client is on the same machine and can take
    /// a descriptor.
    pub(crate) memory: bool,
}

/// What a server answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Welcome {
    /// Served from now on.
    Served {
        /// Random: tells two servers apart that served at the same address one after the other.
        server: u128,
        session: u128,
        max_message: u64,
        /// The shared memory for all further frames comes with this one.
        memory: bool,
    },
    /// Not served; the connection ends.
    Denied(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    /// Arguments follow.
    Call {
        object: u64,
        /// [`signature`] of the method as the client knows it; 0: not checked.
        signature: u32,
        method: &'a str,
    },
    /// One reference for each mention; no answer.
    Release { objects: Vec<u64> },
    /// Arguments of the constructor follow; the answer is an object.
    Create { kind: &'a str },
    /// One more reference, by a process that was forked with a proxy.
    Acquire { object: u64 },
    /// A reference that waits for who decodes a proxy; the answer is the ticket.
    Issue { object: u64 },
    /// The reference of a ticket. When it is used up or too old, the object may still be there.
    Redeem { object: u64, ticket: u128 },
    /// Gives an object a name; whether it replaces another's is the client's word.
    Share {
        name: &'a str,
        object: u64,
        replace: bool,
    },
    /// Takes a name away; the answer tells whether there was one.
    Unshare { name: &'a str },
    /// The answer is the kind and the object.
    Find { name: &'a str },
    /// The answer is a [`DebugInfo`](crate::DebugInfo).
    Info { objects: bool },
    /// Ends the server. Who started it knows the token; a client that knows the key does not.
    Shutdown { token: u128 },
}

/// The header of an answer; a value follows its header.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Value,
    Fault(Fault),
}

/// Why there is no value.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum Fault {
    /// No such object, name, type or method.
    NotFound(String),
    /// A quota, or not exposed.
    Denied(String),
    /// The object refuses in the state it is in.
    Refused(String),
    /// Not the arguments of this method.
    Arguments(String),
    /// The method panicked.
    Panicked(String),
    /// Longer than a message may be.
    TooLarge {
        /// Its length.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// The result has no encoding.
    Encode(String),
}

/// The encoding of one user's value, opaque to the server but for the objects it refers to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Encoded<'a> {
    #[serde(borrow)]
    pub(crate) bytes: Raw<'a>,
    /// One entry for each proxy inside. In a reply, each comes with a reference.
    pub(crate) refs: Cow<'a, [u64]>,
}

impl<'a> Encoded<'a> {
    pub(crate) fn plain(bytes: &'a [u8]) -> Self {
        Self {
            bytes: Raw(bytes),
            refs: Cow::Borrowed(&[]),
        }
    }
}

/// Bytes as one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer)
            .map(Raw)
            .map_err(D::Error::custom)
    }
}

/// Some of an object's elements, in its order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page<'a> {
    /// Where the next page begins; `None` if there is none.
    pub(crate) next: Option<u64>,
    /// What must not have changed until the next page is asked for.
    pub(crate) mark: u64,
    #[serde(borrow)]
    pub(crate) items: Vec<Encoded<'a>>,
}

/// The outcome of a write that was tied to a version.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Written<'a> {
    Yes,
    /// Another value stands there by now, or none.
    No {
        version: u64,
        #[serde(borrow)]
        current: Option<Encoded<'a>>,
    },
}

/// How much still fits into a page or batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    bytes: usize,
    items: usize,
    empty: bool,
}

impl Budget {
    /// So many items at most, and no more than fit a message well.
    pub(crate) fn new(max_message: usize, items: usize) -> Self {
        Self {
            bytes: PAGE_BYTES.min(max_message / 2),
            items: items.clamp(1, PAGE_ITEMS),
            empty: true,
        }
    }

    /// Takes an element of so many bytes in, if there is room: for the first one there always is.
    pub(crate) fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.empty || (self.items > 0 && bytes <= self.bytes);
        if fits {
            self.empty = false;
            self.items = self.items.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        fits
    }
}

/// Splits a frame into its header and what follows.
pub(crate) fn split<'a, T: Deserialize<'a>>(frame: &'a [u8]) -> Result<(T, &'a [u8]), String> {
    postcard::take_from_bytes(frame).map_err(|error| error.to_string())
}

/// Decodes a protocol type that takes up all of `bytes`.
pub(crate) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match split(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(format!("{} bytes too many", rest.len())),
    }
}

/// A number for the text of a method's declaration: client and server must have read the same.
#[doc(hidden)]
#[must_use]
pub const fn signature(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let mut hash = 0x811c_9dc5_u32; // FNV-1a
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    if hash == 0 { 1 } else { hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode<T: Serialize>(value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        mp_core::codec::encode_into(value, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn arguments_follow_the_header() {
        let mut frame = encode(&Request::Call {
            object: 7,
            signature: 0,
            method: "get",
        });
        frame.extend(b"rest");
        let (request, rest) = split::<Request<'_>>(&frame).unwrap();
        assert!(matches!(
            request,
            Request::Call {
                object: 7,
                method: "get",
                ..
            }
        ));
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn an_element_borrows_its_bytes_from_the_frame() {
        let frame = encode(&Encoded {
            bytes: Raw(&[1, 2, 3]),
            refs: Cow::Borrowed(&[u64::MAX]),
        });
        let element = parse::<Encoded<'_>>(&frame).unwrap();
        assert_eq!(element.bytes.0, [1, 2, 3]);
        assert_eq!(*element.refs, [u64::MAX]);
        assert!(frame.as_ptr_range().contains(&element.bytes.0.as_ptr()));
    }

    #[test]
    fn hostile_lengths_are_errors_without_an_allocation() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(parse::<Encoded<'_>>(&huge).is_err());
        let mut release = vec![1];
        release.extend(huge);
        assert!(parse::<Request<'_>>(&release).is_err());
    }

    #[test]
    fn signatures_differ_with_their_text() {
        assert_ne!(signature("add(u64)->u64"), signature("add(u32)->u64"));
    }
}
