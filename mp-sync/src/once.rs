//! A shared value that is initialised once, by whoever comes first.
#![allow(unsafe_code)] // a reference to shared memory that nobody writes any more

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytemuck::Pod;
use mp_core::robust::LockFailure;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::OnceError,
    object::{Aligned, Object, Shape, Words, handle, is_own_thread},
    raw::RawOnce,
};

// SAFETY:
// * A mutex and an atomic.
// * 52 bytes.
unsafe impl Words for RawOnce {
    const KIND: u32 = 8;
    const NAME: &'static str = "OnceValue";

    fn is_pinned(&self) -> bool {
        self.lock().owner().is_some_and(is_own_thread)
    }
}

#[derive(Clone)]
struct Inner(Arc<Object<RawOnce>>);

impl Inner {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(|object| Self(Arc::new(object)))
    }
}

handle!(Inner(RawOnce));

impl AsFd for Inner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

/// Plain data that is computed once for all processes, by whoever comes first, and then only read.
///
/// # Process death
///
/// A process that dies while it initialises has done nothing: the next one does.
///
/// # Examples
///
/// ```
/// let table = mp_sync::OnceValue::<[u32; 4]>::new()?;
/// assert_eq!(table.get_or_init(|| [1, 2, 4, 8]).unwrap()[3], 8);
/// assert_eq!(table.get_or_init(|| unreachable!()).unwrap()[2], 4);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct OnceValue<T: Pod> {
    inner: Inner,
    value: PhantomData<T>,
}

impl<T: Pod + Sync> OnceValue<T> {
    /// A value that nobody has initialised.
    ///
    /// # Errors
    ///
    /// A type of zero bytes; out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY:
        // * `create` gives memory that is valid, aligned, and not shared yet.
        // * The lock is held inside `get_or_init` only, which borrows the handle.
        let object = Object::create(Shape::of::<T>(1)?, |this| unsafe { RawOnce::init(this) })?;
        Self::over(Inner(Arc::new(object)))
    }

    /// The value behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of such a value.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::over(Inner::from_fd(fd)?)
    }

    fn over(inner: Inner) -> io::Result<Self> {
        inner.0.shape().check_one::<T>()?;
        Ok(Self {
            inner,
            value: PhantomData,
        })
    }

    /// The value, if it has been initialised.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        let () = Aligned::<T>::CHECKED;
        let is_done = self.inner.0.words().is_done();
        // SAFETY: aligned, inside the mapping that `self` keeps, valid as any bits are; once it is
        // done nobody writes it.
        is_done.then(|| unsafe { &*self.inner.0.data().cast() })
    }

    /// The value; initialised by `init` if nobody has done so yet. Who comes meanwhile waits.
    ///
    /// # Errors
    ///
    /// [`OnceError::Reentered`]: `init` itself asks for the value.
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> Result<&T, OnceError> {
        let write = || {
            let value = init();
            // SAFETY: aligned, inside the mapping; this runs once, and nobody reads before it is
            // done.
            unsafe { self.inner.0.data().cast::<T>().write(value) };
        };
        match self.inner.0.words().call(write) {
            Ok(()) => Ok(self.get().expect("just initialised")),
            Err(LockFailure::Broken(error)) => Err(OnceError::Broken(error)),
            Err(_) => Err(OnceError::Reentered),
        }
    }
}

impl<T: Pod> Serialize for OnceValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.inner.serialize(serializer)
    }
}

impl<'de, T: Pod + Sync> Deserialize<'de> for OnceValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::over(Inner::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl<T: Pod> AsFd for OnceValue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl<T: Pod + Sync + fmt::Debug> fmt::Debug for OnceValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnceValue").field(&self.get()).finish()
    }
}
