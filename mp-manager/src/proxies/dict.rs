//! The client's half of `Dict`; the server's half is `referents::dict`.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, marker::PhantomData, vec};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link,
    passage::{self, Packed},
    protocol::{Encoded, PAGE_ITEMS, Page},
    proxies::{exchanged, in_batches, version_and_option, written},
    proxy::{Proxy, proxy_type, unpack_all},
};

/// A dictionary in the server, in the order of insertion.
///
/// Keys and values can be any type that serde knows; two keys are one if their encodings are (a
/// `HashMap` in a key is therefore not a good idea). The server does not know the types. A value
/// can hold proxies to other objects of the same manager: they stay live, and the objects stay as
/// long as they are in here.
///
/// What [`get`](Self::get) gives is a copy; to change a value where it is, use
/// [`update`](Self::update), which loses nobody's change.
///
/// # Process death
///
/// A client that dies leaves every entry whole: each call is done or not begun. The server's death
/// is [`CallError::ServerDied`].
///
/// # Errors
///
/// Every call can fail with [`CallError`].
#[doc(alias = "DictProxy")]
pub struct Dict<K, V> {
    proxy: Proxy,
    values: PhantomData<fn() -> (K, V)>,
}

proxy_type!(Dict<K, V>, "Dict");

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    /// A copy of the value of `key`.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__getitem__")]
    pub fn get<Q>(&self, key: &Q) -> Result<Option<V>, CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        self.proxy.ask_option("get", &self.proxy.pack(key))
    }

    /// Copies of many values in few messages, in the order of the keys.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn get_many<'q, Q>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
    ) -> Result<Vec<Option<V>>, CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized + 'q,
    {
        let mut values = Vec::new();
        in_batches(&self.proxy, keys, |mut batch| {
            // A page of the answer may hold fewer than were asked for.
            while !batch.is_empty() {
                let page = self.proxy.ask("get_many", &batch, |link, bytes| {
                    let found: Vec<Option<Encoded<'_>>> = link::parse(bytes)?;
                    let plain: Vec<_> = found.iter().map(Option::is_some).collect();
                    let found: Vec<_> = found.into_iter().flatten().collect();
                    Ok((plain, unpack_all::<V>(link, &found)?))
                })?;
                let (there, found) = page;
                let mut found = found.into_iter();
                values.extend(
                    there
                        .iter()
                        .map(|there| there.then(|| found.next()).flatten()),
                );
                batch = batch.get(there.len().max(1)..).unwrap_or_default();
            }
            Ok(())
        })?;
        Ok(values)
    }

    /// Puts `value` under `key`; a copy of what stood there.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>, CallError> {
        let args = (self.proxy.pack(&key), self.proxy.pack(&value));
        self.proxy.ask_option("insert", &args)
    }

    /// Puts `value` under `key`, whatever stood there.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__setitem__")]
    pub fn set<Q, W>(&self, key: &Q, value: &W) -> Result<(), CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
        V: Borrow<W>,
        W: Serialize + ?Sized,
    {
        let args = (self.proxy.pack(key), self.proxy.pack(value));
        self.proxy.ask_plain("set", &args)
    }

    /// The value of `key`; `default` is put there first if there is none.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "setdefault")]
    pub fn get_or_insert(&self, key: K, default: V) -> Result<V, CallError> {
        let args = (self.proxy.pack(&key), self.proxy.pack(&default));
        self.proxy.ask("get_or_insert", &args, |link, bytes| {
            passage::unpack(link, &link::parse(bytes)?)
        })
    }

    /// Changes the value of `key`, or `default` if there is none; the new value.
    ///
    /// Atomic: between the value that `change` gets and the one that it gives, nobody else's write
    /// is lost. No lock is held meanwhile; when another write came between, `change` runs again
    /// with the newer value.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    ///
    /// # Examples
    ///
    /// ```
    /// # mp_process::init();
    /// # let manager = mp_manager::Manager::start()?;
    /// let counts = manager.dict::<String, u64>()?;
    /// counts.update("word".to_owned(), 0, |n| n + 1)?;
    /// assert_eq!(counts.update("word".to_owned(), 0, |n| n + 1)?, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn update(&self, key: K, default: V, mut change: impl FnMut(V) -> V) -> Result<V, CallError>
    where
        V: Clone,
    {
        self.update_with(&key, |value| {
            let value = value.unwrap_or_else(|| default.clone());
            Some(change(value))
        })
        .map(|value| value.unwrap_or(default))
    }

    /// Changes, makes or removes the entry of `key`: `change` gets the value or `None`, and gives
    /// the same. Atomic as [`update`](Self::update).
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn update_with<Q>(
        &self,
        key: &Q,
        mut change: impl FnMut(Option<V>) -> Option<V>,
    ) -> Result<Option<V>, CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        super::update(
            || {
                let key = self.proxy.pack(key);
                self.proxy.ask("read", &key, version_and_option)
            },
            &mut change,
            |version, changed: &Option<V>| {
                let changed = changed.as_ref().map(|changed| self.proxy.pack(changed));
                let args = (self.proxy.pack(key), version, changed);
                self.proxy.ask("write", &args, written)
            },
        )
    }

    /// Changes many entries in few messages: `change` gets the value of the key or `None`, and what
    /// came with the key, and gives the new value.
    ///
    /// Each entry is changed atomically, as by [`update`](Self::update); not all of them at once.
    ///
    /// # Errors
    ///
    /// [`CallError`]; some entries are changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # mp_process::init();
    /// # let manager = mp_manager::Manager::start()?;
    /// let totals = manager.dict_from([("a".to_owned(), 1)])?;
    /// let counted = [("a".to_owned(), 2), ("b".to_owned(), 3)];
    /// totals.merge(counted, |total, count| total.unwrap_or(0) + count)?;
    /// assert_eq!(totals.items()?, [("a".to_owned(), 3), ("b".to_owned(), 3)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn merge<A>(
        &self,
        entries: impl IntoIterator<Item = (K, A)>,
        mut change: impl FnMut(Option<V>, &A) -> V,
    ) -> Result<(), CallError> {
        /// Changes in one message: few enough that they are seldom overtaken.
        const BATCH: usize = 512;
        let mut entries = entries.into_iter();
        let mut pending: Vec<(K, A)> = Vec::new();
        loop {
            let room = BATCH.saturating_sub(pending.len());
            pending.extend(entries.by_ref().take(room));
            if pending.is_empty() {
                return Ok(());
            }
            let keys: Vec<_> = pending
                .iter()
                .map(|(key, _)| self.proxy.pack(key))
                .collect();
            let found = self.proxy.ask("read_many", &keys, |link, bytes| {
                let found: Vec<(u64, Option<Encoded<'_>>)> = link::parse(bytes)?;
                let versions: Vec<_> = found
                    .iter()
                    .map(|(version, value)| (*version, value.is_some()))
                    .collect();
                let values: Vec<_> = found.into_iter().filter_map(|(_, value)| value).collect();
                Ok((versions, unpack_all::<V>(link, &values)?))
            })?;
            // A page may hold fewer than were asked for, and a write fewer than were read.
            let (versions, values) = found;
            let mut values = values.into_iter();
            let mut budget = self.proxy.budget()?;
            let mut writes = Vec::new();
            for ((key, with), (version, there)) in pending.iter().zip(versions) {
                let value = there.then(|| values.next()).flatten();
                let key = self.proxy.pack_now(key)?;
                let value = self.proxy.pack_now(&change(value, with))?;
                if !budget.takes(key.size() + value.size()) {
                    break;
                }
                writes.push((key, version, value));
            }
            let done: Vec<bool> = self.proxy.ask_plain("write_many", &writes)?;
            let mut done = done.into_iter();
            pending.retain(|_| !done.next().unwrap_or(false));
        }
    }

    /// Puts `new` (or nothing) under `key` if `expected` (or nothing) stands there; else the inner
    /// error holds what does. Values are compared by their encodings.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn compare_exchange<Q>(
        &self,
        key: &Q,
        expected: Option<&V>,
        new: Option<&V>,
    ) -> Result<Result<(), Option<V>>, CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        let args = (
            self.proxy.pack(key),
            expected.map(|expected| self.proxy.pack(expected)),
            new.map(|new| self.proxy.pack(new)),
        );
        self.proxy.ask("compare_exchange", &args, exchanged)
    }

    /// Takes the entry of `key` out; its value.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "pop")]
    #[doc(alias = "__delitem__")]
    pub fn remove<Q>(&self, key: &Q) -> Result<Option<V>, CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        self.proxy.ask_option("remove", &self.proxy.pack(key))
    }

    /// Takes many entries out in few messages; how many there were.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn remove_many<'q, Q>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
    ) -> Result<usize, CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized + 'q,
    {
        let mut count = 0;
        in_batches(&self.proxy, keys, |batch| {
            count += self.proxy.ask_plain::<_, usize>("remove_many", &batch)?;
            Ok(())
        })?;
        Ok(count)
    }

    /// Takes out the entry that came last.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "popitem")]
    pub fn pop_last(&self) -> Result<Option<(K, V)>, CallError> {
        self.proxy.ask("pop_last", &(), |link, bytes| {
            let popped: Option<(Encoded<'_>, Encoded<'_>)> = link::parse(bytes)?;
            let Some((key, value)) = popped else {
                return Ok(None);
            };
            let (key, value) = (passage::unpack(link, &key), passage::unpack(link, &value));
            Ok(Some((key?, value?)))
        })
    }

    /// Whether there is an entry of `key`.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__contains__")]
    pub fn contains_key<Q>(&self, key: &Q) -> Result<bool, CallError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        self.proxy.ask_plain("contains", &self.proxy.pack(key))
    }

    /// The number of entries.
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

    /// Removes every entry.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn clear(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("clear", &())
    }

    /// Puts many entries in few messages.
    ///
    /// # Errors
    ///
    /// [`CallError`]; the entries of earlier messages are in then.
    #[doc(alias = "dict.update")]
    pub fn extend(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<(), CallError> {
        let mut pairs: Vec<(Packed, Packed)> = Vec::new();
        let whole = self.proxy.budget()?;
        let mut budget = whole;
        for (key, value) in entries {
            let pair = (self.proxy.pack_now(&key)?, self.proxy.pack_now(&value)?);
            let size = pair.0.size() + pair.1.size();
            if !budget.takes(size) {
                self.proxy.ask_plain::<_, ()>("extend", &pairs)?;
                pairs.clear();
                budget = whole;
                budget.takes(size);
            }
            pairs.push(pair);
        }
        if pairs.is_empty() {
            return Ok(());
        }
        self.proxy.ask_plain("extend", &pairs)
    }

    /// Copies of all keys.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn keys(&self) -> Result<Vec<K>, CallError> {
        self.all("keys")
    }

    /// Copies of all values.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn values(&self) -> Result<Vec<V>, CallError> {
        self.all("values")
    }

    /// Copies of all entries, in order.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn items(&self) -> Result<Vec<(K, V)>, CallError> {
        self.iter().collect()
    }

    /// A copy as a map of this process.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "copy")]
    pub fn to_map(&self) -> Result<HashMap<K, V>, CallError>
    where
        K: Eq + Hash,
    {
        self.iter().collect()
    }

    /// Walks over the entries in order, a page at a time, fetched when it is needed.
    ///
    /// Entries that come or go meanwhile are seen or not; nothing is seen twice. After
    /// [`clear`](Self::clear) the next page is an error.
    pub fn iter(&self) -> DictIter<K, V> {
        self.iter_by(PAGE_ITEMS)
    }

    /// As [`iter`](Self::iter), with so many entries in a page at most.
    pub fn iter_by(&self, entries: usize) -> DictIter<K, V> {
        DictIter {
            dict: self.clone(),
            entries,
            page: Vec::new().into_iter(),
            next: Some(0),
            mark: None,
        }
    }

    fn all<T: DeserializeOwned>(&self, method: &str) -> Result<Vec<T>, CallError> {
        let (mut next, mut mark, mut all) = (Some(0), None, Vec::new());
        while let Some(from) = next {
            let page = self.page(method, from, PAGE_ITEMS, mark)?;
            (next, mark) = (page.0, Some(page.1));
            all.extend(page.2);
        }
        Ok(all)
    }

    #[allow(clippy::type_complexity)] // what a page is, used twice
    fn page<T: DeserializeOwned>(
        &self,
        method: &str,
        from: u64,
        most: usize,
        mark: Option<u64>,
    ) -> Result<(Option<u64>, u64, Vec<T>), CallError> {
        self.proxy.ask(method, &(from, most, mark), |link, bytes| {
            let page: Page<'_> = link::parse(bytes)?;
            Ok((page.next, page.mark, unpack_all(link, &page.items)?))
        })
    }
}

