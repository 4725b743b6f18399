//! Signals that interrupt whatever a thread is doing.
#![allow(unsafe_code)] // a signal handler, and signals to single threads

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    libc,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::gettid,
};

use super::procfs::{self, WATCHDOG};

/// While it lives, each thread of this process gets a signal every so often whose handler does
/// nothing and does not restart calls: what can be interrupted, is.
///
/// Nobody above a system call may notice. `SIGURG` is taken for it, which nobody is harmed by who
/// does not expect it.
///
/// ```
/// use std::{thread, time::Duration};
/// use mp_core::testing::SignalStorm;
///
/// let _storm = SignalStorm::every(Duration::from_millis(1));
/// thread::sleep(Duration::from_millis(5)); // std goes on after EINTR, and so does mp
/// ```
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct SignalStorm {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SignalStorm {
    /// Starts a thread that sends the signals.
    pub fn every(interval: Duration) -> SignalStorm {
        interrupt_by(Signal::SIGURG);
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                interrupt_all();
            }
        });
        SignalStorm {
            end: Some(end),
            thread: Some(thread),
        }
    }
}

/// Makes `signal` interrupt calls, and do nothing else.
pub(super) fn interrupt_by(signal: Signal) {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(), // above all not SA_RESTART
        SigSet::empty(),
    );
    // SAFETY:
    // * The handler does nothing, which is async-signal-safe.
    unsafe { sigaction(signal, &action) }.expect("the signal can be handled");
}

/// Signals every thread but this one and the watchdog.
fn interrupt_all() {
    let own = gettid().as_raw();
    for thread in procfs::threads(procfs::own_pid()) {
        if thread.pid != own && thread.comm != WATCHDOG {
            // SAFETY:
            // * It touches no memory; if the thread is gone meanwhile, it is an error that harms nobody.
            unsafe {
                libc::syscall(
                    libc::SYS_tgkill,
                    procfs::own_pid(),
                    thread.pid,
                    libc::SIGURG,
                )
            };
        }
    }
}

impl Drop for SignalStorm {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic
        }
    }
}
