//! The client's half of `Array`; the server's half is `referents::array`.

use std::marker::PhantomData;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link, passage,
    protocol::{PAGE_ITEMS, Page},
    proxies::{exchanged, in_batches, rewritten, versioned},
    proxy::{Proxy, proxy_type, unpack_all},
};

/// A fixed number of elements in the server.
///
/// # Process death
///
/// A client that dies leaves every element old or new; of one [`set_range`](Self::set_range), some
/// may be new and some old. The server's death is [`CallError::ServerDied`].
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let cells = manager.array_of(4, &0.0)?;
/// cells.set(1, &0.5)?;
/// cells.update(1, |cell| cell * 3.0)?;
/// assert_eq!(cells.to_vec()?, [0.0, 1.5, 0.0, 0.0]);
/// assert!(cells.get(4).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "ArrayProxy")]
pub struct Array<T> {
    proxy: Proxy,
    values: PhantomData<fn() -> (T,)>,
}

proxy_type!(Array<T>, "Array");

impl<T: Serialize + DeserializeOwned> Array<T> {
    /// A copy of the element at `index`.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) beyond the end.
    #[doc(alias = "__getitem__")]
    pub fn get(&self, index: usize) -> Result<T, CallError> {
        self.proxy.ask("get", &index, |link, bytes| {
            passage::unpack(link, &link::parse(bytes)?)
        })
    }

    /// Replaces the element at `index`.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) beyond the end.
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, value: &T) -> Result<(), CallError> {
        self.proxy
            .ask_plain("set", &(index, [self.proxy.pack(value)].as_slice()))
    }

    /// Replaces the elements from `start` on, as many as there are values.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) when they reach beyond the end.
    pub fn set_range(
        &self,
        start: usize,
        values: impl IntoIterator<Item = T>,
    ) -> Result<(), CallError> {
        let mut from = start;
        in_batches(&self.proxy, values, |batch| {
            self.proxy.ask_plain::<_, ()>("set", &(from, batch))?;
            from += batch.len();
            Ok(())
        })
    }

    /// Replaces every element.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn fill(&self, value: &T) -> Result<(), CallError> {
        self.proxy.ask_plain("fill", &self.proxy.pack(value))
    }

    /// Changes the element at `index`; the new one. Atomic, see
    /// [`Dict::update`](crate::Dict::update).
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) beyond the end.
    pub fn update(&self, index: usize, change: impl FnMut(T) -> T) -> Result<T, CallError> {
        super::update(
            || self.proxy.ask("read", &index, versioned),
            change,
            |version, changed| {
                let args = (index, version, self.proxy.pack(changed));
                self.proxy.ask("write", &args, rewritten)
            },
        )
    }

    /// Replaces the element at `index` if it is `expected`, by its encoding; else the inner error
    /// holds what stands there.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn compare_exchange(
        &self,
        index: usize,
        expected: &T,
        new: &T,
    ) -> Result<Result<(), Option<T>>, CallError> {
        let args = (index, self.proxy.pack(expected), self.proxy.pack(new));
        self.proxy.ask("compare_exchange", &args, exchanged)
    }

    /// The number of elements.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn len(&self) -> Result<usize, CallError> {
        self.proxy.ask_plain("len", &())
    }

    /// Whether there are none.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn is_empty(&self) -> Result<bool, CallError> {
        Ok(self.len()? == 0)
    }

    /// A copy of all elements; those of one message as they stood at one moment.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn to_vec(&self) -> Result<Vec<T>, CallError> {
        let (mut next, mut all) = (Some(0), Vec::new());
        while let Some(from) = next {
            let page = self.proxy.ask("page", &(from, PAGE_ITEMS), |link, bytes| {
                let page: Page<'_> = link::parse(bytes)?;
                Ok((page.next, unpack_all(link, &page.items)?))
            })?;
            next = page.0;
            all.extend(page.1);
        }
        Ok(all)
    }

    /// Walks over copies of the elements.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn iter(&self) -> Result<impl Iterator<Item = T> + use<T>, CallError> {
        Ok(self.to_vec()?.into_iter())
    }
}
