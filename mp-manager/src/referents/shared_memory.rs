//! The server's halves of `SharedMemory` and `ShareableList`: the server owns the memory, so it
//! goes with the object, and with the server at the latest.

use mp_sync::Item;
use serde::{Deserialize, Serialize};

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
};

/// An [`Item`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Entry {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
}

impl From<Item> for Entry {
    fn from(item: Item) -> Self {
        match item {
            Item::None => Self::None,
            Item::Bool(value) => Self::Bool(value),
            Item::Int(value) => Self::Int(value),
            Item::Float(value) => Self::Float(value),
            Item::Str(value) => Self::Str(value),
            Item::Bytes(value) => Self::Bytes(value),
        }
    }
}

impl From<Entry> for Item {
    fn from(entry: Entry) -> Self {
        match entry {
            Entry::None => Self::None,
            Entry::Bool(value) => Self::Bool(value),
            Entry::Int(value) => Self::Int(value),
            Entry::Float(value) => Self::Float(value),
            Entry::Str(value) => Self::Str(value),
            Entry::Bytes(value) => Self::Bytes(value),
        }
    }
}

struct Memory(mp_sync::SharedMemory);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let size: usize = call.parse()?;
    let memory = mp_sync::SharedMemory::create(None, size);
    let memory = memory.map_err(|error| Fault::Refused(error.to_string()))?;
    Ok(Box::new(Memory(memory)))
}

pub(super) fn make_list(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let entries: Vec<Entry> = call.parse()?;
    let list = mp_sync::ShareableList::create(None, entries.into_iter().map(Item::from));
    let list = list.map_err(|error| Fault::Refused(error.to_string()))?;
    Ok(Box::new(Memory(list.shared_memory().clone())))
}

impl Referent for Memory {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "name" => {
                let name = self.0.name();
                call.answer(&name)
            }
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        format!("{} bytes named {}", self.0.size(), self.0.name())
    }
}
