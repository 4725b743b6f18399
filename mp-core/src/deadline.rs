//! One absolute instant of the monotonic clock, for every wait that has a timeout.

use std::time::Duration;

use nix::{
    libc,
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};

/// An instant of `CLOCK_MONOTONIC`, the same in every process of the machine.
///
/// A timeout is turned into a deadline once, at the edge of the API; everything below it, however
/// often it wakes, sleeps until the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Duration);

impl Deadline {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
        Self(Duration::from(now))
    }

    /// `timeout` from now; a timeout too long for the clock ends centuries from now.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        /// What the kernel's 64-bit nanoseconds still hold.
        const FAR: Duration = Duration::from_secs(1 << 33);
        Self(Self::now().0.saturating_add(timeout).min(FAR))
    }

    /// The deadline of an optional timeout; `None` waits forever.
    #[must_use]
    pub fn from_timeout(timeout: Option<Duration>) -> Option<Self> {
        timeout.map(Self::after)
    }

    /// What is left until then; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// Whether it has passed.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.0 <= Self::now().0
    }

    /// For system calls that take an absolute `CLOCK_MONOTONIC` time.
    #[must_use]
    pub fn as_timespec(self) -> libc::timespec {
        *TimeSpec::from(self.0).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_timeouts_do_not_overflow() {
        let far = Deadline::after(Duration::MAX);
        assert!(!far.is_over());
        assert!(far.remaining() > Duration::from_secs(3600 * 24 * 365));
    }

    #[test]
    fn a_deadline_passes_and_then_nothing_remains() {
        let now = Deadline::after(Duration::ZERO);
        assert!(now.is_over());
        assert_eq!(now.remaining(), Duration::ZERO);
        assert!(Deadline::after(Duration::from_secs(60)) > now);
    }
}
