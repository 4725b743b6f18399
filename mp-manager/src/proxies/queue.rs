//! The clients' halves of `Queue` and `JoinableQueue`; the server's half is `referents::queue`.

use std::{fmt, marker::PhantomData, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::CallError,
    link,
    passage::{self, Packed},
    protocol::Encoded,
    proxies::nanos,
    proxy::{Proxy, proxy_type, unpack_all},
    referents::queue::{Got, Put},
};

/// A first-in, first-out queue in the server.
///
/// It reaches wherever the server does, other machines included; between processes of one machine
/// `mp::Queue` is faster.
///
/// # Process death
///
/// An item whose `put` returned is in the queue. One that a client died while it waited for goes to
/// the next; one that was on its way to a client that died is gone with it.
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// use mp_manager::TryPutError;
///
/// let queue = manager.bounded_queue(2)?;
/// queue.put_many(["one", "two"].map(str::to_owned))?;
/// let full = queue.try_put("three".to_owned());
/// assert!(matches!(full, Err(TryPutError::Full(value)) if value == "three"));
/// queue.close()?; // what is in it can still be taken
/// assert_eq!(queue.iter().count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "QueueProxy")]
pub struct Queue<T> {
    proxy: Proxy,
    values: PhantomData<fn() -> (T,)>,
}

/// A [`Queue`] that counts unfinished tasks.
///
/// # Process death
///
/// As for [`Queue`]. Tasks that a client had taken and not reported done when it died are
/// [`lost`](Self::lost): nobody waits for them.
///
/// # Examples
///
/// ```
/// # let server = mp_manager::Manager::builder().server()?;
/// # let manager = server.client();
/// let tasks = manager.joinable_queue()?;
/// tasks.put(7)?;
/// assert_eq!(tasks.get()?, 7);
/// assert_eq!(tasks.unfinished()?, 1);
/// tasks.task_done()?;
/// tasks.join()?; // nothing is left
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JoinableQueue<T> {
    proxy: Proxy,
    values: PhantomData<fn() -> (T,)>,
}

proxy_type!(Queue<T>, "Queue");
proxy_type!(JoinableQueue<T>, "JoinableQueue");

/// Why an item was not put; it comes back.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum PutError<T> {
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed(T),
    /// The call failed. With [`CallError::ServerDied`] the item may have been put before.
    #[error("{1}")]
    Call(T, #[source] CallError),
}

/// Why an item was not put at once or in time; it comes back.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum TryPutError<T> {
    /// The queue is full, or was until the timeout.
    #[error("the queue is full")]
    Full(T),
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed(T),
    /// The call failed. With [`CallError::ServerDied`] the item may have been put before.
    #[error("{1}")]
    Call(T, #[source] CallError),
}

impl<T> PutError<T> {
    /// The item.
    pub fn into_value(self) -> T {
        match self {
            Self::Closed(value) | Self::Call(value, _) => value,
        }
    }
}

impl<T> TryPutError<T> {
    /// The item.
    pub fn into_value(self) -> T {
        match self {
            Self::Full(value) | Self::Closed(value) | Self::Call(value, _) => value,
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::Call(_, error) => write!(f, "Call(.., {error:?})"),
        }
    }
}

impl<T> fmt::Debug for TryPutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full(..)"),
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::Call(_, error) => write!(f, "Call(.., {error:?})"),
        }
    }
}

