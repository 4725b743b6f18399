//! The three ways of making a process do the same; and each what only it does.

mod cases;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::PathBuf,
    process::Command,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use mp_core::{
    authkey::{self, AuthKey},
    hooks,
    primitive::{AtomicBool, AtomicU32, Ordering},
    testing::eventually,
};
use mp_process::{
    Context, ExitError, ExitStatus, Limit, NotInitialized, Process, StartError, StartMethod, Stdio,
    Step, active_children, current_process, parent_process, set_start_method, start_method,
    subprocess::Program,
};
use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
    sys::prctl,
    sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask},
    unistd::{Pid, getpgrp},
};

fn main() {
    // What these do comes before `init`, or is the whole of a process of its own.
    match std::env::args().nth(1).as_deref() {
        Some("start_without_init") => return start_without_init(),
        Some("print_then_fork") => return print_then_fork(),
        Some("inherit_stdin") => {
            mp_process::init();
            return inherit_stdin();
        }
        _ => mp_process::init(),
    }
    match std::env::args().nth(1).as_deref() {
        Some("fork_beside_printers") => return fork_beside_printers(),
        Some("start_small_from_large") => return start_small_from_large(),
        Some("tell_the_memory_limit") => return the_memory_limit_is_told_with_what_was_used(),
        _ => {}
    }
    macro_rules! cases {
        ($($case:ident)*) => { cases::run(&[$((stringify!($case), $case)),*]) };
    }
    cases! {
        values_come_back
        the_default_is_spawn_and_can_be_set
        a_context_carries_its_method
        names_of_methods_can_be_read
        closures_that_capture_and_borrow_are_forked
        a_closure_that_captures_is_told_to_be_forked
        a_process_with_threads_refuses_to_fork
        every_way_to_end_is_told
        signals_reach_children
        a_forked_copy_of_a_handle_tells_whether_the_child_runs
        children_know_their_parent
        the_key_is_in_memory_once
        any_method_from_any_other
        standard_streams_are_those_asked_for
        an_inherited_input_is_that_of_this_process
        environment_and_directory
        the_directory_is_the_present_one
        limits_nice_affinity_and_group
        what_cannot_be_set_up_is_an_error_of_the_start
        an_environment_that_cannot_be_is_an_error_of_the_start
        only_a_forked_child_has_the_other_descriptors
        the_programs_of_a_child_get_its_standard_streams_and_no_more
        signals_are_as_in_a_fresh_program
        the_server_survives_an_interrupt
        a_dead_server_is_replaced
        how_the_children_of_a_dead_server_end_is_told
        the_memory_limit_is_told_with_what_was_used
        what_its_parent_has_used_is_not_told_of_a_child
        hooks_run_once_in_each_forked_child
        a_start_before_init_is_refused_but_by_fork
        what_is_buffered_is_written_once
        a_child_that_was_forked_beside_printers_ends
        threads_start_children_side_by_side
        the_children_of_threads_that_end_go_on
        daemons_die_with_a_killed_parent
        nothing_is_left
    }
}

fn for_each_method(case: impl Fn(StartMethod)) {
    StartMethod::all().into_iter().for_each(case);
}

fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn sleep_long() {
    thread::sleep(Duration::from_secs(1000));
}

fn values_come_back() {
    for_each_method(|method| {
        let child = Process::new(add, (40, 2))
            .start_method(method)
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap(), 42, "{method}");
        let long = "x".repeat(1 << 20);
        let child = Process::new(|text: String| text + "y", (long,));
        let text = child.start_method(method).start().unwrap().join().unwrap();
        assert!(
            text.len() == (1 << 20) + 1 && text.ends_with("xy"),
            "{method}"
        );
    });
}

/// Conformance: TestStartMethod.test_get_all
/// Conformance: TestStartMethod.test_set_get
fn the_default_is_spawn_and_can_be_set() {
    assert_eq!(start_method(), StartMethod::Spawn);
    assert_eq!(
        StartMethod::all()[0],
        StartMethod::default(),
        "the default comes first"
    );
    for_each_method(|method| {
        let before = set_start_method(method);
        assert_eq!(
            (start_method(), Context::default().start_method()),
            (method, method)
        );
        let child = Process::new(|| start_method().to_string(), ())
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap(), method.name(), "children inherit it");
        assert_eq!(set_start_method(before), method);
    });
}

