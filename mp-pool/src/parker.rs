//! Threads of this process that wait for an outcome.

use std::sync::Arc;

use mp_core::deadline::Deadline;
use parking_lot::{Condvar, Mutex};

/// Where one thread sleeps; a wake-up that comes first is not lost.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Parker {
    /// That of this thread.
    pub(crate) fn current() -> Arc<Self> {
        thread_local!(static PARKER: Arc<Parker> = Arc::default());
        PARKER.try_with(Arc::clone).unwrap_or_default()
    }

    /// Sleeps until [`unpark`](Self::unpark) or `until`. May be a left-over wake-up of an earlier wait.
    pub(crate) fn park(&self, until: Option<Deadline>) {
        let mut woken = self.woken.lock();
        while !*woken {
            match until.map(Deadline::remaining) {
                None => self.wake.wait(&mut woken),
                Some(left) if left.is_zero() => return,
                Some(left) => {
                    self.wake.wait_for(&mut woken, left);
                }
            }
        }
        *woken = false;
    }

    pub(crate) fn unpark(&self) {
        *self.woken.lock() = true;
        self.wake.notify_one();
    }
}