/// Why no item came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// The queue is closed, and empty.
    #[error("the queue is closed and empty")]
    Closed,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Why no item came at once or in time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TryGetError {
    /// There is none, or was none until the timeout.
    #[error("the queue is empty")]
    Empty,
    /// The queue is closed, and empty.
    #[error("the queue is closed and empty")]
    Closed,
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Puts with a timeout, or none; `None` if it is in.
fn put<T: Serialize>(proxy: &Proxy, value: T, nanos: Option<u64>) -> Result<(), TryPutError<T>> {
    match proxy.ask_plain("put", &(proxy.pack(&value), nanos)) {
        Ok(Put::Yes) => Ok(()),
        Ok(Put::Full) => Err(TryPutError::Full(value)),
        Ok(Put::Closed) => Err(TryPutError::Closed(value)),
        Err(error) => Err(TryPutError::Call(value, error)),
    }
}

fn get<T: DeserializeOwned>(proxy: &Proxy, nanos: Option<u64>) -> Result<T, TryGetError> {
    proxy.ask("get", &nanos, |link, bytes| {
        Ok(match link::parse(bytes)? {
            Got::Item(item) => Ok(passage::unpack(link, &item)?),
            Got::Empty => Err(TryGetError::Empty),
            Got::Closed => Err(TryGetError::Closed),
        })
    })?
}

macro_rules! queue_methods {
    ($name:ident) => {
        impl<T: Serialize + DeserializeOwned> $name<T> {
            /// Puts `value` at the back, waiting for room.
            ///
            /// # Errors
            ///
            /// [`PutError`] hands `value` back.
            pub fn put(&self, value: T) -> Result<(), PutError<T>> {
                put(&self.proxy, value, None).map_err(|error| match error {
                    TryPutError::Full(value) | TryPutError::Closed(value) => {
                        PutError::Closed(value)
                    }
                    TryPutError::Call(value, error) => PutError::Call(value, error),
                })
            }

            /// Puts `value` at the back if there is room.
            ///
            /// # Errors
            ///
            /// [`TryPutError`] hands `value` back.
            #[doc(alias = "put_nowait")]
            pub fn try_put(&self, value: T) -> Result<(), TryPutError<T>> {
                put(&self.proxy, value, Some(0))
            }

            /// Puts `value` at the back, waiting for room for at most `timeout`.
            ///
            /// # Errors
            ///
            /// [`TryPutError`] hands `value` back.
            pub fn put_timeout(&self, value: T, timeout: Duration) -> Result<(), TryPutError<T>> {
                put(&self.proxy, value, nanos(timeout))
            }

            /// Puts many items at the back in few messages, waiting for room.
            ///
            /// # Errors
            ///
            /// [`PutError`] hands back what was taken from `values` and is not in the queue; with
            /// `values.by_ref()` the rest is still there.
            pub fn put_many(
                &self,
                values: impl IntoIterator<Item = T>,
            ) -> Result<(), PutError<Vec<T>>> {
                put_many(&self.proxy, values)
            }

            /// Takes the first item, waiting for one.
            ///
            /// # Errors
            ///
            /// [`GetError`].
            pub fn get(&self) -> Result<T, GetError> {
                get(&self.proxy, None).map_err(|error| match error {
                    TryGetError::Empty | TryGetError::Closed => GetError::Closed,
                    TryGetError::Call(error) => GetError::Call(error),
                })
            }

            /// Takes the first item if there is one.
            ///
            /// # Errors
            ///
            /// [`TryGetError`].
            #[doc(alias = "get_nowait")]
            pub fn try_get(&self) -> Result<T, TryGetError> {
                get(&self.proxy, Some(0))
            }

            /// Takes the first item, waiting for one for at most `timeout`.
            ///
            /// # Errors
            ///
            /// [`TryGetError`].
            pub fn get_timeout(&self, timeout: Duration) -> Result<T, TryGetError> {
                get(&self.proxy, nanos(timeout))
            }

            /// Takes what is there, at most so many items, in one message if it fits.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            pub fn drain(&self, most: usize) -> Result<Vec<T>, CallError> {
                self.proxy.ask("drain", &most, |link, bytes| {
                    let items: Vec<Encoded<'_>> = link::parse(bytes)?;
                    unpack_all(link, &items)
                })
            }

            /// Takes items, waiting for each, until the queue is closed and empty.
            pub fn iter(&self) -> QueueIter<T> {
                QueueIter {
                    proxy: self.proxy.clone(),
                    over: false,
                    values: PhantomData,
                }
            }

            /// The number of items.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            #[doc(alias = "qsize")]
            pub fn len(&self) -> Result<usize, CallError> {
                self.proxy.ask_plain("len", &())
            }

            /// Whether there are none.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            #[doc(alias = "empty")]
            pub fn is_empty(&self) -> Result<bool, CallError> {
                Ok(self.len()? == 0)
            }

            /// Whether a put would wait.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            #[doc(alias = "full")]
            pub fn is_full(&self) -> Result<bool, CallError> {
                self.proxy.ask_plain("is_full", &())
            }

            /// How many items it takes at most; `None`: any number.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            pub fn capacity(&self) -> Result<Option<usize>, CallError> {
                self.proxy.ask_plain("capacity", &())
            }

            /// Lets nobody put any more; what is in the queue can still be taken.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            #[doc(alias = "shutdown")]
            pub fn close(&self) -> Result<(), CallError> {
                self.proxy.ask_plain("close", &())
            }

            /// Whether it is closed.
            ///
            /// # Errors
            ///
            /// [`CallError`].
            pub fn is_closed(&self) -> Result<bool, CallError> {
                self.proxy.ask_plain("is_closed", &())
            }
        }
    };
}

