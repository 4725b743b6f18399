//! Beside code that does as it likes with signals, children, descriptors and limits, `mp` still
//! tells the truth about its own children.
//!
//! What a case does to its process, it does to the whole of it: each is this program once more.
//! `neighbours many_starts N` starts N children by each method, for `ci/soak-process.sh`.
#![allow(unsafe_code)] // handlers, limits and closed streams, as neighbours leave them

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    thread,
    time::Duration,
};

use mp_core::{
    primitive::{AtomicU32, Ordering},
    testing::{eventually, memory_rss, skip, tool},
};
use mp_process::{
    ExitError, ExitStatus, Process, StartError, StartMethod, Step, active_children,
    subprocess::{Program, SubprocessError},
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
        wait::{WaitStatus, wait},
    },
    unistd::{Pid, Uid, getpgid, getpgrp, getsid, setpgid, setsid, setuid},
};

/// Every case, by the name on the command line.
const CASES: [(&str, fn()); 17] = [
    ("beside_a_handler_of_sigchld", beside_a_handler_of_sigchld),
    ("beside_an_ignored_sigchld", beside_an_ignored_sigchld),
    ("beside_a_thief_of_statuses", beside_a_thief_of_statuses),
    ("beside_a_storm_of_signals", beside_a_storm_of_signals),
    ("in_a_session_of_its_own", in_a_session_of_its_own),
    ("with_few_descriptors", with_few_descriptors),
    ("with_no_more_processes", with_no_more_processes),
    (
        "with_a_server_that_may_not_fork",
        with_a_server_that_may_not_fork,
    ),
    (
        "with_a_server_without_descriptors",
        with_a_server_without_descriptors,
    ),
    ("with_stdin_closed", with_stdin_closed),
    ("with_all_streams_closed", with_all_streams_closed),
    ("on_a_kernel_that_forgets", on_a_kernel_that_forgets),
    ("with_a_server_that_is_slow", with_a_server_that_is_slow),
    ("with_pids_that_come_back", with_pids_that_come_back),
    ("with_killed_spares", with_killed_spares),
    ("many_at_once", many_at_once),
    ("many_starts", many_starts),
];

fn main() {
    mp_process::init();
    let mut arguments = std::env::args().skip(1);
    let word = arguments.next().unwrap_or_default();
    if let Some((_, case)) = CASES.iter().find(|(name, _)| *name == word) {
        nix::unistd::alarm::set(if arguments.next().is_some() {
            1800
        } else {
            120
        });
        // A group of its own, by which its processes are known.
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
        return case();
    }
    let program = std::env::current_exe().unwrap();
    for (name, _) in CASES {
        report(name, Program::new(&program).arg(name));
    }
    as_the_first_process_of_a_namespace(&program);
}

fn report(name: &str, program: Program) {
    match program.check().run() {
        Ok(_) => println!("test {name} ... ok"),
        Err(error) => {
            println!("test {name} ... FAILED: {error}");
            std::process::exit(1);
        }
    }
}

/// A PID namespace ends with its first process, which adopts every orphan in it.
fn as_the_first_process_of_a_namespace(program: &Path) {
    const NAME: &str = "as_the_first_process_of_a_namespace";
    if tool("unshare").is_none() {
        return skip(NAME, "unshare");
    }
    let unshare = || Program::from(["unshare", "--pid", "--fork", "--mount-proc"]);
    match unshare().arg("true").capture_output().check().run() {
        Err(SubprocessError::Failed(_)) => {
            return println!("skipped: {NAME} needs the right to unshare");
        }
        other => drop(other.unwrap()),
    }
    for (case, _) in CASES
        .iter()
        .filter(|(case, _)| !case.starts_with("many_starts"))
    {
        report(&format!("{NAME}: {case}"), unshare().arg(program).arg(case));
    }
}

fn exit_with(code: i32) {
    std::process::exit(code);
}

fn kill_self() {
    kill(Pid::this(), Signal::SIGKILL).unwrap();
}

fn start(child: Process<(), mp_process::Ready<'static>>) -> Process {
    // SAFETY:
    // * the other threads of these cases hold no lock that a child needs: they wait for children,
    //   or for the main thread.
    // A daemon, so that it does not outlive a case that fails.
    unsafe { child.daemon(true).start_despite_threads() }.unwrap()
}

