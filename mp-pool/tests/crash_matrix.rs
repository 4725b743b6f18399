//! The crash matrix: where something goes wrong × how it does × how the task was called.
//!
//! Every cell has a stated outcome, or a reason why there is none. After each, a hundred further tasks
//! succeed on the same pool, and nothing is left behind.

mp_process::init_in_tests!();

use std::{
    hint::black_box,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_pool::{Part, Pool, PoolBuilder, PoolError, TaskError};
use nix::sys::signal::{SigSet, Signal, raise};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    ArgumentEncode,
    ArgumentDecode,
    Function,
    ResultEncode,
    ResultDecode,
    Callback,
    Initializer,
    /// In a thread that a task left behind, while the worker has nothing to do.
    Idle,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Fault {
    Panic,
    Exit,
    Abort,
    Segfault,
    Kill,
    StackOverflow,
    OutOfMemory,
    EndlessLoop,
    /// With every signal blocked that can be.
    StubbornLoop,
}

/// How the task is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Apply,
    ApplyAsync,
    Map,
    Imap,
    ImapUnordered,
}

/// What comes of it.
#[derive(Debug)]
enum Expected {
    /// The worker ends like this, and its task with it.
    Code(i32),
    Signal(Signal),
    /// The panic is told, and the worker lives on.
    Panicked,
    /// The panic comes out of the call, in the caller.
    CallerPanics,
    /// An error of decoding the result.
    Undecodable,
    /// The limit ends worker and task.
    TimedOut,
    /// The value is there all the same.
    Value,
    /// The pool can do nothing.
    Broken,
    DoesNotApply(&'static str),
}

use Fault::{
    Abort, EndlessLoop, Exit, Kill, OutOfMemory, Panic, Segfault, StackOverflow, StubbornLoop,
};

/// Whatever a test leaves behind, or a hang, fails it.
fn guarded(secs: u64) -> (Watchdog, Census) {
    // Nothing here makes such a folder, but listeners in other runs of tests do.
    let census = Census::take().allow("/tmp/mp-");
    (Watchdog::secs(secs), census)
}

const PLACES: [Place; 8] = [
    Place::ArgumentEncode,
    Place::ArgumentDecode,
    Place::Function,
    Place::ResultEncode,
    Place::ResultDecode,
    Place::Callback,
    Place::Initializer,
    Place::Idle,
];
const FAULTS: [Fault; 9] = [
    Panic,
    Exit,
    Abort,
    Segfault,
    Kill,
    StackOverflow,
    OutOfMemory,
    EndlessLoop,
    StubbornLoop,
];
const STYLES: [Style; 5] = [
    Style::Apply,
    Style::ApplyAsync,
    Style::Map,
    Style::Imap,
    Style::ImapUnordered,
];

/// The matrix.
fn expected(place: Place, fault: Fault, style: Style) -> Expected {
    let of_worker = match fault {
        Panic => Expected::Panicked,
        Exit => Expected::Code(7),
        // Rust's own handler turns an overflow and an allocation that failed into an abort.
        Abort | StackOverflow | OutOfMemory => Expected::Signal(Signal::SIGABRT),
        Segfault => Expected::Signal(Signal::SIGSEGV),
        Kill => Expected::Signal(Signal::SIGKILL),
        EndlessLoop | StubbornLoop => Expected::TimedOut,
    };
    match place {
        Place::ArgumentDecode | Place::Function | Place::ResultEncode => of_worker,
        Place::ArgumentEncode => match fault {
            Panic => Expected::CallerPanics,
            _ => Expected::DoesNotApply("the caller's own code ends or stops the caller's process"),
        },
        Place::ResultDecode => match fault {
            Panic => Expected::Undecodable,
            _ => Expected::DoesNotApply("the caller's own code ends or stops the caller's process"),
        },
        Place::Callback => match (fault, style) {
            (Panic, Style::ApplyAsync) => Expected::Value,
            (_, Style::ApplyAsync) => {
                Expected::DoesNotApply("the caller's own code ends or stops the caller's process")
            }
            _ => Expected::DoesNotApply("there is no callback"),
        },
        Place::Initializer => Expected::Broken,
        Place::Idle => Expected::Value,
    }
}

fn trip(fault: Fault) {
    match fault {
        Panic => panic!("as told"),
        Exit => std::process::exit(7),
        Abort => std::process::abort(),
        // The first time Rust's own handler steps aside: it expects the access to fault again.
        Segfault => loop {
            raise(Signal::SIGSEGV).unwrap();
        },
        Kill => raise(Signal::SIGKILL).unwrap(),
        StackOverflow => {
            black_box(overflow(black_box(1)));
        }
        OutOfMemory => {
            black_box(vec![1_u8; black_box(4 << 30)]);
        }
        EndlessLoop => endless(),
        StubbornLoop => {
            SigSet::all().thread_block().unwrap();
            endless();
        }
    }
}

fn endless() {
    loop {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn overflow(n: u64) -> u64 {
    let page = black_box([n; 512]);
    if n == 0 { 0 } else { overflow(n + 1) + page[0] }
}

/// One thing that goes wrong, at one place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Trap(Option<(Place, Fault)>);

impl Trap {
    fn pass(self, here: Place) {
        if let Self(Some((place, fault))) = self
            && place == here
        {
            trip(fault);
        }
    }
}

/// The argument of a task.
#[derive(Clone, Copy, Debug)]
struct Argument(Trap);

impl Serialize for Argument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.pass(Place::ArgumentEncode);
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let trap = Trap::deserialize(deserializer)?;
        trap.pass(Place::ArgumentDecode);
        Ok(Self(trap))
    }
}

/// Its result.
#[derive(Debug)]
struct Outcome(Trap);

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.pass(Place::ResultEncode);
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let trap = Trap::deserialize(deserializer)?;
        trap.pass(Place::ResultDecode);
        Ok(Self(trap))
    }
}

