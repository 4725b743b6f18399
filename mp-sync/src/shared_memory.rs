//! Named memory, for programs that know each other by a name only; the same segments as Python's.
#![allow(unsafe_code)] // typed access to memory that others write at any time

use std::{
    ffi::OsStr,
    fmt, fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::PathBuf,
    slice,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering}, // of this process alone
    },
};

use memmap2::{MmapOptions, MmapRaw};
use mp_core::{hooks::fork_generation, shm::size_and_allocate, transfer};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    libc,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{raw_value::Integer, shared_copy, tracker};

/// Where the system keeps named segments.
const FOLDER: &str = "/dev/shm";
/// For errors.
const TYPE_NAME: &str = "SharedMemory";

/// A named segment of memory that any program of the same user can map, Python's included.
///
/// Who [creates](Self::create) it owns it: the name goes when the owner's last handle is dropped,
/// or its process ends. Attaching never takes a name away. Memory that only your own processes share
/// needs no name: [`RawArray`](crate::RawArray) leaves nothing behind by construction.
///
/// A handle that is an argument or a result of a process, or goes through a connection on this
/// machine, takes the memory itself along: it works also if that was the owner's last handle, but
/// the name is gone then, and the receiver never owns it. [`persist`](Self::persist) before sending
/// keeps the name. Elsewhere (in a queue, as JSON, over TCP) the name travels alone, and somebody
/// has to keep it until the other side has attached.
///
/// Content is copied in and out, or reached as [atomics](Self::atomics) or by
/// [pointer](Self::as_ptr); any other program may write at any time. It may also truncate the
/// segment, after which every access is a fault: names are for programs that trust each other.
///
/// Python's own `SharedMemory(name)` registers what it attaches, and unlinks it when that program
/// ends (until 3.13, and then without `track=False`).
///
/// # Process death
///
/// A killed owner's segments lose their names within 2 s: a helper process, started with the first
/// named segment of a process, removes them. Who has them mapped keeps them.
///
/// # Examples
///
/// ```
/// let ours = mp_sync::SharedMemory::create(None, 1024)?;
/// let theirs = mp_sync::SharedMemory::attach(ours.name())?;
/// ours.write(0, b"hello");
/// let mut text = [0; 5];
/// theirs.read(0, &mut text);
/// assert_eq!(&text, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.shared_memory.SharedMemory")]
#[derive(Clone)]
pub struct SharedMemory(Arc<Segment>);

struct Segment {
    name: String,
    map: MmapRaw,
    file: OwnedFd,
    /// The process that has to take the name away, by fork generation.
    owner: Option<u64>,
    unlinked: AtomicBool,
}

impl SharedMemory {
    /// Makes a segment of `size` bytes, all zero, and owns it. Without a name it gets a new one.
    ///
    /// # Errors
    ///
    /// A size of zero, or beyond memory or `RLIMIT_FSIZE`; a name with a slash or a NUL;
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); the helper that removes the segments of the
    /// killed cannot be started.
    pub fn create(name: Option<&str>, size: usize) -> io::Result<Self> {
        match name {
            Some(name) => Self::create_named(name, size),
            None => Self::create_with(size, random_name),
        }
    }

    /// Tries the names that `names` gives until one is free.
    fn create_with(size: usize, mut names: impl FnMut() -> io::Result<String>) -> io::Result<Self> {
        loop {
            match Self::create_named(&names()?, size) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
    }

    fn create_named(name: &str, size: usize) -> io::Result<Self> {
        let path = path(name)?;
        // Without a name at first: until it is linked there is nothing that a death could leave
        // behind, and nobody sees it before it has its size.
        let file: OwnedFd = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .mode(0o600)
            .open(FOLDER)?
            .into();
        size_and_allocate(&file, size)?;
        let map = MmapOptions::new().len(size).map_raw(file.as_raw_fd())?;
        let inode = fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd()))?.ino();
        // Told before the name exists; the inode keeps the helper from removing somebody else's.
        tracker::watch(name, inode)?;
        let linked = nix::unistd::linkat(
            AT_FDCWD,
            format!("/proc/self/fd/{}", file.as_raw_fd()).as_str(),
            AT_FDCWD,
            &path,
            AtFlags::AT_SYMLINK_FOLLOW,
        );
        if let Err(errno) = linked {
            tracker::forget(name, inode);
            return Err(match errno {
                Errno::EEXIST => io::Error::new(
                    ErrorKind::AlreadyExists,
                    format!("shared memory {name:?} exists already"),
                ),
                errno => errno.into(),
            });
        }
        Ok(Self(Arc::new(Segment {
            name: name.to_owned(),
            map,
            file,
            owner: Some(fork_generation()),
            unlinked: AtomicBool::new(false),
        })))
    }

    /// Maps the segment that another program created.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound); an empty segment; a name with a slash or a NUL.
    pub fn attach(name: &str) -> io::Result<Self> {
        let name = name.strip_prefix('/').unwrap_or(name); // as POSIX spells it
        let file: OwnedFd = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path(name)?)
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => io::Error::new(
                    ErrorKind::NotFound,
                    format!("no shared memory is named {name:?}"),
                ),
                _ => error,
            })?
            .into();
        Self::over(name, file)
    }

    /// Maps the segment in `file`, which has, or had, that name.
    fn over(name: &str, file: OwnedFd) -> io::Result<Self> {
        path(name)?;
        let size = nix::sys::stat::fstat(&file)?.st_size;
        let size = usize::try_from(size).unwrap_or(0);
        if size == 0 {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("shared memory {name:?} is empty"),
            ));
        }
        let map = MmapOptions::new().len(size).map_raw(file.as_raw_fd())?;
        Ok(Self(Arc::new(Segment {
            name: name.to_owned(),
            map,
            file,
            owner: None,
            unlinked: AtomicBool::new(false),
        })))
    }

    /// What others attach it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.map.len()
    }

    /// Takes the name away; who has the memory mapped keeps it.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) when the name is gone.
    pub fn unlink(&self) -> io::Result<()> {
        self.0.unlink()
    }

    /// The name stays when the owner's handles are gone, until somebody [unlinks](Self::unlink) it.
    pub fn persist(&self) {
        self.0.unlinked.store(true, Ordering::Relaxed); // of this process alone
        if self.0.is_owner() {
            tracker::forget(&self.0.name, self.0.inode());
        }
    }

    /// Drops this handle, as leaving its scope does.
    pub fn close(self) {}

    /// Copies the bytes from `start` on into `out`.
    ///
    /// # Panics
    ///
    /// When the range goes beyond the end, as with a slice.
    pub fn read(&self, start: usize, out: &mut [u8]) {
        let from = self.range(start, out.len());
        // SAFETY:
        // * `range` has checked that the source lies in the mapping.
        // * `out` is ours alone.
        unsafe { shared_copy::read(from, out.as_mut_ptr(), out.len()) };
    }

    /// Copies `bytes` to those from `start` on.
    ///
    /// # Panics
    ///
    /// When the range goes beyond the end, as with a slice.
    pub fn write(&self, start: usize, bytes: &[u8]) {
        let to = self.range(start, bytes.len());
        // SAFETY: as in `read`, the other way round.
        unsafe { shared_copy::write(bytes.as_ptr(), to, bytes.len()) };
    }

    /// The memory as atomics: as many whole integers as fit.
    #[must_use]
    pub fn atomics<T: Integer>(&self) -> &[T::Atomic] {
        // SAFETY: an atomic is laid out like its integer; a page is aligned for any; inside the
        // mapping that `self` keeps.
        unsafe { slice::from_raw_parts(self.as_ptr().cast(), self.size() / size_of::<T>()) }
    }

    /// The first byte in this process, for code that has its own way of excluding others.
    #[doc(alias = "buf")]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.map.as_mut_ptr()
    }

    fn range(&self, start: usize, len: usize) -> *mut u8 {
        let end = start.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.size()),
            "{len} bytes from {start} on are beyond the end of {}",
            self.size()
        );
        self.as_ptr().wrapping_add(start)
    }
}

