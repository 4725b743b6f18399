//! Memory that several processes map: a sealed memfd, with its space allocated ahead.
//!
//! Nothing here has a name in the system; the kernel frees it with its last user. Space is
//! allocated before the first store into it, so a full system is an error and never a SIGBUS.
#![allow(unsafe_code)] // a marker trait whose implementors make promises

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use memmap2::{MmapOptions, MmapRaw};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{RLIM_INFINITY, Resource, getrlimit},
        stat::fstat,
    },
    unistd::ftruncate,
};

use crate::fd;

/// Types that may lie in memory which other processes map and may damage.
///
/// # Safety
///
/// * `repr(C)`, without pointers, references or descriptors.
/// * Every bit pattern is a valid value.
/// * Shared parts are atomics, or are accessed under a lock that lies beside them.
pub unsafe trait ShmSafe {}

// SAFETY: plain integers and atomics of them have no invalid bit patterns.
unsafe impl ShmSafe for u64 {}
// SAFETY: as above.
unsafe impl ShmSafe for u32 {}
#[cfg(not(mp_loom))]
// SAFETY: as above.
unsafe impl ShmSafe for crate::primitive::AtomicU32 {}
#[cfg(not(mp_loom))]
// SAFETY: as above.
unsafe impl ShmSafe for crate::primitive::AtomicU64 {}

/// A memfd, mapped shared, read and write.
///
/// Gives pointers, never references: other processes may write at any time. Unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRaw,
    file: OwnedFd,
}

/// Resizing would make accesses of other processes fault.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SEAL);

/// One call allocates at most this much, so that a storm of signals cannot starve it.
const ALLOCATION_STEP: usize = 4 << 20;

impl Mapping {
    /// Makes zeroed memory of `len` bytes, the first `allocated` of which can be written at once;
    /// the rest once [`allocate`](Self::allocate) has succeeded for it.
    ///
    /// `name` is what `/proc/PID/maps` shows.
    ///
    /// # Errors
    ///
    /// A size of zero or beyond `RLIMIT_FSIZE`, out of memory, out of descriptors.
    pub fn create(name: &str, len: usize, allocated: usize) -> io::Result<Self> {
        check_len(len)?;
        check_memory(allocated.min(len))?;
        let file = memfd(name)?;
        resize(&file, len)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
        let mapping = Self::map(file, len)?;
        mapping.allocate(0..allocated.min(len))?;
        Ok(mapping)
    }

    /// Maps the memory that another process created.
    ///
    /// # Errors
    ///
    /// The descriptor is no memfd of ours (its seals are missing), or cannot be mapped.
    pub fn attach(file: OwnedFd) -> io::Result<Self> {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS)
            .map(SealFlag::from_bits_truncate)
            .unwrap_or(SealFlag::empty());
        if !seals.contains(SealFlag::F_SEAL_SHRINK) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the descriptor is not shared memory made by this library",
            ));
        }
        let len = usize::try_from(fstat(&file)?.st_size).unwrap_or(0);
        if len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the shared memory is empty",
            ));
        }
        Self::map(file, len)
    }

    fn map(file: OwnedFd, len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_raw(file.as_raw_fd())?;
        Ok(Self { map, file })
    }

    /// The first byte; aligned to a page.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Size in bytes, allocated or not.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// The memfd, to hand it on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The mapping without its descriptor, for memory that is not handed on any more.
    #[must_use]
    pub fn into_map(self) -> MmapRaw {
        self.map
    }

    /// Makes sure that `range` can be written. What is allocated already keeps its content.
    ///
    /// # Errors
    ///
    /// Out of memory, or a range outside the mapping; parts may have been allocated.
    pub fn allocate(&self, range: Range<usize>) -> io::Result<()> {
        self.check(&range)?;
        allocate(&self.file, range)
    }

    /// Gives the pages of `range` back to the system; they read as zeros afterwards, and have to
    /// be [allocated](Self::allocate) before they are written again.
    ///
    /// # Errors
    ///
    /// A range outside the mapping.
    pub fn punch(&self, range: Range<usize>) -> io::Result<()> {
        self.check(&range)?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match range.len() {
            0 => Ok(()),
            len => change(&self.file, flags, range.start, len),
        }
    }

    fn check(&self, range: &Range<usize>) -> io::Result<()> {
        if range.start > range.end || range.end > self.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("range {range:?} outside a mapping of {} bytes", self.len()),
            ));
        }
        Ok(())
    }
}

/// Gives a new file `len` bytes, all of which can be written: a full system is an error here.
///
/// # Errors
///
/// As [`Mapping::create`].
pub fn size_and_allocate(file: &OwnedFd, len: usize) -> io::Result<()> {
    check_len(len)?;
    check_memory(len)?;
    resize(file, len)?;
    allocate(file, 0..len)
}

