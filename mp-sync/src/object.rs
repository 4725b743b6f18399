//! A mapping that holds one object: a header that says what it is, then its words, then its data.
#![allow(unsafe_code)] // typed access to memory that other processes map

use std::{
    any::type_name,
    fmt, io,
    marker::PhantomData,
    mem::{align_of, size_of},
    os::fd::{BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
};

use mp_core::shm::{Mapping, ShmSafe};

/// The words of one kind of object.
///
/// # Safety
///
/// * All of it is atomics, or guarded by what is: a shared reference to it is sound while other
///   processes use it.
/// * At most [`ROOM`] bytes, or no data follows it.
pub(crate) unsafe trait Words: ShmSafe + 'static {
    /// Written into the header, so that a descriptor of another object is refused.
    const KIND: u32;
    /// What users call it.
    const NAME: &'static str;

    /// Whether this process must keep the memory mapped, though no handle is left.
    fn is_pinned(&self) -> bool {
        false
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    magic: u64,
    kind: u32,
    /// Size of one element of the data.
    element: u32,
    /// How many elements there are.
    count: u64,
}

const MAGIC: u64 = u64::from_le_bytes(*b"mp-sync1");
const WORDS: usize = 64; // the header has the first line
const ROOM: usize = 64; // what words have before their data
/// Where the data begins: a line of its own, so that who works on it does not disturb who waits.
const DATA: usize = WORDS + ROOM;

/// The shape of the data behind an object's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) element: usize,
    pub(crate) count: usize,
}

impl Shape {
    pub(crate) const NONE: Self = Self {
        element: 0,
        count: 0,
    };

    /// That of `len` elements of `T`.
    ///
    /// # Errors
    ///
    /// Zero bytes.
    pub(crate) fn of<T>(len: usize) -> io::Result<Self> {
        if len == 0 || size_of::<T>() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("shared data of zero bytes: {len} of {}", type_name::<T>()),
            ));
        }
        Ok(Self {
            element: size_of::<T>(),
            count: len,
        })
    }

    /// Whether it is that of elements of `T`, in memory that another process has made.
    pub(crate) fn check<T>(self) -> io::Result<()> {
        if self.element == size_of::<T>() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the shared memory holds elements of {} bytes, not {} of {}",
                self.element,
                size_of::<T>(),
                type_name::<T>()
            ),
        ))
    }

    /// As [`check`](Self::check), of a single one.
    pub(crate) fn check_one<T>(self) -> io::Result<()> {
        self.check::<T>()?;
        match self.count {
            1 => Ok(()),
            count => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the shared memory holds {count} elements, not a single one"),
            )),
        }
    }

    fn len(self) -> Option<usize> {
        self.element.checked_mul(self.count)
    }
}

/// Data begins a line of 64 bytes in a page: a type that is aligned more strictly does not compile.
pub(crate) struct Aligned<T>(PhantomData<T>);

impl<T> Aligned<T> {
    pub(crate) const CHECKED: () = assert!(
        align_of::<T>() <= DATA && DATA.is_multiple_of(align_of::<T>()),
        "the alignment of the type is larger than shared memory keeps"
    );
}

/// One object in a mapping of its own.
pub(crate) struct Object<W: Words> {
    words: NonNull<W>,
    shape: Shape,
    mapping: Arc<Mapping>,
    owns: PhantomData<W>,
}

// SAFETY: atomics and guarded data in shared memory; `Words` is sound to share.
unsafe impl<W: Words> Send for Object<W> {}
// SAFETY: as above.
unsafe impl<W: Words> Sync for Object<W> {}

impl<W: Words> Object<W> {
    /// Makes one, with zeroed data of `shape`; `init` makes the words.
    pub(crate) fn create(
        shape: Shape,
        init: impl FnOnce(*mut W) -> io::Result<()>,
    ) -> io::Result<Self> {
        let len = shape
            .len()
            .and_then(|data| data.checked_add(DATA.max(WORDS + size_of::<W>())))
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!(
                        "{} elements of {} bytes are more than can be addressed",
                        shape.count, shape.element
                    ),
                )
            })?;
        let mapping = Mapping::create(W::NAME, len, len)?;
        let header = Header {
            magic: MAGIC,
            kind: W::KIND,
            element: u32::try_from(shape.element).map_err(io::Error::other)?,
            count: shape.count as u64,
        };
        // SAFETY: a page, aligned, that nobody else maps yet.
        unsafe { mapping.as_ptr().cast::<Header>().write(header) };
        let object = Self::over(mapping, shape);
        init(object.words.as_ptr())?;
        Ok(object)
    }

    /// Maps the one that another process made.
    pub(crate) fn attach(fd: OwnedFd) -> io::Result<Self> {
        let mapping = Mapping::attach(fd)?;
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if mapping.len() < DATA.max(WORDS + size_of::<W>()) {
            return refuse(format!("too small to be a {}", W::NAME));
        }
        // SAFETY: inside the mapping and aligned; plain integers, of which any value is valid.
        let header = unsafe { mapping.as_ptr().cast::<Header>().read_volatile() };
        let shape = Shape {
            element: header.element as usize,
            count: usize::try_from(header.count).unwrap_or(usize::MAX),
        };
        if header.magic != MAGIC || header.kind != W::KIND {
            return refuse(format!("the descriptor is not that of a {}", W::NAME));
        }
        match shape.len() {
            Some(len) if len <= mapping.len() - DATA => Ok(Self::over(mapping, shape)),
            _ => refuse(format!("the data of a {} is cut off", W::NAME)),
        }
    }

    fn over(mapping: Mapping, shape: Shape) -> Self {
        let words = mapping.as_ptr().wrapping_add(WORDS).cast::<W>();
        Self {
            words: NonNull::new(words).expect("a mapping is nowhere near null"),
            shape,
            mapping: Arc::new(mapping),
            owns: PhantomData,
        }
    }

    pub(crate) fn words(&self) -> &W {
        // SAFETY: initialised by `create`, aligned to 64 bytes, inside the mapping that `self`
        // keeps; `Words` is sound to share.
        unsafe { self.words.as_ref() }
    }

    /// The shape as it was when this handle was made: what the memory says later is not believed.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The first byte behind the words, [`Shape::len`] of them.
    pub(crate) fn data(&self) -> *mut u8 {
        self.mapping.as_ptr().wrapping_add(DATA)
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.mapping.fd()
    }
}

impl<W: Words> Drop for Object<W> {
    fn drop(&mut self) {
        if self.words().is_pinned() {
            std::mem::forget(self.mapping.clone());
        }
    }
}

impl<W: Words> fmt::Debug for Object<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(W::NAME).field("shape", &self.shape).finish()
    }
}

/// Whether `tid` is a thread of this process.
pub(crate) fn is_own_thread(tid: u32) -> bool {
    use nix::libc;
    let (pid, tid) = (nix::unistd::getpid(), tid as libc::pid_t);
    // SAFETY: signal 0 is sent to nobody; the call only looks.
    unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), tid, 0) == 0 }
}

/// What every handle to one object can do: be cloned, travel, lend its descriptor.
macro_rules! handle {
    ($handle:ident($words:ty)) => {
        impl serde::Serialize for $handle {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                mp_core::transfer::serialize_fd(
                    <$words as crate::object::Words>::NAME,
                    std::os::fd::AsFd::as_fd(self),
                    serializer,
                )
            }
        }

        impl<'de> serde::Deserialize<'de> for $handle {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <$words as crate::object::Words>::NAME;
                let fd = mp_core::transfer::deserialize_fd(name, deserializer)?;
                Self::from_fd(fd).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use handle;
