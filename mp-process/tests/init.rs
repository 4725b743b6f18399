//! Where children begin, and what is said when that is missing.
//!
//! Each case is this program once more, because what it does about `init` is its own business.
#![allow(unsafe_code)] // reads what another process left in a descriptor

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Output},
};

use mp_core::{
    fd::{Mode, SockKind, recv, socketpair},
    testing::Watchdog,
};
use mp_process::{
    ExitError, Fd, Limit, NotInitialized, Process, Ready, StartError, StartMethod, init, init_with,
    log_level,
};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sys::signal::{SigHandler, Signal},
};
use tracing::{Event, Metadata, Subscriber, span};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("without") => report(start_one()),
        Some("in_a_thread") => {
            std::thread::spawn(init).join().unwrap();
            report(start_one());
        }
        Some("after_a_thread") => {
            std::thread::spawn(std::thread::park);
            init();
            let child = Process::new(|| 42, ()).start_method(StartMethod::ForkServer);
            report(child.start().map(|child| child.join().unwrap()));
        }
        Some("stale_mark") => {
            init();
            assert!(
                std::env::var_os("MP_BOOTSTRAP").is_none(),
                "removed at once"
            );
            report(start_one());
        }
        Some("with_a_hook") => with_a_hook(),
        Some("returns") => returns(),
        Some("a_hook_for_one_process") => a_hook_for_one_process(),
        Some("subscribes") => subscribes(),
        Some("starves_its_children") => starves_its_children(),
        Some("as_in_main") => {
            init();
            as_in_main();
        }
        _ => tests(),
    }
}

fn tests() {
    let _dog = Watchdog::secs(120);
    macro_rules! tests {
        ($($test:ident)*) => { $(
            $test();
            println!("test {} ... ok", stringify!($test));
        )*
            println!("test result: ok. {} passed", [$(stringify!($test)),*].len());
        };
    }
    tests! {
        a_start_without_init_says_what_is_missing
        an_init_in_a_thread_says_where_it_belongs
        a_fork_server_with_threads_says_where_they_belong
        a_stale_mark_is_not_believed
        another_sockets_messages_are_left_alone
        a_hook_runs_in_parent_and_children
        a_hook_that_panics_in_a_child_ends_it_there
        a_subscriber_of_the_programs_own_is_the_childs_too
        a_child_is_as_in_main
        a_return_from_main_sees_to_the_children
        a_child_that_cannot_receive_its_arguments_never_goes_on_as_the_program
    }
}

fn start_one() -> Result<u32, StartError> {
    let child = Process::new(|| 42, ()).start()?;
    Ok(child.join().unwrap())
}

fn report(result: Result<u32, StartError>) {
    match result {
        Ok(value) => println!("value {value}"),
        Err(StartError::NotInitialized(why)) => println!("{why:?}: {why}"),
        Err(error) => println!("{error}"),
    }
}

fn case(name: &str, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new("/proc/self/exe");
    command.arg(name);
    change(&mut command);
    command.output().unwrap()
}

