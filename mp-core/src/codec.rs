//! Values as bytes: postcard, into buffers that are used again.

use std::{any::type_name, cell::Cell, fmt, mem, ops::Deref};

use postcard::ser_flavors::Flavor;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, SeqAccess, Visitor},
};

use crate::recycle;

mod apart;
mod explain;

pub use apart::{BLOCK, Get, Put, decode_apart, encode_apart};

/// A value that has no encoding; nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode a {type_name}: {reason}")]
pub struct EncodeError {
    type_name: &'static str,
    reason: String,
}

/// Bytes that are not the encoding of a value of the type that was expected.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode a {type_name}: {reason}")]
pub struct DecodeError {
    type_name: &'static str,
    reason: String,
}

impl EncodeError {
    /// An encoding error of `T` with a reason of one's own.
    pub fn new<T: ?Sized>(reason: impl fmt::Display) -> Self {
        Self {
            type_name: type_name::<T>(),
            reason: reason.to_string(),
        }
    }
}

impl DecodeError {
    /// A decoding error of `T` with a reason of one's own.
    pub fn new<T: ?Sized>(reason: impl fmt::Display) -> Self {
        Self {
            type_name: type_name::<T>(),
            reason: reason.to_string(),
        }
    }
}

/// Appends the encoding of `value` to `out`.
///
/// # Errors
///
/// `value` refused; `out` is as it was.
#[inline]
pub fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let len = out.len();
    postcard::serialize_with_flavor(value, Append(out)).map_err(|error| {
        out.truncate(len);
        refused(value, error)
    })
}

/// postcard drops the text of a custom error; asking again, without output, finds it.
#[cold]
fn refused<T: Serialize + ?Sized>(value: &T, error: postcard::Error) -> EncodeError {
    EncodeError::new::<T>(explain::refusal(value).unwrap_or_else(|| error.to_string()))
}

/// Decodes a value that takes up all of `bytes`.
///
/// # Errors
///
/// Too few bytes, too many, or others than `T` would have written.
#[inline]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(surplus::<T>(rest)),
        Err(error) => Err(DecodeError::new::<T>(error)),
    }
}

#[cold]
fn surplus<T>(rest: &[u8]) -> DecodeError {
    DecodeError::new::<T>(format_args!("{} bytes too many", rest.len()))
}

/// Decodes a value from the front of `bytes`; the value, and what is left.
///
/// # Errors
///
/// As [`decode`], but for bytes that are left.
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    postcard::take_from_bytes(bytes).map_err(DecodeError::new::<T>)
}

/// postcard's output, straight onto the end of a vector.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        append(self.0, bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Appends `bytes`. Most are the few of one number, for which a call of `memcpy` costs more than the copy.
#[inline]
fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    match bytes.len() {
        0 => {}
        1 => out.push(bytes[0]),
        2..=4 => append_ends::<2, 4>(out, bytes),
        5..=8 => append_ends::<4, 8>(out, bytes),
        9..=16 => append_ends::<8, 16>(out, bytes),
        _ => recycle::extend(out, bytes),
    }
}

/// Appends the first and the last `HALF` of the `HALF..=WHOLE` bytes; where the two overlap, they agree.
#[inline]
fn append_ends<const HALF: usize, const WHOLE: usize>(out: &mut Vec<u8>, bytes: &[u8]) {
    let (Some(first), Some(last)) = (bytes.first_chunk::<HALF>(), bytes.last_chunk::<HALF>())
    else {
        return; // not with such a length
    };
    let (start, end) = (out.len(), out.len() + bytes.len());
    out.extend_from_slice(&[0; WHOLE]); // of a length that is known here: one check, no call
    out[start..start + HALF].copy_from_slice(first);
    out[end - HALF..end].copy_from_slice(last);
    out.truncate(end);
}

/// A larger buffer is given back after use instead of kept by its thread.
const KEPT_BUFFER: usize = 4 << 20;

