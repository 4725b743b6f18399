//! Values whose blocks of bytes travel apart, so that they are copied once on each side.
//!
//! While a value is encoded, [`Bytes`](super::Bytes) of [`BLOCK`] bytes or more are handed to the caller,
//! who keeps them where the other side can read them; the encoding has their place instead. Decoding hands
//! them back as they are.
//!
//! serde cannot tell a `Bytes` from any other block, and what is not one must not go apart: a
//! text that is written piece by piece is read in one. So a `Bytes` says so on its thread just before it asks its
//! serializer, or deserializer, which is ours or does not know of it.

use std::cell::Cell;

use postcard::{de_flavors, ser_flavors::Flavor};
use serde::{Serialize, de::DeserializeOwned};

use super::{DecodeError, EncodeError, append, refused};

/// `Bytes` of this length or more are blocks.
pub const BLOCK: usize = 16 << 10;

/// Takes a block; where it lies, or why it cannot be kept.
pub type Put<'a> = &'a mut dyn FnMut(&[u8]) -> Result<u64, String>;
/// Finds a block by its place and length.
pub type Get<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

thread_local! {
    /// A `Bytes` is about to be written or read.
    static ANNOUNCED: Cell<bool> = const { Cell::new(false) };
    /// The block for the `Bytes` that is being read.
    static BROUGHT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What `Bytes` does around the call of its serializer or deserializer.
#[inline]
pub(super) fn announced<R>(call: impl FnOnce() -> R) -> R {
    ANNOUNCED.set(true);
    let result = call();
    ANNOUNCED.set(false);
    result
}

/// The block that was read for the `Bytes` that is visited; empty if there is none.
pub(super) fn brought() -> Vec<u8> {
    BROUGHT.take()
}

/// As [`encode_into`](super::encode_into), but blocks go to `put`.
///
/// # Errors
///
/// `value` or `put` refused; `out` is as it was.
#[inline]
pub fn encode_apart<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    put: Put<'_>,
) -> Result<(), EncodeError> {
    ANNOUNCED.set(false); // a panic may have left it
    let len = out.len();
    let mut failure = None;
    let apart = Apart {
        out,
        put,
        failure: &mut failure,
    };
    let result = postcard::serialize_with_flavor(value, apart);
    result.map_err(|error| {
        out.truncate(len);
        match failure {
            Some(reason) => EncodeError::new::<T>(reason),
            None => refused(value, error),
        }
    })
}

/// Decodes what [`encode_apart`] has encoded; blocks come from `get`.
///
/// # Errors
///
/// As [`decode`](super::decode), and if `get` does not find a block.
#[inline]
pub fn decode_apart<'a, T: DeserializeOwned>(
    bytes: &'a [u8],
    get: Get<'a>,
) -> Result<T, DecodeError> {
    ANNOUNCED.set(false); // a panic may have left it
    let mut deserializer = postcard::Deserializer::from_flavor(Source { rest: bytes, get });
    let value = T::deserialize(&mut deserializer).map_err(DecodeError::new::<T>)?;
    match deserializer.finalize() {
        Ok([]) => Ok(value),
        Ok(rest) => Err(super::surplus::<T>(rest)),
        Err(error) => Err(DecodeError::new::<T>(error)),
    }
}

/// The length of a place.
const PLACE: usize = size_of::<u64>();

struct Apart<'a> {
    out: &'a mut Vec<u8>,
    put: Put<'a>,
    failure: &'a mut Option<String>,
}

impl Apart<'_> {
    #[cold]
    fn put(&mut self, block: &[u8]) -> postcard::Result<()> {
        match (self.put)(block) {
            Ok(place) => {
                self.out.extend_from_slice(&place.to_le_bytes());
                Ok(())
            }
            Err(reason) => {
                *self.failure = Some(reason);
                Err(postcard::Error::SerializeBufferFull)
            }
        }
    }
}

