//! Locks, alone and between two processes.

use std::time::Instant;

use mp_bench::{Context, per_iteration};
use mp_core::{
    primitive::{AtomicU64, Ordering, spin_loop},
    testing::fork_child,
};

use crate::{
    clib::{PosixSemaphore, PthreadMutex},
    word::{self, Page},
};

/// Increments of the contended cases, shared by two processes.
const TOTAL: u64 = 1_000_000;

pub(crate) fn all(context: &Context) {
    let page = Page::new();
    let (counter, gate) = (page.word(0), page.word(1));
    let add = || counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    for robust in [false, true] {
        let name = if robust {
            "floor:pthread-robust"
        } else {
            "floor:pthread"
        };
        let mutex = PthreadMutex::new(&page, 4 + usize::from(robust), robust);
        alone(context, name, "uncontended", || {
            mutex.lock();
            mutex.unlock();
        });
        contended(context, name, "contended2", gate, || {
            mutex.lock();
            add();
            mutex.unlock();
        });
    }
    let semaphore = PosixSemaphore::new(&page, 6);
    alone(context, "floor:sem_t", "sem-uncontended", || {
        semaphore.acquire();
        semaphore.release();
    });
    contended(context, "floor:sem_t", "sem-contended2", gate, || {
        semaphore.acquire();
        add();
        semaphore.release();
    });
    let increment = || {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    alone(context, "floor:fetch_add", "value-inc", increment);
    contended(
        context,
        "floor:fetch_add",
        "value-contended2",
        gate,
        increment,
    );
    word::measure(context, "event-wake");
    word::measure(context, "condition-wake");
}

fn alone(context: &Context, name: &str, param: &str, once: impl Fn()) {
    let (ns, n) = per_iteration(context.secs(), |n| (0..n).for_each(|_| once()));
    context.report_as(name, param, "ns", ns, n, None);
}

/// Wall time per increment, with two processes that increment as fast as they can.
fn contended(context: &Context, name: &str, param: &str, gate: &AtomicU64, once: impl Fn()) {
    gate.store(0, Ordering::SeqCst);
    let children = [(); 2].map(|()| {
        fork_child(|| {
            gate.fetch_add(1, Ordering::SeqCst);
            while gate.load(Ordering::Relaxed) < 3 {
                spin_loop();
            }
            (0..TOTAL / 2).for_each(|_| once());
        })
    });
    while gate.load(Ordering::Relaxed) < 2 {
        std::thread::yield_now();
    }
    let start = Instant::now();
    gate.fetch_add(1, Ordering::SeqCst);
    for child in children {
        child.wait_success();
    }
    let ns = start.elapsed().as_nanos() as f64 / TOTAL as f64;
    context.report_as(name, param, "ns", ns, TOTAL, None);
}
