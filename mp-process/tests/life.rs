//! What Python's own suite demands of a process, as far as one crate can show it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use mp_core::{
    deadline::Deadline,
    fd::{SockKind, poll_one, socketpair},
    testing::{Census, SignalStorm, Watchdog, eventually},
};
use mp_process::{
    ExitError, ExitStatus, Fd, Level, Process, Run, StartError, active_children, current_process,
    log_level, log_to_stderr, parent_process, set_executable,
};
use nix::libc;
use serde::{Deserialize, Serialize};

mp_process::init_in_tests!();

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded() -> (Watchdog, Census) {
    // Nothing here makes such names, but other runs of tests do, and may be killed.
    let census = Census::take().allow("/tmp/mp-").allow("/dev/shm/");
    (Watchdog::secs(60), census)
}

fn sleep_long() {
    std::thread::sleep(Duration::from_secs(1000));
}

fn is_active(pid: u32) -> bool {
    active_children().iter().any(|child| child.pid() == pid)
}

/// Both ends of a pipe, to be arguments.
fn pipe() -> (Fd, Fd) {
    let (reader, writer) = io::pipe().unwrap();
    (OwnedFd::from(reader).into(), OwnedFd::from(writer).into())
}

fn file(fd: Fd) -> File {
    OwnedFd::from(fd).into()
}

/// What comes out of `reader` once nobody holds the other end.
fn read_all(reader: Fd) -> String {
    let mut text = String::new();
    file(reader).read_to_string(&mut text).unwrap();
    text
}

/// Conformance: _TestProcess.test_current
#[test]
fn the_initial_process_knows_itself() {
    let _guard = guarded();
    let me = current_process();
    assert_eq!(me.name(), "MainProcess");
    assert!(!me.is_daemon());
    assert!(!me.authkey().as_bytes().is_empty());
    assert_eq!(me.pid(), std::process::id());
    assert!(parent_process().is_none());
}

/// Conformance: _TestProcess.test_set_executable
#[test]
fn a_copy_of_the_executable_can_run_the_children() {
    fn start_from_a_copy(copy: String) -> i32 {
        // In a process of its own: it is set for all children.
        fs::copy("/proc/self/exe", &copy).unwrap();
        set_executable(&copy).unwrap();
        Process::new(|| (), ()).start().unwrap().join().unwrap();
        set_executable(std::path::PathBuf::from("/bin/true")).unwrap();
        let stranger = Process::new(|| 1, ()).start().unwrap();
        assert!(matches!(
            stranger.join(),
            Err(ExitError::Code { code: 0, .. })
        ));
        set_executable("/nonexistent").unwrap();
        let error = Process::new(|| 1, ()).start().unwrap_err();
        assert!(matches!(error, StartError::System { .. }), "{error}");
        7
    }
    let _guard = guarded();
    let copy = std::env::temp_dir().join(format!("mp-copy-{}", std::process::id()));
    let path = copy.to_str().unwrap().to_owned();
    let child = Process::new(start_from_a_copy, (path,)).start().unwrap();
    let result = child.join();
    fs::remove_file(copy).unwrap();
    assert_eq!(result.unwrap(), 7);
}

/// Conformance: _TestProcess.test_args_argument
#[test]
fn arguments_arrive_as_they_were() {
    let _guard = guarded();
    type Many = (Vec<u8>, (i32, String), Option<char>, BTreeMap<String, f64>);
    let many: Many = (
        vec![1, 2, 3],
        (-4, "five".to_owned()),
        Some('6'),
        BTreeMap::from([("seven".to_owned(), 8.5)]),
    );
    let child = Process::new(
        |a: Many, b: Vec<Many>| (a, b),
        (many.clone(), vec![many.clone()]),
    );
    let (a, b) = child.start().unwrap().join().unwrap();
    assert_eq!((a, b), (many.clone(), vec![many]));
    let nothing = Process::new(|| (), ()).start().unwrap();
    nothing.join().unwrap();
}

