//! Slots that the kernel gives back when their process dies.

use std::{io::Read, os::fd::AsRawFd, sync::Arc};

use mp_core::{
    liveness::Member,
    shm::Mapping,
    testing::{Census, Watchdog, eventually, fork_child},
};
use nix::sys::signal::Signal;

fn mapping() -> Arc<Mapping> {
    Arc::new(Mapping::create("mp-test", 4096, 4096).unwrap())
}

fn member(mapping: &Arc<Mapping>) -> Member {
    Member::new(mapping.clone(), 0, 4)
}

#[test]
fn a_killed_process_is_dead_to_the_others_even_as_a_zombie() {
    let _census = Census::take();
    let _dog = Watchdog::secs(20);
    let mapping = mapping();
    let here = member(&mapping);
    assert_eq!(here.slot(|_| ()).unwrap(), 0);
    assert!(!here.is_alive(1).unwrap());
    let mut child = fork_child(|| {
        let child = member(&mapping);
        child.slot(|_| ()).unwrap();
        loop {
            std::thread::park();
        }
    });
    let living = || (0..4).filter(|slot| here.is_alive(*slot).unwrap()).count();
    eventually(10, || living() == 2);
    child.signal(Signal::SIGKILL); // not reaped yet
    eventually(10, || living() == 1);
    child.wait();
}

#[test]
fn who_asks_about_the_dead_does_not_take_their_slot() {
    let _census = Census::take();
    let _dog = Watchdog::secs(20);
    let mapping = mapping();
    let here = member(&mapping);
    let mut child = fork_child(|| {
        let child = member(&mapping);
        assert_eq!(child.slot(|_| ()).unwrap(), 0);
        loop {
            std::thread::park();
        }
    });
    eventually(10, || here.is_alive(0).unwrap());
    child.signal(Signal::SIGKILL);
    eventually(10, || !here.is_alive(0).unwrap());
    child.wait();
    let mut joined = None;
    assert_eq!(here.slot(|slot| joined = Some(slot)).unwrap(), 0);
    assert_eq!(joined, Some(0), "what the dead left is looked at");
    assert!(here.is_alive(0).unwrap());
}

#[test]
fn a_forked_child_takes_a_slot_of_its_own() {
    let _census = Census::take();
    let _dog = Watchdog::secs(20);
    let mapping = mapping();
    let here = member(&mapping);
    let ours = here.slot(|_| ()).unwrap();
    fork_child(|| {
        let mut joined = false;
        assert_ne!(here.slot(|_| joined = true).unwrap(), ours);
        assert!(joined);
        assert!(here.is_alive(ours).unwrap());
    })
    .wait_success();
    assert_eq!(here.slot(|_| unreachable!("joined before")).unwrap(), ours);
}

#[test]
fn a_childs_copy_does_not_keep_its_parent_alive() {
    let _census = Census::take();
    let _dog = Watchdog::secs(20);
    let mapping = mapping();
    let watcher = member(&mapping);
    assert_eq!(watcher.slot(|_| ()).unwrap(), 0);
    // A parent that takes slot 1, forks, and dies while its child lives on.
    let (reader, writer) = std::io::pipe().unwrap();
    let parent = fork_child(|| {
        let parent = member(&mapping);
        assert_eq!(parent.slot(|_| ()).unwrap(), 1);
        std::mem::forget(fork_child(|| {
            let _ = nix::unistd::close(writer.as_raw_fd()); // this process's copy
            let _ = (&reader).read(&mut [0]); // until the test is over
        }));
        std::mem::forget(parent); // its descriptor is closed by its death alone
    });
    parent.wait_success();
    // Its child lets go of the copy once it runs, and may not have run yet.
    eventually(10, || !watcher.is_alive(1).unwrap());
    drop(writer);
}

#[test]
fn more_processes_than_slots_are_refused_with_a_number() {
    let mapping = mapping();
    let members: Vec<_> = (0..4).map(|_| member(&mapping)).collect();
    for member in &members {
        member.slot(|_| ()).unwrap();
    }
    let error = member(&mapping).slot(|_| ()).unwrap_err();
    assert!(error.to_string().contains("4 processes"), "{error}");
    drop(members);
    assert!(member(&mapping).slot(|_| ()).is_ok());
}
