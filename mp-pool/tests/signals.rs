//! Signals that end a program with a pool: nothing of it is left, and its workers say nothing.

mp_process::init_in_tests!();

use std::{
    fs,
    io::{Read, Write},
    os::fd::AsRawFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::Pool;
use mp_process::{ExitStatus, Process};
use nix::{
    pty::openpty,
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, setsid},
};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

/// A program with a pool in the middle of its work; tells the process ids of its workers.
fn program(file: String) {
    let pool = Pool::new(3).unwrap();
    pool.map(|n: u64| n, 0..10).unwrap();
    let pids: Vec<String> = pool.pids().iter().map(ToString::to_string).collect();
    let news = format!("{file}.new");
    fs::write(&news, pids.join(" ")).unwrap();
    fs::rename(&news, &file).unwrap();
    let _ = pool.map(
        |ms: u64| std::thread::sleep(Duration::from_millis(ms)),
        vec![60_000; 10],
    );
}

fn is_gone(pid: u32) -> bool {
    // A zombie that its new parent has not reaped yet does not run.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// The same, in a session of its own with this terminal.
fn program_at_terminal(terminal: String, file: String) {
    setsid().unwrap();
    // The first one that the leader of a session opens is the session's.
    let _terminal = fs::File::options().read(true).write(true).open(terminal);
    program(file);
}

/// Where a program tells of its workers, or prints to.
fn path(name: &str, end: &str) -> PathBuf {
    std::env::temp_dir().join(format!("mp-pool-{name}-{}.{end}", std::process::id()))
}

/// The process ids in `file`, once they are there.
fn workers(file: &PathBuf) -> Vec<u32> {
    eventually(60, || file.exists());
    let pids = fs::read_to_string(file).unwrap();
    fs::remove_file(file).unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(pids.len(), 3);
    pids
}

/// Ends `child`, a program with these workers, and waits until nothing of it is left; how long that took.
fn time_the_end(
    child: &Process<()>,
    workers: &[u32],
    signal: Signal,
    end: impl FnOnce(),
) -> Duration {
    let begin = Instant::now();
    end();
    assert_eq!(child.wait().unwrap(), ExitStatus::Signal(signal as i32));
    for pid in workers {
        eventually(30, || is_gone(*pid));
    }
    begin.elapsed()
}

/// Ends such a program by `signal`; what it and its workers printed, and how long all of it took.
fn end_by(
    name: &str,
    signal: Signal,
    send: fn(Pid, Signal) -> nix::Result<()>,
) -> (String, Duration) {
    let [pids, output] = ["pids", "output"].map(|end| path(name, end));
    let told = fs::File::create(&output).unwrap();
    let child = Process::new(program, (pids.to_str().unwrap().to_owned(),))
        .process_group(0)
        .stdout(told.try_clone().unwrap())
        .stderr(told)
        .start()
        .unwrap();
    let workers = workers(&pids);
    let took = time_the_end(&child, &workers, signal, || {
        send(Pid::from_raw(child.pid() as i32), signal).unwrap();
    });
    let printed = fs::read_to_string(&output).unwrap();
    fs::remove_file(output).unwrap();
    (printed, took)
}

/// Types Ctrl-C at the terminal of such a program; what was on it then, and how long the end took.
fn type_ctrl_c() -> (String, Duration) {
    let pids = path("terminal", "pids");
    let pty = openpty(None, None).unwrap();
    let mut keyboard = fs::File::from(pty.master);
    let screen = fs::File::from(pty.slave);
    let name = fs::read_link(format!("/proc/self/fd/{}", screen.as_raw_fd())).unwrap();
    let [name, file] = [&name, &pids].map(|path| path.to_str().unwrap().to_owned());
    let child = Process::new(program_at_terminal, (name, file))
        .stdout(screen.try_clone().unwrap())
        .stderr(screen)
        .start()
        .unwrap();
    let workers = workers(&pids);
    let took = time_the_end(&child, &workers, Signal::SIGINT, || {
        keyboard.write_all(b"\x03").unwrap();
    });
    let mut shown = Vec::new();
    let _ = keyboard.read_to_end(&mut shown); // at its end an error: nobody has the terminal open
    (String::from_utf8(shown).unwrap(), took)
}

/// `end` prints just `expected`, and takes less than a second, but for a machine that has other things
/// to do.
fn ends_at_once(expected: &str, end: impl Fn() -> (String, Duration)) {
    const TRIES: usize = 3;
    let mut times = Vec::new();
    while times.len() < TRIES {
        let (printed, took) = end();
        assert_eq!(printed, expected);
        if took < Duration::from_secs(1) {
            println!("gone after {took:?}");
            return;
        }
        times.push(took);
    }
    panic!("too late, {TRIES} times: {times:?}");
}

#[test]
fn ctrl_c_reaches_the_program_alone_and_ends_all_of_it() {
    let _guards = guarded(120);
    // What a terminal does: the signal goes to the whole foreground process group.
    ends_at_once("", || end_by("interrupt", Signal::SIGINT, killpg));
}

#[test]
fn ctrl_c_at_a_terminal_ends_all_of_the_program() {
    let _guards = guarded(120);
    ends_at_once("^C", type_ctrl_c); // the terminal's own echo
}

#[test]
fn sigterm_and_sigkill_to_the_program_end_its_workers() {
    let _guards = guarded(120);
    ends_at_once("", || end_by("terminate", Signal::SIGTERM, kill));
    ends_at_once("", || end_by("kill", Signal::SIGKILL, kill));
}