/// Conformance: _TestProcess.test_parent_process
#[test]
fn a_grandchild_sees_its_parent_end() {
    fn parent(told: Fd) {
        let child = Process::new(grandchild, (told,))
            .name("grandchild")
            .start()
            .unwrap();
        child.detach();
        sleep_long();
    }
    fn grandchild(told: Fd) {
        let mut told = file(told);
        let parent = parent_process().unwrap();
        writeln!(told, "{} {}", parent.name(), parent.is_alive()).unwrap();
        assert!(poll_one(parent.as_fd(), libc::POLLIN, None).unwrap());
        let ended = parent.join(Some(Duration::from_secs(60)));
        writeln!(told, "{ended} {}", parent.is_alive()).unwrap();
    }
    let _guard = guarded();
    let (reader, writer) = pipe();
    let child = Process::new(parent, (writer,))
        .name("middle")
        .start()
        .unwrap();
    let mut reader = file(reader);
    let mut first = [0; 12];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"middle true\n");
    child.terminate().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "true false\n");
}

/// Conformance: _TestProcess.test_process
#[test]
fn a_process_from_its_building_to_its_end() {
    fn look(a: u32, more: BTreeMap<String, u32>) -> (u32, u32, String, Vec<u8>, u32) {
        let me = current_process();
        let key = me.authkey().as_bytes().to_vec();
        (a, more["b"], me.name().to_owned(), key, me.pid())
    }
    let _guard = guarded();
    let more = BTreeMap::from([("b".to_owned(), 2)]);
    let built = Process::new(look, (1, more)).name("looker");
    let before = active_children();
    assert!(format!("{built:?}").contains("initial"));
    let child = built.start().unwrap();
    let pid = child.pid();
    assert!(!before.iter().any(|child| child.pid() == pid));
    assert_eq!(child.name(), "looker");
    assert!(!child.is_daemon());
    let seen = child.join().unwrap();
    let key = current_process().authkey().as_bytes().to_vec();
    assert_eq!(seen, (1, 2, "looker".to_owned(), key, pid));
    assert!(!is_active(pid));
}

/// Conformance: _TestProcess.test_process_mainthread_native_id
#[test]
fn the_main_thread_of_a_child_is_another() {
    let _guard = guarded();
    let child = Process::new(|| nix::unistd::gettid().as_raw(), ())
        .start()
        .unwrap();
    let pid = child.pid();
    let thread = child.join().unwrap();
    assert_ne!(thread, nix::unistd::getpid().as_raw());
    assert_eq!(thread.unsigned_abs(), pid, "and it is the child's first");
}

fn ends_by(end: impl Fn(&Process<()>), signal: i32) {
    let _guard = guarded();
    let child = Process::new(sleep_long, ()).start().unwrap();
    assert!(!child.join_timeout(Duration::ZERO).unwrap());
    assert!(child.is_alive() && child.exitcode().is_none());
    assert!(is_active(child.pid()));
    end(&child);
    assert_eq!(child.wait().unwrap(), ExitStatus::Signal(signal));
    assert!(!child.is_alive());
    assert!(!is_active(child.pid()));
    assert_eq!(child.exitcode(), Some(-signal));
    end(&child); // nobody is there any more, which is no error
    let error = child.join().unwrap_err();
    assert!(
        matches!(error, ExitError::Signal { signal: by, .. } if by == signal),
        "{error}"
    );
}

/// Conformance: _TestProcess.test_terminate
#[test]
fn a_terminated_child_is_gone_with_its_signal() {
    ends_by(|child| child.terminate().unwrap(), libc::SIGTERM);
}

/// Conformance: _TestProcess.test_kill
#[test]
fn a_killed_child_is_gone_with_its_signal() {
    ends_by(|child| child.kill().unwrap(), libc::SIGKILL);
}

