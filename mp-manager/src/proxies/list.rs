//! The client's half of `List`; the server's half is `referents::list`.

use std::{marker::PhantomData, ops::RangeBounds, vec};

use mp_core::primitive::thread::yield_now;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link, passage,
    protocol::{PAGE_ITEMS, Page},
    proxies::{exchanged, in_batches, rewritten, versioned},
    proxy::{Managed, Proxy, proxy_type, unpack_all},
};

/// A list in the server.
///
/// The items can be any type that serde knows, proxies included; see [`Dict`](crate::Dict). What
/// reads gives copies.
///
/// # Process death
///
/// A client that dies leaves every item whole: each call is done or not begun. The server's death
/// is [`CallError::ServerDied`].
///
/// # Errors
///
/// Every call can fail with [`CallError`]; an index beyond the end is
/// [`CallError::Refused`] where it cannot be `None`.
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let list = manager.list_from([3, 1, 2])?;
/// list.push(5)?;
/// list.update(0, |n| n * 10)?; // atomic: nobody's change is lost
/// list.sort()?;
/// assert_eq!(list.to_vec()?, [1, 2, 5, 30]);
/// assert_eq!(list.get(7)?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "ListProxy")]
pub struct List<T> {
    proxy: Proxy,
    values: PhantomData<fn() -> (T,)>,
}

proxy_type!(List<T>, "List");

/// A list that changes while it is read page by page is read again so often, before the server is
/// asked for a copy that holds still.
const RESTARTS: usize = 10;

impl<T: Serialize + DeserializeOwned> List<T> {
    /// A copy of the item at `index`.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__getitem__")]
    pub fn get(&self, index: usize) -> Result<Option<T>, CallError> {
        self.proxy.ask_option("get", &index)
    }

