//! Programs as children: features that carry over from Python's `subprocess`, one test for each rule.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use mp_core::testing::Watchdog;
use mp_process::subprocess::{
    self, Popen, Program, Redirect, SubprocessError, call, check_call, check_output, getoutput,
    getstatusoutput,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::Signal,
    unistd::Pid,
};

/// More than any pipe holds.
const MUCH: usize = 4 << 20;

fn sh(line: &str) -> Program {
    Program::shell(line)
}

fn pipes(program: Program) -> Popen {
    let program = program
        .stdin(Redirect::Pipe)
        .stdout(Redirect::Pipe)
        .stderr(Redirect::Pipe);
    program.start().unwrap()
}

/// Whether nobody of this process group is left, zombies apart.
fn group_is_gone(leader: u32) -> bool {
    let alive = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, group) = (fields.next()?, fields.nth(1)?);
        (state != "Z" && group == leader.to_string()).then_some(())
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(alive)
        .is_none()
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[test]
fn run_returns_status_and_both_outputs() {
    let done = sh("echo out; echo err >&2; exit 3")
        .capture_output()
        .run()
        .unwrap();
    assert_eq!((done.returncode(), done.success()), (3, false));
    assert_eq!(
        (&done.stdout[..], &done.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
}

#[test]
fn what_is_not_captured_is_empty() {
    let done = sh("echo out; echo err >&2")
        .stdout(Redirect::Null)
        .stderr(Redirect::Null)
        .run()
        .unwrap();
    assert!(done.success() && done.stdout.is_empty() && done.stderr.is_empty());
}

#[test]
fn a_signal_is_a_negative_code() {
    let done = subprocess::run(sh("kill -KILL $$")).unwrap();
    assert_eq!(done.returncode(), -9);
    assert_eq!(done.status().signal(), Some(9));
    assert_eq!(
        call(sh("kill -34 $$")).unwrap(),
        -34,
        "real-time signals too"
    );
}

#[test]
fn check_tells_code_and_outputs_and_a_signal_by_name() {
    let error = sh("echo out; echo why >&2; exit 4")
        .capture_output()
        .check()
        .run()
        .unwrap_err();
    assert_eq!(error.returncode(), Some(4));
    assert_eq!(
        (error.stdout(), error.stderr()),
        (&b"out\n"[..], &b"why\n"[..])
    );
    assert!(
        error.to_string().ends_with("exited with code 4: why"),
        "{error}"
    );

    let error = check_call(sh("kill -KILL $$")).unwrap_err();
    assert!(
        error.to_string().contains("ended by signal 9 (SIGKILL)"),
        "{error}"
    );
    assert!(check_call("true").is_ok());
}

#[test]
fn input_and_stdin_replace_each_other() {
    let file = || Redirect::from(File::open("/proc/self/comm").unwrap());
    assert_eq!(
        check_output(Program::new("cat").stdin(file()).input("text")).unwrap(),
        b"text"
    );
    let from_file = check_output(Program::new("cat").input("text").stdin(file())).unwrap();
    assert_ne!(from_file, b"text");
    assert!(
        check_output(Program::new("cat").stdin(Redirect::Null))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn capture_keeps_what_was_said_of_an_output() {
    let done = sh("echo out; echo err >&2")
        .stderr(Redirect::Null)
        .capture_output()
        .run()
        .unwrap();
    assert_eq!(
        (&done.stdout[..], &done.stderr[..]),
        (&b"out\n"[..], &b""[..])
    );
}

#[test]
fn stderr_follows_stdout_wherever_it_goes() {
    let both = || sh("echo out; echo err >&2").stderr_to_stdout();
    assert_eq!(check_output(both()).unwrap(), b"out\nerr\n");

    let path = std::env::temp_dir().join(format!("mp-subprocess-{}", std::process::id()));
    both()
        .stdout(File::create(&path).unwrap())
        .check()
        .run()
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"out\nerr\n");
    fs::remove_file(&path).unwrap();

    let (mut reader, writer) = std::io::pipe().unwrap();
    both().stdout(writer).check().run().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "out\nerr\n");
}

#[test]
fn more_than_a_pipe_holds_goes_through_all_three_at_once() {
    let _dog = Watchdog::secs(60);
    let input: Vec<u8> = (0..MUCH).map(|i| (i % 251) as u8).collect();
    let done = sh("tee /dev/stderr")
        .input(input.clone())
        .capture_output()
        .check()
        .run()
        .unwrap();
    assert!(done.stdout == input && done.stderr == input);
}

#[test]
fn a_program_that_does_not_read_its_input_is_no_error() {
    let _dog = Watchdog::secs(20);
    let done = Program::new("true")
        .input(vec![b'x'; MUCH])
        .check()
        .run()
        .unwrap();
    assert!(done.success());
}

#[test]
fn a_missing_program_is_told_by_name() {
    let error = Program::new("/no/such/program")
        .arg("x y")
        .run()
        .unwrap_err();
    let SubprocessError::Start { program, source } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(program, "/no/such/program 'x y'");
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_file_that_may_not_be_run_is_permission_denied() {
    let error = Program::new("/proc/self/comm").run().unwrap_err();
    let SubprocessError::Start { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn a_missing_directory_is_not_a_missing_program() {
    let error = Program::new("true")
        .current_dir("/no/such/place")
        .run()
        .unwrap_err();
    assert!(
        matches!(&error, SubprocessError::Directory { directory, .. } if directory == Path::new("/no/such/place")),
        "{error:?}"
    );
    assert_eq!(
        check_output(Program::new("pwd").current_dir("/")).unwrap(),
        b"/\n"
    );
}

#[test]
fn bad_names_of_variables_are_refused() {
    for name in ["", "a=b"] {
        let error = Program::new("true").env(name, "x").run().unwrap_err();
        assert!(
            matches!(&error, SubprocessError::Start { source, .. }
            if source.kind() == std::io::ErrorKind::InvalidInput),
            "{error:?}"
        );
    }
    let error = Program::new("true").env("A", "nul\0").run().unwrap_err();
    assert!(matches!(error, SubprocessError::Start { .. }));
}

#[test]
fn environment_is_changed_removed_and_cleared() {
    let show = || sh("echo ${MP_SHOWN-none}");
    assert_eq!(
        check_output(show().env("MP_SHOWN", "yes")).unwrap(),
        b"yes\n"
    );
    assert_eq!(
        check_output(show().env("MP_SHOWN", "yes").env_remove("MP_SHOWN")).unwrap(),
        b"none\n"
    );
    let cleared = Program::new("/usr/bin/env").env_clear().env("ONLY", "1");
    assert_eq!(check_output(cleared).unwrap(), b"ONLY=1\n");
}

#[test]
fn communicate_after_a_timeout_loses_nothing() {
    let _dog = Watchdog::secs(60);
    let input: Vec<u8> = (0..MUCH).map(|i| (i % 241) as u8).collect();
    // Opens the gate only when told, so that the first call cannot but time out, half-written.
    let (gate, mut opener) = std::io::pipe().unwrap();
    let line = format!("echo begun; read gate </dev/fd/{}; cat", gate.as_raw_fd());
    let mut program = sh(&line)
        .pass_fd(gate)
        .stdin(Redirect::Pipe)
        .stdout(Redirect::Pipe)
        .start()
        .unwrap();

    let while_closed = Some(Duration::from_millis(20));
    let mut error = program
        .communicate(input.clone(), while_closed)
        .unwrap_err();
    while error.stdout() != b"begun\n" {
        assert!(
            matches!(error, SubprocessError::TimedOut { .. }),
            "{error:?}"
        );
        error = program.communicate([], while_closed).unwrap_err();
    }
    let twice = program
        .communicate("more", Some(Duration::ZERO))
        .unwrap_err();
    assert!(matches!(twice, SubprocessError::InputTwice { .. }));
    opener.write_all(b"\n").unwrap();

    let done = program.communicate([], None).unwrap();
    assert!(done.success());
    assert_eq!(done.stdout.len(), "begun\n".len() + MUCH);
    assert!(done.stdout.starts_with(b"begun\n") && done.stdout[6..] == input);
}

#[test]
fn pipes_wait_again_after_a_communicate_that_timed_out() {
    let _dog = Watchdog::secs(20);
    let (gate, mut opener) = std::io::pipe().unwrap();
    let line = format!("read gate </dev/fd/{}; echo late", gate.as_raw_fd());
    let program = sh(&line).pass_fd(gate).stdout(Redirect::Pipe);
    let mut program = program.start().unwrap();
    let error = program.communicate([], Some(Duration::ZERO)).unwrap_err();
    assert!(matches!(error, SubprocessError::TimedOut { .. }));

    let mut stdout = program.stdout.take().unwrap();
    let flags = OFlag::from_bits_retain(fcntl(&stdout, FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_NONBLOCK));
    opener.write_all(b"\n").unwrap();
    let mut said = String::new();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, "late\n");
    assert!(program.wait().unwrap().success());
}

#[test]
fn run_with_a_timeout_kills_the_whole_group() {
    let _dog = Watchdog::secs(20);
    let line = "echo $$; sleep 1000 & sleep 1000 & wait";
    let mut timeout = Duration::from_millis(50);
    // On a busy machine the shell may need longer to say who it is.
    let leader: u32 = loop {
        match sh(line)
            .capture_output()
            .timeout(timeout)
            .run()
            .unwrap_err()
        {
            SubprocessError::TimedOut { stdout, .. } if stdout.ends_with(b"\n") => {
                break String::from_utf8(stdout).unwrap().trim().parse().unwrap();
            }
            SubprocessError::TimedOut { .. } => timeout *= 2,
            other => panic!("{other:?}"),
        }
    };
    wait_until(|| group_is_gone(leader));
}

#[test]
fn who_left_the_group_with_the_pipe_does_not_delay_the_timeout() {
    let _dog = Watchdog::secs(20);
    let program = sh("echo first; setsid sleep 15 & sleep 1000").capture_output();
    let begun = Instant::now();
    let error = program
        .timeout(Duration::from_millis(300))
        .run()
        .unwrap_err();
    assert!(
        matches!(error, SubprocessError::TimedOut { .. }),
        "{error:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_limit_of_time_leaves_a_quick_program_alone() {
    let done = sh("echo quick")
        .capture_output()
        .timeout(Duration::from_secs(60))
        .run()
        .unwrap();
    assert_eq!(done.stdout, b"quick\n");
}

#[test]
fn returncode_is_unknown_while_the_program_runs() {
    let _dog = Watchdog::secs(20);
    let mut cat = pipes(Program::new("cat"));
    assert_eq!((cat.poll().unwrap(), cat.returncode()), (None, None));
    let error = cat.wait_timeout(Duration::from_millis(5)).unwrap_err();
    assert!(matches!(error, SubprocessError::TimedOut { .. }));
    // `wait` closes the input first, or both would wait for each other.
    assert!(cat.wait().unwrap().success());
    assert_eq!(cat.returncode(), Some(0));
}

#[test]
fn signals_reach_a_program_and_do_nothing_once_it_ended() {
    let _dog = Watchdog::secs(20);
    let mut sleeper = Program::new("sleep").arg("1000").start().unwrap();
    sleeper.terminate().unwrap();
    assert_eq!(sleeper.wait().unwrap().signal(), Some(15));
    assert_eq!(sleeper.returncode(), Some(-15));
    sleeper.kill().unwrap();
    sleeper.send_signal(Signal::SIGUSR1).unwrap();
    assert_eq!(
        sleeper.wait().unwrap().signal(),
        Some(15),
        "and waiting again is harmless"
    );
}

#[test]
fn a_group_of_its_own_gets_signals_together() {
    let _dog = Watchdog::secs(20);
    let program = sh("sleep 1000 & echo ready; wait")
        .own_group()
        .stdout(Redirect::Pipe);
    let mut program = program.start().unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    program.kill().unwrap();
    assert_eq!(program.wait().unwrap().signal(), Some(9));
    wait_until(|| group_is_gone(program.pid()));
}

#[test]
fn a_dropped_program_goes_on_and_is_reaped_by_a_later_start() {
    let _dog = Watchdog::secs(20);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let cat = Program::new("cat")
        .stdin(Redirect::Pipe)
        .stdout(writer)
        .start()
        .unwrap();
    let pid = cat.pid();
    assert!(state_of(pid).is_some());
    drop(cat); // closes its input, and so it ends
    reader.read_to_end(&mut Vec::new()).unwrap();
    wait_until(|| {
        check_call("true").unwrap();
        state_of(pid).is_none()
    });
}

#[test]
fn open_files_do_not_reach_a_program() {
    let open = File::open("/proc/self/status").unwrap();
    let high = fcntl(&open, FcntlArg::F_DUPFD_CLOEXEC(700)).unwrap();
    let seen = check_output(["ls", "/proc/self/fd"]).unwrap();
    let seen = String::from_utf8(seen).unwrap();
    // What this process itself inherited as inheritable may be there too.
    assert!(seen.lines().any(|line| line == "2"));
    assert!(seen.lines().all(|line| line != high.to_string()), "{seen}");
}

#[test]
fn passed_descriptors_keep_their_numbers() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let line = format!("echo hello >/dev/fd/{}", writer.as_raw_fd());
    check_call(sh(&line).pass_fd(writer)).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\n");
}

#[test]
fn sigpipe_has_its_default_action_in_a_program() {
    let ignored = check_output(sh("grep SigIgn /proc/self/status")).unwrap();
    let text = String::from_utf8(ignored).unwrap();
    let mask = u64::from_str_radix(text.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(mask & 1 << (Signal::SIGPIPE as u32 - 1), 0);
}

#[test]
fn pipelines_hand_on_and_feed_the_first_and_read_the_last() {
    let words = Program::new("tr").args(["a-z", "A-Z"]) | Program::new("rev") | "cat";
    let done = words.input("abc\n").capture_output().check().run().unwrap();
    assert_eq!(done.stdout, b"CBA\n");
    assert_eq!(done.statuses.len(), 3);
    assert_eq!(done.command, "tr a-z A-Z | rev | cat");
}

#[test]
fn much_data_flows_through_a_pipeline() {
    let _dog = Watchdog::secs(60);
    let input = vec![b'x'; MUCH];
    let pipeline = Program::new("cat") | Program::new("cat") | Program::from(["wc", "-c"]);
    let done = pipeline
        .input(input)
        .capture_output()
        .check()
        .run()
        .unwrap();
    assert_eq!(done.stdout_text().trim(), MUCH.to_string());
}

#[test]
fn any_failure_in_a_pipeline_is_one_of_the_whole() {
    let error = check_output(sh("echo out; exit 5") | "cat").unwrap_err();
    assert_eq!(
        (error.returncode(), error.stdout()),
        (Some(5), &b"out\n"[..])
    );
}

#[test]
fn a_reader_that_had_enough_is_no_failure() {
    let _dog = Watchdog::secs(20);
    let done = (Program::new("yes") | ["head", "-n", "2"])
        .capture_output()
        .check()
        .run()
        .unwrap();
    assert_eq!(done.stdout, b"y\ny\n");
    assert_eq!(done.statuses[0].signal(), Some(13));
}

#[test]
fn all_of_a_pipeline_share_one_standard_error() {
    let done = (sh("echo one >&2") | sh("cat; echo two >&2"))
        .capture_output()
        .run()
        .unwrap();
    assert_eq!(done.stderr, b"one\ntwo\n");
}

#[test]
fn a_pipeline_that_cannot_start_whole_leaves_nothing() {
    let _dog = Watchdog::secs(20);
    let error = (Program::new("yes") | "/no/such/program")
        .own_group()
        .run()
        .unwrap_err();
    assert!(
        matches!(&error, SubprocessError::Start { program, .. } if program == "/no/such/program")
    );
    let children = fs::read_to_string("/proc/thread-self/children").unwrap();
    assert!(children.is_empty(), "{children}");
}

#[test]
fn a_timeout_kills_every_program_of_a_pipeline() {
    let _dog = Watchdog::secs(20);
    let pipeline = Program::new("yes") | ["sleep", "1000"] | ["sleep", "1000"];
    let error = pipeline
        .timeout(Duration::from_millis(50))
        .run()
        .unwrap_err();
    assert!(
        matches!(error, SubprocessError::TimedOut { .. }),
        "{error:?}"
    );
    let children = fs::read_to_string("/proc/thread-self/children").unwrap();
    assert!(children.is_empty(), "{children}");
}

#[test]
fn getoutput_takes_both_outputs_without_one_newline() {
    assert_eq!(getoutput("echo a; echo b >&2; echo").unwrap(), "a\nb\n");
    assert_eq!(
        getstatusoutput("printf x; exit 9").unwrap(),
        (9, "x".to_owned())
    );
    assert_eq!(getstatusoutput("kill -TERM $$").unwrap().0, -15);
}

#[test]
fn a_std_command_brings_what_it_says() {
    let mut command = Command::new("sh");
    command
        .args(["-c", "echo $0 $MP_FROM_STD"])
        .env("MP_FROM_STD", "1")
        .stdout(std::process::Stdio::piped());
    assert_eq!(Program::from(command).run().unwrap().stdout, b"sh 1\n");
}

#[test]
fn pids_are_those_of_the_programs() {
    let _dog = Watchdog::secs(20);
    let mut pipeline = (sh("echo $$; cat") | "cat")
        .stdout(Redirect::Pipe)
        .start()
        .unwrap();
    assert_eq!(pipeline.pids().len(), 2);
    assert_eq!(pipeline.pid(), pipeline.pids()[1]);
    let done = pipeline.communicate([], None).unwrap();
    assert_eq!(done.stdout_text().trim(), pipeline.pids()[0].to_string());
    assert_ne!(Pid::this().as_raw().cast_unsigned(), pipeline.pid());
}
