//! Plain data in shared memory, with its lock.
#![allow(unsafe_code)] // references to shared memory, for as long as its lock is held

use std::{
    fmt, io,
    marker::PhantomData,
    mem::{align_of, size_of},
    ops::{Deref, DerefMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    slice,
    sync::Arc,
    time::Duration,
};

use bytemuck::Pod;
use mp_core::{deadline::Deadline, shm::ShmSafe};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::{LockError, TryLockError},
    lock::{Guard, Lock, Unproven, locked, owner, sealed, try_locked},
    object::{DATA, Object, Shape, Words, handle},
    raw::RawLock,
};

/// Data whose lock lies elsewhere.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Apart;

// SAFETY: nothing at all.
unsafe impl ShmSafe for Apart {}
// SAFETY:
// * Nothing at all.
// * 0 bytes.
unsafe impl Words for Apart {
    const KIND: u32 = 4;
    const NAME: &'static str = "shared data";
}

#[derive(Clone)]
struct Separate(Arc<Object<Apart>>);

impl Separate {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).map(|object| Self(Arc::new(object)))
    }
}

handle!(Separate(Apart));

impl AsFd for Separate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

/// Elements of `T` and the lock that guards them: what [`Value`] and [`Array`] are made of.
struct Cells<T> {
    lock: Lock,
    /// The data, if it is not behind the lock.
    separate: Option<Separate>,
    elements: PhantomData<T>,
}

impl<T> Clone for Cells<T> {
    fn clone(&self) -> Self {
        Self {
            lock: self.lock.clone(),
            separate: self.separate.clone(),
            elements: PhantomData,
        }
    }
}

impl<T: Pod> Cells<T> {
    /// `data` begins a line of 64 bytes in a page; nothing is aligned more strictly than that.
    const ALIGNED: () = assert!(
        align_of::<T>() <= DATA && DATA.is_multiple_of(align_of::<T>()),
        "the alignment of the type is larger than shared memory keeps"
    );

    fn zeroed(len: usize) -> io::Result<Self> {
        Ok(Self {
            lock: Lock::with_data(shape::<T>(len)?)?,
            separate: None,
            elements: PhantomData,
        })
    }

    fn zeroed_with(len: usize, lock: &Lock) -> io::Result<Self> {
        let object = Object::create(shape::<T>(len)?, |_| Ok(()))?;
        Ok(Self {
            lock: lock.clone(),
            separate: Some(Separate(Arc::new(object))),
            elements: PhantomData,
        })
    }

    fn copied_from(self, values: &[T]) -> Self {
        // SAFETY: the memory is new: no other process or thread has it yet.
        unsafe { slice::from_raw_parts_mut(self.as_ptr(), self.len()) }.copy_from_slice(values);
        self
    }

    fn from_parts(lock: Lock, separate: Option<Separate>) -> io::Result<Self> {
        let cells = Self {
            lock,
            separate,
            elements: PhantomData,
        };
        let found = cells.shape().element;
        if found != size_of::<T>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the shared memory holds elements of {found} bytes, not {} of {}",
                    size_of::<T>(),
                    std::any::type_name::<T>()
                ),
            ));
        }
        Ok(cells)
    }

    fn shape(&self) -> Shape {
        match &self.separate {
            None => self.lock.0.shape(),
            Some(separate) => separate.0.shape(),
        }
    }

    fn len(&self) -> usize {
        self.shape().count
    }

    fn as_ptr(&self) -> *mut T {
        let () = Self::ALIGNED;
        match &self.separate {
            None => self.lock.0.data().cast(),
            Some(separate) => separate.0.data().cast(),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.separate {
            None => self.lock.as_fd(),
            Some(separate) => separate.as_fd(),
        }
    }

    fn debug(
        &self,
        name: &str,
        f: &mut fmt::Formatter<'_>,
        data: &dyn Fn(&[T]) -> String,
    ) -> fmt::Result {
        let mut state = f.debug_struct(name);
        // Taken for a moment only, and never waited for.
        match self.lock.try_lock() {
            Ok(_guard) => {
                // SAFETY: under the lock.
                let elements = unsafe { slice::from_raw_parts(self.as_ptr(), self.len()) };
                state.field("data", &format_args!("{}", data(elements)));
            }
            Err(TryLockError::OwnerDied(_)) => {
                state.field("data", &format_args!("<owner died>"));
            }
            Err(_) => {
                state.field("data", &format_args!("<locked>"));
            }
        }
        state.field("owner", &owner(self.lock.raw())).finish()
    }
}

fn shape<T>(len: usize) -> io::Result<Shape> {
    if len == 0 || size_of::<T>() == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "shared data of zero bytes: {len} of {}",
                std::any::type_name::<T>()
            ),
        ));
    }
    Ok(Shape {
        element: size_of::<T>(),
        count: len,
    })
}

/// What travels: the lock, and the data if it is elsewhere.
#[derive(Serialize, Deserialize)]
struct Wire {
    lock: Lock,
    separate: Option<Separate>,
}

