//! One word per end that says: somebody here has been overtaken for too long.

use mp_core::{
    deadline::Deadline,
    futex,
    primitive::{AtomicU32, Ordering},
};

/// Zero, or when one who waits at this end declared itself hungry.
///
/// A hint and never the truth: whatever it holds, an operation steps aside once at most, and not for
/// long. All accesses are Relaxed, since nothing else is read on the strength of it; that no wake-up
/// is lost is due to the comparison that the kernel makes before a sleep.
#[derive(Clone, Copy, Debug)]
pub struct Hunger<'a>(pub &'a AtomicU32);

impl Hunger<'_> {
    /// When somebody declared itself hungry, or zero.
    #[inline]
    #[must_use]
    pub fn declared(self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Declares hunger (or, with zero, none), if `declared` still stands; whether it did.
    pub fn declare(self, declared: u32, stamp: u32) -> bool {
        let order = Ordering::Relaxed;
        let result = self.0.compare_exchange(declared, stamp, order, order);
        result.is_ok()
    }

    /// Ends what was declared, and lets those go on who stepped aside.
    pub fn end(self, declared: u32) {
        if self.declare(declared, 0) {
            futex::wake_all(self.0);
        }
    }

    /// Sleeps while `declared` stands, until `until` at most.
    pub fn step_aside(self, declared: u32, until: Deadline) {
        let _ = futex::wait(self.0, declared, Some(until));
    }
}
