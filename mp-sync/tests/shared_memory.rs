//! `SharedMemory` and `ShareableList`: names, owners, and the real Python on the other side.

use std::{
    fs, io::ErrorKind, path::PathBuf, process::Command, sync::atomic::Ordering, time::Instant,
};

use mp_core::{
    codec,
    testing::{
        Case, Census, Child, ChildCommand, Watchdog, eventually, fork_child, serial, skip, tool,
        with_rlimit,
    },
};
use mp_sync::{Event, Item, ListError, ShareableList, SharedMemory};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        resource::Resource,
        signal::{Signal, kill},
    },
    unistd::{Gid, Pid, Uid},
};

/// A census, after the helper process has been started: that one stays. In its turn, because a copy
/// that another test forks meanwhile would inherit the lock of whoever starts it.
fn census() -> Census {
    let turn = serial();
    drop(SharedMemory::create(None, 1).unwrap());
    drop(turn);
    Census::take()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/dev/shm").join(name)
}

fn unique(what: &str) -> String {
    format!("mp-test-{what}-{}", std::process::id())
}

/// Conformance: _TestSharedMemory.test_shared_memory_basics
#[test]
fn a_segment_is_found_by_its_name_and_once_only() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let name = unique("basics");
    let ours = SharedMemory::create(Some(&name), 512).unwrap();
    assert_eq!((ours.name(), ours.size()), (name.as_str(), 512));
    ours.write(0, &[42]);
    let theirs = SharedMemory::attach(&name).unwrap();
    let mut byte = [0];
    theirs.read(0, &mut byte);
    assert_eq!((byte, theirs.size()), ([42], 512));
    drop(SharedMemory::attach(&format!("/{name}")).unwrap()); // as POSIX spells it
    let taken = SharedMemory::create(Some(&name), 512).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let missing = SharedMemory::attach(&unique("missing")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    ours.unlink().unwrap();
    assert_eq!(ours.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(theirs.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    theirs.write(1, &[7]); // the memory outlives its name
    ours.read(1, &mut byte);
    assert_eq!(byte, [7]);
    theirs.close();
}

/// Conformance: _TestSharedMemory.test_invalid_shared_memory_creation
#[test]
fn impossible_sizes_and_names_are_errors() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    for size in [0, usize::MAX, 1 << 60] {
        assert!(SharedMemory::create(None, size).is_err());
    }
    let long = "x".repeat(256);
    for name in ["", "a/b", "a\0b", ".", "..", &long] {
        let error = SharedMemory::create(Some(name), 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(SharedMemory::attach(name).is_err());
    }
}

/// Conformance: TestResourceTracker.test_too_long_name_resource
#[test]
fn the_longest_name_is_watched_and_a_longer_one_is_an_error() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let name = format!("mp-{}", "x".repeat(252));
    drop(SharedMemory::create(Some(&name), 1).unwrap());
    assert!(SharedMemory::create(Some(&format!("{name}x")), 1).is_err());
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_no_signal() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    with_rlimit(Resource::RLIMIT_FSIZE, 4096, || {
        assert!(SharedMemory::create(None, 8192).is_err());
    });
}

/// Mounts of our own, for anybody: without privileges in a user namespace, whose users have to be told
/// before one of them can own a file.
fn own_mounts() -> std::io::Result<()> {
    if unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        return Ok(());
    }
    let (user, group) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// `/dev/shm` of one megabyte, for this process alone.
fn with_small_shm() -> std::io::Result<()> {
    let nothing: Option<&str> = None;
    own_mounts()?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nothing, "/", nothing, private, nothing)?;
    let small = Some("size=1m");
    mount(
        Some("tmpfs"),
        "/dev/shm",
        Some("tmpfs"),
        MsFlags::empty(),
        small,
    )?;
    Ok(())
}

#[test]
fn a_full_file_system_is_an_error_and_no_signal() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let mounted = Event::new().unwrap();
    let child = fork_child(|| {
        if with_small_shm().is_err() {
            return;
        }
        mounted.set();
        let full = SharedMemory::create(None, 2 << 20).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        let fits = SharedMemory::create(None, 1 << 19).unwrap();
        assert!(SharedMemory::create(None, 1 << 19).is_ok());
        assert!(ShareableList::create(None, ["x".repeat(1 << 20).into()]).is_err());
        fits.write((1 << 19) - 1, &[1]);
        drop(fits);
        let left = fs::read_dir("/dev/shm").unwrap().count();
        assert_eq!(left, 0, "what failed left nothing behind");
    });
    child.wait_success();
    if !mounted.is_set() {
        skip(
            "a_full_file_system_is_an_error_and_no_signal",
            "mount namespaces",
        );
    }
}

