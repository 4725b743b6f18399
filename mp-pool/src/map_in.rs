//! A pool as one step of a chain of iterators.

use mp_process::Target;
use serde::{Serialize, de::DeserializeOwned};

use crate::{imap::Imap, pool::PoolHandle};

/// Iterators whose items can go through the workers of a pool.
///
/// `items.map_in(&pool, f)` is [`pool.imap(f, items)`](PoolHandle::imap), for where it is one step of
/// many: what stands before it runs here, an item at a time, and what stands after it gets the
/// values as they come.
///
/// ```no_run
/// # // Starts processes, which a documentation test cannot do.
/// use mp_pool::{MapIn, Pool};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # mp_process::init();
/// let pool = Pool::new(4)?;
/// let squares = (0..100_u64)
///     .filter(|x| x % 3 == 0)
///     .map_in(&pool, |x: u64| x * x)
///     .collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(squares.len(), 34);
/// # Ok(())
/// # }
/// ```
pub trait MapIn: Iterator + Sized {
    /// Calls `function` with each item, in a worker; values come in the order of the items.
    fn map_in<F>(self, pool: &PoolHandle, function: F) -> Imap<Self, F::Output>
    where
        F: Target<(Self::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        Self::Item: Serialize + DeserializeOwned + 'static,
    {
        pool.imap(function, self)
    }

    /// As [`map_in`](Self::map_in), but values come in the order in which they are ready.
    fn map_in_unordered<F>(self, pool: &PoolHandle, function: F) -> Imap<Self, F::Output>
    where
        F: Target<(Self::Item,)>,
        F::Output: Serialize + DeserializeOwned,
        Self::Item: Serialize + DeserializeOwned + 'static,
    {
        pool.imap_unordered(function, self)
    }
}

impl<I: Iterator> MapIn for I {}