/// Conformance: _TestProcess.test_active_children
#[test]
fn active_children_are_those_that_run() {
    let _guard = guarded();
    let built = Process::new(sleep_long, ()).name("active");
    let active = |list: Vec<mp_process::Child>| list.iter().any(|child| child.name() == "active");
    assert!(!active(active_children()));
    let child = built.start().unwrap();
    assert!(active(active_children()));
    active_children().clear(); // a list of one's own
    assert!(active(active_children()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!active(active_children()));
}

/// Conformance: _TestProcess.test_recursion
#[test]
fn children_have_children_in_depth_first_order() {
    fn recurse(path: Vec<u32>, told: Fd) {
        let mut pipe = file(told);
        writeln!(pipe, "{path:?}").unwrap();
        if path.len() < 2 {
            for number in 0..2 {
                let path = [path.clone(), vec![number]].concat();
                let told: Fd = OwnedFd::from(pipe.try_clone().unwrap()).into();
                Process::new(recurse, (path, told))
                    .start()
                    .unwrap()
                    .join()
                    .unwrap();
            }
        }
    }
    let _guard = guarded();
    let (reader, writer) = pipe();
    let child = Process::new(recurse, (Vec::new(), writer)).start().unwrap();
    child.join().unwrap();
    let order = ["[]", "[0]", "[0, 0]", "[0, 1]", "[1]", "[1, 0]", "[1, 1]"];
    assert_eq!(read_all(reader).lines().collect::<Vec<_>>(), order);
}

/// Conformance: _TestProcess.test_sentinel
#[test]
fn the_sentinel_is_ready_when_the_child_has_ended() {
    let _guard = guarded();
    let (go, wait) = pipe();
    let child = Process::new(|go: Fd| drop(read_all(go)), (go,))
        .start()
        .unwrap();
    let soon = Deadline::after(Duration::from_millis(50));
    assert!(!poll_one(child.as_fd(), libc::POLLIN, Some(soon)).unwrap());
    drop(wait);
    assert!(poll_one(child.as_fd(), libc::POLLIN, None).unwrap());
    assert_eq!(child.exitcode(), Some(0));
}

/// The sentinel is not kept silent by a grandchild that outlives the child.
#[test]
fn a_grandchild_does_not_silence_the_sentinel() {
    let _guard = guarded();
    let (hold, writer) = pipe();
    fn parent(hold: Fd) {
        let child = Process::new(|hold: Fd| drop(read_all(hold)), (hold,))
            .start()
            .unwrap();
        child.detach();
    }
    let child = Process::new(parent, (hold,)).start().unwrap();
    assert!(poll_one(child.as_fd(), libc::POLLIN, None).unwrap());
    child.join().unwrap();
    drop(writer);
}

/// Conformance: _TestProcess.test_close
#[test]
fn only_an_ended_process_can_be_closed() {
    let _guard = guarded();
    let child = Process::new(sleep_long, ()).start().unwrap();
    let still_running = child.close().unwrap_err();
    assert!(still_running.to_string().contains("still running"));
    let child = still_running.0;
    child.kill().unwrap();
    child.wait().unwrap();
    let other = child.child().clone();
    child.close().unwrap(); // that nothing can be asked afterwards is checked by the compiler
    assert_eq!(
        other.exitcode(),
        Some(-libc::SIGKILL),
        "others keep their handles"
    );
}

/// Conformance: _TestProcess.test_wait_for_threads
///
/// The threads of a child end with its function, as those of a Rust program with `main`; it waits
/// for those that it joins, or that have a scope.
#[test]
fn a_child_waits_for_the_threads_it_joins() {
    fn with_threads(told: Fd) {
        std::thread::spawn(sleep_long); // nobody joins it
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                file(told).write_all(b"done").unwrap();
            });
        });
    }
    let _guard = guarded();
    let (reader, writer) = pipe();
    let child = Process::new(with_threads, (writer,)).start().unwrap();
    child.join().unwrap();
    assert_eq!(read_all(reader), "done");
}

/// Conformance: _TestProcess.test_error_on_stdio_flush_1
/// Conformance: _TestProcess.test_error_on_stdio_flush_2
#[test]
fn closed_standard_streams_do_no_harm() {
    fn close_streams() -> u32 {
        print!("never seen"); // still in the buffer when its stream goes
        for stream in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            nix::unistd::close(stream).unwrap();
        }
        let child = Process::new(|| 40_u32, ()).start().unwrap();
        child.join().unwrap() + 2
    }
    let _guard = guarded();
    let child = Process::new(close_streams, ()).start().unwrap();
    child.wait().unwrap();
    assert_eq!(child.exitcode(), Some(0));
    assert_eq!(child.join().unwrap(), 42);
}