/// Starts children by every method, and looks at how they are said to have ended.
fn statuses_are_true(stolen: bool) {
    let told = |expected: ExitStatus, status: ExitStatus| {
        // Before Linux 6.15 nobody remembers a status that others took.
        assert!(
            status == expected || stolen && status == ExitStatus::Unknown,
            "{status:?}"
        );
    };
    for method in StartMethod::all() {
        let child = start(Process::new(exit_with, (7,)).start_method(method));
        told(ExitStatus::Code(7), child.wait().unwrap());
        let child = start(Process::new(kill_self, ()).start_method(method));
        told(ExitStatus::Signal(9), child.wait().unwrap());
        match child.join().unwrap_err() {
            ExitError::Signal { signal: 9, .. } => {}
            ExitError::Unknown { .. } if stolen => {}
            other => panic!("{method}: {other:?}"),
        }
        let child = start(Process::new(sleep_long, ()).start_method(method));
        assert!(child.is_alive());
        child.terminate().unwrap();
        told(ExitStatus::Signal(15), child.wait().unwrap());
    }
    assert!(active_children().is_empty());
}

fn sleep_long() {
    thread::sleep(Duration::from_secs(1000));
}

static SIGCHLDS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_sigchld(_: libc::c_int) {
    SIGCHLDS.fetch_add(1, Ordering::Relaxed);
}

/// Sets what happens on `signal`, and returns what did.
fn on(signal: Signal, handler: SigHandler) -> SigHandler {
    // No SA_RESTART: what is interrupted has to go on by itself.
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY:
    // * the handlers of this file only count.
    unsafe { sigaction(signal, &action) }.unwrap().handler()
}

fn beside_a_handler_of_sigchld() {
    on(Signal::SIGCHLD, SigHandler::Handler(count_sigchld));
    statuses_are_true(false);
    assert!(
        SIGCHLDS.load(Ordering::Relaxed) >= 6,
        "the handler is called"
    );
    let still = on(Signal::SIGCHLD, SigHandler::SigDfl);
    assert!(
        matches!(still, SigHandler::Handler(_)),
        "and was left alone"
    );
}

fn beside_an_ignored_sigchld() {
    on(Signal::SIGCHLD, SigHandler::SigIgn);
    statuses_are_true(true);
    let still = on(Signal::SIGCHLD, SigHandler::SigDfl);
    assert!(matches!(still, SigHandler::SigIgn), "it was left alone");
}

fn beside_a_thief_of_statuses() {
    thread::spawn(|| {
        loop {
            match wait() {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {}
                Err(Errno::ECHILD) => thread::yield_now(), // none there now
                other => panic!("{other:?}"),
            }
        }
    });
    (0..10).for_each(|_| statuses_are_true(true));
}

fn beside_a_storm_of_signals() {
    on(Signal::SIGALRM, SigHandler::Handler(count_sigchld));
    let every = libc::timeval {
        tv_sec: 0,
        tv_usec: 500,
    };
    let storm = libc::itimerval {
        it_interval: every,
        it_value: every,
    };
    // SAFETY:
    // * a structure that outlives the call; the old one is not asked for.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &storm, std::ptr::null_mut()) };
    (0..5).for_each(|_| statuses_are_true(false));
    assert!(SIGCHLDS.load(Ordering::Relaxed) > 5, "it stormed");
}

fn in_a_session_of_its_own() {
    // The leader of a group cannot leave it: its child can.
    let child = Process::new(in_a_new_session, ()).start().unwrap();
    child.join().unwrap();
}

fn in_a_new_session() {
    setsid().unwrap();
    statuses_are_true(false);
    for method in StartMethod::all() {
        let session = || getsid(None).unwrap().as_raw();
        let child = Process::new(session, ())
            .start_method(method)
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap(), Pid::this().as_raw(), "{method}");
    }
}

fn limit(resource: Resource, soft: u64) -> u64 {
    let (before, hard) = getrlimit(resource).unwrap();
    setrlimit(resource, soft.min(hard), hard).unwrap();
    before
}

fn with_few_descriptors() {
    // One less each time, so that in turn each of a start's descriptors is the last that there is.
    for room in (0..8).rev() {
        programs_with_room_for(room);
        children_with_room_for(room + 5);
    }
}

/// Starts programs until there are no more descriptors, of which `room` are left.
fn programs_with_room_for(room: u64) {
    let open = fs::read_dir("/proc/self/fd").unwrap().count() - 1; // one reads them
    let before = limit(Resource::RLIMIT_NOFILE, open as u64 + room);
    let mut running = Vec::new();
    let error = loop {
        match Program::new("sleep").arg("1000").start() {
            Ok(program) => running.push(program),
            Err(error) => break error,
        }
    };
    limit(Resource::RLIMIT_NOFILE, before);
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    for mut program in running {
        program.kill().unwrap();
        assert_eq!(program.wait().unwrap().signal(), Some(9));
    }
    assert_eq!(named("sleep").len() + zombies(), 0, "of the last: {room}");
}