/// Conformance: TestStartMethod.test_context
fn a_context_carries_its_method() {
    for_each_method(|method| {
        let context = Context::new(method);
        assert_eq!(context.start_method(), method);
        let child = context
            .process(|| start_method().to_string(), ())
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap(), method.name());
        assert_eq!(
            start_method(),
            StartMethod::Spawn,
            "and changes nobody else's"
        );
    });
}

fn a_forked_copy_of_a_handle_tells_whether_the_child_runs() {
    for_each_method(|method| {
        let process = Process::new(sleep_long, ()).start_method(method);
        let process = process.start().unwrap();
        let child = process.child().clone();
        let asker = Process::fork(move || {
            let closed = process.close();
            let process = closed.expect_err("it runs").0;
            process.kill().unwrap();
            eventually(20, || !process.is_alive());
            let status = process.exit_status();
            process.close().expect("it has ended");
            status == Some(ExitStatus::Unknown)
        });
        assert!(asker.start().unwrap().join().unwrap(), "{method}");
        assert_eq!(child.wait().unwrap(), ExitStatus::Signal(9), "{method}");
    });
}

/// How often the bytes whose complements are `inverse` are in what this process can write.
fn count_in_memory(inverse: Vec<u8>) -> usize {
    let memory = fs::File::open("/proc/self/mem").unwrap();
    let mut chunk = vec![0; 1 << 16];
    let own = chunk.as_ptr() as u64..chunk.as_ptr() as u64 + chunk.len() as u64;
    let mut found = 0;
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let Some((range, _)) = line.split_once(" rw") else {
            continue;
        };
        let (start, end) = range.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        let (mut start, end) = (address(start), address(end));
        while start < end {
            let len = chunk.len().min((end - start) as usize);
            let Ok(len @ 1..) = memory.read_at(&mut chunk[..len], start) else {
                break; // there is nothing behind it
            };
            let hits = chunk[..len].windows(inverse.len()).enumerate();
            let is_key = |window: &[u8]| window.iter().zip(&inverse).all(|(a, b)| *a == !b);
            let hits = hits.filter(|(_, window)| is_key(window));
            found += hits
                .filter(|(index, _)| !own.contains(&(start + *index as u64)))
                .count();
            let last = start + len as u64 >= end;
            start += (if last { len } else { len - inverse.len() + 1 }) as u64;
        }
    }
    found
}

fn the_key_is_in_memory_once() {
    let key = AuthKey::random();
    let inverse: Vec<u8> = key.as_bytes().iter().map(|byte| !byte).collect();
    authkey::set_current(key);
    for_each_method(|method| {
        let child = Process::new(count_in_memory, (inverse.clone(),)).start_method(method);
        assert_eq!(child.start().unwrap().join().unwrap(), 1, "child, {method}");
        assert_eq!(count_in_memory(inverse.clone()), 1, "parent, {method}");
    });
}

fn names_of_methods_can_be_read() {
    for_each_method(|method| assert_eq!(method.name().parse(), Ok(method)));
    let error = "thread".parse::<StartMethod>().unwrap_err();
    assert!(error.to_string().contains("forkserver"), "{error}");
}

fn closures_that_capture_and_borrow_are_forked() {
    let words = ["what".to_owned(), "is".to_owned(), "here".to_owned()];
    let mut changed = 1;
    let child = Process::fork(|| {
        changed += 1;
        (words.join(" "), changed)
    });
    assert_eq!(
        child.start().unwrap().join().unwrap(),
        ("what is here".to_owned(), 2)
    );
    assert_eq!(changed, 1, "the copy was changed");
}

fn a_closure_that_captures_is_told_to_be_forked() {
    let number = 3;
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let error = Process::fork(|| number)
            .start_method(method)
            .start()
            .unwrap_err();
        assert!(matches!(error, StartError::Target { .. }), "{error:?}");
        assert!(error.to_string().contains("StartMethod::Fork"), "{error}");
    }
}

