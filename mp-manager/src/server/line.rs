//! Waiting for a turn: first come, first served, ended by a deadline or by the client's death.

use std::collections::BTreeMap;

use mp_core::{deadline::Deadline, primitive::thread};
use parking_lot::Mutex;

use crate::{protocol::Fault, referent::Caller};

/// Who waits, in the order of arrival. It lies inside the state that is waited for.
#[derive(Debug, Default)]
pub(crate) struct Line {
    next: u64,
    waiting: BTreeMap<u64, thread::Thread>,
}

impl Line {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The state has changed: the first looks again.
    pub(crate) fn wake_first(&self) {
        if let Some((_, thread)) = self.waiting.first_key_value() {
            thread.unpark();
        }
    }

    /// The state has changed: everybody looks again.
    pub(crate) fn wake_all(&self) {
        for thread in self.waiting.values() {
            thread.unpark();
        }
    }

    fn join(&mut self) -> u64 {
        let place = self.next;
        self.next += 1;
        self.waiting.insert(place, thread::current());
        place
    }

    fn is_first(&self, place: u64) -> bool {
        self.waiting
            .first_key_value()
            .is_some_and(|(first, _)| *first == place)
    }

    /// Whoever leaves lets the next one look: it may have been woken in vain.
    fn leave(&mut self, place: u64) {
        self.waiting.remove(&place);
        self.wake_first();
    }
}

/// How long a call may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    None,
    Until(Deadline),
    Endless,
}

impl Patience {
    /// From a message: nothing for ever, else so many nanoseconds from now.
    pub(crate) fn from_nanos(nanos: Option<u64>) -> Self {
        match nanos {
            _ if cfg!(fuzzing) => Self::None, // there is nobody else to wait for
            None => Self::Endless,
            Some(0) => Self::None,
            Some(nanos) => Self::Until(Deadline::after(std::time::Duration::from_nanos(nanos))),
        }
    }

    pub(crate) fn is_over(self) -> bool {
        match self {
            Self::None => true,
            Self::Until(deadline) => deadline.is_over(),
            Self::Endless => false,
        }
    }
}

/// Whether the order of arrival matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Only the first in the line may try.
    Fifo,
    /// Everybody may.
    Any,
}

/// Waits until `attempt` succeeds; `None` when the patience ended before.
///
/// # Errors
///
/// The client is gone: nobody would get the answer.
pub(crate) fn wait<T, R>(
    state: &Mutex<T>,
    line: impl Fn(&mut T) -> &mut Line,
    order: Order,
    patience: Patience,
    caller: &Caller,
    mut attempt: impl FnMut(&mut T) -> Option<R>,
) -> Result<Option<R>, Fault> {
    // A client that is gone must not be given anything: what it held has been given back already,
    // or will be by who takes the lock of the state next.
    let mut attempt = |state: &mut T| {
        if caller.is_gone() {
            None
        } else {
            attempt(state)
        }
    };
    let mut guard = state.lock();
    let turn = order == Order::Any || line(&mut guard).waiting.is_empty();
    if turn && let Some(result) = attempt(&mut guard) {
        return Ok(Some(result));
    }
    if patience.is_over() {
        return Ok(None);
    }
    let place = line(&mut guard).join();
    loop {
        drop(guard);
        // Who ends the client wakes this thread after it has said so: one of the two is seen.
        if !caller.is_gone() {
            match patience {
                Patience::Until(deadline) => thread::park_timeout(deadline.remaining()),
                Patience::None | Patience::Endless => thread::park(),
            }
        }
        guard = state.lock();
        let turn = order == Order::Any || line(&mut guard).is_first(place);
        let result = if turn { attempt(&mut guard) } else { None };
        if result.is_some() || caller.is_gone() || patience.is_over() {
            line(&mut guard).leave(place);
            return match result {
                None if caller.is_gone() => Err(gone()),
                result => Ok(result),
            };
        }
    }
}

pub(crate) fn gone() -> Fault {
    Fault::Denied("the client is gone".to_owned())
}
