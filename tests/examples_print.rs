//! What the examples print is what their first lines say.
//!
//! An example that says so has a line "`cargo run --example NAME` prints" and a text block behind it,
//! in which `<pid>`, `<number>`, `<line>` and `<time>` stand for what differs from run to run.
//! Cargo builds the examples with the tests; by hand: `cargo build --examples`.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use mp_core::testing::Watchdog;

/// The programs that people learn Python's module from; each has to say what it prints.
const TUTORIAL: [&str; 17] = [
    "tour",
    "process_function",
    "process_struct",
    "process_signals",
    "pipe_simplex",
    "pipe_duplex",
    "queue_hello",
    "queue_bounded",
    "worker_restart",
    "pool_callbacks",
    "pool_apply_vs_async",
    "executor",
    "as_completed",
    "sync_shared_state",
    "manager_hello",
    "subprocess_hello",
    "crash_and_report",
];

/// What an example says that it prints.
struct Promise {
    lines: Vec<String>,
    any_order: bool,
}

impl Promise {
    fn of(source: &str) -> Option<Self> {
        let header = source
            .lines()
            .skip_while(|line| line.starts_with("#!["))
            .map_while(|line| line.strip_prefix("//"))
            .map(|line| line.strip_prefix('!').unwrap_or(line));
        let header: Vec<_> = header
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect();
        let prints = |line: &&str| line.starts_with("`cargo run ") && line.contains("` prints");
        let at = header.iter().position(prints)?;
        let block = header[at..]
            .iter()
            .skip_while(|line| **line != "```text")
            .skip(1);
        let lines = block.take_while(|line| **line != "```");
        Some(Self {
            lines: lines.map(|line| line.to_string()).collect(),
            any_order: header[at].contains("in any order"),
        })
    }

    /// What does not agree, for a reader.
    fn broken_by(&self, printed: &str) -> Option<String> {
        let mut printed: Vec<_> = printed.lines().collect();
        for promised in &self.lines {
            let within = if self.any_order { printed.len() } else { 1 };
            let mut candidates = printed.iter().take(within);
            let Some(at) = candidates.position(|line| agrees(promised, line)) else {
                return Some(format!("promised: {promised}\nprinted:  {printed:#?}"));
            };
            printed.remove(at);
        }
        let more = printed.first();
        more.map(|line| format!("not promised: {line}"))
    }
}

/// Whether `printed` is `promised`, with its placeholders filled in.
fn agrees(promised: &str, printed: &str) -> bool {
    let Some((before, rest)) = promised.split_once('<') else {
        return promised == printed;
    };
    let Some((kind, rest)) = rest.split_once('>') else {
        return promised == printed;
    };
    let fits: fn(char) -> bool = match kind {
        "pid" | "number" => |c| c == ' ' || c.is_ascii_digit(),
        "line" => |c| c == ':' || c.is_ascii_digit(),
        "time" => |c| c.is_ascii_digit() || ".mµns".contains(c),
        _ => return promised == printed,
    };
    let Some(filled) = printed.strip_prefix(before) else {
        return false;
    };
    let end = filled.find(|c| !fits(c)).unwrap_or(filled.len());
    // What comes next may begin with what fits, too: the longest filling that leaves it its own.
    let ends = (1..=end).rev().filter(|end| filled.is_char_boundary(*end));
    let has_digit = |text: &str| text.contains(|c: char| c.is_ascii_digit());
    ends.into_iter()
        .any(|end| has_digit(&filled[..end]) && agrees(rest, &filled[end..]))
}

fn sources() -> BTreeMap<String, PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let files = fs::read_dir(folder).expect("the examples");
    let files = files.map(|file| file.expect("a file").path());
    let rust = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let named = rust.map(|path| {
        (
            path.file_stem().expect("a name").to_string_lossy().into(),
            path,
        )
    });
    named.collect()
}

fn program(name: &str, source: &Path) -> PathBuf {
    let exe = env::current_exe().expect("this test");
    let profile = exe.ancestors().nth(2).expect("target/debug");
    let program = profile.join("examples").join(name);
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    assert!(
        changed(&program) >= changed(source),
        "{} is missing or older than its source: `cargo build --examples`",
        program.display()
    );
    program
}

fn printed(program: &Path) -> String {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let done = command.output().expect("the example starts");
    assert!(
        done.status.success(),
        "{}: {}",
        program.display(),
        done.status
    );
    String::from_utf8(done.stdout).expect("text")
}

#[test]
fn each_example_prints_what_it_says() {
    let _dog = Watchdog::secs(120);
    let promises = sources().into_iter().filter_map(|(name, path)| {
        let promise = Promise::of(&fs::read_to_string(&path).expect("a source"))?;
        Some((name, path, promise))
    });
    let running: Vec<_> = promises
        .map(|(name, path, promise)| {
            let program = program(&name, &path);
            thread::spawn(move || {
                let printed = printed(&program);
                let broken = promise.broken_by(&printed)?;
                Some(format!("{name}\n{broken}\n\nall of it:\n{printed}"))
            })
        })
        .collect();
    let broken: Vec<_> = running
        .into_iter()
        .filter_map(|one| one.join().unwrap())
        .collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

#[test]
fn each_program_of_the_tutorial_says_what_it_prints() {
    let sources = sources();
    for name in TUTORIAL {
        let path = sources
            .get(name)
            .unwrap_or_else(|| panic!("no example {name}"));
        let promise = Promise::of(&fs::read_to_string(path).expect("a source"));
        let promise = promise.unwrap_or_else(|| panic!("{name} does not say what it prints"));
        assert!(!promise.lines.is_empty(), "{name}");
    }
}

#[test]
fn another_output_is_noticed() {
    let promise = Promise {
        lines: vec!["pid <pid> in <time>".to_owned(), "done".to_owned()],
        any_order: false,
    };
    assert_eq!(promise.broken_by("pid   17 in 1.5µs\ndone\n"), None);
    let swapped = "done\npid 17 in 1.5µs\n";
    for other in [
        "pid 17 in 1.5µs\n",
        "pid 17 in 1.5µs\ndone\nmore\n",
        "pid x in 1.5µs\ndone\n",
        "pid 17 in no time\ndone\n",
        swapped,
    ] {
        assert!(promise.broken_by(other).is_some(), "{other}");
    }
    let any_order = Promise {
        any_order: true,
        ..promise
    };
    assert_eq!(any_order.broken_by(swapped), None);
}
