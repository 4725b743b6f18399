//! What lies in the frames and records of a lane.
//!
//! ```text
//! frame    flags:u8  count:u32  address length:u8  address  body
//! body     count × (length:u32, encoded arguments), or with LARGE: offset:u64 length:u64 in the hub's area
//! record   length and kind:u32  payload
//! ```
//!
//! Both sides are the same build of the same program, so there is no version. Each length is
//! checked before use all the same: a worker's task may have written anywhere.

use mp_process::target::Address;

/// The body lies in the hub's area.
const LARGE: u8 = 1;
/// The items are timed and can be stopped one by one.
const TIMED: u8 = 2;

/// Bytes of the length before each item.
pub(crate) const ITEM_HEADER: usize = 4;

/// What precedes the body of a frame.
pub(crate) struct FrameHeader {
    pub(crate) count: u32,
    pub(crate) timed: bool,
    pub(crate) large: bool,
}

/// An encoded [`Address`], to be put into each frame of a job.
#[derive(Clone, Debug)]
pub(crate) struct Callee {
    len: u8,
    bytes: [u8; Callee::MAX],
}

impl Callee {
    /// Two 64-bit numbers in postcard's variable length.
    const MAX: usize = 20;

    pub(crate) fn new(address: Address) -> Self {
        let mut bytes = Vec::with_capacity(Self::MAX);
        mp_core::codec::encode_into(&address, &mut bytes).expect("two integers");
        let mut callee = Self {
            len: bytes.len() as u8,
            bytes: [0; Self::MAX],
        };
        callee.bytes[..bytes.len()].copy_from_slice(&bytes);
        callee
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

/// The longest header.
pub(crate) const MAX_HEADER: usize = 6 + Callee::MAX;

impl FrameHeader {
    /// Writes header and `callee` to the front of `out`; how many bytes.
    pub(crate) fn encode(&self, callee: &Callee, out: &mut [u8; MAX_HEADER]) -> usize {
        out[0] = if self.large { LARGE } else { 0 } | if self.timed { TIMED } else { 0 };
        out[1..5].copy_from_slice(&self.count.to_le_bytes());
        out[5] = callee.len;
        let len = 6 + callee.len as usize;
        out[6..len].copy_from_slice(callee.as_slice());
        len
    }

    /// Header, encoded address and body of `frame`.
    pub(crate) fn decode(frame: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let (flags, rest) = frame.split_first()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first()?;
        let (address, body) = rest.split_at_checked(*len as usize)?;
        let header = Self {
            count: u32::from_le_bytes(*count),
            timed: flags & TIMED != 0,
            large: flags & LARGE != 0,
        };
        Some((header, address, body))
    }
}

/// The body of a frame whose arguments lie in the area.
pub(crate) fn encode_large(offset: usize, len: usize) -> [u8; 16] {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&(offset as u64).to_le_bytes());
    body[8..].copy_from_slice(&(len as u64).to_le_bytes());
    body
}

/// Offset and length of such a body.
pub(crate) fn decode_large(body: &[u8]) -> Option<(usize, usize)> {
    let (offset, rest) = body.split_first_chunk()?;
    let len = rest.try_into().ok()?;
    let number = |bytes| usize::try_from(u64::from_le_bytes(bytes)).ok();
    Some((number(*offset)?, number(len)?))
}

/// The first item of `body` and what follows it.
#[inline]
pub(crate) fn split_item(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = body.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

/// Where the `count`-th item of `body` begins.
pub(crate) fn skip_items(body: &[u8], count: u64) -> Option<usize> {
    let mut rest = body;
    for _ in 0..count {
        (_, rest) = split_item(rest)?;
    }
    Some(body.len() - rest.len())
}

/// Appends an item that `encode` writes. An error leaves `body` as it was.
#[inline]
pub(crate) fn push_item<E>(
    body: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    too_long: impl FnOnce() -> E,
) -> Result<(), E> {
    let start = body.len();
    body.extend_from_slice(&[0; ITEM_HEADER]);
    let result = encode(body)
        .and_then(|()| u32::try_from(body.len() - start - ITEM_HEADER).map_err(|_| too_long()));
    match result {
        Ok(len) => {
            body[start..start + ITEM_HEADER].copy_from_slice(&len.to_le_bytes());
            Ok(())
        }
        Err(error) => {
            body.truncate(start);
            Err(error)
        }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The encoded value.
    Value = 0,
    /// An encoded [`PanicReport`](crate::error::PanicReport).
    Panicked = 1,
    /// The result has no encoding; a text.
    Unsendable = 2,
    /// The arguments could not be decoded; a text.
    Undecodable = 3,
    /// A part of the next record.
    Piece = 4,
    /// The worker wants to be replaced; nothing else.
    Recycle = 5,
    /// The initializer failed; a text.
    NotReady = 6,
}

/// Bytes of a record's header.
pub(crate) const RECORD_HEADER: usize = 4;
const LEN_BITS: u32 = 28;
/// In the place of a length: it follows in eight bytes. Never in a lane, whose rings are shorter.
const LONG: u32 = (1 << LEN_BITS) - 1;

/// The header of a record with a payload of `len` bytes, less than a ring.
#[inline]
pub(crate) fn record_header(kind: Kind, len: usize) -> [u8; RECORD_HEADER] {
    debug_assert!(len < LONG as usize);
    ((kind as u32) << LEN_BITS | len as u32).to_le_bytes()
}

/// Adds `payload`, a part of a record of any length, to `record`.
pub(crate) fn add_piece(record: &mut Vec<u8>, payload: &[u8]) {
    if record.is_empty() {
        record.extend_from_slice(&[0; LONG_HEADER]);
    }
    record.extend_from_slice(payload);
}

/// What was put together is a record of this kind.
pub(crate) fn finish_pieces(record: &mut [u8], kind: Kind) {
    let len = (record.len() - LONG_HEADER) as u64;
    record[..4].copy_from_slice(&((kind as u32) << LEN_BITS | LONG).to_le_bytes());
    record[4..LONG_HEADER].copy_from_slice(&len.to_le_bytes());
}

/// Bytes of the header of a record of any length.
const LONG_HEADER: usize = 12;

/// Kind and payload of the first record, and what follows it.
#[inline]
pub(crate) fn split_record(records: &[u8]) -> Option<(Kind, &[u8], &[u8])> {
    let (header, rest) = records.split_first_chunk()?;
    let header = u32::from_le_bytes(*header);
    let kind = match header >> LEN_BITS {
        0 => Kind::Value,
        1 => Kind::Panicked,
        2 => Kind::Unsendable,
        3 => Kind::Undecodable,
        4 => Kind::Piece,
        5 => Kind::Recycle,
        6 => Kind::NotReady,
        _ => return None,
    };
    let (len, rest) = match header & LONG {
        LONG => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::try_from(u64::from_le_bytes(*len)).ok()?, rest)
        }
        len => (len as usize, rest),
    };
    let (payload, rest) = rest.split_at_checked(len)?;
    Some((kind, payload, rest))
}

/// Where the `count`-th record begins.
pub(crate) fn skip_records(records: &[u8], count: u64) -> Option<usize> {
    let mut rest = records;
    for _ in 0..count {
        (_, _, rest) = split_record(rest)?;
    }
    Some(records.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_in_order_and_can_be_skipped() {
        let mut body = Vec::new();
        for item in [&b"one"[..], b"", b"three"] {
            push_item(
                &mut body,
                |out| {
                    out.extend(item);
                    Ok::<_, ()>(())
                },
                || (),
            )
            .unwrap();
        }
        assert_eq!(push_item(&mut body, |_| Err(7), || 0), Err(7));
        let (first, rest) = split_item(&body).unwrap();
        assert_eq!(first, b"one");
        assert_eq!(split_item(rest).unwrap().0, b"");
        let at = skip_items(&body, 2).unwrap();
        assert_eq!(split_item(&body[at..]).unwrap(), (&b"three"[..], &b""[..]));
        assert_eq!(skip_items(&body, 4), None);
    }

    #[test]
    fn a_record_in_pieces_reads_like_any_other() {
        let mut record = Vec::new();
        for piece in [&b"in pie"[..], b"", b"ces"] {
            add_piece(&mut record, piece);
        }
        finish_pieces(&mut record, Kind::Panicked);
        assert_eq!(
            split_record(&record).unwrap(),
            (Kind::Panicked, &b"in pieces"[..], &b""[..])
        );
    }

    #[test]
    fn damaged_bytes_are_nothing() {
        assert!(FrameHeader::decode(&[0, 1, 0, 0, 0, 9, 1]).is_none());
        assert!(split_item(&[5, 0, 0, 0, 1]).is_none());
        assert!(split_record(&record_header(Kind::Value, 3)).is_none());
        assert!(split_record(&u32::MAX.to_le_bytes()).is_none());
        assert!(decode_large(&[0; 15]).is_none());
    }
}