    /// Replaces the item at `index`; the old one.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, value: T) -> Result<T, CallError> {
        self.proxy
            .ask("set", &(index, self.proxy.pack(&value)), |link, bytes| {
                passage::unpack(link, &link::parse(bytes)?)
            })
    }

    /// Puts `value` at the end.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "append")]
    pub fn push(&self, value: T) -> Result<(), CallError> {
        self.proxy.ask_plain("push", &self.proxy.pack(&value))
    }

    /// Puts `value` before the item at `index`.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn insert(&self, index: usize, value: T) -> Result<(), CallError> {
        self.proxy
            .ask_plain("insert", &(index, self.proxy.pack(&value)))
    }

    /// Takes the last item.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn pop(&self) -> Result<Option<T>, CallError> {
        self.proxy.ask_option("pop", &())
    }

    /// Takes the item at `index`; those behind it move up.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__delitem__")]
    pub fn remove(&self, index: usize) -> Result<T, CallError> {
        self.proxy.ask("remove", &index, |link, bytes| {
            let removed: Option<_> = link::parse(bytes)?;
            let removed = removed.ok_or_else(|| CallError::not_found("such item"))?;
            passage::unpack(link, &removed)
        })
    }

    /// Removes the first item that is equal to `value`, by its encoding; whether there was one.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn remove_value(&self, value: &T) -> Result<bool, CallError> {
        self.proxy
            .ask_plain("remove_value", &self.proxy.pack(value))
    }

    /// Where the first item stands that is equal to `value`, by its encoding.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "index")]
    pub fn position(&self, value: &T) -> Result<Option<usize>, CallError> {
        self.proxy.ask_plain("index", &self.proxy.pack(value))
    }

    /// Whether an item is equal to `value`, by its encoding.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "__contains__")]
    pub fn contains(&self, value: &T) -> Result<bool, CallError> {
        Ok(self.position(value)?.is_some())
    }

    /// How many items are equal to `value`, by their encodings.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn count(&self, value: &T) -> Result<usize, CallError> {
        self.proxy.ask_plain("count", &self.proxy.pack(value))
    }

    /// The number of items.
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

    /// Removes every item.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn clear(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("clear", &())
    }

    /// Removes the items from `len` on.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn truncate(&self, len: usize) -> Result<(), CallError> {
        self.proxy.ask_plain("truncate", &len)
    }

    /// Puts many items at the end, in few messages.
    ///
    /// # Errors
    ///
    /// [`CallError`]; the items of earlier messages are in then.
    #[doc(alias = "__iadd__")]
    pub fn extend(&self, values: impl IntoIterator<Item = T>) -> Result<(), CallError> {
        in_batches(&self.proxy, values, |batch| {
            self.proxy.ask_plain("extend", &batch)
        })
    }

    /// Repeats the items in place, so that they are there `times` times.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`TooLarge`](CallError::TooLarge) for more items than a message could hold.
    #[doc(alias = "__imul__")]
    pub fn repeat(&self, times: usize) -> Result<(), CallError> {
        self.proxy.ask_plain("repeat", &times)
    }

    /// Turns the order around.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn reverse(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("reverse", &())
    }

    /// Sorts the items; equal ones keep their order.
    ///
    /// Atomic: they are sorted here and put into that order there, unless the list was changed
    /// meanwhile; then again. So it takes as long as others change the list without a pause.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn sort(&self) -> Result<(), CallError>
    where
        T: Ord,
    {
        self.sort_by(T::cmp)
    }

    /// As [`sort`](Self::sort), by what `key` gives.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn sort_by_key<K: Ord>(&self, mut key: impl FnMut(&T) -> K) -> Result<(), CallError> {
        self.sort_by(|a, b| key(a).cmp(&key(b)))
    }

    /// As [`sort`](Self::sort), by a comparison.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn sort_by(
        &self,
        mut compare: impl FnMut(&T, &T) -> std::cmp::Ordering,
    ) -> Result<(), CallError> {
        loop {
            let (version, items) = self.snapshot()?;
            let mut order: Vec<u32> = (0..items.len() as u32).collect();
            order.sort_by(|a, b| compare(&items[*a as usize], &items[*b as usize]));
            if self.proxy.ask_plain("permute", &(version, order))? {
                return Ok(());
            }
        }
    }

    /// Changes the item at `index`; the new one. Atomic, see [`Dict::update`](crate::Dict::update).
    ///
    /// # Errors
    ///
    /// [`CallError`].
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

    /// Replaces the item at `index` if it is `expected`, by its encoding; else the inner error
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

    /// A copy of all items, as they stood at one moment.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "copy")]
    pub fn to_vec(&self) -> Result<Vec<T>, CallError> {
        Ok(self.snapshot()?.1)
    }

    /// A copy of the items in `range`.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "slice")]
    pub fn range(&self, range: impl RangeBounds<usize>) -> Result<Vec<T>, CallError> {
        use std::ops::Bound;
        let from = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => usize::MAX,
        };
        Ok(self.read(from, end)?.1)
    }

    /// Walks over the items, a page at a time, fetched when it is needed.
    ///
    /// By index: what is inserted or removed before the place that was reached shifts the items.
    pub fn iter(&self) -> ListIter<T> {
        self.iter_by(PAGE_ITEMS)
    }

    /// As [`iter`](Self::iter), with so many items in a page at most.
    pub fn iter_by(&self, items: usize) -> ListIter<T> {
        ListIter {
            list: self.clone(),
            items,
            page: Vec::new().into_iter(),
            next: Some(0),
        }
    }

    fn snapshot(&self) -> Result<(u64, Vec<T>), CallError> {
        self.read(0, usize::MAX)
    }

    /// The items of one moment, and its version.
    fn read(&self, from: usize, end: usize) -> Result<(u64, Vec<T>), CallError> {
        let mut restarts = 0;
        loop {
            if let Some(read) = self.try_read(from, end)? {
                return Ok(read);
            }
            restarts += 1;
            if restarts < RESTARTS {
                continue;
            }
            match self.copy_there() {
                Ok(copy) => {
                    let read = copy.try_read(from, end)?;
                    return read.ok_or_else(|| CallError::not_found("list that nobody changes"));
                }
                // No place for one more object, or a server that makes no copies. Reading needs
                // neither, only a pause of those who change the list.
                Err(CallError::Denied { .. } | CallError::NotFound { .. }) => yield_now(),
                Err(other) => return Err(other),
            }
        }
    }

    /// The same, page by page; `None` when the list changed between two pages.
    #[allow(clippy::type_complexity)] // what `read` gives, or nothing
    fn try_read(&self, from: usize, end: usize) -> Result<Option<(u64, Vec<T>)>, CallError> {
        let (mut items, mut mark) = (Vec::new(), None);
        let mut next = Some(from);
        while let Some(from) = next.filter(|from| *from < end) {
            let Some(page) = self.page(from, end - from, mark)? else {
                return Ok(None);
            };
            (next, mark) = (page.0, Some(page.1));
            items.extend(page.2);
        }
        Ok(Some((mark.unwrap_or(0), items)))
    }

    /// A copy that the server makes, of the same version, and that only this proxy refers to.
    fn copy_there(&self) -> Result<Self, CallError> {
        self.proxy.ask("copy", &(), |link, bytes| {
            let reference = link.adopt(link::parse(bytes)?);
            let reference = reference.ok_or_else(|| CallError::not_found("copy any more"))?;
            Ok(Self::from_proxy(Proxy::new(Self::KIND, reference)))
        })
    }

    #[allow(clippy::type_complexity)] // what a page is
    fn page(
        &self,
        from: usize,
        most: usize,
        mark: Option<u64>,
    ) -> Result<Option<(Option<usize>, u64, Vec<T>)>, CallError> {
        self.proxy.ask("page", &(from, most, mark), |link, bytes| {
            let Some(page): Option<Page<'_>> = link::parse(bytes)? else {
                return Ok(None);
            };
            let next = page.next.map(|next| next as usize);
            Ok(Some((next, page.mark, unpack_all(link, &page.items)?)))
        })
    }
}

/// The items of a [`List`], page by page: [`List::iter`].
#[derive(Debug)]
pub struct ListIter<T> {
    list: List<T>,
    items: usize,
    page: vec::IntoIter<T>,
    next: Option<usize>,
}

impl<T: Serialize + DeserializeOwned> Iterator for ListIter<T> {
    type Item = Result<T, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.page.next() {
                return Some(Ok(item));
            }
            let from = self.next.take()?;
            match self.list.page(from, self.items, None) {
                Ok(Some((next, _, items))) => {
                    self.next = next;
                    self.page = items.into_iter();
                }
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl<T: Serialize + DeserializeOwned> std::iter::FusedIterator for ListIter<T> {}

impl<T: Serialize + DeserializeOwned> IntoIterator for &List<T> {
    type Item = Result<T, CallError>;
    type IntoIter = ListIter<T>;

    fn into_iter(self) -> ListIter<T> {
        self.iter()
    }
}
