//! What makes a listener readable though no socket of it is.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use mp_core::{deadline::Deadline, fd};
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};

/// Readable from an instant on.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    at: Option<Deadline>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
        Ok(Self {
            timer: timer.map_err(|errno| fd::explain(errno.into()))?,
            at: None,
        })
    }

    /// Rings at `at` instead of when it would have, or not at all.
    pub(super) fn set(&mut self, at: Option<Deadline>) {
        if at == self.at {
            return;
        }
        let Some(instant) = at else {
            return self.silence();
        };
        let instant = Expiration::OneShot(TimeSpec::from(instant.as_timespec()));
        let set = self
            .timer
            .set(instant, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        self.at = at.filter(|_| set.is_ok());
    }

    /// Rings no more.
    pub(super) fn silence(&mut self) {
        let _ = self.timer.unset(); // nothing in it can fail
        self.at = None;
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