fn allocate(file: &OwnedFd, range: Range<usize>) -> io::Result<()> {
    let mut start = range.start;
    while start < range.end {
        let len = (range.end - start).min(ALLOCATION_STEP);
        change(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, len)?;
        start += len;
    }
    Ok(())
}

fn change(file: &OwnedFd, flags: FallocateFlags, start: usize, len: usize) -> io::Result<()> {
    loop {
        match fallocate(file, flags, start as i64, len as i64) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// A file beyond `RLIMIT_FSIZE` would end this process by SIGXFSZ: asked before anything is made.
///
/// # Errors
///
/// `len` is zero, or beyond the limit or what can be addressed.
fn check_len(len: usize) -> io::Result<()> {
    if len == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "shared memory of zero bytes",
        ));
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    let too_large = limit != RLIM_INFINITY && len as u64 > limit;
    if too_large || i64::try_from(len).is_err() {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{len} bytes of shared memory are more than RLIMIT_FSIZE allows ({limit})"),
        ));
    }
    Ok(())
}

/// The kernel would go on allocating until it has to kill somebody: asked before, for what is large
/// enough to matter. What it says of the machine is an estimate, and others allocate as well.
fn check_memory(len: usize) -> io::Result<()> {
    const LARGE: usize = 64 << 20;
    if len < LARGE {
        return Ok(());
    }
    let Some(available) = available_memory() else {
        return Ok(()); // no /proc: the kernel decides
    };
    if len > available {
        return Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!("{len} bytes of shared memory are more than there are left ({available})"),
        ));
    }
    Ok(())
}

/// What can be had without taking from anybody, swap included.
fn available_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = |key: &str| -> Option<usize> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let swap = kilobytes("SwapFree:").unwrap_or(0);
    kilobytes("MemAvailable:")?
        .saturating_add(swap)
        .checked_mul(1024)
}

fn resize(file: &OwnedFd, len: usize) -> io::Result<()> {
    loop {
        match ftruncate(file, len as i64) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

fn memfd(name: &str) -> io::Result<OwnedFd> {
    /// Since Linux 6.3; nix does not name it yet.
    const MFD_NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match memfd_create(name, flags | MFD_NOEXEC_SEAL) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        result => result,
    }
    .map_err(|errno| fd::explain(errno.into()))
}

/// A fresh, unsealed, unmapped memfd that holds `bytes`, for a value too large for a socket.
///
/// # Errors
///
/// Out of memory or descriptors, or beyond `RLIMIT_FSIZE`.
pub fn memfd_with(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::Write as _;
    check_len(bytes.len().max(1))?;
    let mut file = File::from(memfd(name)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let ours = Mapping::create("mp-test", 1 << 20, 4096).unwrap();
        let theirs = Mapping::attach(ours.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(theirs.len(), 1 << 20);
        // SAFETY: the first page is mapped and allocated in both.
        unsafe { ours.as_ptr().write_volatile(42) };
        // SAFETY: as above.
        assert_eq!(unsafe { theirs.as_ptr().read_volatile() }, 42);
    }

    #[test]
    fn nobody_can_resize_it() {
        let mapping = Mapping::create("mp-test", 8192, 8192).unwrap();
        assert_eq!(nix::unistd::ftruncate(mapping.fd(), 0), Err(Errno::EPERM));
        assert_eq!(
            nix::unistd::ftruncate(mapping.fd(), 1 << 20),
            Err(Errno::EPERM)
        );
    }

    #[test]
    fn punched_pages_read_as_zeros() {
        let mapping = Mapping::create("mp-test", 8192, 8192).unwrap();
        // SAFETY: inside the mapping.
        unsafe { mapping.as_ptr().wrapping_add(4096).write_volatile(1) };
        mapping.punch(4096..8192).unwrap();
        // SAFETY: inside the mapping.
        let byte = unsafe { mapping.as_ptr().wrapping_add(4096).read_volatile() };
        assert_eq!(byte, 0);
    }

    #[test]
    fn wrong_sizes_ranges_and_descriptors_are_errors() {
        assert!(Mapping::create("mp-test", 0, 0).is_err());
        assert!(Mapping::create("mp-test", usize::MAX, 0).is_err());
        let all = Mapping::create("mp-test", 1 << 46, 1 << 46).unwrap_err();
        assert_eq!(all.kind(), io::ErrorKind::OutOfMemory);
        let mapping = Mapping::create("mp-test", 4096, 0).unwrap();
        assert!(mapping.allocate(0..4097).is_err());
        let file = File::open("/proc/self/exe").unwrap();
        assert!(Mapping::attach(file.into()).is_err());
    }
}
