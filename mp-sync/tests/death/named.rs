//! Named memory: a name is there with all its bytes, or not at all, and goes with its owner.

use std::path::PathBuf;

use mp_core::testing::{eventually, serial, stepper::Outcome};
use mp_sync::{Item, ListError, ShareableList, SharedMemory};

use crate::{Worst, sweep};

const LEN: usize = 5000;

/// A name that nobody else has.
struct Name {
    name: String,
    path: PathBuf,
}

impl Name {
    fn unique(number: &mut u32) -> Self {
        *number += 1;
        let name = format!("mp-death-{}-{number}", std::process::id());
        let path = PathBuf::from("/dev/shm").join(&name);
        Self { name, path }
    }
}

impl Drop for Name {
    /// The victim of a short cut that was missed may have let it stay, and nobody looks at it.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn an_owner_that_dies_making_or_dropping_a_segment_leaves_no_name() {
    needs_ptrace!("an_owner_that_dies_making_or_dropping_a_segment_leaves_no_name");
    let (mut worst, mut number) = (Worst::default(), 0);
    let swept = sweep(
        12,
        || Name::unique(&mut number),
        |Name { name, .. }, mark| {
            drop(SharedMemory::create(None, 1).unwrap()); // its helper runs
            mark.call(|| {
                let memory = SharedMemory::create(Some(name), LEN).unwrap();
                memory.write(0, b"content");
            });
        },
        |Name { ref name, ref path }, _| {
            // The helper may be faster.
            if let Ok(memory) = SharedMemory::attach(name) {
                assert_eq!(memory.size(), LEN, "seen before it had its size");
            }
            worst.measure(|| eventually(30, || !path.exists()));
        },
    );
    worst.report("SharedMemory's owner", &swept);
}

#[test]
fn a_name_that_is_to_stay_stays_or_goes_when_its_owner_dies() {
    needs_ptrace!("a_name_that_is_to_stay_stays_or_goes_when_its_owner_dies");
    let (mut worst, mut number, mut stayed) = (Worst::default(), 0, 0);
    let swept = sweep(
        12,
        || Name::unique(&mut number),
        |Name { name, .. }, mark| {
            let memory = SharedMemory::create(Some(name), LEN).unwrap();
            mark.call(|| {
                memory.persist();
                drop(memory);
            });
        },
        |Name { ref name, ref path }, outcome| {
            let kept = SharedMemory::attach(name);
            if matches!(outcome, Outcome::Finished { .. }) {
                stayed += 1;
                kept.as_ref().unwrap();
            }
            // Taken away by the helper or, if it is to stay, by hand.
            worst.measure(|| {
                eventually(30, || {
                    !path.exists() || kept.as_ref().is_ok_and(is_unlinked)
                });
            });
            assert!(!path.exists());
        },
    );
    assert!(stayed > 0);
    worst.report("SharedMemory's owner that let the name stay", &swept);
}

fn is_unlinked(memory: &SharedMemory) -> bool {
    memory.unlink().is_ok()
}

#[test]
fn an_item_that_is_replaced_when_its_writer_dies_is_one_an_error_or_the_other() {
    let turn = serial(); // beside nobody's census: our own helper runs from now on, and stays
    drop(SharedMemory::create(None, 1).unwrap());
    drop(turn);
    needs_ptrace!("an_item_that_is_replaced_when_its_writer_dies_is_one_an_error_or_the_other");
    let worst = Worst::default();
    let swept = sweep(
        100,
        || ShareableList::create(None, ["before".into(), 7.into(), "after".into()]).unwrap(),
        |list, mark| mark.call(|| list.set(1, "text").unwrap()),
        |list, outcome| {
            match list.get(1) {
                Ok(Item::Int(_) | Item::Str(_)) | Err(ListError::Corrupt) => {}
                other => panic!("{other:?}"),
            }
            if matches!(outcome, Outcome::Finished { .. }) {
                assert_eq!(list.get(1), Ok("text".into()));
            }
            let others = [list.get(0).unwrap(), list.get(2).unwrap()];
            assert_eq!(others, ["before".into(), "after".into()]);
            list.set(1, 8).unwrap(); // whoever comes next repairs it
            assert_eq!(list.get(1), Ok(8.into()));
        },
    );
    worst.report("ShareableList's writer", &swept);
}
