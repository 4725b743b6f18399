//! A shared value that is initialised once, by whoever comes first.
#![allow(unsafe_code)] // a reference to shared memory that nobody writes any more

use std::{
    fmt, io,
    marker::PhantomData,
    mem::{align_of, size_of},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytemuck::Pod;
use mp_core::{
    primitive::{AtomicU32, Ordering},
    robust::LockFailure,
    shm::ShmSafe,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    cells::shape,
    error::OnceError,
    object::{DATA, Object, Words, handle, is_own_thread},
    raw::RawLock,
};

#[repr(C)]
#[derive(Debug)]
pub(crate) struct OnceWords {
    lock: RawLock,
    /// Stored once, after the value: the commit.
    ready: AtomicU32,
}

// SAFETY: `repr(C)`; a mutex and an atomic.
unsafe impl ShmSafe for OnceWords {}
// SAFETY:
// * A mutex and an atomic.
// * 52 bytes.
unsafe impl Words for OnceWords {
    const KIND: u32 = 8;
    const NAME: &'static str = "OnceValue";

    fn is_pinned(&self) -> bool {
        self.lock.owner().is_some_and(is_own_thread)
    }
}

#[derive(Clone)]
struct Inner(Arc<Object<OnceWords>>);

impl Inner {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(|object| Self(Arc::new(object)))
    }
}

handle!(Inner(OnceWords));

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
    const ALIGNED: () = assert!(
        align_of::<T>() <= DATA && DATA.is_multiple_of(align_of::<T>()),
        "the alignment of the type is larger than shared memory keeps"
    );

    /// A value that nobody has initialised.
    ///
    /// # Errors
    ///
    /// A type of zero bytes; out of memory or descriptors.
    pub fn new() -> io::Result<Self> {
        let object = Object::create(shape::<T>(1)?, |this: *mut OnceWords| {
            // SAFETY: inside `this`, which is valid for writes.
            let ready = unsafe { &raw mut (*this).ready };
            // SAFETY: valid for writes, aligned, and not shared yet.
            unsafe { ready.write(AtomicU32::new(0)) };
            // SAFETY:
            // * The lock is the first field; valid, aligned, not shared yet.
            // * It is held inside `get_or_init` only, which borrows the handle.
            unsafe { RawLock::init(this.cast()) }
        })?;
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
        let shape = inner.0.shape();
        if shape.element != size_of::<T>() || shape.count != 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the shared memory holds a value of {} bytes, not {} of {}",
                    shape.element,
                    size_of::<T>(),
                    std::any::type_name::<T>()
                ),
            ));
        }
        Ok(Self {
            inner,
            value: PhantomData,
        })
    }

    /// The value, if it has been initialised.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        let () = Self::ALIGNED;
        // Acquire: meets the Release in `get_or_init`.
        let ready = self.inner.0.words().ready.load(Ordering::Acquire) != 0;
        // SAFETY: aligned, inside the mapping that `self` keeps, valid as any bits are; once it is
        // ready nobody writes it.
        ready.then(|| unsafe { &*self.inner.0.data().cast() })
    }

    /// The value; initialised by `init` if nobody has done so yet. Who comes meanwhile waits.
    ///
    /// # Errors
    ///
    /// [`OnceError::Reentered`]: `init` itself asks for the value.
    pub fn get_or_init(&self, init: impl FnOnce() -> T) -> Result<&T, OnceError> {
        struct Unlock<'a>(&'a RawLock);
        impl Drop for Unlock<'_> {
            fn drop(&mut self) {
                // SAFETY: made after locking, and dropped in the same call.
                unsafe { self.0.unlock() };
            }
        }
        if let Some(value) = self.get() {
            return Ok(value);
        }
        let words = self.inner.0.words();
        match words.lock.lock_until(None) {
            Ok(_) => words.lock.clear_mark(), // who died before the commit has done nothing
            Err(LockFailure::Broken(error)) => return Err(OnceError::Broken(error)),
            Err(_) => return Err(OnceError::Reentered),
        }
        let unlock = Unlock(&words.lock);
        if self.get().is_none() {
            let value = init();
            // SAFETY: aligned, inside the mapping; the lock is held, and nobody reads before it is
            // ready.
            unsafe { self.inner.0.data().cast::<T>().write(value) };
            words.ready.store(1, Ordering::Release); // the commit; meets `get`
        }
        drop(unlock);
        Ok(self.get().expect("just initialised"))
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