/// Runs `f` with this thread's reusable buffer, empty. Nested calls get a fresh one.
pub fn with_buffer<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    thread_local!(static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });
    // While this thread ends its locals are gone: a fresh buffer does as well.
    let mut buffer = BUFFER.try_with(Cell::take).unwrap_or_default();
    buffer.clear();
    let result = f(&mut buffer);
    if buffer.capacity() <= KEPT_BUFFER {
        let _ = BUFFER.try_with(|kept| kept.set(buffer));
    } else {
        recycle::give(buffer);
    }
    result
}

/// Bytes that are encoded as one block, at the speed of memory.
///
/// A plain `Vec<u8>` is a sequence of numbers to serde and is decoded one by one.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// The bytes as a vector, without a copy.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<u8> {
        mem::take(&mut self.0)
    }
}

/// A large block is kept for the next one.
impl Drop for Bytes {
    fn drop(&mut self) {
        recycle::give(mem::take(&mut self.0));
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Bytes {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.into_vec()
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 32;
        write!(f, "b\"{}", self.0[..self.0.len().min(SHOWN)].escape_ascii())?;
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => f.write_str("\""),
            Some(more) => write!(f, "\"… and {more} more"),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        apart::announced(|| serializer.serialize_bytes(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        apart::announced(|| deserializer.deserialize_byte_buf(BytesVisitor))
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes(match bytes {
            [] => apart::brought(),
            _ => recycle::copy(bytes),
        }))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(Bytes(bytes))
    }

    /// Formats without a type for bytes, such as JSON.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        Ok(Bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let value = (7_u64, "text".to_owned(), vec![Some(1.5_f64), None]);
        let mut bytes = vec![1, 2];
        encode_into(&value, &mut bytes).unwrap();
        assert_eq!(bytes[..2], [1, 2]);
        assert_eq!(
            decode::<(u64, String, Vec<Option<f64>>)>(&bytes[2..]).unwrap(),
            value
        );
    }

    #[test]
    fn short_pieces_of_every_length_are_appended_whole() {
        let bytes: Vec<u8> = (1..=40).collect();
        for len in 0..=bytes.len() {
            let mut out = vec![0xaa; 3];
            append(&mut out, &bytes[..len]);
            assert_eq!(out[..3], [0xaa; 3]);
            assert_eq!(out[3..], bytes[..len]);
        }
    }

    #[test]
    fn missing_and_surplus_bytes_are_errors() {
        let mut bytes = Vec::new();
        encode_into("text", &mut bytes).unwrap();
        assert!(decode::<String>(&bytes[..3]).is_err());
        bytes.push(0);
        assert!(
            decode::<String>(&bytes)
                .unwrap_err()
                .to_string()
                .contains("1 bytes too many")
        );
    }

    #[test]
    fn a_refusal_keeps_its_own_words_and_leaves_no_bytes() {
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("not on a Monday"))
            }
        }
        let mut bytes = Vec::new();
        let error = encode_into(&(1_u8, Some(vec![Refuses])), &mut bytes).unwrap_err();
        assert!(error.to_string().contains("not on a Monday"), "{error}");
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_hostile_length_is_an_error_without_an_allocation() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(decode::<Bytes>(&huge).is_err());
        assert!(decode::<Vec<u64>>(&huge).is_err());
    }

    #[test]
    fn the_buffer_is_reused_and_nested_calls_get_their_own() {
        let first = with_buffer(|buffer| {
            buffer.extend([0; 100]);
            with_buffer(|inner| assert!(inner.is_empty()));
            buffer.as_ptr()
        });
        with_buffer(|buffer| {
            assert!(buffer.is_empty() && buffer.capacity() >= 100);
            assert_eq!(buffer.as_ptr(), first);
        });
    }

    #[test]
    fn bytes_are_one_block() {
        let bytes = Bytes::from(vec![1, 2, 3]);
        let mut encoded = Vec::new();
        encode_into(&bytes, &mut encoded).unwrap();
        assert_eq!(encoded, [3, 1, 2, 3]);
        assert_eq!(decode::<Bytes>(&encoded).unwrap(), bytes);
        assert_eq!(format!("{:?}", Bytes::from("a\n")), r#"b"a\n""#);
    }
}
