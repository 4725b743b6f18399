//! The clients' halves of `Semaphore` and `BoundedSemaphore`; the server's half is
//! `referents::semaphore`.

use std::{fmt, mem::ManuallyDrop, time::Duration};

use crate::{
    error::CallError,
    proxies::nanos,
    proxy::{Proxy, proxy_type},
};

/// A number of permits, shared by all clients of a server.
///
/// # Process death
///
/// A permit that a dead client held as a [`Permit`] is back within 100 ms. One that was
/// [forgotten](Permit::forget) is not. A [`Permit`] that is dropped without a connection to tell the
/// server comes back as the guard of a [`Lock`](crate::Lock) does.
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let seats = manager.semaphore(2)?;
/// let seat = seats.acquire()?;
/// assert_eq!(seats.available()?, 1);
/// drop(seat); // back it goes
/// assert_eq!(seats.available()?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Semaphore {
    proxy: Proxy,
}

/// A [`Semaphore`] that never has more permits than at the start: releasing one too many is an
/// error.
///
/// # Process death
///
/// As for [`Semaphore`].
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let seats = manager.bounded_semaphore(2)?;
/// assert!(seats.release().is_err()); // nobody had taken one
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct BoundedSemaphore {
    proxy: Proxy,
}

proxy_type!(Semaphore, "Semaphore");
proxy_type!(BoundedSemaphore, "BoundedSemaphore");

/// Why no permit was got.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// There was none, at once or until the timeout.
    #[error("the semaphore had no permit in time")]
    Empty,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

macro_rules! semaphore_methods {
    ($name:ident) => {
        impl $name {
            /// Waits for a permit, first come, first served.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            pub fn acquire(&self) -> Result<Permit<'_>, CallError> {
                self.proxy
                    .ask_plain::<_, bool>("acquire", &None::<u64>)
                    .map(|_| Permit { proxy: &self.proxy })
            }

            /// Takes a permit if there is one.
            ///
            /// # Errors
            ///
            /// [`TryAcquireError`].
            pub fn try_acquire(&self) -> Result<Permit<'_>, TryAcquireError> {
                self.acquire_timeout(Duration::ZERO)
            }

            /// Waits for a permit for at most `timeout`.
            ///
            /// # Errors
            ///
            /// [`TryAcquireError`].
            pub fn acquire_timeout(
                &self,
                timeout: Duration,
            ) -> Result<Permit<'_>, TryAcquireError> {
                match self.proxy.ask_plain("acquire", &nanos(timeout))? {
                    true => Ok(Permit { proxy: &self.proxy }),
                    false => Err(TryAcquireError::Empty),
                }
            }

            /// Adds a permit, also one that nobody took: for signalling.
            ///
            /// # Errors
            ///
            /// [`CallError::Refused`]: more than there can be.
            pub fn release(&self) -> Result<(), CallError> {
                self.release_many(1)
            }

            /// Adds permits.
            ///
            /// # Errors
            ///
            /// [`CallError::Refused`]: more than there can be.
            pub fn release_many(&self, permits: u32) -> Result<(), CallError> {
                self.proxy.ask_plain("release", &permits)
            }

            /// How many permits there are at the moment.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            #[doc(alias = "get_value")]
            pub fn available(&self) -> Result<u32, CallError> {
                self.proxy.ask_plain("available", &())
            }
        }
    };
}

semaphore_methods!(Semaphore);
semaphore_methods!(BoundedSemaphore);

/// A permit of a semaphore; dropped, it goes back.
#[must_use = "the permit goes back when this is dropped"]
pub struct Permit<'a> {
    proxy: &'a Proxy,
}

impl Permit<'_> {
    /// Keeps the permit out of the semaphore: somebody calls `release` for it.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn forget(self) -> Result<(), CallError> {
        ManuallyDrop::new(self).proxy.ask_plain("forget", &())
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.proxy.give_back("return", &());
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?})", self.proxy)
    }
}