#[test]
fn attaching_takes_no_name_away_and_the_owner_does_unless_it_persists() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let ours = SharedMemory::create(None, 64).unwrap();
    let name = ours.name().to_owned();
    drop(SharedMemory::attach(&name).unwrap());
    fork_child(|| drop(ours.clone())).wait_success();
    assert!(path(&name).exists());
    let clone = ours.clone();
    drop(ours);
    assert!(path(&name).exists());
    drop(clone);
    assert!(!path(&name).exists());
    let kept = SharedMemory::create(None, 64).unwrap();
    let name = kept.name().to_owned();
    kept.persist();
    drop(kept);
    SharedMemory::attach(&name).unwrap().unlink().unwrap();
    assert!(!path(&name).exists());
}

/// Conformance: _TestSharedMemory.test_shared_memory_pickle_unpickle
#[test]
fn an_encoded_handle_is_decoded_to_the_same_memory() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let ours = SharedMemory::create(None, 64).unwrap();
    let mut bytes = Vec::new();
    codec::encode_into(&ours, &mut bytes).unwrap();
    let theirs: SharedMemory = codec::decode(&bytes).unwrap();
    assert_eq!(theirs.name(), ours.name());
    theirs.atomics::<u64>()[7].store(5, Ordering::Relaxed);
    assert_eq!(ours.atomics::<u64>()[7].load(Ordering::Relaxed), 5);
}

/// Conformance: _TestSharedMemory.test_shared_memory_pickle_unpickle_dead_object
/// Conformance: _TestSharedMemory.test_shared_memory_ShareableList_pickling_dead_object
#[test]
fn a_handle_whose_segment_is_gone_is_an_error() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let mut bytes = Vec::new();
    codec::encode_into(&SharedMemory::create(None, 64).unwrap(), &mut bytes).unwrap();
    assert!(codec::decode::<SharedMemory>(&bytes).is_err());
    bytes.clear();
    let list = ShareableList::create(None, [Item::Int(1)]).unwrap();
    codec::encode_into(&list, &mut bytes).unwrap();
    drop(list);
    assert!(codec::decode::<ShareableList>(&bytes).is_err());
}

#[test]
fn case_writes_by_name_and_by_handle() {
    let Some(case) = Case::get() else { return };
    let (name, handle): (String, SharedMemory) = case.args();
    SharedMemory::attach(&name).unwrap().write(0, b"by name");
    handle.write(8, b"by handle");
}

/// Conformance: _TestSharedMemory.test_shared_memory_across_processes
#[test]
fn a_child_writes_by_name_or_through_its_argument() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let ours = SharedMemory::create(None, 64).unwrap();
    let mut child = Child::case(
        "case_writes_by_name_and_by_handle",
        &(ours.name().to_owned(), ours.clone()),
    );
    assert!(child.wait().success());
    let mut bytes = [0; 17];
    ours.read(0, &mut bytes);
    assert_eq!(&bytes, b"by name\0by handle");
}

#[test]
fn case_passes_handles_on() {
    let Some(case) = Case::get() else { return };
    let (memory, list): (SharedMemory, ShareableList) = case.args();
    memory.write(0, b"theirs");
    list.set(0, 2).unwrap();
    assert!(memory.unlink().is_err()); // the name is gone
    let own = SharedMemory::create(None, 64).unwrap();
    own.write(0, b"own");
    case.send(&(memory, list, own));
}

#[test]
fn a_handle_that_is_moved_to_where_it_is_used_works_there() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let memory = SharedMemory::create(None, 64).unwrap();
    let list = ShareableList::create(None, [Item::Int(1)]).unwrap();
    let name = memory.name().to_owned();
    let mut child = Child::case("case_passes_handles_on", &(&memory, &list));
    drop((memory, list)); // long before the child has come so far
    assert!(!path(&name).exists());
    let (memory, list, own): (SharedMemory, ShareableList, SharedMemory) = child.recv().unwrap();
    assert!(child.wait().success());
    let mut bytes = [0; 6];
    memory.read(0, &mut bytes);
    assert_eq!(
        (&bytes, memory.size(), memory.name()),
        (b"theirs", 64, &*name)
    );
    assert_eq!(list.get(0).unwrap(), Item::Int(2));
    own.read(0, &mut bytes);
    assert_eq!(&bytes, b"own\0\0\0");
    assert!(!path(own.name()).exists()); // the child's last handle was its owner's
}

