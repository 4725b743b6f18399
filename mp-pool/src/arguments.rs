//! Arguments on their way to the workers.
//!
//! They are encoded in the caller's thread: small ones into a buffer, from where they are copied into
//! a worker's ring; blocks of bytes straight to where the workers can read them.

use std::ops::Range;

use mp_core::codec::{self, EncodeError};
use serde::Serialize;

use crate::{
    error::{Part, TaskError},
    extent::{Extent, Held},
    share::Encoding,
    shared::Shared,
    wire,
};

/// Bytes in the hub's area on behalf of arguments; freed unless a task takes them.
pub(crate) struct Blocks<'a> {
    shared: &'a Shared,
    extents: Vec<Extent>,
    /// Those of shared values among the arguments.
    others: Vec<Held>,
    /// What this thread has encoded before.
    previous: Encoding,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            extents: Vec::new(),
            others: Vec::new(),
            previous: Encoding::of(shared.id).begin(),
        }
    }

    /// Copies `bytes` to where the workers can read them; the place.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<Range<usize>, String> {
        let hub = &self.shared.hub;
        let extent = self.shared.lock().extents.take(hub, bytes.len());
        let mut extent = extent.map_err(|error| error.to_string())?;
        let allocated = extent.allocate(hub, bytes.len()); // takes a while, so not under the lock
        let start = extent.offset();
        self.extents.push(extent);
        allocated.map_err(|error| error.to_string())?;
        hub.write(start, bytes);
        Ok(start..start + bytes.len())
    }

    /// For a task.
    pub(crate) fn take(&mut self) -> Held {
        let others = std::mem::take(&mut self.others);
        Held::new(std::mem::take(&mut self.extents), others)
    }

    /// For a shared value.
    pub(crate) fn take_numbered(&mut self) -> Held {
        Held::numbered(std::mem::take(&mut self.extents))
    }

    /// Those that are there, without those to come.
    pub(crate) fn split(&mut self) -> Self {
        Self {
            shared: self.shared,
            extents: std::mem::take(&mut self.extents),
            others: std::mem::take(&mut self.others),
            previous: Encoding::of(self.shared.id),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty() && self.others.is_empty()
    }
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        let previous = std::mem::take(&mut self.previous);
        self.others.append(&mut previous.resume());
        if !self.is_empty() {
            let held = self.take();
            let shared = self.shared;
            shared.lock().extents.release(&shared.hub, held);
        }
    }
}

/// Appends one encoded item to `body`, and its blocks to `blocks`.
#[inline]
pub(crate) fn encode_item<A: Serialize>(
    args: &A,
    body: &mut Vec<u8>,
    blocks: &mut Blocks<'_>,
) -> Result<(), TaskError> {
    let too_long = || EncodeError::new::<A>("its encoding is longer than 4 GiB");
    let mut put = |block: &[u8]| blocks.put(block).map(|place| place.start as u64);
    let encode = |out: &mut Vec<u8>| codec::encode_apart(args, out, &mut put);
    let result = wire::push_item(body, encode, too_long);
    blocks.others.append(&mut Encoding::take_holds());
    result.map_err(|error| unsendable(error.to_string()))
}

/// The arguments stay here, for this reason.
#[cold]
pub(crate) fn unsendable(reason: String) -> TaskError {
    TaskError::Encode {
        what: Part::Arguments,
        reason,
    }
}