/// A type of one's own whose state is one end of a channel.
#[derive(Serialize, Deserialize)]
struct Upper {
    channel: Fd,
}

impl Run for Upper {
    type Output = u32;

    fn run(self) -> u32 {
        let mut channel = file(self.channel);
        let mut answered = 0;
        let mut question = [0; 64];
        loop {
            let len = channel.read(&mut question).unwrap();
            if &question[..len] == b"stop" {
                return answered;
            }
            channel
                .write_all(&question[..len].to_ascii_uppercase())
                .unwrap();
            answered += 1;
        }
    }
}

/// Conformance: _TestSubclassingProcess.test_subclassing
#[test]
fn a_type_of_ones_own_answers_until_told_to_stop() {
    let _guard = guarded();
    let (here, there) = socketpair(SockKind::SeqPacket).unwrap();
    let child = Process::run(Upper {
        channel: there.into(),
    });
    let child = child.start().unwrap();
    assert!(child.name().starts_with("Upper-"), "{}", child.name());
    let mut here = File::from(here);
    for (question, answer) in [("hello", "HELLO"), ("world", "WORLD")] {
        here.write_all(question.as_bytes()).unwrap();
        let mut buffer = [0; 64];
        let len = here.read(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], answer.as_bytes());
    }
    here.write_all(b"stop").unwrap();
    assert_eq!(child.join().unwrap(), 2);
}

/// Conformance: _TestSubclassingProcess.test_stderr_flush
#[test]
fn a_panic_is_on_stderr_with_its_place() {
    let _guard = guarded();
    let (reader, writer) = io::pipe().unwrap();
    let child = Process::new(|| -> u32 { panic!("for all to read") }, ());
    let child = child.stderr(writer).start().unwrap();
    let line = line!() - 2;
    assert!(matches!(child.join(), Err(ExitError::Panic { .. })));
    let text = read_all(OwnedFd::from(reader).into());
    assert!(text.contains("for all to read"), "{text}");
    assert!(text.contains(&format!("life.rs:{line}:")), "{text}");
}

/// Conformance: _TestSubclassingProcess.test_sys_exit
#[test]
fn exits_with_a_code_or_with_a_reason() {
    let _guard = guarded();
    let exit = |code: i32| {
        let child = Process::new(|code: i32| std::process::exit(code), (code,)).start();
        let child: Process<()> = child.unwrap();
        child.wait().unwrap();
        child.exitcode()
    };
    for (code, seen) in [(0, 0), (1, 1), (7, 7), (256, 0), (300, 44), (-1, 255)] {
        assert_eq!(exit(code), Some(seen), "as the kernel cuts it");
    }
    let (reader, writer) = io::pipe().unwrap();
    fn reason() {
        mp_process::exit_with(format_args!("out of {}", "paper"))
    }
    let child = Process::new(reason, ()).stderr(writer).start().unwrap();
    let error = child.join().unwrap_err();
    assert!(matches!(error, ExitError::Code { code: 1, .. }), "{error}");
    assert_eq!(read_all(OwnedFd::from(reader).into()), "out of paper\n");
}

/// Exiting with code 0 is success only where there is no value to bring.
#[test]
fn an_exit_without_the_value_is_an_error() {
    let _guard = guarded();
    let child = Process::new(|| -> u32 { std::process::exit(0) }, ())
        .start()
        .unwrap();
    assert!(matches!(child.join(), Err(ExitError::Code { code: 0, .. })));
    let child = Process::new(|| std::process::exit(0), ()).start();
    let child: Process<()> = child.unwrap();
    child.join().unwrap();
}

/// Conformance: _TestPollEintr.test_poll_eintr
#[test]
fn signals_do_not_disturb_a_join() {
    let _guard = guarded();
    let _storm = SignalStorm::every(Duration::from_micros(500));
    for _ in 0..20 {
        let child = Process::new(|| std::thread::sleep(Duration::from_millis(20)), ());
        let child = child.start().unwrap();
        child.wait().unwrap();
        assert_eq!(child.exitcode(), Some(0));
        child.join().unwrap();
    }
}