fn a_process_with_threads_refuses_to_fork() {
    let (stop, stopped) = mpsc::channel::<()>();
    let other = thread::spawn(move || stopped.recv());
    let error = Process::new(add, (1, 2))
        .start_method(StartMethod::Fork)
        .start()
        .unwrap_err();
    assert!(
        matches!(error, StartError::Threads { threads: 2, .. }),
        "{error:?}"
    );
    // SAFETY:
    // * the other thread holds no lock, it only waits; the child adds two numbers.
    let insisted = unsafe { Process::fork(|| add(1, 2)).start_despite_threads() };
    assert_eq!(insisted.unwrap().join().unwrap(), 3);
    drop(stop);
    let _ = other.join().unwrap();
    // The thread is gone for us before it is for the kernel.
    eventually(20, || fs::read_dir("/proc/self/task").unwrap().count() == 1);
}

fn every_way_to_end_is_told() {
    fn end(how: String) -> u32 {
        match how.as_str() {
            "exit" => std::process::exit(7),
            "abort" => std::process::abort(),
            "panic" => panic!("on purpose"),
            "kill" => kill(Pid::this(), Signal::SIGKILL).unwrap(),
            "realtime" => {
                // SAFETY:
                // * the signal ends this process.
                unsafe { libc::raise(libc::SIGRTMIN()) };
            }
            _ => {}
        }
        1
    }
    for_each_method(|method| {
        let run = |how: &str| {
            let child = Process::new(end, (how.to_owned(),)).start_method(method);
            let child = child
                .quiet_panics(true)
                .limit(Limit::CoreSize, 0)
                .start()
                .unwrap();
            let status = child.wait().unwrap();
            assert_eq!(child.exitcode(), status.exitcode());
            (status, child.join())
        };
        assert!(matches!(run("return"), (ExitStatus::Code(0), Ok(1))));
        assert!(matches!(
            run("exit"),
            (ExitStatus::Code(7), Err(ExitError::Code { code: 7, .. }))
        ));
        let (status, error) = run("panic");
        assert_eq!(status, ExitStatus::Code(101));
        assert!(error.unwrap_err().to_string().contains("on purpose"));
        assert_eq!(run("kill").0, ExitStatus::Signal(9), "{method}");
        assert_eq!(run("abort").0, ExitStatus::Signal(6), "{method}");
        assert_eq!(
            run("realtime").0,
            ExitStatus::Signal(libc::SIGRTMIN()),
            "{method}"
        );
    });
}

fn signals_reach_children() {
    for_each_method(|method| {
        let start = || {
            Process::new(sleep_long, ())
                .daemon(true)
                .start_method(method)
                .start()
                .unwrap()
        };
        let children = [start(), start(), start()];
        assert!(
            children
                .iter()
                .all(|child| child.is_alive() && child.exitcode().is_none())
        );
        assert!(active_children().len() >= 3);
        children[0].terminate().unwrap();
        children[1].kill().unwrap();
        children[2].interrupt().unwrap();
        let ends = children.map(|child| child.wait().unwrap());
        let expected = [15, 9, 2].map(ExitStatus::Signal);
        assert_eq!(ends, expected, "{method}");
    });
}

/// Conformance: _TestProcess.test_parent_process_attributes
fn children_know_their_parent() {
    for_each_method(|method| {
        let child = Process::new(
            || {
                let parent = parent_process().unwrap();
                assert!(parent.is_alive());
                let me = current_process();
                (
                    parent.pid(),
                    parent.name().to_owned(),
                    me.pid(),
                    me.name().to_owned(),
                )
            },
            (),
        );
        let child = child.name("junior").start_method(method).start().unwrap();
        let pid = child.pid();
        let expected = (
            std::process::id(),
            "MainProcess".to_owned(),
            pid,
            "junior".to_owned(),
        );
        assert_eq!(child.join().unwrap(), expected, "{method}");
    });
}

