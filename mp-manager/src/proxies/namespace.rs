//! `Namespace`: a dict with names for keys, and a type for each value.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link,
    protocol::{PAGE_ITEMS, Page},
    proxy::{Proxy, proxy_type, unpack_all},
};

/// Values of different types under names, in the server.
///
/// # Process death
///
/// As for [`Dict`](crate::Dict).
///
/// # Examples
///
/// ```
/// # mp_process::init();
/// # let manager = mp_manager::Manager::start()?;
/// let settings = manager.namespace()?;
/// settings.set("depth", &12)?;
/// settings.set("title", "chess")?;
/// assert_eq!(settings.get::<i32>("depth")?, Some(12));
/// assert_eq!(settings.names()?, ["depth", "title"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "NamespaceProxy")]
pub struct Namespace {
    proxy: Proxy,
}

proxy_type!(Namespace, "Namespace");

impl Namespace {
    /// A copy of the value of `name`, which has to be of the type that was set.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Decode`](CallError::Decode) if it is of another type.
    #[doc(alias = "__getattribute__")]
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, CallError> {
        self.proxy.ask_option("get", &self.proxy.pack(name))
    }

    /// Sets `name`, whatever stood there.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__setattr__")]
    pub fn set<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<(), CallError> {
        self.proxy
            .ask_plain("set", &(self.proxy.pack(name), self.proxy.pack(value)))
    }

    /// Changes the value of `name`, or `default` if it is not set; the new value. Atomic as
    /// [`Dict::update`](crate::Dict::update).
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Decode`](CallError::Decode) if it is of another type.
    pub fn update<T: Serialize + DeserializeOwned + Clone>(
        &self,
        name: &str,
        default: T,
        mut change: impl FnMut(T) -> T,
    ) -> Result<T, CallError> {
        let name = self.proxy.pack(name);
        super::update(
            || self.proxy.ask("read", &name, super::version_and_option),
            |value| change(value.unwrap_or_else(|| default.clone())),
            |version, changed: &T| {
                let args = (&name, version, Some(self.proxy.pack(changed)));
                self.proxy.ask("write", &args, super::written)
            },
        )
    }

    /// Removes `name`; whether it was there.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__delattr__")]
    pub fn remove(&self, name: &str) -> Result<bool, CallError> {
        let names = [self.proxy.pack(name)];
        let removed: usize = self.proxy.ask_plain("remove_many", &names.as_slice())?;
        Ok(removed > 0)
    }

    /// Whether `name` is set.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn contains(&self, name: &str) -> Result<bool, CallError> {
        self.proxy.ask_plain("contains", &self.proxy.pack(name))
    }

    /// All names, in the order in which they were set first.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn names(&self) -> Result<Vec<String>, CallError> {
        let (mut next, mut mark, mut names) = (Some(0_u64), None::<u64>, Vec::new());
        while let Some(from) = next {
            let args = (from, PAGE_ITEMS, mark);
            let page = self.proxy.ask("keys", &args, |link, bytes| {
                let page: Page<'_> = link::parse(bytes)?;
                Ok((page.next, page.mark, unpack_all(link, &page.items)?))
            })?;
            (next, mark) = (page.0, Some(page.1));
            names.extend(page.2);
        }
        Ok(names)
    }
}

/// The public names: those that do not begin with an underscore.
impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names().map_err(|_| fmt::Error)?;
        let public: Vec<_> = names
            .iter()
            .map(String::as_str)
            .filter(|name| !name.starts_with('_'))
            .collect();
        write!(f, "Namespace({})", public.join(", "))
    }
}