queue_methods!(Queue);
queue_methods!(JoinableQueue);

impl<T> JoinableQueue<T> {
    /// Reports a task that was taken as done.
    ///
    /// # Errors
    ///
    /// [`CallError::Refused`]: every task is.
    pub fn task_done(&self) -> Result<(), CallError> {
        self.proxy.ask_plain("task_done", &())
    }

    /// Waits until every task that was put is reported done, or lost.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn join(&self) -> Result<(), CallError> {
        self.proxy
            .ask_plain::<_, bool>("join", &None::<u64>)
            .map(drop)
    }

    /// The same for at most `timeout`; whether all are done.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<bool, CallError> {
        self.proxy.ask_plain("join", &nanos(timeout))
    }

    /// How many tasks are not yet done.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn unfinished(&self) -> Result<u64, CallError> {
        Ok(self.proxy.ask_plain::<_, (u64, u64)>("unfinished", &())?.0)
    }

    /// How many tasks were in the hands of clients that died, or dropped their last handle of this
    /// queue, before they reported them done.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn lost(&self) -> Result<u64, CallError> {
        Ok(self.proxy.ask_plain::<_, (u64, u64)>("unfinished", &())?.1)
    }
}

fn put_many<T: Serialize>(
    proxy: &Proxy,
    values: impl IntoIterator<Item = T>,
) -> Result<(), PutError<Vec<T>>> {
    let mut values = values.into_iter();
    let whole = match proxy.budget() {
        Ok(budget) => budget,
        Err(error) => return Err(PutError::Call(Vec::new(), error)),
    };
    // Packed, and too much for the last batch.
    let mut next: Option<(T, Packed)> = None;
    loop {
        let (mut kept, mut packed, mut budget) = (Vec::new(), Vec::new(), whole);
        loop {
            let (value, item) = match next.take() {
                Some(next) => next,
                None => match values.next().map(|value| (proxy.pack_now(&value), value)) {
                    Some((Ok(item), value)) => (value, item),
                    Some((Err(error), value)) => {
                        kept.push(value);
                        return Err(PutError::Call(kept, error));
                    }
                    None => break,
                },
            };
            if !budget.takes(item.size()) {
                next = Some((value, item));
                break;
            }
            packed.push(item);
            kept.push(value);
        }
        if packed.is_empty() {
            return Ok(());
        }
        let mut rest = packed.as_slice();
        while !rest.is_empty() {
            let answer = proxy.ask_plain::<_, (usize, Put)>("put_many", &(rest, None::<u64>));
            let failed = match answer {
                Ok((count, Put::Yes)) => {
                    rest = rest.get(count..).unwrap_or_default();
                    continue;
                }
                Ok(_) => None,
                Err(error) => Some(error),
            };
            let mut left = kept.split_off(kept.len() - rest.len());
            left.extend(next.map(|(value, _)| value));
            return Err(match failed {
                Some(error) => PutError::Call(left, error),
                None => PutError::Closed(left),
            });
        }
    }
}

/// The items of a queue until it is closed: [`Queue::iter`].
#[derive(Debug)]
pub struct QueueIter<T> {
    proxy: Proxy,
    over: bool,
    values: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Iterator for QueueIter<T> {
    type Item = Result<T, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        match get(&self.proxy, None) {
            Ok(item) => Some(Ok(item)),
            Err(TryGetError::Call(error)) => {
                self.over = matches!(error, CallError::ServerDied { .. });
                Some(Err(error))
            }
            Err(TryGetError::Empty | TryGetError::Closed) => {
                self.over = true;
                None
            }
        }
    }
}
