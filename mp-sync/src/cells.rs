//! Elements of plain data in shared memory, and the lock that guards them.
#![allow(unsafe_code)] // typed access to shared memory

use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    slice,
    sync::Arc,
};

use bytemuck::Pod;
use mp_core::shm::ShmSafe;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    error::TryLockError,
    lock::{Lock, owner},
    object::{Aligned, Object, Shape, Words, handle},
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
pub(crate) struct Separate(pub(crate) Arc<Object<Apart>>);

impl Separate {
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
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
pub(crate) struct Cells<T> {
    pub(crate) lock: Lock,
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
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        Ok(Self {
            lock: Lock::with_data(Shape::of::<T>(len)?)?,
            separate: None,
            elements: PhantomData,
        })
    }

    pub(crate) fn zeroed_with(len: usize, lock: &Lock) -> io::Result<Self> {
        let object = Object::create(Shape::of::<T>(len)?, |_| Ok(()))?;
        Ok(Self {
            lock: lock.clone(),
            separate: Some(Separate(Arc::new(object))),
            elements: PhantomData,
        })
    }

    pub(crate) fn copied_from(self, values: &[T]) -> Self {
        // SAFETY: the memory is new: no other process or thread has it yet.
        unsafe { slice::from_raw_parts_mut(self.as_ptr(), self.len()) }.copy_from_slice(values);
        self
    }

    pub(crate) fn from_parts(lock: Lock, separate: Option<Separate>) -> io::Result<Self> {
        let cells = Self {
            lock,
            separate,
            elements: PhantomData,
        };
        cells.shape().check::<T>()?;
        Ok(cells)
    }

    pub(crate) fn shape(&self) -> Shape {
        match &self.separate {
            None => self.lock.0.shape(),
            Some(separate) => separate.0.shape(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shape().count
    }

    pub(crate) fn as_ptr(&self) -> *mut T {
        let () = Aligned::<T>::CHECKED;
        match &self.separate {
            None => self.lock.0.data().cast(),
            Some(separate) => separate.0.data().cast(),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.separate {
            None => self.lock.as_fd(),
            Some(separate) => separate.as_fd(),
        }
    }

    pub(crate) fn debug(
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
