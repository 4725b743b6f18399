//! Descriptors that travel beside a value while serde runs.
//!
//! A handle (`Queue`, `Lock`, `Sender`…) is encoded as the index of its descriptor in a list that
//! this thread collects meanwhile. Who sends the bytes sends the list along, by SCM_RIGHTS or by
//! inheritance, and gives it to [`attach`] while the bytes are decoded.
//!
//! ```text
//! collect(|| encode(value))  ──►  bytes + Outgoing ─ ─ ─ ►  attach(fds, || decode(bytes))
//!   serialize_fd pushes, writes the index                     deserialize_fd takes by index
//! ```

use std::{
    cell::RefCell,
    fmt,
    os::fd::{BorrowedFd, OwnedFd},
};

use serde::{Deserialize, Deserializer, Serializer, de, ser};

use crate::fd::MAX_FDS;

thread_local! {
    // A stack: encoding one value may send another.
    static OUTGOING: RefCell<Vec<Outgoing>> = const { RefCell::new(Vec::new()) };
    static INCOMING: RefCell<Vec<Vec<Option<OwnedFd>>>> = const { RefCell::new(Vec::new()) };
}

/// What a value that was encoded needs beside its bytes.
#[derive(Default)]
pub struct Outgoing {
    fds: Vec<OwnedFd>,
    /// Who carries the bytes takes no descriptors along.
    bytes_only: bool,
    on_commit: Vec<Box<dyn FnOnce()>>,
    /// The value is encoded once more, for the text of its error: the handles that were met so far.
    explained: Option<Vec<usize>>,
}

impl Outgoing {
    /// The descriptors, in the order of their indices.
    #[must_use]
    pub fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }

    /// Whether the value holds no handle at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fds.is_empty() && self.on_commit.is_empty()
    }

    /// The value has left: handles that move with it are marked as moved.
    ///
    /// Dropped without this, the value never left, and every handle stays with its owner.
    pub fn commit(self) {
        for moved in self.on_commit {
            moved();
        }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("fds", &self.fds)
            .field("moves", &self.on_commit.len())
            .finish()
    }
}

/// Runs `encode`, and collects the descriptors of the handles that it encodes.
pub fn collect<R>(encode: impl FnOnce() -> R) -> (R, Outgoing) {
    collect_for(true, encode)
}

/// As [`collect`], for who may not be able to send descriptors: then no handle can go, but those that
/// [have another way](can_carry).
pub fn collect_for<R>(carries_fds: bool, encode: impl FnOnce() -> R) -> (R, Outgoing) {
    /// Keeps the stack balanced when `encode` panics.
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            OUTGOING.with_borrow_mut(Vec::pop);
        }
    }
    let outgoing = Outgoing {
        bytes_only: !carries_fds,
        ..Outgoing::default()
    };
    OUTGOING.with_borrow_mut(|stack| stack.push(outgoing));
    let frame = Frame;
    let result = encode();
    std::mem::forget(frame);
    let outgoing = OUTGOING.with_borrow_mut(Vec::pop).unwrap_or_default();
    (result, outgoing)
}

/// Runs `encode` for a value that could not be encoded, to find out why; what it collects is dropped.
pub(crate) fn explain<R>(encode: impl FnOnce() -> R) -> R {
    if !is_collecting() {
        return encode();
    }
    let begun = || {
        OUTGOING.with_borrow_mut(|stack| {
            if let Some(outgoing) = stack.last_mut() {
                outgoing.explained = Some(Vec::new());
            }
        });
        encode()
    };
    collect(begun).0
}

/// Whether the handle with this `key` was met already since an error began to be explained; `None`
/// while none is. For handles that can be in a value once only.
pub fn met_while_explaining(key: usize) -> Option<bool> {
    OUTGOING.with_borrow_mut(|stack| {
        let keys = stack.last_mut()?.explained.as_mut()?;
        let met = keys.contains(&key);
        keys.push(key);
        Some(met)
    })
}

/// Runs `decode`, whose handles take their descriptors out of `fds`; the rest is closed.
pub fn attach<R>(fds: Vec<OwnedFd>, decode: impl FnOnce() -> R) -> R {
    struct Frame;
    impl Drop for Frame {
        fn drop(&mut self) {
            INCOMING.with_borrow_mut(Vec::pop);
        }
    }
    INCOMING.with_borrow_mut(|stack| stack.push(fds.into_iter().map(Some).collect()));
    let _frame = Frame;
    decode()
}

/// Whether this thread is inside [`collect`]: a handle can be encoded.
#[must_use]
pub fn is_collecting() -> bool {
    OUTGOING.with_borrow(|stack| !stack.is_empty())
}

/// Whether one more descriptor can go along with the value that is being encoded: for handles that
/// have another way.
#[must_use]
pub fn can_carry() -> bool {
    const SPARE: usize = 16; // for what a start sends beside the arguments
    OUTGOING.with_borrow(|stack| {
        stack
            .last()
            .is_some_and(|outgoing| !outgoing.bytes_only && outgoing.fds.len() < MAX_FDS - SPARE)
    })
}