fn work(argument: Argument) -> Outcome {
    argument.0.pass(Place::Function);
    if let Trap(Some((Place::Idle, fault))) = argument.0 {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            trip(fault);
        });
    }
    Outcome(argument.0)
}

/// Calls the task in this style, among others that are well; what came of it.
fn call(pool: &Pool, trap: Trap, style: Style) -> Result<Outcome, TaskError> {
    let well = Argument(Trap(None));
    let arguments = [well, Argument(trap), well];
    let (mut good, mut bad) = (0, None);
    let mut note = |outcome: Result<Outcome, TaskError>| match outcome {
        Ok(Outcome(Trap(None))) => good += 1,
        other => bad = Some(other),
    };
    match style {
        Style::Apply => return pool.apply(work, (Argument(trap),)),
        Style::ApplyAsync => {
            let result = pool.apply_async(work, (Argument(trap),));
            return match trap {
                Trap(Some((Place::Callback, fault))) => result.on_success(move |_| trip(fault)),
                _ => result,
            }
            .get();
        }
        Style::Map => {
            let values = pool.tasks(work, arguments).chunksize(3).map()?;
            values.into_iter().for_each(|value| note(Ok(value)));
        }
        Style::Imap => pool
            .tasks(work, arguments)
            .chunksize(3)
            .imap()
            .for_each(&mut note),
        Style::ImapUnordered => pool.imap_unordered(work, arguments).for_each(&mut note),
    }
    assert_eq!(good, 2, "the others are not concerned");
    bad.expect("the outcome of the one in question")
}

fn check(pool: &Pool, place: Place, fault: Fault, style: Style) {
    let cell = format!("{place:?} × {fault:?} × {style:?}");
    let trap = Trap(Some((place, fault)));
    let (restarts, panics) = (pool.restarts(), pool.callback_panics());
    let outcome = catch_unwind(AssertUnwindSafe(|| call(pool, trap, style)));
    let expected = expected(place, fault, style);
    let is_as_expected = match (&expected, &outcome) {
        (Expected::CallerPanics, Err(_)) | (Expected::Value, Ok(Ok(_))) => true,
        (Expected::Panicked, Ok(Err(TaskError::Panicked { message, .. }))) => message == "as told",
        (Expected::Code(code), Ok(Err(TaskError::WorkerDied { code: told, .. }))) => {
            *told == Some(*code)
        }
        (Expected::Signal(signal), Ok(Err(TaskError::WorkerDied { signal: told, .. }))) => {
            *told == Some(*signal as i32)
        }
        (Expected::TimedOut, Ok(Err(TaskError::TimedOut { .. }))) => true,
        (Expected::Undecodable, Ok(Err(TaskError::Decode { what, .. }))) => *what == Part::Result,
        _ => false,
    };
    assert!(
        is_as_expected,
        "{cell}: {outcome:?} instead of {expected:?}"
    );
    if place == Place::Callback {
        assert_eq!(pool.callback_panics(), panics + 1, "{cell}");
    }
    if place == Place::Idle && !matches!(fault, Panic | EndlessLoop | StubbornLoop) {
        eventually(30, || pool.restarts() > restarts);
    }
    let further = pool.map(|n: u32| n + 1, 0..100);
    assert!(
        further.is_ok_and(|values| values.into_iter().eq(1..=100)),
        "{cell}"
    );
}

fn builder() -> PoolBuilder {
    Pool::builder()
        .workers(2)
        .grace(Duration::from_millis(100))
        .memory_limit(1 << 30)
}

