//! `Event`: it has happened or not, for all processes alike.

use std::{
    thread,
    time::{Duration, Instant},
};

use mp_core::testing::{Census, Watchdog, fork_child};
use mp_sync::Event;
use nix::sys::signal::Signal;

const SHORT: Duration = Duration::from_millis(30);

/// Conformance: _TestEvent.test_event
#[test]
fn an_event_ends_waits_until_it_is_cleared() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let event = Event::new().unwrap();
    assert!(!event.is_set());
    for timeout in [Duration::ZERO, SHORT] {
        let begun = Instant::now();
        assert!(!event.wait_timeout(timeout));
        assert!(begun.elapsed() >= timeout);
    }
    event.set();
    assert!(event.is_set() && event.wait_timeout(Duration::ZERO));
    event.wait();
    event.clear();
    assert!(!event.is_set());
    let child = fork_child(|| {
        thread::sleep(SHORT);
        event.set();
    });
    assert!(event.wait_timeout(Duration::from_secs(30)));
    event.wait();
    child.wait_success();
}

/// How often this thread has gone to sleep.
fn sleeps() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| {
        let count = line.strip_prefix("voluntary_ctxt_switches:")?;
        Some(count.trim().parse().unwrap())
    });
    count.unwrap()
}

#[test]
fn a_wait_of_no_time_does_not_sleep() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let event = Event::new().unwrap();
    let before = sleeps();
    for _ in 0..100 {
        assert!(!event.wait_timeout(Duration::ZERO));
    }
    assert!(sleeps() - before < 50);
}

/// Conformance: _TestEvent.test_repr
#[test]
fn debug_tells_whether_it_is_set() {
    let _census = Census::take();
    let event = Event::new().unwrap();
    assert_eq!(format!("{event:?}"), "Event { set: false }");
    event.set();
    assert_eq!(format!("{event:?}"), "Event { set: true }");
}

#[test]
fn a_set_wakes_all_threads_and_processes_also_if_it_is_cleared_at_once() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let event = Event::new().unwrap();
    let children = [(); 3].map(|()| fork_child(|| event.wait()));
    thread::scope(|scope| {
        scope.spawn(|| event.wait());
        // Who begins to wait late finds it set, in the end.
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(2));
            event.set();
            event.clear();
        }
        event.set();
    });
    for child in children {
        child.wait_success();
    }
}

/// A handler that sets an event, whatever it interrupts.
mod handler {
    #![allow(unsafe_code)]
    use std::sync::OnceLock;

    use mp_sync::Event;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    static EVENT: OnceLock<Event> = OnceLock::new();

    extern "C" fn set(_: i32) {
        EVENT.get().expect("before the handler").set();
    }

    pub(super) fn install(event: &Event) {
        EVENT.set(event.clone()).unwrap();
        let handler = SigHandler::Handler(set);
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: `set` is async-signal-safe, as is reading a cell that was filled before.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    }
}

#[test]
fn a_signal_handler_may_set_an_event_also_while_its_thread_waits_for_it() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (event, ready) = (Event::new().unwrap(), Event::new().unwrap());
    let child = fork_child(|| {
        handler::install(&event);
        ready.set();
        event.wait();
    });
    ready.wait();
    child.signal(Signal::SIGUSR1);
    child.wait_success();
    assert!(event.is_set());
}