fn said(name: &str, change: impl FnOnce(&mut Command)) -> String {
    let output = case(name, change);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn a_start_without_init_says_what_is_missing() {
    let text = said("without", |_| ());
    assert!(
        text.starts_with(&format!("{:?}", NotInitialized::Missing)),
        "{text}"
    );
    assert!(
        text.contains("`mp::init()`") && text.contains("init_in_tests!"),
        "{text}"
    );
}

fn an_init_in_a_thread_says_where_it_belongs() {
    let text = said("in_a_thread", |_| ());
    assert!(
        text.starts_with(&format!("{:?}", NotInitialized::InThread)),
        "{text}"
    );
    assert!(text.contains("first in `main`"), "{text}");
}

fn a_fork_server_with_threads_says_where_they_belong() {
    let text = said("after_a_thread", |_| ());
    assert!(text.contains("has 2 threads already"), "{text}");
    assert!(text.contains("start threads after `init()`"), "{text}");
}

fn a_stale_mark_is_not_believed() {
    for mark in ["", "0", "2", "3", "99", "-1", "x", "4294967299"] {
        let text = said("stale_mark", |command| {
            command.env("MP_BOOTSTRAP", mark);
        });
        assert_eq!(text, "value 42\n", "{mark:?}");
    }
}

/// A mark that names somebody's socket, with a message in it: the message stays.
fn another_sockets_messages_are_left_alone() {
    let (ours, theirs) = socketpair(SockKind::SeqPacket).unwrap();
    std::fs::File::from(ours.try_clone().unwrap())
        .write_all(b"for somebody else")
        .unwrap();
    let number = theirs.as_raw_fd();
    let text = said("stale_mark", |command| {
        command.env("MP_BOOTSTRAP", number.to_string());
        let keep = move || {
            // SAFETY: open in the parent, and so in its copy.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        };
        // SAFETY: fcntl may be called between fork and exec.
        unsafe { command.pre_exec(keep) };
    });
    assert_eq!(text, "value 42\n");
    let mut message = [0; 64];
    let len = recv(
        theirs.as_fd(),
        &mut message,
        &mut Vec::new(),
        Mode::NonBlocking,
    )
    .unwrap();
    assert_eq!(&message[..len], b"for somebody else");
}

fn with_a_hook() {
    init_with(|| {
        println!("hook in {}", mp_process::current_process().name());
        std::panic::set_hook(Box::new(|_| println!("its own panic hook")));
    });
    println!("main");
    Process::new(|| println!("function"), ())
        .start()
        .unwrap()
        .join()
        .unwrap();
    let child = Process::new(|| -> u32 { panic!("told all the same") }, ());
    let error = child.start().unwrap().join().unwrap_err();
    assert!(matches!(
        error,
        ExitError::Panic {
            location: Some(_),
            ..
        }
    ));
}

fn a_hook_runs_in_parent_and_children() {
    let text = said("with_a_hook", |_| ());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "hook in MainProcess",
            "main",
            "hook in Process-1",
            "function",
            "hook in Process-2",
            "its own panic hook"
        ]
    );
}

/// A hook that panics in children, as one does that sets up what can be set up once.
fn a_hook_for_one_process() {
    struct Local;
    impl Drop for Local {
        fn drop(&mut self) {
            println!("a caller's local is dropped");
        }
    }
    init_with(|| {
        let name = mp_process::current_process().name().to_owned();
        assert_eq!(name, "MainProcess", "set up already");
    });
    for method in StartMethod::all() {
        let started = std::panic::catch_unwind(|| {
            let _local = Local;
            let child = Process::new(|| println!("called"), ()).quiet_panics(true);
            child.start_method(method).start().unwrap()
        });
        match started.map(Process::join) {
            Ok(Err(ExitError::Panic {
                message,
                location: Some(_),
                ..
            })) => assert!(message.contains("set up already"), "{method}: {message}"),
            other => println!("{method}: {other:?}"),
        }
    }
}

fn a_hook_that_panics_in_a_child_ends_it_there() {
    let output = case("a_hook_for_one_process", |_| ());
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        text,
        "a caller's local is dropped\n".repeat(3),
        "{output:?}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "quiet");
    assert!(output.status.success());
}

/// Prints the names of events.
struct Own;

impl Subscriber for Own {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        println!("its own: {}", event.metadata().target());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn subscribes() {
    init_with(|| tracing::subscriber::set_global_default(Own).expect("the first"));
    mp_process::log_to_stderr(mp_process::Level::INFO);
    fn log() -> Option<mp_process::Level> {
        tracing::info!(target: "child", "told to the program's own");
        log_level()
    }
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let child = Process::new(|| log().is_some(), ()).start_method(method);
        assert!(child.start().unwrap().join().unwrap(), "{method}");
    }
}

