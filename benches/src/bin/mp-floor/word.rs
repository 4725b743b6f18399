//! A word in shared memory, and a sleeper on it.
#![allow(unsafe_code)] // words in a mapping

use std::time::Duration;

use mp_bench::{Context, median, monotonic_ns};
use mp_core::{
    futex,
    primitive::{AtomicU32, AtomicU64, Ordering},
    shm::Mapping,
    testing::fork_child,
};

/// A page that forked children share.
pub(crate) struct Page(Mapping);

impl Page {
    pub(crate) fn new() -> Self {
        Self(Mapping::create("mp-floor", 4096, 4096).expect("a page"))
    }

    /// The 64-bit word number `index`, alone in its cache line.
    pub(crate) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < 4096 / 128);
        // SAFETY: inside the page, aligned, and only ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.at(index).cast()) }
    }

    /// Where a lock of the C library can lie.
    pub(crate) fn at(&self, index: usize) -> *mut u8 {
        self.0.as_ptr().wrapping_add(index * 128)
    }
}

/// From before the wake until after the sleep, with the sleeper asleep for 300 µs.
pub(crate) fn wake(context: &Context) {
    measure(context, "wake");
}

pub(crate) fn measure(context: &Context, param: &str) {
    const ROUNDS: u64 = 400;
    let page = Page::new();
    let (sent, delay) = (page.word(0), page.word(1));
    let (event, done): (&AtomicU32, &AtomicU32) =
        (futex::low_half(page.word(2)), futex::low_half(page.word(3)));
    let child = fork_child(|| {
        for round in 0..ROUNDS as u32 {
            while event.load(Ordering::Acquire) == round {
                futex::wait(event, round, None);
            }
            delay.store(
                monotonic_ns() - sent.load(Ordering::Relaxed),
                Ordering::Relaxed,
            );
            done.store(round + 1, Ordering::Release);
            futex::wake(done, 1);
        }
    });
    let mut times: Vec<f64> = (0..ROUNDS as u32)
        .map(|round| {
            std::thread::sleep(Duration::from_micros(300));
            sent.store(monotonic_ns(), Ordering::Relaxed);
            event.store(round + 1, Ordering::Release);
            futex::wake(event, 1);
            while done.load(Ordering::Acquire) == round {
                futex::wait(done, round, None);
            }
            delay.load(Ordering::Relaxed) as f64 / 1e3
        })
        .collect();
    child.wait_success();
    context.report_as("floor:futex", param, "us", median(&mut times), ROUNDS, None);
}