fn any_method_from_any_other() {
    fn nest(depth: u32, then: String) -> u32 {
        let method = then.parse().unwrap();
        match depth {
            0 => 1,
            _ => {
                let child = Process::new(nest, (depth - 1, then)).start_method(method);
                1 + child.start().unwrap().join().unwrap()
            }
        }
    }
    for_each_method(|first| {
        for_each_method(|then| {
            let child = Process::new(nest, (2, then.to_string())).start_method(first);
            assert_eq!(
                child.start().unwrap().join().unwrap(),
                3,
                "{first}, then {then}"
            );
        });
    });
}

fn standard_streams_are_those_asked_for() {
    fn echo() {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).unwrap();
        println!("out: {text}");
        eprintln!("err: {text}");
    }
    for_each_method(|method| {
        let (input, mut feed) = io::pipe().unwrap();
        let (mut out, stdout) = io::pipe().unwrap();
        let (mut err, stderr) = io::pipe().unwrap();
        feed.write_all(b"text").unwrap();
        drop(feed);
        let child = Process::new(echo, ())
            .stdin(input)
            .stdout(stdout)
            .stderr(stderr);
        child.start_method(method).start().unwrap().join().unwrap();
        let mut texts = [String::new(), String::new()];
        out.read_to_string(&mut texts[0]).unwrap();
        err.read_to_string(&mut texts[1]).unwrap();
        assert_eq!(texts, ["out: text\n", "err: text\n"], "{method}");

        let child = Process::new(|| fs::read_link("/proc/self/fd/0").unwrap(), ());
        let stdin = child.start_method(method).start().unwrap().join().unwrap();
        assert_eq!(stdin, PathBuf::from("/dev/null"), "{method}");
    });
}

/// In a process of its own, with input to read: a child reads each line.
fn inherit_stdin() {
    #[allow(clippy::unbuffered_bytes, reason = "the next child finds what follows")]
    fn read_line() -> String {
        let read = io::stdin().as_fd().try_clone_to_owned();
        let bytes = fs::File::from(read.unwrap()).bytes().map(Result::unwrap);
        String::from_utf8(bytes.take_while(|byte| *byte != b'\n').collect()).unwrap()
    }
    for_each_method(|method| {
        let child = Process::new(read_line, ())
            .stdin(Stdio::Inherit)
            .start_method(method);
        println!("{}", child.start().unwrap().join().unwrap());
    });
}

fn an_inherited_input_is_that_of_this_process() {
    let done = this_program("inherit_stdin").input("one\ntwo\nthree\n");
    let done = done.capture_output().check().run().unwrap();
    assert_eq!(done.stdout_text(), "one\ntwo\nthree\n");
}

fn environment_and_directory() {
    for_each_method(|method| {
        let child = Process::new(
            || {
                let here = std::env::current_dir().unwrap();
                (
                    std::env::var("MP_SAID").ok(),
                    std::env::var("PATH").ok(),
                    here,
                )
            },
            (),
        );
        let child = child
            .env("MP_SAID", "so")
            .env_remove("PATH")
            .current_dir("/proc");
        let said = child.start_method(method).start().unwrap().join().unwrap();
        assert_eq!(
            said,
            (Some("so".to_owned()), None, PathBuf::from("/proc")),
            "{method}"
        );
        assert!(std::env::var("MP_SAID").is_err());
    });
}

fn the_directory_is_the_present_one() {
    let before = std::env::current_dir().unwrap();
    let here = || std::env::current_dir().unwrap();
    for_each_method(|method| {
        std::env::set_current_dir("/").unwrap();
        let child = Process::new(here, ()).start_method(method).start().unwrap();
        assert_eq!(child.join().unwrap(), PathBuf::from("/"), "{method}");
        let child = Process::new(here, ())
            .current_dir("proc")
            .start_method(method);
        assert_eq!(
            child.start().unwrap().join().unwrap(),
            PathBuf::from("/proc"),
            "{method}"
        );
        std::env::set_current_dir(&before).unwrap();
    });
}