#[test]
fn case_owns_two_segments() {
    let Some(case) = Case::get() else { return };
    let made = [(); 2].map(|()| SharedMemory::create(None, 64).unwrap());
    let names = made.each_ref().map(|one| one.name().to_owned());
    case.send(&(names, own_tracker()));
    case.hold()
}

/// Starts `case` with a mark in its environment, which its helper inherits.
fn marked_child(case: &str, mark: &str) -> Child {
    ChildCommand::new(case).env("MP_TEST_MARK", mark).start(&())
}

/// The helper process of this one, and of no other test.
fn own_tracker() -> u32 {
    own_trackers().next().expect("a helper runs")
}

/// As many as there are.
fn own_trackers() -> impl Iterator<Item = u32> {
    let mark = format!("MP_TEST_MARK={}\0", std::env::var("MP_TEST_MARK").unwrap());
    let is_ours = move |pid: &u32| {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        file("comm").is_ok_and(|comm| comm == "mp-sync-tracker\n")
            && file("environ").is_ok_and(|environ| environ.contains(&mark))
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_ours)
}

#[test]
fn case_makes_segments_in_many_threads() {
    let Some(case) = Case::get() else { return };
    let make = || drop(SharedMemory::create(None, 64).unwrap());
    std::thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(make)));
    });
    make();
    case.send(&own_trackers().count());
}

/// Conformance: TestResourceTracker.test_resource_tracker_reused
#[test]
fn one_helper_serves_all_segments_of_a_process() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let mut child = marked_child("case_makes_segments_in_many_threads", &unique("one"));
    assert_eq!(child.recv::<usize>(), Some(1));
    assert!(child.wait().success());
}

/// Conformance: _TestSharedMemory.test_shared_memory_cleaned_after_process_termination
/// Conformance: TestResourceTracker.test_resource_tracker
#[test]
fn the_segments_of_a_killed_owner_lose_their_names() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGABRT] {
        let mut child = marked_child("case_owns_two_segments", &unique("killed"));
        let ([first, second], _): ([String; 2], u32) = child.recv().unwrap();
        let mapped = SharedMemory::attach(&first).unwrap();
        SharedMemory::attach(&second).unwrap().unlink().unwrap();
        let begun = Instant::now();
        child.signal(signal);
        child.wait();
        eventually(30, || !path(&first).exists());
        eprintln!(
            "death of a segment's owner: gone after {:?}",
            begun.elapsed()
        );
        mapped.write(0, b"still there");
    }
}

/// Conformance: TestResourceTracker.test_resource_tracker_sigint
/// Conformance: TestResourceTracker.test_resource_tracker_sigterm
#[test]
fn the_helper_is_deaf_to_signals_for_all() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let mut child = marked_child("case_owns_two_segments", &unique("deaf"));
    let (names, helper): ([String; 2], u32) = child.recv().unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        kill(Pid::from_raw(helper as i32), signal).unwrap();
    }
    child.kill();
    eventually(30, || names.iter().all(|name| !path(name).exists()));
    eventually(30, || !PathBuf::from(format!("/proc/{helper}")).exists());
}

#[test]
fn case_loses_its_helper() {
    let Some(case) = Case::get() else { return };
    let first = SharedMemory::create(None, 64).unwrap();
    let helper = Pid::from_raw(own_tracker() as i32);
    kill(helper, Signal::SIGKILL).unwrap();
    eventually(30, || kill(helper, None).is_err());
    let second = SharedMemory::create(None, 64).unwrap();
    case.send(&[first.name(), second.name()].map(str::to_owned));
    case.hold()
}

/// Conformance: TestResourceTracker.test_resource_tracker_sigkill
#[test]
fn a_killed_helper_is_started_again_and_knows_all() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let mut child = marked_child("case_loses_its_helper", &unique("again"));
    let names: [String; 2] = child.recv().unwrap();
    assert!(names.iter().all(|name| path(name).exists()));
    child.kill();
    eventually(30, || names.iter().all(|name| !path(name).exists()));
}

#[test]
fn a_forked_owner_has_a_helper_of_its_own() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let name = unique("forked");
    let mut child = fork_child(|| {
        let _segment = SharedMemory::create(Some(&name), 64).unwrap();
        nix::sys::signal::raise(Signal::SIGKILL).unwrap();
    });
    child.wait();
    eventually(30, || !path(&name).exists());
}

#[test]
fn case_exits_with_a_segment() {
    let Some(case) = Case::get() else { return };
    let segment = SharedMemory::create(None, 64).unwrap();
    case.send(segment.name());
    std::process::exit(0);
}

