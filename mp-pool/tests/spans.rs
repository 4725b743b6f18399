//! What tracing sees of a task, in the worker.

mp_process::init_in_tests!();

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    sync::Mutex,
};

use mp_core::testing::{Census, Watchdog};
use mp_pool::Pool;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// What was logged in this process, with the spans around it.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// All spans of this process, by their number.
static SPANS: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("mp_pool") || metadata.target() == "spans"
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut line = Line(span.metadata().name().to_owned());
        span.record(&mut line);
        let mut spans = SPANS.lock().unwrap();
        spans.push(line.0);
        span::Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, span: &span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, _: &span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.pop());
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let inside = ENTERED.with_borrow(|entered| entered.last().copied());
        let span = inside.map(|id| SPANS.lock().unwrap()[id as usize - 1].clone());
        LOG.lock().unwrap().push(format!("{} in {span:?}", line.0));
    }
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

fn subscribe() {
    tracing::subscriber::set_global_default(Log).unwrap();
}

fn speaks(x: u32) -> u32 {
    tracing::info!(target: "spans", x, "at work");
    assert!(x != 13, "unlucky");
    x
}

fn log() -> Vec<String> {
    LOG.lock().unwrap().clone()
}

#[test]
fn what_a_task_logs_stands_in_a_span_with_its_function_and_worker() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let builder = Pool::builder().workers(1).initializer(subscribe, ());
    let pool = builder.build().unwrap();
    assert_eq!(pool.apply(speaks, (1,)), Ok(1));
    assert!(pool.apply(speaks, (13,)).is_err());
    assert_eq!(pool.apply(speaks, (2,)), Ok(2));
    let lines = pool.apply(log, ()).unwrap();
    let pid = pool.pids()[0];
    let line = |x: u32| {
        let span = format!("task worker={pid} function=\"spans::speaks\"");
        format!(" message=at work x={x} in {:?}", Some(span))
    };
    assert_eq!(lines, [1, 13, 2].map(line), "the panic left the span too");
}
