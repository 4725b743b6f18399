//! Everybody waits until all have come.
#![allow(unsafe_code)] // says that words may be shared

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{deadline::Deadline, shm::ShmSafe};

use crate::{
    error::BarrierError,
    members::{Members, SLOTS},
    object::{Object, Shape, Words, handle},
    raw::{Broken, MAX_PARTIES, RawBarrier, Roster},
};

#[repr(C)]
#[derive(Debug)]
pub(crate) struct BarrierWords {
    raw: RawBarrier,
    /// The timeout of a wait without one, in nanoseconds; 0: none. Never written again.
    timeout: u64,
    /// Never written again.
    parties: u32,
    roster: Roster<SLOTS>,
}

// SAFETY: `repr(C)`, integers and atomics.
unsafe impl ShmSafe for BarrierWords {}
// SAFETY:
// * Atomics, and integers that are never written again.
// * No data follows.
unsafe impl Words for BarrierWords {
    const KIND: u32 = 7;
    const NAME: &'static str = "Barrier";
}

/// A place where a fixed number of parties wait for each other, again and again.
///
/// Parties are threads of any process. A timeout, [`abort`](Self::abort) or a death breaks it for
/// all until somebody calls [`reset`](Self::reset).
///
/// # Process death
///
/// A process that has made the barrier, received it or waited at it, and dies, breaks it for those
/// who wait, within 1 s: they get [`BarrierError::PartyDied`]. Dropping the last handle is no death,
/// and neither is a normal exit, unless a thread of the process is at the barrier.
///
/// # Examples
///
/// ```
/// let barrier = mp_sync::Barrier::new(3)?;
/// std::thread::scope(|scope| {
///     for _ in 0..3 {
///         scope.spawn(|| barrier.wait().unwrap());
///     }
/// });
/// assert_eq!(barrier.n_waiting(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "multiprocessing.Barrier")]
#[derive(Clone)]
pub struct Barrier(Arc<Shared>);

/// What the handles of this process share.
struct Shared {
    object: Object<BarrierWords>,
    members: Members,
    timeout: Option<Duration>,
    parties: u32,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.members.leave(&self.object.words().roster);
    }
}

impl Barrier {
    /// A barrier for `parties`, which wait as long as it takes.
    ///
    /// # Errors
    ///
    /// No parties, or more than 32,767; out of memory or descriptors.
    pub fn new(parties: u32) -> io::Result<Self> {
        Self::create(parties, 0)
    }

    /// A barrier for `parties`, which wait at most `timeout` for each other unless they say
    /// otherwise.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_timeout(parties: u32, timeout: Duration) -> io::Result<Self> {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Self::create(parties, nanos.max(1))
    }

    fn create(parties: u32, timeout: u64) -> io::Result<Self> {
        if parties == 0 || parties > MAX_PARTIES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a barrier is for 1 to {MAX_PARTIES} parties, not {parties}"),
            ));
        }
        let object = Object::create(Shape::NONE, |this: *mut BarrierWords| {
            let words = BarrierWords {
                raw: RawBarrier::new(),
                timeout,
                parties,
                roster: Roster::default(),
            };
            // SAFETY: valid for writes, aligned, and not shared yet.
            unsafe { this.write(words) };
            Ok(())
        })?;
        Self::over(object)
    }

    fn over(object: Object<BarrierWords>) -> io::Result<Self> {
        let words = object.words();
        let shared = Arc::new(Shared {
            timeout: (words.timeout > 0).then(|| Duration::from_nanos(words.timeout)),
            parties: words.parties.clamp(1, MAX_PARTIES),
            members: Members::new(object.mapping().clone()),
            object,
        });
        shared.enter()?;
        Ok(Self(shared))
    }

    /// The barrier behind `fd`, which another process got from [`AsFd`].
    ///
    /// # Errors
    ///
    /// The descriptor is not that of a barrier; more than 1024 processes use it; out of
    /// descriptors.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Object::attach(fd).and_then(Self::over)
    }

    fn raw(&self) -> &RawBarrier {
        &self.0.object.words().raw
    }

    /// Waits until all parties have come; who comes as how manyth, from 0.
    ///
    /// # Errors
    ///
    /// [`BarrierError`]: the barrier is, or has been, broken, and nobody has passed.
    pub fn wait(&self) -> Result<u32, BarrierError> {
        self.wait_with(|| ())
    }

    /// As [`wait`](Self::wait); the last to come runs its `action` before anybody goes on.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// When `action` does; the barrier is broken then.
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<u32, BarrierError> {
        self.wait_until(self.0.timeout.map(Deadline::after), action)
    }

    /// As [`wait`](Self::wait), at most `timeout`, which breaks the barrier.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<u32, BarrierError> {
        self.wait_until(Some(Deadline::after(timeout)), || ())
    }

    fn wait_until(
        &self,
        until: Option<Deadline>,
        action: impl FnOnce(),
    ) -> Result<u32, BarrierError> {
        let shared = &self.0;
        shared.enter().map_err(BarrierError::System)?; // a forked child enters here
        let _inside = shared.members.begin(&shared.object.words().roster);
        let look = || {
            if shared.dead(false).is_some() {
                self.raw().lost();
            }
        };
        self.raw()
            .wait(shared.parties, until, action, look)
            .map_err(|broken| match broken {
                Broken::TimedOut => BarrierError::TimedOut,
                Broken::Aborted => BarrierError::Broken,
                // Somebody may have reset it meanwhile, and forgotten the dead.
                Broken::PartyDied => match shared.dead(false) {
                    Some(pid) => BarrierError::PartyDied { pid },
                    None => BarrierError::Broken,
                },
            })
    }

    /// Breaks the barrier: all who wait, and all who come, get an error until it is
    /// [`reset`](Self::reset).
    pub fn abort(&self) {
        self.raw().abort();
    }

    /// Makes the barrier as new. Who waits gets an error; the dead are forgotten.
    pub fn reset(&self) {
        self.0.dead(true);
        self.raw().reset();
    }

    /// How many parties it takes to pass.
    #[must_use]
    pub fn parties(&self) -> u32 {
        self.0.parties
    }

    /// How many wait now.
    #[must_use]
    pub fn n_waiting(&self) -> u32 {
        self.raw().waiting()
    }

    /// Whether it is broken.
    #[doc(alias = "broken")]
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.raw().is_broken()
    }
}

impl Shared {
    fn enter(self: &Arc<Self>) -> io::Result<()> {
        let words = self.object.words();
        let shared = Arc::downgrade(self);
        let at_exit = move || {
            if let Some(shared) = shared.upgrade() {
                shared.members.exit(&shared.object.words().roster);
            }
        };
        self.members
            .enter(&words.roster, || words.raw.lost(), at_exit)
    }

    fn dead(&self, forget: bool) -> Option<u32> {
        self.members.dead(&self.object.words().roster, forget)
    }
}

handle!(Barrier(BarrierWords));

impl AsFd for Barrier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.object.fd()
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &self.n_waiting())
            .field("broken", &self.is_broken())
            .finish()
    }
}