/// Conformance: TestNamedResource.test_global_named_resource_spawn
#[test]
fn an_exit_that_drops_nothing_leaves_no_name() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let mut child = Child::case("case_exits_with_a_segment", &());
    let name: String = child.recv().unwrap();
    child.wait();
    eventually(30, || !path(&name).exists());
}

/// Conformance: _TestSharedMemory.test_shared_memory_ShareableList_basics
#[test]
fn a_list_holds_items_of_all_kinds_and_replaces_them_in_place() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let items = || -> Vec<Item> {
        vec![
            "howdy".into(),
            (&b"HoWdY"[..]).into(),
            (-273.154).into(),
            100.into(),
            Item::None,
            true.into(),
            42.into(),
        ]
    };
    let list = ShareableList::create(None, items()).unwrap();
    assert_eq!((list.len(), list.to_vec().unwrap()), (7, items()));
    let formats: Vec<String> = (0..7).map(|i| list.format(i).unwrap()).collect();
    assert_eq!(formats, ["8s", "8s", "d", "q", "xxxxxx?x", "xxxxxxx?", "q"]);
    assert_eq!(list.get(-1).unwrap(), Item::Int(42));
    assert_eq!(list.get(-7).unwrap(), "howdy".into());
    for index in [7, -8, isize::MAX, isize::MIN] {
        assert!(matches!(list.get(index), Err(ListError::OutOfRange { .. })));
        assert!(list.set(index, 1).is_err());
    }
    assert_eq!(list.position_of(&100.into()).unwrap(), Some(3));
    assert_eq!(list.position_of(&101.into()).unwrap(), None);
    list.set(3, 42).unwrap();
    assert_eq!(list.count(&42.into()).unwrap(), 2);
    list.set(4, "some").unwrap(); // another type
    assert_eq!(
        (list.get(4).unwrap(), list.format(4).unwrap()),
        ("some".into(), "8s".into())
    );
    let long = list.set(4, "far too long for the slot").unwrap_err();
    assert_eq!(
        long,
        ListError::TooLong {
            needed: 25,
            available: 8
        }
    );
    assert_eq!(list.get(4).unwrap(), "some".into());
    list.set(0, Item::None).unwrap();
    list.set(0, "exactly8").unwrap();
    assert_eq!(list.get(0).unwrap(), "exactly8".into());
    let copy = ShareableList::create(None, list.to_vec().unwrap()).unwrap();
    assert_ne!(copy.shared_memory().name(), list.shared_memory().name());
    copy.set(6, 0).unwrap();
    assert_eq!(list.get(6).unwrap(), Item::Int(42));
    let same = ShareableList::attach(list.shared_memory().name()).unwrap();
    same.set(6, 43).unwrap();
    assert_eq!(list.get(6).unwrap(), Item::Int(43));
    let empty = ShareableList::create(None, []).unwrap();
    assert!(empty.is_empty() && empty.to_vec().unwrap().is_empty());
    assert!(empty.get(0).is_err());
    assert!(format!("{list:?}").contains("exactly8"));
}

/// Conformance: _TestSharedMemory.test_shared_memory_ShareableList_pickling
#[test]
fn an_encoded_list_is_a_reference_whatever_its_length() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let encoded = |len: i32| {
        let list = ShareableList::create(None, (0..len).map(Item::from)).unwrap();
        let mut bytes = Vec::new();
        codec::encode_into(&list, &mut bytes).unwrap();
        (list, bytes)
    };
    let ((list, short), (_long_list, long)) = (encoded(10), encoded(10_000));
    assert!(short.len().abs_diff(long.len()) <= 4 && long.len() < 64);
    let same: ShareableList = codec::decode(&short).unwrap();
    same.set(0, 7).unwrap();
    assert_eq!(list.get(0).unwrap(), Item::Int(7));
}

#[test]
fn a_segment_that_is_too_small_or_holds_no_list_is_refused() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let memory = SharedMemory::create(None, 64).unwrap();
    assert!(ShareableList::attach(SharedMemory::create(None, 8).unwrap().name()).is_err());
    for count in [-1_i64, 4, i64::MAX, i64::MAX / 8] {
        memory.write(0, &count.to_ne_bytes());
        assert!(ShareableList::attach(memory.name()).is_err(), "{count}");
    }
    memory.write(0, &1_i64.to_ne_bytes());
    memory.write(16, &8_i64.to_ne_bytes());
    let list = ShareableList::attach(memory.name()).unwrap();
    assert_eq!(list.get(0), Err(ListError::Corrupt)); // an item without a format
}