impl<T: Pod> Serialize for Cells<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = Wire {
            lock: self.lock.clone(),
            separate: self.separate.clone(),
        };
        wire.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Cells<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        Self::from_parts(wire.lock, wire.separate).map_err(de::Error::custom)
    }
}

/// One value of plain data, shared by processes and threads, with its lock.
///
/// `T` is any [`bytemuck::Pod`]: integers, floats, arrays of them, and structs that derive it. For
/// integers that are only counted, [`RawValue`](crate::Value) is faster: it has no lock.
///
/// # Process death
///
/// As with [`Lock`]: the next [`lock`](Self::lock) is told that the owner died, and sees the value
/// as the dead left it.
///
/// # Examples
///
/// ```
/// let balance = mp_sync::Value::new(10_i64)?;
/// *balance.lock().unwrap() += 5;
/// assert_eq!(balance.get().unwrap(), 15);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.Value")]
#[derive(Clone)]
pub struct Value<T: Pod>(Cells<T>);

impl<T: Pod> Serialize for Value<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let cells = Cells::deserialize(deserializer)?;
        one(cells.len()).map_err(de::Error::custom)?;
        Ok(Self(cells))
    }
}

impl<T: Pod> Value<T> {
    /// A value with a lock of its own.
    ///
    /// # Errors
    ///
    /// A type of zero bytes; out of memory or descriptors.
    pub fn new(value: T) -> io::Result<Self> {
        Ok(Self(Cells::zeroed(1)?.copied_from(&[value])))
    }

    /// A value that `lock` guards, maybe among others.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_lock(value: T, lock: &Lock) -> io::Result<Self> {
        Ok(Self(Cells::zeroed_with(1, lock)?.copied_from(&[value])))
    }

    /// The value behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a value of this size with a lock of its own.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let cells = Cells::from_parts(Lock::from_fd(fd)?, None)?;
        one(cells.len())?;
        Ok(Self(cells))
    }

    /// Waits for the lock; the guard is the value.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock`].
    #[inline]
    pub fn lock(&self) -> Result<ValueGuard<'_, T>, LockError<ValueGuard<'_, T>>> {
        locked(self.0.lock.raw().lock_until(None), ValueGuard::new(&self.0))
    }

    /// Takes the lock if it is free; the guard is the value.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_lock`].
    #[inline]
    pub fn try_lock(&self) -> Result<ValueGuard<'_, T>, TryLockError<ValueGuard<'_, T>>> {
        try_locked(self.0.lock.raw().try_lock(), ValueGuard::new(&self.0))
    }

    /// Waits for the lock, at most `timeout`; the guard is the value.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock_timeout`].
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ValueGuard<'_, T>, TryLockError<ValueGuard<'_, T>>> {
        let until = Some(Deadline::after(timeout));
        try_locked(
            self.0.lock.raw().lock_until(until),
            ValueGuard::new(&self.0),
        )
    }

    /// A copy of the value.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn get(&self) -> Result<T, LockError<ValueGuard<'_, T>>> {
        self.lock().map(|value| *value)
    }

    /// Puts another value in its place, and returns the one before.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    #[doc(alias = "set")]
    pub fn replace(&self, value: T) -> Result<T, LockError<ValueGuard<'_, T>>> {
        self.lock()
            .map(|mut guard| std::mem::replace(&mut *guard, value))
    }

    /// The lock, to hold it over more than this value or to share it.
    #[must_use]
    pub fn get_lock(&self) -> &Lock {
        &self.0.lock
    }

    /// Where the value lies in this process, for code that has its own way of excluding others.
    #[doc(alias = "get_obj")]
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

fn one(count: usize) -> io::Result<()> {
    match count {
        1 => Ok(()),
        count => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the shared memory holds {count} elements: not a Value"),
        )),
    }
}

impl<T: Pod> AsFd for Value<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug("Value", f, &|data| format!("{:?}", data[0]))
    }
}

/// A [`Value`], locked; dropping it unlocks.
#[must_use = "dropped at once, it unlocks at once"]
pub struct ValueGuard<'a, T: Pod> {
    cells: &'a Cells<T>,
    /// Only the thread that locked may unlock.
    not_send: PhantomData<*const ()>,
}

impl<'a, T: Pod> ValueGuard<'a, T> {
    #[inline]
    fn new(cells: &'a Cells<T>) -> Unproven<Self> {
        Unproven::new(Self {
            cells,
            not_send: PhantomData,
        })
    }
}

impl<T: Pod> Deref for ValueGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: aligned, inside the mapping, valid as any bits are; the lock is held, so nobody
        // else writes.
        unsafe { &*self.cells.as_ptr() }
    }
}

impl<T: Pod> DerefMut for ValueGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; nobody else reads either.
        unsafe { &mut *self.cells.as_ptr() }
    }
}

impl<T: Pod> Guard for ValueGuard<'_, T> {}

impl<T: Pod> sealed::Sealed for ValueGuard<'_, T> {
    fn raw(&self) -> &RawLock {
        self.cells.lock.raw()
    }
}

impl<T: Pod> Drop for ValueGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a guard is made by locking, and cannot leave its thread.
        unsafe { self.cells.lock.raw().unlock() };
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ValueGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