/// Starts children until there are no more descriptors, of which `room` are left.
fn children_with_room_for(room: u64) {
    for method in StartMethod::all() {
        // The server, if that is what it takes, has its descriptors before they are few.
        start(Process::new(exit_with, (0,)).start_method(method))
            .join()
            .unwrap();
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        let before = limit(Resource::RLIMIT_NOFILE, open as u64 + room);
        let mut children = Vec::new();
        let error = loop {
            match Process::new(sleep_long, ())
                .daemon(true)
                .start_method(method)
                .start()
            {
                Ok(child) => children.push(child),
                Err(error) => break error,
            }
            assert!(children.len() < 64);
        };
        assert!(!children.is_empty(), "{method}");
        assert!(
            error.to_string().contains("RLIMIT_NOFILE"),
            "{method}: {error}"
        );
        assert_eq!(
            active_children().len(),
            children.len(),
            "nothing is left of the last"
        );
        limit(Resource::RLIMIT_NOFILE, before);
        assert_eq!(zombies(), 0, "{method}, {room}");
        for child in children {
            child.kill().unwrap();
            assert_eq!(child.wait().unwrap(), ExitStatus::Signal(9));
        }
        start(Process::new(exit_with, (0,)).start_method(method))
            .join()
            .unwrap();
    }
}

/// The limit of processes is not one for root.
fn leave_root() {
    if Uid::effective().is_root() {
        setuid(Uid::from_raw(65_534)).unwrap();
        nix::sys::prctl::set_dumpable(true).unwrap(); // what is in /proc/self is ours again
    }
}

fn with_no_more_processes() {
    leave_root();
    for method in StartMethod::all() {
        let before = limit(Resource::RLIMIT_NPROC, 1);
        let error = Process::new(exit_with, (0,))
            .start_method(method)
            .start()
            .unwrap_err();
        assert!(
            matches!(
                &error,
                StartError::System {
                    step: Step::Process,
                    ..
                }
            ),
            "{method}: {error:?}"
        );
        assert!(
            error.to_string().contains("RLIMIT_NPROC"),
            "{method}: {error}"
        );
        limit(Resource::RLIMIT_NPROC, before);
        start(Process::new(exit_with, (0,)).start_method(method))
            .join()
            .unwrap();
    }
}

/// How much of a resource `pid` may have; of processes, how many its user may have for it to fork.
fn limit_of(pid: Pid, resource: Resource, soft: libc::rlim_t) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let set = |new: *const libc::rlimit, old: *mut libc::rlimit| {
        // SAFETY:
        // * both are null or point to a limit that outlives the call.
        let result = unsafe { libc::prlimit(pid.as_raw(), resource as _, new, old) };
        Errno::result(result).unwrap();
    };
    set(std::ptr::null(), &raw mut limit);
    limit.rlim_cur = soft.min(limit.rlim_max);
    set(&raw const limit, std::ptr::null_mut());
}

/// Every start that the server refuses a child is told so, and no later one is.
fn with_a_server_that_may_not_fork() {
    leave_root();
    let add = || Process::new(|a: u32, b: u32| a + b, (1, 2)).start_method(StartMethod::ForkServer);
    let refused = || {
        let error = add().start().unwrap_err().to_string();
        assert!(error.contains("RLIMIT_NPROC"), "{error}");
    };
    assert_eq!(add().start().unwrap().join().unwrap(), 3);
    let server = named("mp-forkserver")[0];
    let asleep = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
        stats.filter(|stat| stat.contains(") S ")).count()
    };
    for _ in 0..50 {
        eventually(20, || named("mp-parked").len() == 2); // and no more are on their way
        limit_of(server, Resource::RLIMIT_NPROC, 1);
        kill_spares();
        // All starts wait, so that the refusals come together.
        kill(server, Signal::SIGSTOP).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(refused);
            }
            eventually(20, || asleep() == 4);
            kill(server, Signal::SIGCONT).unwrap();
        });
        refused();
        limit_of(server, Resource::RLIMIT_NPROC, libc::RLIM_INFINITY);
        assert_eq!(add().start().unwrap().join().unwrap(), 3);
    }
}

fn with_a_server_without_descriptors() {
    let add = || Process::new(|a: u32, b: u32| a + b, (1, 2)).start_method(StartMethod::ForkServer);
    assert_eq!(add().start().unwrap().join().unwrap(), 3);
    let server = named("mp-forkserver")[0];
    eventually(20, || named("mp-parked").len() == 2); // and no more are on their way
    limit_of(server, Resource::RLIMIT_NOFILE, 3);
    kill_spares();
    let error = add().start().unwrap_err().to_string();
    assert!(error.contains("RLIMIT_NOFILE"), "{error}");
    limit_of(server, Resource::RLIMIT_NOFILE, libc::RLIM_INFINITY);
    assert_eq!(add().start().unwrap().join().unwrap(), 3);
}