fn limits_nice_affinity_and_group() {
    type Found = (u64, String, i32, i32);
    fn look() -> Found {
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap();
        let files = files.split_whitespace().nth(3).unwrap().parse().unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let cpus = status
            .lines()
            .find(|line| line.starts_with("Cpus_allowed_list"))
            .unwrap();
        let cpus = cpus.split_whitespace().nth(1).unwrap().to_owned();
        // SAFETY:
        // * two integers.
        let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        (files, cpus, nice, getpgrp().as_raw())
    }
    for_each_method(|method| {
        let child = Process::new(look, ())
            .limit(Limit::OpenFiles, 77)
            .affinity([0])
            .nice(5);
        let child = child.process_group(0).start_method(method).start().unwrap();
        let pid = child.pid().cast_signed();
        assert_eq!(
            child.join().unwrap(),
            (77, "0".to_owned(), 5, pid),
            "{method}"
        );
    });
}

fn what_cannot_be_set_up_is_an_error_of_the_start() {
    for_each_method(|method| {
        let child = Process::new(add, (1, 2))
            .current_dir("/no/such/place")
            .start_method(method);
        let error = child.start().unwrap_err();
        let StartError::System { step, source, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*step, Step::CurrentDir, "{method}");
        assert_eq!(source.kind(), io::ErrorKind::NotFound, "{method}");
        assert!(active_children().is_empty());
    });
}

fn an_environment_that_cannot_be_is_an_error_of_the_start() {
    let child = || Process::new(add, (1, 2));
    for_each_method(|method| {
        for child in [
            child().env("", "value"),
            child().env("a=b", "value"),
            child().env("a\0b", "value"),
            child().env("name", "a\0b"),
            child().env_remove(""),
        ] {
            let error = child.start_method(method).start().unwrap_err();
            let StartError::System { step, source, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*step, Step::Environment, "{method}");
            assert_eq!(source.kind(), io::ErrorKind::InvalidInput, "{method}");
        }
        assert!(active_children().is_empty());
    });
}

/// Conformance: TestCloseFds.test_closefd
fn only_a_forked_child_has_the_other_descriptors() {
    /// Far above those that are in use.
    const HIGH: i32 = 700;
    let file = fs::File::open("/proc/self/comm").unwrap();
    // Inheritable on purpose: not close-on-exec.
    let high = fcntl(&file, FcntlArg::F_DUPFD(HIGH)).unwrap();
    // SAFETY:
    // * just made here, and owned by nobody else.
    let high = unsafe { OwnedFd::from_raw_fd(high) };
    for_each_method(|method| {
        let is_open = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok();
        let child = Process::new(is_open, (high.as_raw_fd(),)).start_method(method);
        let inherited = child.start().unwrap().join().unwrap();
        assert_eq!(inherited, method == StartMethod::Fork, "{method}");
    });
}

fn the_programs_of_a_child_get_its_standard_streams_and_no_more() {
    fn streams_of_a_program() -> String {
        let listed = Command::new("ls").arg("/proc/self/fd").output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    }
    // A forked child has what else is inheritable here, as its parent's programs have.
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let child = Process::new(streams_of_a_program, ()).start_method(method);
        let listed = child.start().unwrap().join().unwrap();
        // The last is the directory itself, as it is read.
        assert_eq!(listed, "0\n1\n2\n3\n", "{method}");
    }
}

fn signals_are_as_in_a_fresh_program() {
    fn masks() -> (u64, u64, u64) {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
        };
        (field("SigBlk"), field("SigIgn"), field("SigCgt"))
    }
    let bit = |signal: Signal| 1_u64 << (signal as i32 - 1);
    let mut some = SigSet::empty();
    some.add(Signal::SIGUSR1);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&some), None).unwrap();
    for_each_method(|method| {
        let child = Process::new(masks, ())
            .start_method(method)
            .start()
            .unwrap();
        let (blocked, ignored, caught) = child.join().unwrap();
        assert_eq!(blocked, 0, "{method}");
        // Two numbers are glibc's own: nobody can change them.
        let glibc = 3 << 31;
        // Rust programs ignore SIGPIPE, from before `main` on.
        assert_eq!(
            ignored & !glibc,
            bit(Signal::SIGPIPE),
            "{method}: {ignored:x}"
        );
        // And they catch what tells a stack overflow.
        let rust = glibc | bit(Signal::SIGSEGV) | bit(Signal::SIGBUS);
        assert_eq!(caught & !rust, 0, "{method}: {caught:x}");
    });
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&some), None).unwrap();
}