/// Conformance: _TestAtExit.test_atexit
/// Conformance: _TestFinalize.test_finalize
#[test]
fn exit_hooks_of_a_child_run_once_by_priority() {
    fn hooks(told: Fd, by: String) {
        let told = std::sync::Arc::new(file(told));
        let hook = |priority, text: &'static str| {
            let told = told.clone();
            mp_process::at_exit(priority, move || {
                (&*told).write_all(text.as_bytes()).unwrap()
            })
        };
        hook(0, "c");
        hook(0, "b");
        hook(10, "a");
        hook(-1, "e");
        assert!(hook(20, "called ").run());
        assert!(hook(20, "cancelled").cancel());
        let child = Process::new(|| (), ()).daemon(true).start().unwrap();
        let told = told.clone();
        mp_process::at_exit(0, move || {
            assert!(child.name().starts_with("Process-"));
            (&*told).write_all(b"0 ").unwrap();
        });
        match by.as_str() {
            "exit" => std::process::exit(0),
            "panic" => panic!("hooks run all the same"),
            _ => (),
        }
    }
    let _guard = guarded();
    for by in ["return", "exit", "panic"] {
        let (reader, writer) = pipe();
        let child = Process::new(hooks, (writer, by.to_owned())).quiet_panics(true);
        let child = child.start().unwrap();
        child.wait().unwrap();
        assert_eq!(read_all(reader), "called a0 bce", "{by}");
    }
}

/// Conformance: _TestFinalize.test_thread_safety
#[test]
fn exit_hooks_come_and_go_while_they_run() {
    fn busy() {
        for round in 0..2000 {
            let hook = mp_process::at_exit(round % 7, || ());
            if round % 2 == 0 {
                hook.cancel();
            } else {
                hook.run();
            }
        }
    }
    fn storm() {
        let threads = [(); 4].map(|()| std::thread::spawn(busy));
        for _ in 0..1000 {
            mp_process::at_exit(1, || ()); // and stays
        }
        mp_core::hooks::run_exit_hooks();
        for thread in threads {
            thread.join().unwrap();
        }
    }
    let _guard = guarded();
    Process::new(storm, ()).start().unwrap().join().unwrap();
}

/// Conformance: _TestLogging.test_level
#[test]
fn a_child_logs_as_its_parent_does() {
    fn levels() -> [Option<String>; 3] {
        let level = || {
            let child = Process::new(|| log_level().map(|level| level.to_string()), ());
            child.start().unwrap().join().unwrap()
        };
        let unset = level();
        log_to_stderr(Level::ERROR);
        let error = level();
        log_to_stderr(Level::WARN);
        [unset, error, level()]
    }
    let _guard = guarded();
    let child = Process::new(levels, ()).start().unwrap();
    let text = |level: &str| Some(level.to_owned());
    assert_eq!(child.join().unwrap(), [None, text("ERROR"), text("WARN")]);
}

/// Conformance: _TestLogging.test_filename
#[test]
fn log_lines_carry_level_process_and_file() {
    fn log() {
        log_to_stderr(Level::DEBUG);
        tracing::info!(answer = 42, "from the test");
        let child = Process::new(|| tracing::trace!("too fine"), ()).name("inner");
        child.start().unwrap().join().unwrap();
    }
    let _guard = guarded();
    let (reader, writer) = io::pipe().unwrap();
    let child = Process::new(log, ())
        .name("outer")
        .stderr(writer)
        .start()
        .unwrap();
    child.join().unwrap();
    let text = read_all(OwnedFd::from(reader).into());
    let own = text
        .lines()
        .find(|line| line.contains("from the test"))
        .unwrap();
    assert!(
        own.starts_with("[INFO/outer] ") && own.contains("life.rs:"),
        "{own}"
    );
    assert!(own.ends_with("from the test answer=42"), "{own}");
    let started = text.lines().find(|line| line.contains("started")).unwrap();
    assert!(
        started.contains("child.rs:") && started.contains("inner"),
        "{started}"
    );
    assert!(!text.contains("too fine"), "{text}");
}