fn close(fd: libc::c_int) {
    let _ = nix::unistd::close(fd); // it may be closed already
}

fn streams() -> Vec<String> {
    let link = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}"));
    let name = |fd| link(fd).map_or("closed".to_owned(), |path| path.display().to_string());
    [0, 1, 2].map(name).to_vec()
}

fn with_stdin_closed() {
    close(0);
    statuses_are_true(false);
    for method in StartMethod::all() {
        let child = Process::new(streams, ())
            .start_method(method)
            .start()
            .unwrap();
        assert_eq!(child.join().unwrap()[0], "/dev/null", "{method}");
    }
    // Our ends of their sockets are not where somebody would look for a stream.
    assert!(!streams()[0].starts_with("socket"), "{:?}", streams());
}

fn with_all_streams_closed() {
    fn print_and_close() -> u32 {
        println!("nobody reads this");
        let _ = io::stdout().flush();
        [1, 2].into_iter().for_each(close);
        42
    }
    let (mut problems, teller) = io::pipe().unwrap();
    [0, 1, 2].into_iter().for_each(close);
    let told = std::panic::catch_unwind(|| {
        statuses_are_true(false);
        for method in StartMethod::all() {
            let child = Process::new(print_and_close, ())
                .start_method(method)
                .start()
                .unwrap();
            assert_eq!(child.join().unwrap(), 42, "{method}");
        }
        assert!(streams().iter().all(|stream| !stream.starts_with("socket")));
    });
    drop(teller);
    problems.read_to_end(&mut Vec::new()).unwrap();
    if told.is_err() {
        std::process::exit(1); // why, cannot be printed any more
    }
}

/// The fork server tells how its children ended, as it must before Linux 6.15.
fn on_a_kernel_that_forgets() {
    mp_process::__private::fork_server_tells();
    let start = |child: Process<(), _>| {
        child
            .daemon(true)
            .start_method(StartMethod::ForkServer)
            .start()
            .unwrap()
    };
    statuses_are_true(false);
    // Told to whichever thread reads, and kept for the one that asks.
    thread::scope(|scope| {
        for code in 0..4 {
            scope.spawn(move || {
                for more in 0..20 {
                    let child = start(Process::new(exit_with, (code + more,)));
                    assert_eq!(child.wait().unwrap(), ExitStatus::Code(code + more));
                }
            });
        }
    });
    let early: Vec<_> = (0..50)
        .map(|code| start(Process::new(exit_with, (code,))))
        .collect();
    for (code, child) in (0..50).zip(early).rev() {
        assert_eq!(child.wait().unwrap(), ExitStatus::Code(code));
    }
    // When the server dies, nobody can tell.
    let orphan = start(Process::new(sleep_long, ()));
    for server in named("mp-forkserver") {
        kill(server, Signal::SIGKILL).unwrap();
        let stat = || fs::read_to_string(format!("/proc/{server}/stat"));
        eventually(20, || stat().map_or(true, |stat| stat.contains(") Z ")));
    }
    let later = start(Process::new(exit_with, (3,)));
    orphan.kill().unwrap();
    assert_eq!(orphan.wait().unwrap(), ExitStatus::Unknown);
    assert_eq!(later.wait().unwrap(), ExitStatus::Code(3));
}

/// A child ends while the server is still busy with the end of another. Its `SIGCHLD` is pending
/// then, and the server must not set the signal's action anew: that would discard it (POSIX 2.4.3).
fn with_a_server_that_is_slow() {
    if tool("strace").is_none() {
        return skip("with_a_server_that_is_slow", "strace");
    }
    mp_process::__private::fork_server_tells();
    statuses_are_true(false);
    let server = named("mp-forkserver")[0];
    let slow = "inject=rt_sigaction:delay_enter=200000"; // µs
    let mut strace = Program::from(["strace", "-qq", "-o/dev/null", "-ert_sigaction", "-e", slow])
        .args(["-p", &server.to_string()])
        .start()
        .unwrap();
    let status = || fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    eventually(20, || !status().contains("TracerPid:\t0"));
    let exit_later = |millis: u64| {
        thread::sleep(Duration::from_millis(millis));
        std::process::exit(9);
    };
    let children = [1, 50, 100].map(|millis| {
        start(Process::new(exit_later, (millis,)).start_method(StartMethod::ForkServer))
    });
    for child in children {
        assert_eq!(child.wait().unwrap(), ExitStatus::Code(9));
    }
    strace.terminate().unwrap();
    strace.wait().unwrap();
}

