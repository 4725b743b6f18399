//! Where the pool and its workers meet: the bells that wake the pool, and the area for large frames.

use std::{fmt, io, ops::Range, sync::Arc};

use mp_core::{
    deadline::Deadline,
    futex,
    primitive::{AtomicU32, Ordering, fence},
    shm::Mapping,
};

use super::{
    layout::{HUB_MAGIC, HubHeader, PAGE},
    memory::{At, corrupt, read_at, write_at},
};

/// What the host and its guests have in common: two bells, and an area for large frames.
#[derive(Clone)]
pub struct Hub {
    at: At<HubHeader>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("area", &self.area_len())
            .finish()
    }
}

/// The two sleepers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bell {
    /// The pool's own thread.
    Collector = 0,
    /// A thread that waits for a result, and collects all of them meanwhile.
    Caller = 1,
}

// A bell.
const AWAKE: u32 = 0;
const ASLEEP_AT_BELL: u32 = 1;

impl Hub {
    /// Makes a hub with an area of `area` bytes, none of them allocated.
    ///
    /// # Errors
    ///
    /// Out of memory or descriptors; `area` beyond `RLIMIT_FSIZE` or the address space.
    pub fn create(area: usize) -> io::Result<Self> {
        let mapping = Mapping::create("mp-pool-hub", PAGE + area, PAGE)?;
        let at = At::<HubHeader>::new(Arc::new(mapping))?;
        at.words().area.store(area as u64, Ordering::Relaxed); // published by handing over the memfd
        at.words().magic.store(HUB_MAGIC, Ordering::Relaxed);
        Ok(Self { at })
    }

    /// The guests' side.
    ///
    /// # Errors
    ///
    /// The mapping is no hub.
    pub fn attach(mapping: Mapping) -> io::Result<Self> {
        let at = At::<HubHeader>::new(Arc::new(mapping))?;
        if at.words().magic.load(Ordering::Relaxed) != HUB_MAGIC {
            return Err(corrupt("not a hub"));
        }
        Ok(Self { at })
    }

    /// To hand it to a guest.
    #[must_use]
    pub fn mapping(&self) -> &Mapping {
        &self.at.mapping
    }

    fn bell(&self, bell: Bell) -> &AtomicU32 {
        &self.at.words().bells[bell as usize].0
    }

    /// Decides which bell the guests ring from now on.
    pub fn choose(&self, bell: Bell) {
        self.at.words().rung.0.store(bell as u32, Ordering::SeqCst);
    }

    fn chosen(&self) -> Bell {
        match self.at.words().rung.0.load(Ordering::SeqCst) {
            0 => Bell::Collector,
            _ => Bell::Caller,
        }
    }

    /// Wakes the chosen sleeper.
    #[inline]
    pub fn ring(&self) {
        self.wake(self.chosen());
    }

    /// Wakes whoever sleeps here.
    pub fn wake_both(&self) {
        self.wake(Bell::Caller);
        self.wake(Bell::Collector);
    }

    /// Wakes this sleeper if it sleeps.
    pub fn wake(&self, bell: Bell) {
        let word = self.bell(bell);
        if word.load(Ordering::SeqCst) != AWAKE && word.swap(AWAKE, Ordering::SeqCst) != AWAKE {
            futex::wake(word, 1);
        }
    }

    /// First step of going to sleep: from here on ringing wakes. The caller looks once more for
    /// what it waits for, then [`sleep`](Self::sleep)s.
    pub fn prepare(&self, bell: Bell) {
        // Meets the guests' SeqCst commit: either they see this store and ring, or what they
        // committed is seen by the look that follows.
        self.bell(bell).store(ASLEEP_AT_BELL, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Takes [`prepare`](Self::prepare) back.
    pub fn stay_awake(&self, bell: Bell) {
        self.bell(bell).store(AWAKE, Ordering::SeqCst);
    }

    /// Sleeps until woken, until `until`, or for a slice.
    pub fn sleep(&self, bell: Bell, until: Option<Deadline>) {
        let word = self.bell(bell);
        futex::wait(word, ASLEEP_AT_BELL, until);
        self.stay_awake(bell);
    }

    /// Size of the area for large frames.
    #[must_use]
    pub fn area_len(&self) -> usize {
        (self.at.words().area.load(Ordering::Relaxed) as usize)
            .min(self.at.mapping.len().saturating_sub(PAGE))
    }

    /// Makes sure that `range` of the area can be written.
    ///
    /// # Errors
    ///
    /// Out of memory.
    pub fn allocate(&self, range: Range<usize>) -> io::Result<()> {
        self.at
            .mapping
            .allocate(PAGE + range.start..PAGE + range.end)
    }

    /// Gives the memory of `range` back.
    pub fn punch(&self, range: Range<usize>) {
        let range = PAGE + range.start..PAGE + range.end;
        let _ = self.at.mapping.punch(range); // inside the mapping, so there is no reason to fail
    }

    /// Copies `bytes` into an [allocated](Self::allocate) part of the area that only the caller uses.
    ///
    /// # Panics
    ///
    /// Outside the area.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        assert!(
            end.is_some_and(|end| end <= self.area_len()),
            "outside the area"
        );
        // The host gives each extent to one writer and publishes it afterwards.
        write_at(&self.at.mapping, PAGE + offset, bytes);
    }

    /// Appends `len` bytes from `offset` of the area to `out`.
    ///
    /// # Errors
    ///
    /// Outside the area.
    pub fn read(&self, offset: usize, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.area_len()) {
            return Err(corrupt("a frame lies outside the area"));
        }
        read_at(&self.at.mapping, PAGE + offset, len, out)
    }
}