/// The pid of the fork server of this process.
fn server() -> Pid {
    let children =
        fs::read_to_string("/proc/self/task/".to_owned() + &Pid::this().to_string() + "/children");
    let children = children.unwrap();
    let mut pids = children
        .split_whitespace()
        .map(|pid| pid.parse::<i32>().unwrap());
    let found = pids.find(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == "mp-forkserver")
    });
    Pid::from_raw(found.expect("it runs"))
}

/// A child of the fork server that ends when its input does.
fn waiting_child() -> (Process<u32>, io::PipeWriter) {
    let (input, gate) = io::pipe().unwrap();
    let wait = || io::stdin().read_to_end(&mut Vec::new()).map_or(0, |_| 42);
    let child = Process::new(wait, ())
        .stdin(input)
        .start_method(StartMethod::ForkServer);
    (child.start().unwrap(), gate)
}

/// Conformance: _TestProcess.test_forkserver_sigint
fn the_server_survives_an_interrupt() {
    let (child, gate) = waiting_child();
    let before = server();
    kill(before, Signal::SIGINT).unwrap();
    let later = Process::new(add, (1, 2))
        .start_method(StartMethod::ForkServer)
        .start()
        .unwrap();
    assert_eq!(later.join().unwrap(), 3);
    assert_eq!(server(), before);
    drop(gate);
    assert_eq!(child.join().unwrap(), 42);
}

/// Conformance: _TestProcess.test_forkserver_sigkill
fn a_dead_server_is_replaced() {
    let (child, gate) = waiting_child();
    let before = server();
    kill(before, Signal::SIGKILL).unwrap();
    assert!(child.is_alive(), "its children go on");
    for _ in 0..5 {
        let later = Process::new(add, (1, 2)).start_method(StartMethod::ForkServer);
        assert_eq!(later.start().unwrap().join().unwrap(), 3);
    }
    assert_ne!(server(), before);
    drop(gate);
    let status = child.wait().unwrap();
    // A kernel before 6.15 does not tell us how it ended.
    assert!(
        matches!(status, ExitStatus::Code(0) | ExitStatus::Unknown),
        "{status:?}"
    );
    assert_eq!(
        child.join().unwrap(),
        42,
        "what it said is there all the same"
    );
}

/// In a process of its own, which inherits the children of its dead server and never reaps them: the
/// worst `init` there can be.
fn how_the_children_of_a_dead_server_end_is_told() {
    fn parent() -> (Option<i32>, Option<i32>) {
        prctl::set_child_subreaper(true).unwrap();
        let (exits, gate) = waiting_child();
        let (killed, _gate) = waiting_child();
        kill(server(), Signal::SIGKILL).unwrap();
        drop(gate);
        killed.kill().unwrap();
        exits.wait().unwrap();
        killed.wait().unwrap();
        (exits.exitcode(), killed.exitcode())
    }
    let (exits, killed) = Process::new(parent, ()).start().unwrap().join().unwrap();
    // Unknown before Linux 6.15, where a fork server tells it itself.
    assert!(matches!(exits, Some(0) | None), "{exits:?}");
    assert!(matches!(killed, Some(-9) | None), "{killed:?}");
    assert_eq!(exits.is_some(), killed.is_some());
    assert!(exits.is_some() || !kernel_keeps_status());
}

fn kernel_keeps_status() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

fn the_memory_limit_is_told_with_what_was_used() {
    const LIMIT: u64 = 64 << 20;
    fn hoard() -> usize {
        let mut hoard = Vec::new();
        loop {
            hoard.push(vec![1_u8; 1 << 20]);
        }
    }
    for_each_method(|method| {
        let child = Process::new(hoard, ())
            .memory_limit(LIMIT)
            .limit(Limit::CoreSize, 0);
        let child = child
            .stderr(Stdio::Null)
            .start_method(method)
            .start()
            .unwrap();
        let error = child.join().unwrap_err();
        let ExitError::Signal {
            signal: 6,
            memory: Some(memory),
            ..
        } = &error
        else {
            panic!("{method}: {error:?}")
        };
        assert_eq!(memory.limit, LIMIT);
        assert!(memory.is_probable_cause(), "{method}: {memory:?}");
    });
}

