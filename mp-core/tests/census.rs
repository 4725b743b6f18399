//! The census finds each kind of leak, and overlooks what is none.

use std::{
    env, fs,
    fs::File,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{self, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use mp_core::{
    shm::Mapping,
    testing::{Case, Census, Child, LeakKind, Watchdog, eventually, fork_child, serial},
};

const GRACE: Duration = Duration::from_millis(100);

/// Whether the census finds one leak, of `kind`, described by something with `text` in it.
#[track_caller]
fn assert_only_leak(census: &Census, kind: LeakKind, text: &str) {
    let mut leaks = census.leaks_after(GRACE);
    if kind != LeakKind::Thread {
        // Another test's thread may be on its way to where it waits for its turn.
        leaks.retain(|leak| leak.kind != LeakKind::Thread);
    }
    assert_eq!(leaks.len(), 1, "{leaks:?}");
    assert_eq!(leaks[0].kind, kind);
    assert!(leaks[0].what.contains(text), "{leaks:?}");
}

/// A name nobody else has, for a file.
fn unique(name: &str) -> String {
    format!("mp-census-{name}-{}", process::id())
}

#[test]
fn an_open_descriptor_is_a_leak() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let file = File::open("/dev/null").unwrap();
    assert_only_leak(&census, LeakKind::Descriptor, "-> /dev/null");
    drop(file);
    census.check();
}

#[test]
fn another_file_under_the_same_number_is_a_leak() {
    let _dog = Watchdog::secs(60);
    let _serial = serial();
    let mut file: OwnedFd = File::open("/dev/null").unwrap().into();
    let census = Census::take();
    let other = File::open("/dev/zero").unwrap();
    nix::unistd::dup2(&other, &mut file).unwrap();
    drop(other);
    assert_only_leak(&census, LeakKind::Descriptor, "-> /dev/zero");
    drop(file);
    census.check();
}

#[test]
fn a_socket_is_named_by_its_address() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let name = unique("socket");
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
            &name,
        );
    let listener = std::os::unix::net::UnixListener::bind_addr(&address.unwrap()).unwrap();
    assert_only_leak(&census, LeakKind::Descriptor, &format!("@{name}"));
    drop(listener);
    census.check();
}

#[test]
fn a_mapping_is_a_leak_also_when_its_descriptor_is_closed() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let mapping = Mapping::create("mp-census", 4096, 4096).unwrap();
    let leaks = census.leaks_after(GRACE);
    let kinds: Vec<LeakKind> = leaks.iter().map(|leak| leak.kind).collect();
    assert_eq!(
        kinds,
        [LeakKind::Descriptor, LeakKind::Mapping],
        "{leaks:?}"
    );
    assert!(leaks[1].what.contains("/memfd:mp-census"), "{leaks:?}");
    drop(mapping);
    census.check();
}

#[test]
fn a_thread_is_a_leak() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let (end, wait) = mpsc::channel::<()>();
    let builder = thread::Builder::new().name("left-over".into());
    let thread = builder.spawn(move || wait.recv()).unwrap();
    assert_only_leak(&census, LeakKind::Thread, "\"left-over\"");
    drop(end);
    let _ = thread.join().unwrap();
    census.check();
}

#[test]
fn a_living_child_is_a_leak_and_a_zombie_another() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = child.id().to_string();
    assert_only_leak(&census, LeakKind::Process, &pid);
    child.kill().unwrap();
    let stat = format!("/proc/{pid}/stat");
    eventually(10, || fs::read_to_string(&stat).unwrap().contains(") Z "));
    assert_only_leak(&census, LeakKind::Zombie, &pid);
    child.wait().unwrap();
    census.check();
}

#[test]
fn case_leaves_an_orphan() {
    let Some(case) = Case::get() else { return };
    let orphan = Child::case("case_orphan", &()).wait_ready();
    case.send(&orphan.pid());
    std::mem::forget(orphan);
    process::exit(0)
}

#[test]
fn case_orphan() {
    let Some(case) = Case::get() else { return };
    case.ready();
    loop {
        thread::park(); // not `hold`, which ends with its parent
    }
}