/// Encodes a handle: sends a duplicate of its descriptor along, and writes the index.
///
/// # Errors
///
/// Outside [`collect`] nothing can carry a descriptor; the text names `type_name` and the ways
/// that do work. Out of descriptors.
pub fn serialize_fd<S: Serializer>(
    type_name: &'static str,
    fd: BorrowedFd<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if !is_collecting() {
        return Err(ser::Error::custom(format_args!(
            "a {type_name} lives in this system and cannot be written as plain data (to a file, as \
             JSON, into a queue or a task of a pool); pass it as an argument or result of a \
             process, or to a pool's `initializer`, or send it through a connection"
        )));
    }
    let fd = fd.try_clone_to_owned().map_err(|error| {
        ser::Error::custom(format_args!(
            "cannot send a {type_name}: {}",
            crate::fd::explain(error)
        ))
    })?;
    let index = OUTGOING.with_borrow_mut(|stack| {
        let outgoing = stack.last_mut().expect("checked above");
        outgoing.fds.push(fd);
        outgoing.fds.len() - 1
    });
    serializer.serialize_u32(index as u32)
}

/// Decodes a handle: reads the index, and takes the descriptor that came along.
///
/// # Errors
///
/// Outside [`attach`], or with an index that names none of the descriptors, or one taken already.
pub fn deserialize_fd<'de, D: Deserializer<'de>>(
    type_name: &'static str,
    deserializer: D,
) -> Result<OwnedFd, D::Error> {
    let index = u32::deserialize(deserializer)? as usize;
    INCOMING
        .with_borrow_mut(|stack| stack.last_mut()?.get_mut(index)?.take())
        .ok_or_else(|| {
            de::Error::custom(format_args!(
                "the descriptor of a {type_name} did not come along"
            ))
        })
}

/// Runs `moved` once the value that is being encoded has left: for handles that move with it.
pub fn on_commit(moved: impl FnOnce() + 'static) {
    OUTGOING.with_borrow_mut(|stack| {
        if let Some(outgoing) = stack.last_mut() {
            outgoing.on_commit.push(Box::new(moved));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::fd::AsFd, rc::Rc};

    use serde::Serialize;

    use super::*;
    use crate::codec;

    struct Handle(OwnedFd);

    impl Serialize for Handle {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serialize_fd("Handle", self.0.as_fd(), serializer)
        }
    }

    impl<'de> Deserialize<'de> for Handle {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserialize_fd("Handle", deserializer).map(Self)
        }
    }

    fn handle() -> Handle {
        Handle(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn handles_travel_beside_the_bytes() {
        let value = (1_u8, vec![handle(), handle()], "text".to_owned());
        let mut bytes = Vec::new();
        let (result, outgoing) = collect(|| codec::encode_into(&value, &mut bytes));
        result.unwrap();
        assert_eq!(outgoing.fds().len(), 2);
        let fds = outgoing.fds.into_iter().collect();
        let (_, handles, text): (u8, Vec<Handle>, String) =
            attach(fds, || codec::decode(&bytes)).unwrap();
        assert_eq!((handles.len(), text.as_str()), (2, "text"));
    }

    #[test]
    fn outside_a_transfer_the_error_names_type_and_remedy() {
        let error = codec::encode_into(&handle(), &mut Vec::new()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("Handle") && text.contains("connection"),
            "{text}"
        );
    }

    #[test]
    fn a_descriptor_is_taken_once() {
        let (_, outgoing) = collect(|| codec::encode_into(&handle(), &mut Vec::new()).unwrap());
        let taken = attach(outgoing.fds, || {
            (
                codec::decode::<Handle>(&[0]).is_ok(),
                codec::decode::<Handle>(&[0]).is_ok(),
            )
        });
        assert_eq!(taken, (true, false));
    }

    #[test]
    fn a_value_that_did_not_leave_moves_nothing() {
        let moved = Rc::new(Cell::new(0));
        for commit in [false, true] {
            let seen = moved.clone();
            let ((), outgoing) = collect(|| on_commit(move || seen.set(seen.get() + 1)));
            if commit {
                outgoing.commit();
            }
        }
        assert_eq!(moved.get(), 1);
    }

    #[test]
    fn a_handle_that_has_another_way_can_ask_for_one() {
        assert!(!can_carry());
        let (carried, _) = collect_for(false, || (is_collecting(), can_carry()));
        assert_eq!(carried, (true, false));
        let many: Vec<Handle> = (0..MAX_FDS).map(|_| handle()).collect();
        let (carried, _) = collect(|| {
            let before = can_carry();
            codec::encode_into(&many, &mut Vec::new()).unwrap();
            (before, can_carry())
        });
        assert_eq!(carried, (true, false));
    }

    #[test]
    fn a_panic_while_encoding_leaves_no_frame() {
        assert!(std::panic::catch_unwind(|| collect(|| panic!("in serde"))).is_err());
        assert!(!is_collecting());
    }
}
