//! The client's half of `Barrier`; the server's half is `referents::barrier`.

use std::time::Duration;

use crate::{
    error::CallError,
    proxies::nanos,
    proxy::{Proxy, proxy_type},
    referents::barrier::Passed,
};

/// A number of parties that wait for each other, again and again.
///
/// # Process death
///
/// A party that dies while it waits breaks the barrier for the others within 100 ms;
/// [`reset`](Self::reset) makes it whole.
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let barrier = manager.barrier(2)?;
/// std::thread::scope(|scope| {
///     let other = scope.spawn(|| barrier.wait().map(|turn| turn.is_leader()));
///     let here = barrier.wait().map(|turn| turn.is_leader());
///     // Exactly one of them came last.
///     assert_ne!(here.unwrap(), other.join().unwrap().unwrap());
/// });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "BarrierProxy")]
pub struct Barrier {
    proxy: Proxy,
}

proxy_type!(Barrier, "Barrier");

/// How a party passed a [`Barrier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierTurn {
    index: u32,
    last: bool,
}

impl BarrierTurn {
    /// The place in the order of arrival, from 0.
    #[must_use]
    pub fn index(self) -> u32 {
        self.index
    }

    /// Whether this party came last: exactly one of each round.
    #[must_use]
    pub fn is_leader(self) -> bool {
        self.last
    }
}

/// Why a party did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// A party died, ran out of time, or called `abort` or `reset`.
    #[error(
        "the barrier is broken: a party died, timed out, or called it off; reset() makes it whole"
    )]
    Broken,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Barrier {
    /// Waits for all parties.
    ///
    /// # Errors
    ///
    /// [`BarrierError`].
    pub fn wait(&self) -> Result<BarrierTurn, BarrierError> {
        self.pass(None)
    }

    /// Waits for all parties for at most `timeout`; then the barrier is broken for everybody.
    ///
    /// # Errors
    ///
    /// [`BarrierError`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierTurn, BarrierError> {
        self.pass(nanos(timeout))
    }

    fn pass(&self, nanos: Option<u64>) -> Result<BarrierTurn, BarrierError> {
        match self.proxy.ask_plain("wait", &nanos)? {
            Passed::Yes { index, last } => Ok(BarrierTurn { index, last }),
            Passed::Broken => Err(BarrierError::Broken),
        }
    }

    /// Breaks the barrier, for those who wait and those who come, until it is reset.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn abort(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("abort", &())
    }

    /// Makes the barrier whole and empty; who waits gets [`BarrierError::Broken`].
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn reset(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("reset", &())
    }

    /// How many parties wait for each other.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn parties(&self) -> Result<u32, CallError> {
        self.proxy.ask_plain("parties", &())
    }

    /// How many wait at the moment.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "n_waiting")]
    pub fn waiting(&self) -> Result<u32, CallError> {
        self.proxy.ask_plain("waiting", &())
    }

    /// Whether it is broken.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "broken")]
    pub fn is_broken(&self) -> Result<bool, CallError> {
        self.proxy.ask_plain("is_broken", &())
    }
}
