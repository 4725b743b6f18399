//! The client's half of `Event`; the server's half is `referents::event`.

use std::time::Duration;

use crate::{
    error::CallError,
    proxies::nanos,
    proxy::{Proxy, proxy_type},
};

/// Something has happened, for all clients to see.
///
/// # Process death
///
/// Nothing to repair: it is set or not.
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// use std::time::Duration;
///
/// let ready = manager.event()?;
/// assert!(!ready.wait_timeout(Duration::from_millis(1))?);
/// ready.set()?;
/// ready.wait()?; // not at all, any more
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "EventProxy")]
pub struct Event {
    proxy: Proxy,
}

proxy_type!(Event, "Event");

impl Event {
    /// Whether it is set.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn is_set(&self) -> Result<bool, CallError> {
        self.proxy.ask_plain("is_set", &())
    }

    /// Sets it and wakes who waits.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn set(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("set", &())
    }

    /// Unsets it. Who waited when it was set last is released all the same.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn clear(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("clear", &())
    }

    /// Waits until it is set.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn wait(&self) -> Result<(), CallError> {
        self.proxy
            .ask_plain::<_, bool>("wait", &None::<u64>)
            .map(drop)
    }

    /// Waits for at most `timeout`; whether it was set.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, CallError> {
        self.proxy.ask_plain("wait", &nanos(timeout))
    }
}
