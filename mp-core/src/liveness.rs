//! Who is still there: a slot per process, held by a lock that the kernel drops at death.
//!
//! A process that uses an object takes one of its slots: an open-file-description lock on one byte
//! of the object's memfd, through an open file description of its own. The kernel releases it when
//! the process is gone, zombies included, whatever killed it. Whether a slot's holder lives is one
//! system call, asked at the end of a wait's slice; no thread, no heartbeat, no pid.

use std::{
    io,
    os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};
use parking_lot::Mutex;

use crate::{
    fd, hooks,
    primitive::{AtomicU64, Ordering},
    shm::Mapping,
};

/// Locks lie far behind any content, so that objects can put several sets side by side.
const LOCK_AREA: u64 = 1 << 60;

/// This process among the users of one object.
///
/// Joins at the first call of [`slot`](Self::slot), and again in a forked child: a child never
/// shares its parent's slot.
#[derive(Debug)]
pub struct Member {
    mapping: Arc<Mapping>,
    base: u64,
    slots: u32,
    /// `fork generation << 32 | slot + 1` once joined, so that the usual case is one load.
    joined: AtomicU64,
    file: Mutex<Option<Descriptor>>,
}

impl Member {
    /// A member of the set of `slots` slots at `base` (a number of one's choice per set, which the
    /// sets of one object must not overlap) of the object in `mapping`.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, base: u64, slots: u32) -> Self {
        Self {
            mapping,
            base: LOCK_AREA + base,
            slots,
            joined: AtomicU64::new(0),
            file: Mutex::new(None),
        }
    }

    /// This process's slot, below the number of slots.
    ///
    /// `on_join` runs when it has just been taken, before this process uses it: here the object
    /// returns what a dead holder of the same slot left there. To the others its holder lives by then.
    ///
    /// # Errors
    ///
    /// Every slot is held by a living process, out of descriptors, `/proc` is not mounted.
    #[inline]
    pub fn slot(&self, on_join: impl FnOnce(u32)) -> io::Result<u32> {
        // Relaxed: the slot belongs to this process; nothing else is published with it.
        let joined = self.joined.load(Ordering::Relaxed);
        if joined >> 32 == hooks::fork_generation() & 0xffff_ffff && joined & 0xffff_ffff != 0 {
            return Ok(joined as u32 - 1);
        }
        self.join(on_join)
    }

    /// Whether the holder of `slot` lives; a slot that nobody took yet counts as dead.
    ///
    /// Who asks does not join: the slot that it would get might be the one it asks about.
    ///
    /// # Errors
    ///
    /// The system cannot tell, which no supported one does.
    pub fn is_alive(&self, slot: u32) -> io::Result<bool> {
        // By the object's own description, which never holds a lock: the kernel reports all others.
        let mut lock = lock_request(self.base + u64::from(slot));
        fcntl(self.mapping.fd(), FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }

    #[cold]
    fn join(&self, on_join: impl FnOnce(u32)) -> io::Result<u32> {
        let mut held = self.file.lock();
        let generation = hooks::fork_generation();
        // Relaxed: `held` is locked.
        let joined = self.joined.load(Ordering::Relaxed);
        if joined >> 32 == generation & 0xffff_ffff && joined & 0xffff_ffff != 0 {
            return Ok(joined as u32 - 1); // another thread was faster
        }
        let file = fd::reopen(self.mapping.fd())?;
        let slot = (0..self.slots)
            .find(|slot| {
                let lock = lock_request(self.base + u64::from(*slot));
                fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).is_ok()
            })
            .ok_or_else(|| {
                io::Error::other(format!(
                    "{} processes use this object already, as many as it can have; share it \
                     among fewer, or make another",
                    self.slots
                ))
            })?;
        on_join(slot);
        *held = Some(Descriptor::new(file));
        let joined = (generation << 32) | u64::from(slot + 1);
        self.joined.store(joined, Ordering::Relaxed);
        Ok(slot)
    }
}

fn lock_request(byte: u64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        l_pid: 0, // must be zero for OFD locks
    }
}

/// A descriptor that a forked child closes at once: a copy would keep its parent's lock alive.
#[derive(Debug)]
struct Descriptor {
    fd: RawFd,
    entry: hooks::ForkClosed,
}

impl Descriptor {
    fn new(file: OwnedFd) -> Self {
        let fd = file.into_raw_fd();
        Self {
            fd,
            entry: hooks::close_after_fork(fd),
        }
    }
}

impl Drop for Descriptor {
    #[allow(unsafe_code)] // a number becomes a descriptor again
    fn drop(&mut self) {
        if self.entry.forget() {
            // SAFETY: ours, and not closed by a fork, as `forget` has just told.
            drop(unsafe { OwnedFd::from_raw_fd(self.fd) });
        }
    }
}
