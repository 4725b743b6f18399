//! The thread on which a pool's callbacks run, one after the other.
//!
//! Started with the first callback. A panic in a callback is noted and concerns no result.

use std::{
    any::Any,
    cell::Cell,
    collections::VecDeque,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use mp_core::primitive::{AtomicU64, Ordering};
use parking_lot::{Condvar, Mutex};

use crate::{
    outcome::{Effects, Gate, panic_text},
    shared::Shared,
};

/// Callbacks of one outcome, in order of registration.
pub(crate) struct Callback {
    pub(crate) run: Vec<Box<dyn FnOnce() + Send>>,
    /// Told afterwards.
    pub(crate) then: Arc<Gate>,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callback({})", self.run.len())
    }
}

thread_local! {
    /// The pool whose callback runs on this thread.
    static CALLING: Cell<u64> = const { Cell::new(0) };
}

/// Whether this thread runs a callback of pool `id`.
pub(crate) fn is_calling(id: u64) -> bool {
    CALLING.get() == id
}

/// Whether this thread runs callbacks of some pool.
pub(crate) fn is_callback() -> bool {
    CALLING.get() != 0
}

/// What waits to be called.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    inner: Mutex<Inner>,
    wake: Condvar,
    panics: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Callback>,
    started: bool,
    /// The pool is gone: the thread ends when the queue is empty.
    ended: bool,
}

impl Callbacks {
    /// Callbacks that panicked.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed) // a statistic
    }

    /// Hands callbacks to the thread. Without one (the system refused it) they run here.
    pub(crate) fn post(&self, shared: &Arc<Shared>, callbacks: Vec<Callback>) {
        let mut inner = self.inner.lock();
        if inner.ended {
            drop(inner); // a result may outlive its pool, and be asked for a callback then
            return callbacks
                .into_iter()
                .for_each(|callback| call(shared, callback));
        }
        inner.queue.extend(callbacks);
        self.wake.notify_one();
        if inner.started {
            return;
        }
        let weak = Arc::downgrade(shared);
        let id = shared.id;
        let thread = std::thread::Builder::new()
            .name("mp-pool-callbacks".into())
            .spawn(move || run(&weak, id));
        inner.started = thread.is_ok();
        drop(inner);
        match thread {
            Ok(thread) => shared.threads.lock().push(thread),
            Err(_) => {
                while let Some(callback) = self.next(false) {
                    call(shared, callback);
                }
            }
        }
    }

    pub(crate) fn end(&self) {
        self.inner.lock().ended = true;
        self.wake.notify_all();
    }

    fn next(&self, wait: bool) -> Option<Callback> {
        let mut inner = self.inner.lock();
        loop {
            let callback = inner.queue.pop_front();
            if callback.is_some() || inner.ended || !wait {
                return callback;
            }
            self.wake.wait(&mut inner);
        }
    }
}

fn run(shared: &Weak<Shared>, id: u64) {
    CALLING.set(id);
    while let Some(shared) = shared.upgrade() {
        match shared.callbacks.next(true) {
            Some(callback) => call(&shared, callback),
            None => break,
        }
    }
}

pub(crate) fn report_panic(panic: &(dyn Any + Send)) {
    let message = panic_text(panic);
    tracing::error!(message, "a callback of a pool panicked");
}

fn call(shared: &Arc<Shared>, callback: Callback) {
    for run in callback.run {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            shared.callbacks.panics.fetch_add(1, Ordering::Relaxed); // a statistic
            report_panic(&*panic);
        }
    }
    let mut effects = Effects::default();
    callback.then.called(&mut effects);
    shared.carry_out(effects);
}
