//! The model of falling asleep on a stream: every order of its steps.
//!
//! `RUSTFLAGS="--cfg mp_loom" cargo test -p mp-core --release --test loom_duplex`
#![cfg(mp_loom)]

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use mp_core::duplex::{Bed, Side, Want};

/// One side moves bytes, the other is about to sleep for them: it sees them, or is woken.
fn sees_or_is_woken(want: Want, bed: Bed) {
    loom::model(move || {
        let sides = Arc::new((Side::default(), Side::default()));
        let bell = Arc::new(AtomicBool::new(false));
        let mover = {
            let (sides, bell) = (sides.clone(), bell.clone());
            thread::spawn(move || {
                sides.0.commit(want, 1);
                if sides.1.is_to_be_woken(want) == Some(bed) {
                    bell.store(true, Ordering::Relaxed);
                }
            })
        };
        sides.1.fall_asleep(want, bed);
        let seen = sides.0.look(want) == 1;
        mover.join().unwrap();
        assert!(seen || bell.load(Ordering::Relaxed), "asleep for ever");
    });
}

#[test]
fn a_reader_that_falls_asleep_sees_the_bytes_or_is_woken() {
    sees_or_is_woken(Want::Bytes, Bed::Futex);
    sees_or_is_woken(Want::Bytes, Bed::Socket);
}

#[test]
fn a_writer_that_falls_asleep_sees_the_room_or_is_woken() {
    sees_or_is_woken(Want::Room, Bed::Futex);
    sees_or_is_woken(Want::Room, Bed::Socket);
}
