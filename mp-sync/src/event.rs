//! Something has happened, for all processes to see.
#![allow(unsafe_code)] // says that a word may be shared

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{deadline::Deadline, shm::ShmSafe};

use crate::{
    object::{Object, Shape, Words, handle},
    raw::RawEvent,
};

// SAFETY: `repr(C)`, one atomic integer.
unsafe impl ShmSafe for RawEvent {}
// SAFETY:
// * One atomic integer.
// * 4 bytes.
unsafe impl Words for RawEvent {
    const KIND: u32 = 2;
    const NAME: &'static str = "Event";
}

/// A flag that processes and threads wait for.
///
/// [`set`](Self::set) may be called in a signal handler.
///
/// # Process death
///
/// Nothing to repair: whether it happened is one word. Who waits is not counted.
///
/// # Examples
///
/// ```
/// let done = mp_sync::Event::new()?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| done.wait());
///     done.set();
/// });
/// assert!(done.is_set());
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.Event")]
#[derive(Clone)]
pub struct Event(Arc<Object<RawEvent>>);

impl Event {
    /// An event that has not happened.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        let object = Object::create(Shape::NONE, |this: *mut RawEvent| {
            // SAFETY: valid for writes, aligned, and not shared yet.
            unsafe { this.write(RawEvent::new()) };
            Ok(())
        })?;
        Ok(Self(Arc::new(object)))
    }

    /// The event behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of an event.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(|object| Self(Arc::new(object)))
    }

    /// Whether it has happened.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.words().is_set()
    }

    /// It has happened: everybody who waits goes on.
    pub fn set(&self) {
        self.0.words().set();
    }

    /// It has not happened, or is to happen again.
    pub fn clear(&self) {
        self.0.words().clear();
    }

    /// Waits until it has happened.
    ///
    /// A [`set`](Self::set) that is cleared again at once still ends the waits begun before it.
    #[inline]
    pub fn wait(&self) {
        self.0.words().wait(None);
    }

    /// Waits until it has happened, at most `timeout`; whether it has.
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.is_set() || self.0.words().wait(Some(Deadline::after(timeout)))
    }
}

handle!(Event(RawEvent));

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("set", &self.is_set())
            .finish()
    }
}