impl Flavor for Apart<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.out.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() >= BLOCK && ANNOUNCED.get() {
            return self.put(bytes);
        }
        append(self.out, bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

struct Source<'de> {
    rest: &'de [u8],
    get: Get<'de>,
}

impl Source<'_> {
    /// Brings the block whose place is next.
    #[cold]
    fn bring(&mut self, len: usize) -> postcard::Result<()> {
        let (place, rest) = self
            .rest
            .split_first_chunk::<PLACE>()
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        let block = (self.get)(u64::from_le_bytes(*place), len);
        BROUGHT.set(block.ok_or(postcard::Error::DeserializeUnexpectedEnd)?);
        Ok(())
    }
}

impl<'de> de_flavors::Flavor<'de> for Source<'de> {
    type Remainder = &'de [u8];
    type Source = &'de [u8];

    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        let (first, rest) = self
            .rest
            .split_first()
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        Ok(*first)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }

    #[inline]
    fn try_take_n(&mut self, len: usize) -> postcard::Result<&'de [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Asked for the bytes of a `Bytes` (among others): nothing here, but the block in [`BROUGHT`].
    #[inline]
    fn try_take_n_temp<'a>(&'a mut self, len: usize) -> postcard::Result<&'a [u8]>
    where
        'de: 'a,
    {
        if len >= BLOCK && ANNOUNCED.get() {
            return self.bring(len).map(|()| &[][..]);
        }
        self.try_take_n(len)
    }

    fn finalize(self) -> postcard::Result<&'de [u8]> {
        Ok(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Bytes, *};

    type Mixed = (u8, Bytes, String, Vec<Bytes>, u64);

    fn mixed() -> Mixed {
        let long = |byte| Bytes::from(vec![byte; BLOCK]);
        let text = "long, and no block".repeat(BLOCK / 8);
        (
            7,
            long(1),
            text,
            vec![Bytes::from("short"), long(2), Bytes::default()],
            1 << 40,
        )
    }

    #[test]
    fn blocks_go_apart_and_come_back_where_they_were() {
        let (mut blocks, mut out) = (Vec::new(), vec![9]);
        encode_apart(&mixed(), &mut out, &mut |block| {
            blocks.push(block.to_vec());
            Ok(blocks.len() as u64 - 1)
        })
        .unwrap();
        assert_eq!(blocks, [vec![1; BLOCK], vec![2; BLOCK]]);
        let get = |place: u64, len| {
            let block = blocks.get(place as usize)?;
            (block.len() == len).then(|| block.clone())
        };
        assert_eq!(decode_apart::<Mixed>(&out[1..], &get).unwrap(), mixed());
        assert!(decode_apart::<Mixed>(&out[1..], &|_, _| None).is_err());
        assert!(decode_apart::<Mixed>(&out[1..out.len() - 1], &get).is_err());
        out.push(0);
        let error = decode_apart::<Mixed>(&out[1..], &get).unwrap_err();
        assert!(error.to_string().contains("1 bytes too many"), "{error}");
    }

    #[test]
    fn a_block_that_cannot_be_kept_is_a_refusal_with_its_reason() {
        let mut out = vec![9];
        let error = encode_apart(&mixed(), &mut out, &mut |_| Err("no room".into())).unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
        assert_eq!(out, [9]);
    }

    #[test]
    fn other_formats_inside_are_left_alone() {
        /// Encodes itself on its own, in the middle of another value.
        struct Nested(Bytes);
        impl Serialize for Nested {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut inner = Vec::new();
                super::super::encode_into(&self.0, &mut inner).unwrap();
                serializer.serialize_bytes(&inner)
            }
        }
        let nested = Nested(vec![1; BLOCK].into());
        let mut out = Vec::new();
        encode_apart(&nested, &mut out, &mut |_| panic!("nothing goes apart")).unwrap();
        let inner = super::super::decode::<Bytes>(&out).unwrap();
        assert_eq!(super::super::decode::<Bytes>(&inner).unwrap(), nested.0);
    }
}