/// Runs Python; it must not unlink what it only attaches, as its tracker does before 3.13.
fn python(script: &str, args: &[&str]) -> Option<String> {
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
        .or_else(|| tool("python3"))?;
    let head = "
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory, ShareableList
resource_tracker.register = lambda *args: None
resource_tracker.unregister = lambda *args: None
";
    let output = Command::new(python)
        .args(["-c", &format!("{head}{script}")])
        .args(args)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn python_reads_and_writes_our_segment() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let ours = SharedMemory::create(None, 1000).unwrap();
    ours.write(0, b"from Rust");
    let script = "
m = SharedMemory(sys.argv[1])
print(bytes(m.buf[:9]).decode(), m.size)
m.buf[10:21] = b'from Python'
m.close()
";
    let Some(output) = python(script, &[ours.name()]) else {
        return skip("python_reads_and_writes_our_segment", "python3");
    };
    assert_eq!(output.trim(), "from Rust 1000");
    let mut bytes = [0; 11];
    ours.read(10, &mut bytes);
    assert_eq!(&bytes, b"from Python");
}

#[test]
fn we_read_and_write_pythons_segment() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let name = unique("python");
    let script = "
m = SharedMemory(sys.argv[1], create=True, size=100)
m.buf[:5] = b'hello'
m.close()
";
    if python(script, &[&name]).is_none() {
        return skip("we_read_and_write_pythons_segment", "python3");
    }
    let theirs = SharedMemory::attach(&name).unwrap();
    let mut bytes = [0; 5];
    theirs.read(0, &mut bytes);
    assert_eq!((&bytes, theirs.size()), (b"hello", 100));
    theirs.unlink().unwrap();
}

#[test]
fn python_reads_and_replaces_items_of_our_list() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let items: [Item; 7] = [
        "grüße".into(),
        vec![1_u8, 2].into(),
        0.5.into(),
        i64::MIN.into(),
        Item::None,
        false.into(),
        "eight888".into(),
    ];
    let ours = ShareableList::create(None, items).unwrap();
    let script = "
l = ShareableList(name=sys.argv[1])
print(list(l))
l[0] = 'Python'; l[2] = True; l[3] = 7; l[4] = None; l[5] = 2.25; l[6] = b'bytes'
l.shm.close()
";
    let Some(output) = python(script, &[ours.shared_memory().name()]) else {
        return skip("python_reads_and_replaces_items_of_our_list", "python3");
    };
    assert_eq!(
        output.trim(),
        r"['grüße', b'\x01\x02', 0.5, -9223372036854775808, None, False, 'eight888']"
    );
    let expected: Vec<Item> = vec![
        "Python".into(),
        vec![1_u8, 2].into(),
        true.into(),
        7.into(),
        Item::None,
        2.25.into(),
        (&b"bytes"[..]).into(),
    ];
    assert_eq!(ours.to_vec().unwrap(), expected);
}

#[test]
fn a_list_of_ours_and_of_pythons_are_the_same_bytes() {
    let (_census, _dog) = (census(), Watchdog::secs(60));
    let name = unique("list");
    let script = "
l = ShareableList(['howdy', b'HoWdY', -273.154, 100, None, True, 42, 'x' * 20], name=sys.argv[1])
l.shm.close()
";
    if python(script, &[&name]).is_none() {
        return skip(
            "a_list_of_ours_and_of_pythons_are_the_same_bytes",
            "python3",
        );
    }
    let theirs = ShareableList::attach(&name).unwrap();
    let items: Vec<Item> = vec![
        "howdy".into(),
        (&b"HoWdY"[..]).into(),
        (-273.154).into(),
        100.into(),
        Item::None,
        true.into(),
        42.into(),
        "x".repeat(20).into(),
    ];
    assert_eq!(theirs.to_vec().unwrap(), items);
    let ours = ShareableList::create(None, items).unwrap();
    let bytes = |list: &ShareableList| {
        let mut bytes = vec![0; list.shared_memory().size()];
        list.shared_memory().read(0, &mut bytes);
        bytes
    };
    assert_eq!(bytes(&ours), bytes(&theirs));
    theirs.set(1, b"back".to_vec()).unwrap();
    let script = "l = ShareableList(name=sys.argv[1]); print(l[1]); l.shm.close()";
    assert_eq!(python(script, &[&name]).unwrap().trim(), "b'back'");
    theirs.shared_memory().unlink().unwrap();
}