#[test]
fn a_childs_child_without_parent_is_a_leak() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let mut child = Child::case("case_leaves_an_orphan", &());
    let pid: u32 = child.recv().unwrap();
    child.wait();
    drop(child);
    assert_only_leak(&census, LeakKind::Process, &pid.to_string());
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    census.check();
}

#[test]
fn a_named_segment_is_a_leak() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let path = PathBuf::from("/dev/shm").join(unique("segment"));
    fs::write(&path, "left over").unwrap();
    assert_only_leak(&census, LeakKind::Segment, path.to_str().unwrap());
    fs::remove_file(&path).unwrap();
    census.check();
}

#[test]
fn a_temporary_folder_is_a_leak() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let path = env::temp_dir().join(unique("folder"));
    fs::create_dir(&path).unwrap();
    assert_only_leak(&census, LeakKind::TempFile, path.to_str().unwrap());
    fs::remove_dir(&path).unwrap();
    census.check();
}

#[test]
fn what_ends_soon_is_waited_for() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let (end, wait) = mpsc::channel::<OwnedFd>();
    thread::spawn(move || {
        let file = wait.recv();
        thread::sleep(Duration::from_millis(50));
        drop(file);
    });
    end.send(File::open("/dev/null").unwrap().into()).unwrap();
    let begin = Instant::now();
    census.check();
    assert!(begin.elapsed() >= Duration::from_millis(50));
}

#[test]
fn another_runs_segment_is_none_of_ours() {
    let _dog = Watchdog::secs(60);
    let _serial = serial();
    // A process outside of the tree: its parent is gone, and it is another program.
    let path = PathBuf::from("/dev/shm").join(unique("foreign"));
    let (pid_file, ready) = (path.with_extension("pid"), path.with_extension("go"));
    let script = format!(
        "(echo $BASHPID > {pid}; while [ ! -e {go} ]; do sleep 0.01; done; exec 7> {segment}; exec sleep 1000) & ",
        pid = pid_file.display(),
        go = ready.display(),
        segment = path.display(),
    );
    Command::new("bash").args(["-c", &script]).status().unwrap();
    eventually(10, || {
        fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n'))
    });
    let pid: i32 = fs::read_to_string(&pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let census = Census::take();
    fs::write(&ready, "").unwrap();
    eventually(10, || path.exists());
    fs::remove_file(&ready).unwrap();
    assert_eq!(census.leaks_after(GRACE), []);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    for file in [&path, &pid_file] {
        fs::remove_file(file).unwrap();
    }
    census.check();
}

#[test]
fn what_is_allowed_is_overlooked_and_nothing_else() {
    let _dog = Watchdog::secs(60);
    let census = Census::take().allow("/dev/null");
    let _once = File::open("/dev/null").unwrap();
    let other = File::open("/dev/zero").unwrap();
    assert_only_leak(&census, LeakKind::Descriptor, "/dev/zero");
    drop(other);
    census.check();
}

#[test]
fn case_leaks_in_a_test() {
    let Some(case) = Case::get() else { return };
    let _census = Census::take();
    case.ready();
    std::mem::forget(File::open("/dev/zero").unwrap());
}

#[test]
fn a_leak_fails_the_test_and_is_named() {
    let _census = Census::take();
    let _dog = Watchdog::secs(120);
    let command = mp_core::testing::ChildCommand::new("case_leaks_in_a_test").capture_stderr();
    let child = command.env("MP_WATCHDOG_FACTOR", "0.01").start(&());
    let (status, text) = child.wait_ready().wait_with_stderr();
    assert_eq!(status.code(), Some(101), "{text}");
    assert!(text.contains("the test left behind:"), "{text}");
    assert!(
        text.contains("Descriptor: ") && text.contains("-> /dev/zero"),
        "{text}"
    );
}

#[test]
fn a_forked_child_is_gone_after_its_handle() {
    let _dog = Watchdog::secs(60);
    let census = Census::take();
    let child = fork_child(|| {
        loop {
            thread::park();
        }
    });
    assert_only_leak(&census, LeakKind::Process, &child.pid().to_string());
    drop(child);
    census.check();
}