/// The cells of one place.
fn row(place: Place) {
    let _guards = guarded(300);
    // A panic with a backtrace may take a while, so only what never ends has a limit.
    let patient = builder().build().unwrap();
    let hasty = builder()
        .task_timeout(Duration::from_millis(150))
        .build()
        .unwrap();
    let mut cells = 0;
    for fault in FAULTS {
        let pool = match fault {
            EndlessLoop | StubbornLoop => &hasty,
            _ => &patient,
        };
        for style in STYLES {
            if !matches!(expected(place, fault, style), Expected::DoesNotApply(_)) {
                check(pool, place, fault, style);
                cells += 1;
            }
        }
    }
    assert!(cells > 0);
    for pool in [patient, hasty] {
        pool.close().join().unwrap();
    }
}

#[test]
fn argument_encode() {
    row(Place::ArgumentEncode);
}

#[test]
fn argument_decode() {
    row(Place::ArgumentDecode);
}

#[test]
fn function() {
    row(Place::Function);
}

#[test]
fn result_encode() {
    row(Place::ResultEncode);
}

#[test]
fn result_decode() {
    row(Place::ResultDecode);
}

#[test]
fn callback() {
    row(Place::Callback);
}

#[test]
fn idle() {
    row(Place::Idle);
}

/// A pool whose initializer fails is broken, which is an outcome too; so each cell has its own pool.
#[test]
fn initializer() {
    let _guards = guarded(300);
    for fault in FAULTS {
        for style in STYLES {
            let pool = builder()
                .initializer(trip, (fault,))
                .initializer_timeout(match fault {
                    EndlessLoop | StubbornLoop => Duration::from_millis(100),
                    _ => Duration::from_secs(30),
                })
                .build()
                .unwrap();
            assert!(matches!(
                expected(Place::Initializer, fault, style),
                Expected::Broken
            ));
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let trap = Trap(None);
                match style {
                    Style::Apply => pool.apply(work, (Argument(trap),)).map(|_| ()),
                    Style::ApplyAsync => {
                        pool.apply_async(work, (Argument(trap),)).get().map(|_| ())
                    }
                    Style::Map => pool.map(work, [Argument(trap); 3]).map(|_| ()),
                    Style::Imap => pool
                        .imap(work, [Argument(trap); 3])
                        .try_for_each(|r| r.map(|_| ())),
                    Style::ImapUnordered => pool
                        .imap_unordered(work, [Argument(trap); 3])
                        .try_for_each(|r| r.map(|_| ())),
                }
            }));
            let broken = matches!(outcome, Ok(Err(TaskError::PoolBroken { .. })));
            assert!(broken, "{fault:?} × {style:?}: {outcome:?}");
            assert!(matches!(pool.close().join(), Err(PoolError::Broken { .. })));
        }
    }
}

/// A cell as users know it, or the letter of the reason why there is none.
fn cell(expected: &Expected, reasons: &mut Vec<&'static str>) -> String {
    match expected {
        Expected::Code(code) => format!("`WorkerDied`, code {code}"),
        Expected::Signal(signal) => format!("`WorkerDied`, {signal}"),
        Expected::Panicked => "`Panicked`".into(),
        Expected::CallerPanics => "the panic, in the caller".into(),
        Expected::Undecodable => "`Decode`".into(),
        Expected::TimedOut => "`TimedOut`".into(),
        Expected::Value => "the value".into(),
        Expected::Broken => "`PoolBroken`".into(),
        Expected::DoesNotApply(reason) => {
            let known = reasons.iter().position(|known| known == reason);
            let number = known.unwrap_or_else(|| {
                reasons.push(reason);
                reasons.len() - 1
            });
            format!("– ({})", number + 1)
        }
    }
}

/// The matrix as Markdown.
fn table() -> String {
    let mut reasons = Vec::new();
    let mut text = format!(
        "| where | what |{}\n|---|---|",
        STYLES.map(|style| format!(" {style:?} |")).concat()
    );
    text += &"---|".repeat(STYLES.len());
    for (place, fault) in PLACES
        .iter()
        .flat_map(|place| FAULTS.map(|fault| (*place, fault)))
    {
        let cells = STYLES.map(|style| cell(&expected(place, fault, style), &mut reasons));
        text += &format!("\n| {place:?} | {fault:?} | {} |", cells.join(" | "));
    }
    for (number, reason) in (1..).zip(reasons) {
        text += &format!("\n\n({number}) does not apply, because {reason}");
    }
    text + "\n"
}

/// `cargo test -p mp-pool --test crash_matrix page -- --nocapture` prints the table.
#[test]
fn the_page_shows_the_matrix_as_it_is_tested() {
    let (table, page) = (table(), include_str!("../crash_matrix.md"));
    println!("{table}");
    assert!(
        page.ends_with(&table),
        "crash_matrix.md is not up to date: see above"
    );
}
