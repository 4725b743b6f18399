//! What becomes of an executor's tasks when the program ends; the program is a child here.

mp_process::init_in_tests!();

use std::{fs, path::PathBuf, thread, time::Duration};

use mp_core::testing::{Census, Watchdog};
use mp_pool::Executor;
use mp_process::{ExitStatus, Process, Target};

/// Where the program's tasks write to, and its stderr goes; goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = format!("mp-pool-exit-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    /// Runs `program` with the path of a file; what it wrote there, and what to stderr.
    fn run(&self, program: impl Target<(String,), Output = ()>) -> [String; 2] {
        let stderr = fs::File::create(self.path("stderr")).unwrap();
        let process = Process::new(program, (self.path("out"),)).stderr(stderr);
        let status = process.start().unwrap().wait().unwrap();
        assert_eq!(status, ExitStatus::Code(0));
        ["out", "stderr"].map(|file| fs::read_to_string(self.path(file)).unwrap_or_default())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn slow(out: String) {
    thread::sleep(Duration::from_millis(300));
    fs::write(out, "apple").unwrap();
}

/// Conformance: ExecutorShutdownTest.test_interpreter_shutdown
#[test]
fn the_end_of_the_program_waits_for_what_was_submitted() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let returns = Folder::new("returns").run(|out: String| {
        let executor = Executor::new(5).unwrap();
        executor.submit(slow, (out,));
    });
    assert_eq!(returns, ["apple", ""]);
    let exits = Folder::new("exits").run(|out: String| {
        let executor = Executor::new(5).unwrap();
        executor.submit(slow, (out,));
        std::process::exit(0); // drops nothing
    });
    assert_eq!(exits, ["apple", ""]);
}

/// Conformance: ExecutorShutdownTest.test_hang_gh83386
#[test]
fn a_shutdown_that_did_not_wait_neither_holds_up_the_end_of_the_program_nor_loses_the_task() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let outcome = Folder::new("no-wait").run(|out: String| {
        let executor = Executor::new(1).unwrap();
        executor.submit(slow, (out,));
        executor.shutdown(false, false).unwrap();
        std::process::exit(0);
    });
    assert_eq!(outcome, ["apple", ""]);
}