/// Conformance: TestStdinBadfiledescriptor.test_queue_in_process
///
/// The queue of it is in the tests of the facade; here, that what a child makes reaches a grandchild
/// whatever its standard input is.
#[test]
fn a_child_whose_input_was_replaced_has_children() {
    fn child() -> String {
        nix::unistd::close(libc::STDIN_FILENO).unwrap();
        let (reader, writer) = pipe();
        let child = Process::new(
            |told: Fd| file(told).write_all(b"through").unwrap(),
            (writer,),
        );
        child.start().unwrap().join().unwrap();
        read_all(reader)
    }
    let _guard = guarded();
    let (input, _held) = io::pipe().unwrap();
    let child = Process::new(child, ()).stdin(input).start().unwrap();
    assert_eq!(child.join().unwrap(), "through");
}

#[test]
fn names_count_along_the_tree() {
    let _guard = guarded();
    fn names() -> (String, Vec<String>) {
        let start = || Process::new(|| current_process().name().to_owned(), ()).start();
        let children = [start(), start()].map(|child| child.unwrap().join().unwrap());
        (current_process().name().to_owned(), children.into())
    }
    let (own, children) = Process::new(names, ()).start().unwrap().join().unwrap();
    assert!(own.starts_with("Process-"), "{own}");
    assert_eq!(children, [format!("{own}:1"), format!("{own}:2")]);
}

#[test]
fn a_name_is_shown_by_the_system() {
    let _guard = guarded();
    let child = Process::new(|| fs::read_to_string("/proc/self/comm").unwrap(), ());
    let child = child.name("a long name for it").start().unwrap();
    assert_eq!(child.join().unwrap(), "a long name for\n");
}

#[test]
fn a_daemon_has_no_children() {
    let _guard = guarded();
    fn daemon() -> String {
        assert!(current_process().is_daemon());
        let error = Process::new(|| (), ()).start().unwrap_err();
        assert!(matches!(error, StartError::Daemon { .. }));
        error.to_string()
    }
    let child = Process::new(daemon, ())
        .name("d")
        .daemon(true)
        .start()
        .unwrap();
    assert!(child.is_daemon());
    let text = child.join().unwrap();
    assert!(text.contains("its parent d is a daemon"), "{text}");
}

