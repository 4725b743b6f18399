//! Plain data in shared memory without a lock: atomics, and copies in and out.
#![allow(unsafe_code)] // typed access to memory that others write at any time

use std::{
    fmt, io,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    slice,
    sync::Arc,
};

use bytemuck::Pod;
use mp_core::{primitive as atomic, shm::ShmSafe, transfer};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    object::{Aligned, Object, Shape, Words},
    shared_copy,
};

/// Data without a lock: of another kind than what a guard hands out as plain references.
#[repr(C)]
#[derive(Debug)]
struct Unlocked;

// SAFETY: nothing at all.
unsafe impl ShmSafe for Unlocked {}
// SAFETY:
// * Nothing at all.
// * 0 bytes.
unsafe impl Words for Unlocked {
    const KIND: u32 = 9;
    const NAME: &'static str = "RawArray";
}

/// Integers that shared memory can change in one step.
///
/// Not to be implemented elsewhere.
pub trait Integer: Pod + sealed::Sealed {
    /// The atomic of the same size.
    type Atomic: Sync;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! integers {
    ($($integer:ty => $atomic:ident),*) => {$(
        impl sealed::Sealed for $integer {}
        impl Integer for $integer {
            type Atomic = atomic::$atomic;
        }
    )*};
}

integers!(
    u8 => AtomicU8, u16 => AtomicU16, u32 => AtomicU32, u64 => AtomicU64, usize => AtomicUsize,
    i8 => AtomicI8, i16 => AtomicI16, i32 => AtomicI32, i64 => AtomicI64
);

/// Elements of plain data without a lock, shared by processes and threads.
///
/// Of integers, it is a slice of atomics: `counts[3].fetch_add(1, Ordering::Relaxed)`. Anything else
/// is copied in and out; a copy that meets another's write may be half of each.
///
/// # Process death
///
/// A writer that dies leaves what it had written. Nobody is told.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::Ordering;
///
/// let counts = mp_sync::RawArray::<u64>::zeroed(4)?;
/// counts[3].fetch_add(5, Ordering::Relaxed);
/// assert_eq!(counts.to_vec(), [0, 0, 0, 5]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.RawArray")]
#[derive(Clone)]
pub struct RawArray<T: Pod> {
    data: Arc<Object<Unlocked>>,
    elements: PhantomData<T>,
}

impl<T: Pod> RawArray<T> {
    /// `len` elements of zero bytes.
    ///
    /// # Errors
    ///
    /// No elements, or more than memory or `RLIMIT_FSIZE` allow; out of descriptors.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let object = Object::create(Shape::of::<T>(len)?, |_| Ok(()))?;
        Ok(Self {
            data: Arc::new(object),
            elements: PhantomData,
        })
    }

    /// A copy of `values`.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(values: &[T]) -> io::Result<Self> {
        let array = Self::zeroed(values.len())?;
        array.write(0, values);
        Ok(array)
    }

    /// The array behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of an array of such elements.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let object = Object::attach(fd)?;
        object.shape().check::<T>()?;
        Ok(Self {
            data: Arc::new(object),
            elements: PhantomData,
        })
    }

    /// How many elements there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.data.shape().count
    }

    /// Copies the elements from `start` on into `out`.
    ///
    /// # Panics
    ///
    /// When the range goes beyond the end, as with a slice.
    pub fn read(&self, start: usize, out: &mut [T]) {
        let from = self.range(start, out.len());
        // SAFETY:
        // * `range` has checked that the source lies in the mapping.
        // * `out` is ours alone, and takes any bytes, as `T` is `Pod`.
        unsafe { shared_copy::read(from, out.as_mut_ptr().cast(), size_of_val(out)) };
    }

    /// Copies `values` to the elements from `start` on.
    ///
    /// # Panics
    ///
    /// When the range goes beyond the end, as with a slice.
    pub fn write(&self, start: usize, values: &[T]) {
        let to = self.range(start, values.len());
        // SAFETY: as in `read`, the other way round.
        unsafe { shared_copy::write(values.as_ptr().cast(), to, size_of_val(values)) };
    }

    /// A copy of element `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        if index >= self.len() {
            return None;
        }
        let mut out = MaybeUninit::<T>::zeroed();
        // SAFETY: zeros are a valid value of a `Pod`, and it is initialised with them.
        self.read(index, slice::from_mut(unsafe { out.assume_init_mut() }));
        // SAFETY: as above.
        Some(unsafe { out.assume_init() })
    }

    /// A copy of all elements.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        let mut out = vec![T::zeroed(); self.len()];
        self.read(0, &mut out);
        out
    }

    /// Where the elements lie in this process.
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        let () = Aligned::<T>::CHECKED;
        self.data.data().cast()
    }

    fn range(&self, start: usize, len: usize) -> *mut u8 {
        let end = start.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len()),
            "{len} elements from {start} on are beyond the end of {}",
            self.len()
        );
        self.as_ptr().wrapping_add(start).cast()
    }
}

impl<T: Integer> Deref for RawArray<T> {
    type Target = [T::Atomic];

    fn deref(&self) -> &[T::Atomic] {
        // SAFETY: an atomic is laid out like its integer; aligned, inside the mapping that `self`
        // keeps, and accessed only by atomic operations and by copies made of such.
        unsafe { slice::from_raw_parts(self.as_ptr().cast(), self.len()) }
    }
}

impl<T: Pod> Serialize for RawArray<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd(Unlocked::NAME, self.as_fd(), serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for RawArray<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fd = transfer::deserialize_fd(Unlocked::NAME, deserializer)?;
        Self::from_fd(fd).map_err(de::Error::custom)
    }
}

impl<T: Pod> AsFd for RawArray<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.data.fd()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawArray").field(&self.to_vec()).finish()
    }
}

/// One value of plain data without a lock, shared by processes and threads.
///
/// Of an integer, it is an atomic: `count.fetch_add(1, Ordering::Relaxed)`. Anything else is copied
/// in and out; a copy that meets another's write may be half of each.
///
/// # Process death
///
/// A writer that dies leaves what it had written. Nobody is told.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::Ordering;
///
/// let count = mp_sync::RawValue::new(1_u64)?;
/// assert_eq!(count.fetch_add(1, Ordering::Relaxed), 1);
/// assert_eq!(count.get(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.RawValue")]
#[derive(Clone)]
pub struct RawValue<T: Pod>(RawArray<T>);

impl<T: Pod> RawValue<T> {
    /// A shared copy of `value`.
    ///
    /// # Errors
    ///
    /// A type of zero bytes; out of memory or descriptors.
    pub fn new(value: T) -> io::Result<Self> {
        RawArray::from_slice(&[value]).map(Self)
    }

    /// The value behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of such a value.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        RawArray::from_fd(fd).map(Self)
    }

    /// A copy of the value.
    #[must_use]
    pub fn get(&self) -> T {
        self.0.get(0).expect("never empty")
    }

    /// Puts another value in its place.
    pub fn set(&self, value: T) {
        self.0.write(0, &[value]);
    }

    /// Where the value lies in this process.
    #[must_use]
    pub fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Integer> Deref for RawValue<T> {
    type Target = T::Atomic;

    #[inline]
    fn deref(&self) -> &T::Atomic {
        // SAFETY: as for `RawArray`, which is never empty.
        unsafe { &*self.as_ptr().cast() }
    }
}

impl<T: Pod> Serialize for RawValue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for RawValue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawArray::deserialize(deserializer).map(Self)
    }
}

impl<T: Pod> AsFd for RawValue<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawValue").field(&self.get()).finish()
    }
}