fn a_subscriber_of_the_programs_own_is_the_childs_too() {
    let output = case("subscribes", |_| ());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| *line == "its own: child");
    assert_eq!(lines.count(), 2, "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// What std has set up for `main`, a child has; what marks it as a child, its programs have not.
fn as_in_main() {
    fn look() -> (bool, String, String) {
        // SAFETY: puts back what it found.
        let pipe = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
        let environment = Command::new("/usr/bin/env").output().unwrap();
        (
            matches!(pipe.unwrap(), SigHandler::SigIgn),
            String::from_utf8(environment.stdout).unwrap(),
            fs::read_to_string("/proc/self/status").unwrap(),
        )
    }
    let child = Process::new(look, ()).start().unwrap();
    let (ignores_sigpipe, environment, status) = child.join().unwrap();
    assert!(ignores_sigpipe);
    assert!(!environment.contains("MP_BOOTSTRAP"), "{environment}");
    let field = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(field("SigBlk").ends_with("0000000000000000"), "{status}");
    assert_eq!(field("Threads"), "Threads:\t1");

    fn overflow(depth: u64) -> u64 {
        let below = if depth == u64::MAX {
            0
        } else {
            overflow(depth + 1)
        };
        std::hint::black_box(below) + 1
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = Process::new(overflow, (0,)).stderr(writer).start().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains("has overflowed its stack"), "{text}");
    let error = child.join().unwrap_err();
    assert!(
        matches!(
            error,
            ExitError::Signal {
                signal: libc::SIGABRT,
                ..
            }
        ),
        "{error}"
    );
}

fn a_child_is_as_in_main() {
    said("as_in_main", |_| ());
}

/// Returns from `main` with children still running, after all that `main` had is gone.
fn returns() {
    init();
    mp_process::log_to_stderr(mp_process::Level::DEBUG);
    let (mut ready, is_ready) = std::io::pipe().unwrap();
    let is_ready = Fd::from(OwnedFd::from(is_ready));
    fn daemon(ready: Fd) {
        drop(ready);
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
    let (go, hook) = std::io::pipe().unwrap();
    let go = Fd::from(OwnedFd::from(go));
    fn other(go: Fd) {
        let mut go = fs::File::from(OwnedFd::from(go));
        go.read_to_string(&mut String::new()).unwrap();
        print!("other ");
    }
    let daemon = Process::new(daemon, (is_ready,))
        .name("daemon")
        .daemon(true)
        .start()
        .unwrap();
    drop(Process::new(other, (go,)).name("other").start().unwrap());
    ready.read_to_string(&mut String::new()).unwrap();
    mp_process::at_exit(0, || {
        print!("first ");
        drop(hook);
    });
    mp_process::at_exit(-1, || print!("last"));
    drop(daemon);
}

fn a_return_from_main_sees_to_the_children() {
    let output = case("returns", |_| ());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first other last");
    let log = String::from_utf8_lossy(&output.stderr);
    let ended = |name: &str| {
        log.lines()
            .position(|line| line.contains("ended") && line.contains(name))
    };
    assert!(ended("daemon").unwrap() < ended("other").unwrap(), "{log}");
    assert!(log.contains("signal 15 (SIGTERM)"), "{log}");
}

/// Gives children more than they may take. Its second argument is the pid of who started it, which
/// no child of it has for a parent.
fn starves_its_children() {
    init();
    let parent = nix::unistd::getppid().to_string();
    if std::env::args().nth(2) != Some(parent) {
        return println!("a child went on as the program");
    }
    let null = fs::File::open("/dev/null").unwrap();
    let fd = |_| Fd::from(null.as_fd().try_clone_to_owned().unwrap());
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let large = "x".repeat(96 << 20);
        let child = Process::new(|_: String| (), (large,)).memory_limit(64 << 20);
        println!("{:?}", reason(child.start_method(method)));
        let many = Vec::from_iter((0..32).map(fd));
        let child = Process::new(|_: Vec<Fd>| (), (many,)).limit(Limit::OpenFiles, 16);
        println!("{:?}", reason(child.start_method(method)));
    }
}

/// Why a child did not begin.
fn reason(child: Process<(), Ready<'_>>) -> Result<String, Result<(), ExitError>> {
    match child.start().unwrap().join() {
        Err(ExitError::Bootstrap { reason, .. }) => Ok(reason),
        other => Err(other),
    }
}

fn a_child_that_cannot_receive_its_arguments_never_goes_on_as_the_program() {
    let text = said("starves_its_children", |command| {
        command.arg(std::process::id().to_string());
    });
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for lines in lines.chunks(2) {
        assert_eq!(lines[0], r#"Ok("out of memory")"#);
        assert!(
            lines[1].starts_with(r#"Ok("out of file descriptors"#),
            "{text}"
        );
    }
}