/// The entries of a [`Dict`], page by page: [`Dict::iter`].
#[derive(Debug)]
pub struct DictIter<K, V> {
    dict: Dict<K, V>,
    entries: usize,
    page: vec::IntoIter<(K, V)>,
    next: Option<u64>,
    mark: Option<u64>,
}

impl<K, V> Iterator for DictIter<K, V>
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    type Item = Result<(K, V), CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            let from = self.next.take()?;
            let args = (from, self.entries, self.mark);
            let page = self.dict.proxy.ask("items", &args, |link, bytes| {
                let page: Page<'_> = link::parse(bytes)?;
                let (mut keys, mut values, mut failed) = (Vec::new(), Vec::new(), None);
                // Each is decoded, for the references that came with it.
                for pair in page.items.chunks_exact(2) {
                    match (
                        passage::unpack(link, &pair[0]),
                        passage::unpack(link, &pair[1]),
                    ) {
                        (Ok(key), Ok(value)) => {
                            keys.push(key);
                            values.push(value);
                        }
                        (Err(error), _) | (_, Err(error)) => failed = Some(error),
                    }
                }
                match failed {
                    Some(error) => Err(error),
                    None => Ok((page.next, page.mark, keys, values)),
                }
            });
            match page {
                Ok((next, mark, keys, values)) => {
                    (self.next, self.mark) = (next, Some(mark));
                    let entries: Vec<_> = keys.into_iter().zip(values).collect();
                    self.page = entries.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<K, V> std::iter::FusedIterator for DictIter<K, V>
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
}

impl<K, V> IntoIterator for &Dict<K, V>
where
    K: Serialize + DeserializeOwned,
    V: Serialize + DeserializeOwned,
{
    type Item = Result<(K, V), CallError>;
    type IntoIter = DictIter<K, V>;

    fn into_iter(self) -> DictIter<K, V> {
        self.iter()
    }
}
