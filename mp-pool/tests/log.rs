//! What a pool tells a subscriber of `tracing`, and what that may do then.

mp_process::init_in_tests!();

use std::{
    fmt::{self, Write as _},
    sync::Mutex,
};

use mp_core::testing::{Census, Watchdog};
use mp_pool::{Pool, PoolHandle, TaskError};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// The pool that the subscriber looks at.
static POOL: Mutex<Option<PoolHandle>> = Mutex::new(None);
/// What was logged in this process, with the number of the pool's workers.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Adds to each line what it sees of the pool.
struct Curious;

impl Subscriber for Curious {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("mp_")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if let Some(pool) = &*POOL.lock().unwrap() {
            let _ = write!(line.0, "workers={}", pool.stats().workers.len());
        }
        LOGGED.lock().unwrap().push(line.0);
    }
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

#[test]
fn a_subscriber_may_look_at_the_pool() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    tracing::subscriber::set_global_default(Curious).unwrap();
    let pool = Pool::builder().workers(1).break_all().build().unwrap();
    *POOL.lock().unwrap() = Some(pool.handle());
    let died = pool.apply(|| -> u8 { std::process::abort() }, ());
    assert!(matches!(died, Err(TaskError::WorkerDied { .. })));
    assert!(pool.close().join().is_err());
    *POOL.lock().unwrap() = None;
    let logged = LOGGED.lock().unwrap();
    for text in ["a worker ended", "a pool is broken"] {
        let line = logged.iter().find(|line| line.contains(text));
        assert!(
            line.is_some_and(|line| line.contains("workers=0")),
            "{logged:?}"
        );
    }
}
