//! What happens, as `tracing` events; and a plain way to see them, for the impatient.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    sync::Once,
};

use mp_core::primitive::{AtomicU8, Ordering};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// The index in [`LEVELS`] plus one; zero: [`log_to_stderr`] was not called.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// From the least to the most talkative.
const LEVELS: [Level; 5] = [
    Level::ERROR,
    Level::WARN,
    Level::INFO,
    Level::DEBUG,
    Level::TRACE,
];

/// Prints the `tracing` events of this program, up to `level`, on stderr; in the children as well.
///
/// ```text
/// [DEBUG/MainProcess] mp-process/src/child.rs:61: started name=Process-1 pid=4242
/// ```
///
/// It can be called again to change the level. A program that has a subscriber of its own needs
/// nothing of this; it installs it in [`init_with`](crate::init_with).
pub fn log_to_stderr(level: Level) {
    let index = LEVELS.iter().position(|known| *known == level);
    inherit(index.map_or(0, |index| index as u8 + 1));
    show();
}

/// What [`log_to_stderr`] was told, here or in the parent.
#[must_use]
pub fn log_level() -> Option<Level> {
    let index = usize::from(stored()).checked_sub(1)?;
    LEVELS.get(index).copied()
}

/// The level as a child is told it.
pub(crate) fn stored() -> u8 {
    LEVEL.load(Ordering::Relaxed) // stands for itself
}

/// Takes on what the parent had [stored]; nothing is printed before [`show`].
pub(crate) fn inherit(stored: u8) {
    LEVEL.store(stored, Ordering::Relaxed); // stands for itself
}

/// Prints from here on, if there is a level.
pub(crate) fn show() {
    static INSTALL: Once = Once::new();
    if stored() == 0 {
        return;
    }
    INSTALL.call_once(|| {
        // One that the program has installed stays, and is not told of the level.
        let _ = tracing::subscriber::set_global_default(Stderr);
    });
    tracing::callsite::rebuild_interest_cache();
}

/// Writes each event as one line.
struct Stderr;

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        log_level().is_some_and(|level| *metadata.level() <= level)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1) // spans are not shown, so they need not be told apart
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let process = crate::current_process();
        let mut line = format!("[{}/{}] ", metadata.level(), process.name());
        if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
            let _ = write!(line, "{file}:{number}: ");
        }
        event.record(&mut Fields(&mut line));
        line.push('\n');
        // One write, so that lines of several processes do not mix.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Appends the fields of an event: its message as it is, others as `name=value`.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