/// In a process of its own, whose peak stays high.
fn start_small_from_large() {
    const LIMIT: u64 = 64 << 20;
    drop(std::hint::black_box(vec![1_u8; 2 * LIMIT as usize]));
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let child = Process::new(|| -> u32 { std::process::exit(3) }, ());
        let child = child.memory_limit(LIMIT).start_method(method);
        let error = child.start().unwrap().join().unwrap_err();
        let ExitError::Code {
            code: 3,
            memory: Some(memory),
            ..
        } = &error
        else {
            panic!("{method}: {error:?}")
        };
        assert!(!memory.is_probable_cause(), "{method}: {error}");
        assert!(memory.peak < LIMIT, "{method}: {memory:?}");
    }
    // It is small again, whatever the kernel says of who executed it.
    let fresh = this_program("tell_the_memory_limit").check().run();
    fresh.unwrap();
}

fn what_its_parent_has_used_is_not_told_of_a_child() {
    this_program("start_small_from_large")
        .check()
        .run()
        .unwrap();
}

static HOOKS_RUN: AtomicU32 = AtomicU32::new(0);

fn count_hook() {
    HOOKS_RUN.fetch_add(1, Ordering::Relaxed);
}

/// Conformance: TestForkAwareThreadLock.test_lock
fn hooks_run_once_in_each_forked_child() {
    fn generations(left: u32) -> u32 {
        hooks::after_fork_in_child(count_hook);
        match left {
            0 => HOOKS_RUN.load(Ordering::Relaxed),
            _ => Process::fork(|| generations(left - 1))
                .start()
                .unwrap()
                .join()
                .unwrap(),
        }
    }
    assert_eq!(generations(5), 5);
    assert_eq!(HOOKS_RUN.load(Ordering::Relaxed), 0);
}

fn this_program(case: &str) -> Program {
    Program::new(std::env::current_exe().unwrap()).arg(case)
}

/// In a process of its own: no `init`, so nothing can be executed.
fn start_without_init() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let error = Process::new(add, (1, 2))
            .start_method(method)
            .start()
            .unwrap_err();
        assert!(
            matches!(error, StartError::NotInitialized(NotInitialized::Missing)),
            "{error:?}"
        );
        assert!(error.to_string().contains("mp::init()"), "{error}");
    }
    let child = Process::new(add, (1, 2))
        .start_method(StartMethod::Fork)
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 3);
}

/// Conformance: TestNoForkBomb.test_noforkbomb
fn a_start_before_init_is_refused_but_by_fork() {
    this_program("start_without_init").check().run().unwrap();
}

/// In a process of its own, whose standard output is a pipe and so is buffered.
fn print_then_fork() {
    print!("before ");
    let child = Process::fork(|| print!("child ")).start().unwrap();
    child.join().unwrap();
    println!("after");
}

/// Conformance: TestStdinBadfiledescriptor.test_flushing
fn what_is_buffered_is_written_once() {
    let done = this_program("print_then_fork")
        .capture_output()
        .check()
        .run()
        .unwrap();
    assert_eq!(done.stdout_text(), "before child after\n");
}

/// In a process of its own, whose standard output two threads hold in turn.
fn fork_beside_printers() {
    static DONE: AtomicBool = AtomicBool::new(false);
    let print = || {
        while !DONE.load(Ordering::Relaxed) {
            let held = io::stdout().lock();
            (0..1000).for_each(|_| std::hint::spin_loop());
            drop(held); // and at once again: it is nearly always locked
        }
    };
    let printers = [thread::spawn(print), thread::spawn(print)];
    for number in 0..50_u32 {
        let child = Process::fork(|| print!("{number} "));
        // SAFETY:
        // * the other threads only print, and so does the child.
        let child = unsafe { child.start_despite_threads() }.unwrap();
        if !child.join_timeout(Duration::from_secs(60)).unwrap() {
            child.kill().unwrap();
        }
        child.join().unwrap();
    }
    DONE.store(true, Ordering::Relaxed);
    for printer in printers {
        printer.join().unwrap();
    }
}

