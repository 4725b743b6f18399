//! The order in which a process ends.

use std::{fmt::Display, io::Write, time::Duration};

use mp_core::{
    deadline::Deadline,
    hooks,
    primitive::{AtomicU64, Ordering},
};

use crate::{child, popen::fork};

/// How long daemons may take after SIGTERM before they are killed.
const DAEMON_GRACE: Duration = Duration::from_secs(2);
/// After how long the children that are still waited for are named.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets the exit of this process wait for its children.
pub(crate) fn install() {
    /// One more than the fork generation that has the hook; a forked child needs its own.
    static INSTALLED: AtomicU64 = AtomicU64::new(0);
    let wanted = hooks::fork_generation() + 1;
    if INSTALLED.swap(wanted, Ordering::Relaxed) != wanted {
        hooks::at_exit_for_children(end_children);
    }
}

/// Ends this process with exit code 1, after `reason` on stderr: Python's `sys.exit("reason")`.
///
/// For a plain code there is [`std::process::exit`], and a function that returns a `Result` gives it
/// to the parent as it is.
#[doc(alias = "sys.exit")]
pub fn exit_with(reason: impl Display) -> ! {
    say(reason);
    std::process::exit(1)
}

/// Writes one line to stderr, in one piece, so that those of several processes do not mix.
fn say(line: impl Display) {
    // Nobody may be there to read it.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Ends a child: its exit hooks run, its children are waited for. One that was forked, here or by the
/// fork server, does not run what was registered with C's `atexit` in the process it is a copy of.
pub(crate) fn leave(code: i32) -> ! {
    if fork::is_forked() {
        fork::leave(code)
    } else {
        std::process::exit(code)
    }
}

fn end_children() {
    let children = child::listed();
    let (daemons, others): (Vec<_>, Vec<_>) = children
        .into_iter()
        .filter(|child| !child.is_detached())
        .partition(child::Child::is_daemon);
    for daemon in &daemons {
        let _ = daemon.terminate();
    }
    let until = Deadline::after(DAEMON_GRACE);
    for daemon in &daemons {
        if !matches!(daemon.wait_until(Some(until)), Ok(Some(_))) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
    let until = Deadline::after(PATIENCE);
    let late: Vec<_> = others
        .iter()
        .filter(|child| matches!(child.wait_until(Some(until)), Ok(None)))
        .collect();
    if !late.is_empty() {
        let names: Vec<_> = late
            .iter()
            .map(|child| format!("{} (pid {})", child.name(), child.pid()))
            .collect();
        say(format_args!(
            "mp: waiting at exit for {}; `detach()` leaves a child running",
            names.join(", ")
        ));
        for child in late {
            let _ = child.wait();
        }
    }
}