fn path(name: &str) -> io::Result<PathBuf> {
    let wrong = name.is_empty() || name.contains(['/', '\0']) || name == "." || name == "..";
    if wrong || name.len() > 255 {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("{name:?} cannot name shared memory: 1 to 255 bytes, no slash and no NUL"),
        ));
    }
    Ok(PathBuf::from(FOLDER).join(OsStr::new(name)))
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("mp-{:016x}", u64::from_ne_bytes(bytes)))
}

impl Segment {
    fn is_owner(&self) -> bool {
        self.owner == Some(fork_generation())
    }

    fn inode(&self) -> u64 {
        nix::sys::stat::fstat(&self.file).map_or(0, |stat| stat.st_ino)
    }

    fn unlink(&self) -> io::Result<()> {
        let path = path(&self.name)?;
        let named = fs::metadata(&path).map(|meta| meta.ino() == self.inode());
        if !matches!(named, Ok(true)) {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                format!("shared memory {:?} has lost its name already", self.name),
            ));
        }
        fs::remove_file(&path)?;
        self.unlinked.store(true, Ordering::Relaxed); // of this process alone
        if self.is_owner() {
            tracker::forget(&self.name, self.inode());
        }
        Ok(())
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.is_owner() && !self.unlinked.load(Ordering::Relaxed) {
            let _ = self.unlink(); // somebody else was faster
            tracker::forget(&self.name, self.inode());
        }
    }
}

impl Serialize for SharedMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fd = transfer::can_carry().then(|| Departing(self.as_fd()));
        (self.name(), fd).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (name, arrived) = <(String, Option<Arrived>)>::deserialize(deserializer)?;
        match arrived {
            Some(Arrived(file)) => Self::over(&name, file),
            None => Self::attach(&name),
        }
        .map_err(de::Error::custom)
    }
}

/// What goes beside the name where it can: the name is gone when the owner has sent its last handle.
struct Departing<'a>(BorrowedFd<'a>);

impl Serialize for Departing<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd(TYPE_NAME, self.0, serializer)
    }
}

struct Arrived(OwnedFd);

impl<'de> Deserialize<'de> for Arrived {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize_fd(TYPE_NAME, deserializer).map(Self)
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("name", &self.name())
            .field("size", &self.size())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conformance: _TestSharedMemory.test_shared_memory_recreate
    #[test]
    fn a_name_that_is_taken_is_passed_over() {
        let taken = SharedMemory::create(None, 1).unwrap();
        let free = random_name().unwrap();
        let mut names = [taken.name().to_owned(), free.clone()].into_iter();
        let made = SharedMemory::create_with(1, || Ok(names.next().unwrap())).unwrap();
        assert_eq!(made.name(), free);
    }
}
