//! Programs as children: input and output, pipelines, time limits, and what a failure tells.
use std::time::{Duration, Instant};

use mp::subprocess::{self, Program, Redirect, SubprocessError};

const POEM: &str = "\
the queue is long the lock is held
the process died the lock is free
the queue goes on
";

fn main() -> Result<(), mp::Error> {
    // The most frequent words: what a shell would do, without a shell.
    let words = Program::from(["tr", " ", "\n"])
        | ["sort"]
        | ["uniq", "-c"]
        | ["sort", "-k1,1nr", "-k2"]
        | ["head", "-n", "3"];
    let done = words.input(POEM).capture_output().check().run()?;
    println!("$ {}\n{}", done.command, done.stdout_text());

    println!(
        "a line for the shell: {}",
        subprocess::getoutput("echo $((6 * 7))")?
    );

    // Megabytes in and megabytes out, through pipes that hold 64 KiB: nobody waits for anybody.
    let input = vec![b'x'; 8 << 20];
    let output = subprocess::check_output(Program::new("cat").input(input))?;
    assert_eq!(output.len(), 8 << 20);

    // An error has the status and what the program had to say.
    let error = subprocess::check_output(["ls", "/no/such/place"]).expect_err("it is not there");
    println!("{error}");
    assert!(error.returncode().is_some_and(|code| code > 0));

    // A time limit ends everything that was started, also what the shell left in the background.
    let begin = Instant::now();
    let slow = Program::shell("echo working; sleep 60 & sleep 60").capture_output();
    match slow.timeout(Duration::from_millis(200)).run() {
        Err(SubprocessError::TimedOut {
            command, stdout, ..
        }) => println!(
            "{command} was killed; it had said {:?}",
            String::from_utf8_lossy(&stdout)
        ),
        other => unreachable!("{other:?}"),
    }
    assert!(begin.elapsed() < Duration::from_secs(30));

    // A conversation: nothing is lost over a timeout.
    let mut slow = Program::shell("read name; echo Hello, $name; sleep 0.2; echo Bye")
        .stdin(Redirect::Pipe)
        .stdout(Redirect::Pipe)
        .start()?;
    let mut waits = 0;
    let mut step = slow.communicate("dad\n", Some(Duration::from_millis(50)));
    while let Err(SubprocessError::TimedOut { .. }) = step {
        waits += 1;
        step = slow.communicate("", Some(Duration::from_millis(50)));
    }
    println!("after {waits} timeouts: {:?}", step?.stdout_text());
    Ok(())
}