/// On such a kernel, a status that nobody has asked for outlives the pid of its process.
fn with_pids_that_come_back() {
    // In a namespace of one's own one says which pid is next, if the kernel can.
    let next = |pid: u32| fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string());
    if std::process::id() != 1 || next(300).is_err() {
        return;
    }
    mp_process::__private::fork_server_tells();
    let ended = |code: i32| {
        let child = Process::new(exit_with, (code,)).start_method(StartMethod::ForkServer);
        let child = child.start().unwrap();
        let place = format!("/proc/{}", child.pid());
        eventually(20, || !Path::new(&place).exists());
        child
    };
    let first = ended(7);
    eventually(20, || named("mp-parked").len() == 2); // and no more are on their way
    kill_spares();
    next(first.pid()).unwrap();
    let second = ended(3);
    assert_eq!(first.pid(), second.pid());
    let third = ended(5); // what was told of both was read then
    assert_eq!(third.wait().unwrap(), ExitStatus::Code(5));
    assert_eq!(first.wait().unwrap(), ExitStatus::Code(7));
    assert_eq!(second.wait().unwrap(), ExitStatus::Code(3));
}

/// The processes of this group that are called `name` and not quite gone.
fn named(name: &str) -> Vec<Pid> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_one = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
            && getpgid(Some(Pid::from_raw(*pid))) == Ok(getpgrp())
    };
    pids.filter(is_one).map(Pid::from_raw).collect()
}

fn with_killed_spares() {
    let add = || Process::new(|a: u32, b: u32| a + b, (1, 2)).start_method(StartMethod::ForkServer);
    for _ in 0..20 {
        assert_eq!(add().start().unwrap().join().unwrap(), 3);
        kill_spares();
    }
}

fn kill_spares() {
    eventually(20, || {
        let spares = named("mp-parked"); // one may be born meanwhile
        for spare in &spares {
            let _ = kill(*spare, Signal::SIGKILL);
        }
        spares.is_empty()
    });
}

fn many_at_once() {
    const MANY: u32 = 200;
    fn wait_and_return(number: u32) -> u32 {
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        number
    }
    limit(Resource::RLIMIT_NOFILE, 4096);
    for method in StartMethod::all() {
        let (input, gate) = io::pipe().unwrap();
        let children: Vec<_> = (0..MANY)
            .map(|number| {
                let child = Process::new(wait_and_return, (number,))
                    .daemon(true)
                    .start_method(method);
                child.stdin(input.try_clone().unwrap()).start().unwrap()
            })
            .collect();
        assert_eq!(active_children().len(), children.len(), "{method}");
        // A forked child has copies of the gate's descriptors, and keeps its own stdin open.
        if method == StartMethod::Fork {
            children.iter().for_each(|child| child.kill().unwrap());
            let ends = children.iter().map(|child| child.wait().unwrap());
            assert!(ends.into_iter().all(|end| end == ExitStatus::Signal(9)));
            continue;
        }
        drop(gate);
        let values: Vec<_> = children
            .into_iter()
            .map(|child| child.join().unwrap())
            .collect();
        assert!(values.into_iter().eq(0..MANY), "{method}");
    }
    assert!(active_children().is_empty());
}

/// Children of this process that have ended and were not reaped.
fn zombies() -> usize {
    let children = format!("/proc/self/task/{}/children", Pid::this());
    let children = fs::read_to_string(children).unwrap();
    let is_zombie = |pid: &&str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    };
    children.split_whitespace().filter(is_zombie).count()
}

fn many_starts() {
    let count = std::env::args().nth(2).and_then(|count| count.parse().ok());
    let count: u32 = count.unwrap_or(200);
    for method in StartMethod::all() {
        let run = |times: u32| {
            for number in 0..times {
                let child = Process::new(|n: u32| n + 1, (number,)).start_method(method);
                assert_eq!(child.start().unwrap().join().unwrap(), number + 1);
            }
        };
        run(100); // whatever is made once is made now
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let (fds, rss) = (open(), memory_rss());
        run(count);
        let grown = memory_rss().saturating_sub(rss);
        println!(
            "  {count} starts by {method}: {fds} descriptors before, {} after; {} zombies; {} KiB more",
            open(),
            zombies(),
            grown >> 10,
        );
        assert_eq!(zombies(), 0);
        // Spare children of the fork server come and go, with two descriptors each.
        assert!(open() <= fds + 6);
        assert!(grown < 2 << 20, "{grown} bytes");
    }
}
