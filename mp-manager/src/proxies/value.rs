//! The client's half of `Value`; the server's half is `referents::value`.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link, passage,
    proxies::{exchanged, rewritten, versioned},
    proxy::{Proxy, proxy_type},
};

/// One value in the server.
///
/// # Process death
///
/// A client that dies leaves the old value or the new one. The server's death is
/// [`CallError::ServerDied`].
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let total = manager.value(&40)?;
/// assert_eq!(total.update(|n| n + 2)?, 42); // atomic, also among many clients
/// assert_eq!(total.swap(&0)?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "ValueProxy")]
pub struct Value<T> {
    proxy: Proxy,
    values: PhantomData<fn() -> (T,)>,
}

proxy_type!(Value<T>, "Value");

impl<T: Serialize + DeserializeOwned> Value<T> {
    /// A copy of the value.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn get(&self) -> Result<T, CallError> {
        self.proxy.ask("get", &(), |link, bytes| {
            passage::unpack(link, &link::parse(bytes)?)
        })
    }

    /// Replaces the value.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn set(&self, value: &T) -> Result<(), CallError> {
        self.proxy.ask_plain("set", &self.proxy.pack(value))
    }

    /// Replaces the value; the old one.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn swap(&self, value: &T) -> Result<T, CallError> {
        self.proxy
            .ask("swap", &self.proxy.pack(value), |link, bytes| {
                passage::unpack(link, &link::parse(bytes)?)
            })
    }

    /// Changes the value; the new one. Atomic, see [`Dict::update`](crate::Dict::update).
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn update(&self, change: impl FnMut(T) -> T) -> Result<T, CallError> {
        super::update(
            || self.proxy.ask("read", &(), versioned),
            change,
            |version, changed| {
                let args = (version, self.proxy.pack(changed));
                self.proxy.ask("write", &args, rewritten)
            },
        )
    }

    /// Replaces the value if it is `expected`, by its encoding; else the inner error holds it.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn compare_exchange(
        &self,
        expected: &T,
        new: &T,
    ) -> Result<Result<(), Option<T>>, CallError> {
        let args = (self.proxy.pack(expected), self.proxy.pack(new));
        self.proxy.ask("compare_exchange", &args, exchanged)
    }
}
