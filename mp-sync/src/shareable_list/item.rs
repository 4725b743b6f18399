//! One item, as Python's `struct` would pack it.

/// What a [`ShareableList`](crate::ShareableList) holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// Python's `None`.
    None,
    /// Python's `bool`.
    Bool(bool),
    /// Python's `int`, as far as it has 64 bits.
    Int(i64),
    /// Python's `float`.
    Float(f64),
    /// Python's `str`. NULs at its end are lost, as in Python.
    Str(String),
    /// Python's `bytes`. NULs at their end are lost, as in Python.
    Bytes(Vec<u8>),
}

macro_rules! items {
    ($($from:ty => $variant:ident),*) => {$(
        impl From<$from> for Item {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

items!(bool => Bool, i32 => Int, i64 => Int, f64 => Float, &str => Str, String => Str,
       &[u8] => Bytes, Vec<u8> => Bytes);

pub(super) const WORD: usize = 8;
const BOOL: &str = "xxxxxxx?";
const NONE: &str = "xxxxxx?x";

const PLAIN: u8 = 0;
const STR: u8 = 1;
const BYTES: u8 = 2;
const NOTHING: u8 = 3;

impl Item {
    /// The bytes of its slot, what Python calls their format, and the code.
    pub(super) fn encode(&self, slot: usize) -> (Vec<u8>, String, u8) {
        let text = |bytes: &[u8]| {
            let mut padded = bytes.to_vec();
            padded.resize(slot, 0);
            (padded, format!("{slot}s"))
        };
        match self {
            Self::None => (vec![0; WORD], NONE.into(), NOTHING),
            Self::Bool(value) => (
                vec![0, 0, 0, 0, 0, 0, 0, u8::from(*value)],
                BOOL.into(),
                PLAIN,
            ),
            Self::Int(value) => (value.to_ne_bytes().into(), "q".into(), PLAIN),
            Self::Float(value) => (value.to_ne_bytes().into(), "d".into(), PLAIN),
            Self::Str(value) => {
                let (bytes, format) = text(value.as_bytes());
                (bytes, format, STR)
            }
            Self::Bytes(value) => {
                let (bytes, format) = text(value);
                (bytes, format, BYTES)
            }
        }
    }

    pub(super) fn decode(bytes: &[u8], format: &str, code: u8) -> Option<Self> {
        let word = || <[u8; WORD]>::try_from(bytes.get(..WORD)?).ok();
        let text = || {
            let len: usize = format.strip_suffix('s')?.parse().ok()?;
            let bytes = bytes.get(..len)?;
            let end = bytes.iter().rposition(|byte| *byte != 0);
            Some(bytes[..end.map_or(0, |last| last + 1)].to_vec())
        };
        Some(match (code, format) {
            (NOTHING, _) => Self::None,
            (STR, _) => Self::Str(String::from_utf8(text()?).ok()?),
            (BYTES, _) => Self::Bytes(text()?),
            (PLAIN, "q") => Self::Int(i64::from_ne_bytes(word()?)),
            (PLAIN, "d") => Self::Float(f64::from_ne_bytes(word()?)),
            (PLAIN, BOOL) => Self::Bool(word()?[WORD - 1] != 0),
            _ => return None,
        })
    }

    /// What a slot for it takes when the list is made: never less than a number.
    pub(super) fn slot(&self) -> usize {
        match self {
            Self::Str(text) => WORD * (text.len() / WORD + 1),
            Self::Bytes(bytes) => WORD * (bytes.len() / WORD + 1),
            _ => WORD,
        }
    }

    pub(super) fn text_len(&self) -> usize {
        match self {
            Self::Str(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }
}
