//! A list of numbers and texts in named memory, in Python's own layout.
//!
//! ```text
//! i64 count | i64 offsets[count + 1] | data | [u8; 8] formats[count] | u8 codes[count]
//! ```
//!
//! Offsets count from the data. A number has 8 bytes; texts and bytes have what they came with,
//! rounded up. A format is one of Python's `struct`; the code tells what it has been made of.

use std::{fmt, io};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::shared_memory::SharedMemory;

mod item;

pub use self::item::Item;
use self::item::WORD;

/// Why an item of a [`ShareableList`] was not read or replaced; the list is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// There is no such item.
    #[error("index {index} is out of range: the list has {len} items")]
    OutOfRange {
        /// What was asked for.
        index: isize,
        /// How many items there are.
        len: usize,
    },
    /// A text or bytes need more room than the item had when the list was made.
    #[error("the text of {needed} bytes exceeds the {available} that its slot has")]
    TooLong {
        /// How many bytes there are.
        needed: usize,
        /// How many the slot takes.
        available: usize,
    },
    /// The memory holds no list, or a damaged one.
    #[error("the shared memory holds no list, or a damaged one")]
    Corrupt,
}

impl From<ListError> for io::Error {
    fn from(error: ListError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// A list of fixed length in a [`SharedMemory`], which Python's `ShareableList` reads and writes.
///
/// Items can be replaced by others, also of another type; a text only by one that fits where the
/// first one was. Nothing is locked, as in Python: who writes what others read agrees with them.
///
/// # Process death
///
/// As with [`SharedMemory`]; an item that a process replaced when it died may be half of each.
///
/// # Examples
///
/// ```
/// use mp_sync::{Item, ShareableList};
///
/// let list = ShareableList::create(None, ["howdy".into(), Item::Int(42), true.into()])?;
/// let same = ShareableList::attach(list.shared_memory().name())?;
/// same.set(-1, 2.5)?;
/// assert_eq!(list.get(2)?, Item::Float(2.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "multiprocessing.shared_memory.ShareableList")]
#[derive(Clone)]
pub struct ShareableList {
    memory: SharedMemory,
    len: usize,
    /// Where the slots begin, and the last one ends; read once, and checked then.
    offsets: Vec<usize>,
}

impl ShareableList {
    /// Puts `items` into a new segment, see [`SharedMemory::create`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedMemory::create`]; a text of ten million bytes or more.
    pub fn create(name: Option<&str>, items: impl IntoIterator<Item = Item>) -> io::Result<Self> {
        /// What the eight bytes of a format can say.
        const LONGEST: usize = 9_999_999;
        let items: Vec<Item> = items.into_iter().collect();
        let mut offsets = vec![0];
        for item in &items {
            if item.slot() > LONGEST {
                let (needed, available) = (item.text_len(), LONGEST);
                return Err(ListError::TooLong { needed, available }.into());
            }
            offsets.push(offsets[offsets.len() - 1] + item.slot());
        }
        let len = items.len();
        let size = WORD * (len + 2) + offsets[len] + len * (WORD + 1);
        let memory = SharedMemory::create(name, size)?;
        let list = Self {
            memory,
            len,
            offsets,
        };
        list.write_word(0, len);
        for (index, offset) in list.offsets.iter().enumerate() {
            list.write_word(1 + index, *offset);
        }
        for (index, item) in items.iter().enumerate() {
            list.store(index, item);
        }
        Ok(list)
    }

    /// The list that another program put into the segment `name`.
    ///
    /// # Errors
    ///
    /// Those of [`SharedMemory::attach`]; the segment holds no list.
    pub fn attach(name: &str) -> io::Result<Self> {
        Ok(Self::over(SharedMemory::attach(name)?)?)
    }

    fn over(memory: SharedMemory) -> Result<Self, ListError> {
        let word = |index: usize| {
            let mut bytes = [0; WORD];
            let start = index.checked_mul(WORD)?;
            if start.checked_add(WORD)? > memory.size() {
                return None;
            }
            memory.read(start, &mut bytes);
            usize::try_from(i64::from_ne_bytes(bytes)).ok()
        };
        let read = || {
            let len = word(0)?;
            // Before anything is allocated for it: so many items must fit.
            let fixed = len.checked_add(2)?.checked_mul(WORD)?;
            let tail = len.checked_mul(WORD + 1)?;
            let room = memory.size().checked_sub(fixed.checked_add(tail)?)?;
            let offsets: Vec<usize> = (0..=len).map(|i| word(1 + i)).collect::<Option<_>>()?;
            let fits = offsets.is_sorted() && offsets[0] == 0 && offsets[len] <= room;
            fits.then_some((len, offsets))
        };
        let (len, offsets) = read().ok_or(ListError::Corrupt)?;
        Ok(Self {
            memory,
            len,
            offsets,
        })
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A copy of item `index`; negative ones count from the end.
    ///
    /// # Errors
    ///
    /// [`ListError::OutOfRange`], [`ListError::Corrupt`].
    pub fn get(&self, index: isize) -> Result<Item, ListError> {
        self.load(self.position(index)?)
    }

    /// Puts another item in the place of item `index`.
    ///
    /// # Errors
    ///
    /// [`ListError::TooLong`] for a text that does not fit, [`ListError::OutOfRange`].
    pub fn set(&self, index: isize, item: impl Into<Item>) -> Result<(), ListError> {
        let (index, item) = (self.position(index)?, item.into());
        let available = self.slot(index);
        if item.text_len() > available || available < WORD {
            return Err(ListError::TooLong {
                needed: item.text_len(),
                available,
            });
        }
        self.store(index, &item);
        Ok(())
    }

    /// Copies of all items.
    ///
    /// # Errors
    ///
    /// [`ListError::Corrupt`].
    pub fn to_vec(&self) -> Result<Vec<Item>, ListError> {
        (0..self.len).map(|index| self.load(index)).collect()
    }

    /// How many items are equal to `item`.
    ///
    /// # Errors
    ///
    /// [`ListError::Corrupt`].
    pub fn count(&self, item: &Item) -> Result<usize, ListError> {
        Ok(self.to_vec()?.iter().filter(|other| *other == item).count())
    }

    /// Where the first item equal to `item` is.
    ///
    /// # Errors
    ///
    /// [`ListError::Corrupt`].
    #[doc(alias = "index")]
    pub fn position_of(&self, item: &Item) -> Result<Option<usize>, ListError> {
        Ok(self.to_vec()?.iter().position(|other| other == item))
    }

    /// The format of item `index`, as Python's `struct` writes it.
    ///
    /// # Errors
    ///
    /// [`ListError::OutOfRange`], [`ListError::Corrupt`].
    pub fn format(&self, index: isize) -> Result<String, ListError> {
        self.load_format(self.position(index)?)
    }

    /// The memory under it.
    #[doc(alias = "shm")]
    #[must_use]
    pub fn shared_memory(&self) -> &SharedMemory {
        &self.memory
    }

    fn position(&self, index: isize) -> Result<usize, ListError> {
        let len = self.len;
        let position = match usize::try_from(index) {
            Ok(index) => Some(index),
            Err(_) => len.checked_sub(index.unsigned_abs()),
        };
        position
            .filter(|position| *position < len)
            .ok_or(ListError::OutOfRange { index, len })
    }

    fn slot(&self, index: usize) -> usize {
        self.offsets[index + 1] - self.offsets[index]
    }

    fn data(&self, index: usize) -> usize {
        WORD * (self.len + 2) + self.offsets[index]
    }

    fn formats(&self) -> usize {
        self.data(self.len)
    }

    fn codes(&self) -> usize {
        self.formats() + self.len * WORD
    }

    fn write_word(&self, index: usize, value: usize) {
        self.memory
            .write(index * WORD, &(value as i64).to_ne_bytes());
    }

    fn store(&self, index: usize, item: &Item) {
        let (bytes, format, code) = item.encode(self.slot(index));
        let mut padded = [0; WORD];
        padded[..format.len()].copy_from_slice(format.as_bytes());
        self.memory.write(self.data(index), &bytes);
        self.memory.write(self.formats() + index * WORD, &padded);
        self.memory.write(self.codes() + index, &[code]);
    }

    fn load_format(&self, index: usize) -> Result<String, ListError> {
        let mut format = [0; WORD];
        self.memory.read(self.formats() + index * WORD, &mut format);
        let text = std::str::from_utf8(&format).map_err(|_| ListError::Corrupt)?;
        Ok(text.trim_end_matches('\0').to_owned())
    }

    fn load(&self, index: usize) -> Result<Item, ListError> {
        let (mut bytes, mut code) = (vec![0; self.slot(index)], [0]);
        self.memory.read(self.data(index), &mut bytes);
        self.memory.read(self.codes() + index, &mut code);
        let format = self.load_format(index)?;
        Item::decode(&bytes, &format, code[0]).ok_or(ListError::Corrupt)
    }
}

impl Serialize for ShareableList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.memory.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ShareableList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::over(SharedMemory::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl fmt::Debug for ShareableList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = self.to_vec();
        f.debug_struct("ShareableList")
            .field("name", &self.memory.name())
            .field("items", &items)
            .finish()
    }
}