/// On return from the function, on `exit`, and on a panic; and what they print is printed once.
#[test]
fn at_exit_daemons_are_ended_and_others_joined() {
    fn parent(told: Fd, by: String) {
        let clone = |fd: &Fd| -> Fd { fd.as_fd().try_clone_to_owned().unwrap().into() };
        let (ready, is_ready) = pipe();
        fn stubborn(told: Fd, ready: Fd) {
            drop(ready);
            sleep_long();
            file(told).write_all(b"a daemon lived on").unwrap();
        }
        let daemon = Process::new(stubborn, (clone(&told), is_ready)).daemon(true);
        drop(daemon.start().unwrap());
        read_all(ready);
        fn other(told: Fd) {
            std::thread::sleep(Duration::from_millis(50));
            file(told).write_all(b"other ").unwrap();
        }
        drop(Process::new(other, (clone(&told),)).start().unwrap());
        let mut told = file(told);
        mp_process::at_exit(-1, move || told.write_all(b"last").unwrap());
        print!("printed once ");
        match by.as_str() {
            "exit" => std::process::exit(0),
            "panic" => panic!("the children are seen to all the same"),
            _ => (),
        }
    }
    let _guard = guarded();
    for by in ["return", "exit", "panic"] {
        let (reader, writer) = pipe();
        let (printed, out) = io::pipe().unwrap();
        let begin = Instant::now();
        let child = Process::new(parent, (writer, by.to_owned())).quiet_panics(true);
        let child = child.stdout(out).start().unwrap();
        child.wait().unwrap();
        assert_eq!(read_all(reader), "other last", "{by}");
        assert_eq!(
            read_all(OwnedFd::from(printed).into()),
            "printed once ",
            "{by}"
        );
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn a_child_that_is_waited_for_at_exit_is_named_on_stderr() {
    fn parent(held: Fd) {
        let child = Process::new(|held: Fd| drop(read_all(held)), (held,)).name("slow one");
        drop(child.start().unwrap());
    }
    let _guard = guarded();
    let (held, release) = pipe();
    let (reader, writer) = io::pipe().unwrap();
    let child = Process::new(parent, (held,))
        .stderr(writer)
        .start()
        .unwrap();
    let mut reader = File::from(OwnedFd::from(reader));
    let mut line = vec![0; 256];
    let len = reader.read(&mut line).unwrap();
    let line = String::from_utf8_lossy(&line[..len]).into_owned();
    assert!(
        line.contains("waiting at exit for slow one (pid "),
        "{line}"
    );
    drop(release);
    child.join().unwrap();
}

#[test]
fn many_threads_can_wait_for_one_child() {
    let _guard = guarded();
    let (go, wait) = pipe();
    let child = Process::new(
        |go: Fd| -> u32 {
            read_all(go);
            std::process::exit(5)
        },
        (go,),
    );
    let child = child.start().unwrap();
    let threads: Vec<_> = (0..32)
        .map(|_| {
            let child = child.child().clone();
            std::thread::spawn(move || child.wait().unwrap())
        })
        .collect();
    drop(wait);
    for thread in threads {
        assert_eq!(thread.join().unwrap(), ExitStatus::Code(5));
    }
    assert!(matches!(child.join(), Err(ExitError::Code { code: 5, .. })));
}

/// Whatever it does: a child that blocks every signal that can be blocked and spins.
#[test]
fn a_child_built_so_ends_with_its_parent() {
    fn parent(told: Fd) {
        fn spin(told: Fd) {
            nix::sys::signal::SigSet::all().thread_block().unwrap();
            file(told.as_fd().try_clone_to_owned().unwrap().into())
                .write_all(format!("{}", std::process::id()).as_bytes())
                .unwrap();
            loop {
                std::hint::spin_loop();
            }
        }
        // Started by a thread that ends at once.
        let start = move || {
            Process::new(spin, (told,))
                .end_with_parent(true)
                .start()
                .unwrap()
                .detach();
        };
        std::thread::spawn(start).join().unwrap();
        sleep_long();
    }
    let _guard = guarded();
    let (reader, writer) = pipe();
    let child = Process::new(parent, (writer,)).start().unwrap();
    let mut reader = file(reader);
    let mut pid = [0; 16];
    let len = reader.read(&mut pid).unwrap();
    let pid = String::from_utf8_lossy(&pid[..len]).into_owned();
    let path = format!("/proc/{pid}/stat");
    assert!(fs::exists(&path).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    // End of file: the last one that held the other end is gone.
    assert_eq!(reader.read(&mut [0; 16]).unwrap(), 0);
    eventually(10, || {
        fs::read_to_string(&path).is_ok_and(|stat| stat.contains(") Z "))
            || !fs::exists(&path).unwrap()
    });
}

/// An executable that is replaced on disk goes on starting children of its own build.
#[test]
fn a_replaced_executable_does_not_matter() {
    fn replace_myself() -> u32 {
        let own = fs::read_link("/proc/self/exe").unwrap();
        fs::remove_file(&own).unwrap();
        fs::write(&own, "#!/bin/false\n").unwrap();
        Process::new(|| 42, ()).start().unwrap().join().unwrap()
    }
    fn from_a_copy(copy: String) -> u32 {
        fs::copy("/proc/self/exe", &copy).unwrap();
        set_executable(&copy).unwrap();
        Process::new(replace_myself, ())
            .start()
            .unwrap()
            .join()
            .unwrap()
    }
    let _guard = guarded();
    let copy = std::env::temp_dir().join(format!("mp-replaced-{}", std::process::id()));
    let path = copy.to_str().unwrap().to_owned();
    let result = Process::new(from_a_copy, (path,)).start().unwrap().join();
    fs::remove_file(copy).unwrap();
    assert_eq!(result.unwrap(), 42);
}