fn a_child_that_was_forked_beside_printers_ends() {
    let done = this_program("fork_beside_printers").capture_output();
    let numbers: Vec<_> = (0..50).map(|number| format!("{number} ")).collect();
    assert_eq!(done.check().run().unwrap().stdout_text(), numbers.concat());
}

fn threads_start_children_side_by_side() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        thread::scope(|scope| {
            for first in 0..4 {
                scope.spawn(move || {
                    for second in 0..10 {
                        let child = Process::new(add, (first, second)).start_method(method);
                        assert_eq!(child.start().unwrap().join().unwrap(), first + second);
                    }
                });
            }
        });
    }
    eventually(20, || fs::read_dir("/proc/self/task").unwrap().count() == 1);
}

fn the_children_of_threads_that_end_go_on() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let (input, gate) = io::pipe().unwrap();
        let child = thread::spawn(move || {
            let wait = || io::stdin().read_to_end(&mut Vec::new()).map_or(0, |_| 42);
            let child = Process::new(wait, ())
                .daemon(true)
                .stdin(input)
                .start_method(method);
            child.start().unwrap()
        });
        let child = child.join().unwrap();
        eventually(20, || fs::read_dir("/proc/self/task").unwrap().count() == 1);
        assert!(child.is_alive());
        drop(gate);
        assert_eq!(child.join().unwrap(), 42, "{method}");
    }
}

/// Starts a daemon by `method`, in the main thread or in one that ends at once, and waits to be
/// killed. The daemon tells its pid, blocks all signals, and is busy.
fn parent_of_a_daemon(method: String, in_thread: bool) {
    fn daemon() {
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None).unwrap();
        println!("{}", std::process::id());
        loop {
            std::hint::spin_loop();
        }
    }
    let start = move || {
        let daemon = Process::new(daemon, ())
            .daemon(true)
            .start_method(method.parse().unwrap());
        if in_thread {
            // SAFETY:
            // * the only other thread waits for this one, and holds no lock.
            unsafe { daemon.start_despite_threads() }.unwrap()
        } else {
            daemon.start().unwrap()
        }
    };
    let _daemon = if in_thread {
        thread::spawn(start).join().unwrap()
    } else {
        start()
    };
    sleep_long();
}

fn daemons_die_with_a_killed_parent() {
    let slowest = Mutex::new(Duration::ZERO);
    for_each_method(|method| {
        for in_thread in [false, true] {
            let (out, stdout) = io::pipe().unwrap();
            let parent = Process::new(parent_of_a_daemon, (method.to_string(), in_thread));
            let parent = parent.stdout(stdout).start().unwrap();
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).unwrap();
            let daemon = PathBuf::from(format!("/proc/{}/stat", line.trim()));
            assert!(daemon.exists());
            let killed = Instant::now();
            parent.kill().unwrap();
            parent.wait().unwrap();
            // Gone, or dead and not yet reaped by whoever adopted it.
            eventually(20, || {
                let stat = fs::read_to_string(&daemon);
                stat.map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "))
            });
            let mut slowest = slowest.lock().unwrap();
            *slowest = slowest.max(killed.elapsed());
        }
    });
    let slowest = slowest.into_inner().unwrap();
    println!("  daemons were gone at most {slowest:?} after their parent");
}

fn nothing_is_left() {
    assert!(active_children().is_empty());
    // The fork server and its spare children stay until the end of this process.
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let start_all = || {
        for_each_method(|method| {
            let child = Process::new(add, (1, 2))
                .start_method(method)
                .start()
                .unwrap();
            child.join().unwrap();
        });
    };
    (0..3).for_each(|_| start_all());
    let before = count();
    (0..50).for_each(|_| start_all());
    // Spare children come and go, with two descriptors each; 150 that leaked one would be seen.
    assert!(
        count() < before + 10,
        "{before} descriptors became {}",
        count()
    );
}
