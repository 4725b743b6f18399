//! Values of a [`ThreadPool`](super::ThreadPool) one by one, with bounded look-ahead.

use std::{collections::BTreeMap, fmt, time::Duration};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mp_core::deadline::Deadline;
use mp_process::Target;

use super::{ThreadPoolHandle, Turn, call};
use crate::{error::TaskError, imap::NotYet};

/// The values of [`imap`](ThreadPoolHandle::imap) and
/// [`imap_unordered`](ThreadPoolHandle::imap_unordered).
///
/// Items are taken from the input only in [`next`](Iterator::next), so an endless input is fine. An
/// error concerns its item alone, and the next call goes on with the next item. Only a pool that
/// takes no more (closed or terminated) ends the values early: the item it refused gets the
/// refusal, in its place, and then comes `None`. Dropping it takes no more items; those in flight
/// are finished and forgotten.
#[must_use = "nothing is begun before values are asked for"]
pub struct ThreadImap<I, F>
where
    I: Iterator,
    F: Target<(I::Item,)>,
{
    pool: ThreadPoolHandle,
    function: F,
    /// `None` once it is used up.
    items: Option<I>,
    ordered: bool,
    sent: u64,
    taken: u64,
    /// Came before their turn.
    early: BTreeMap<u64, Outcome<I, F>>,
    sender: Sender<(u64, Outcome<I, F>)>,
    outcomes: Receiver<(u64, Outcome<I, F>)>,
}

type Outcome<I, F> = Result<<F as Target<(<I as Iterator>::Item,)>>::Output, TaskError>;

impl<I, F> ThreadImap<I, F>
where
    I: Iterator<Item: Send + 'static>,
    F: Target<(I::Item,), Output: Send> + Send,
{
    pub(super) fn new(pool: ThreadPoolHandle, function: F, items: I, ordered: bool) -> Self {
        let (sender, outcomes) = unbounded();
        Self {
            pool,
            function,
            items: Some(items),
            ordered,
            sent: 0,
            taken: 0,
            early: BTreeMap::new(),
            sender,
            outcomes,
        }
    }

    /// As [`next`](Iterator::next), but waits for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`NotYet`]; the value can be asked for again.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome<I, F>>, NotYet> {
        self.next_until(Some(Deadline::after(timeout)))
    }

    fn next_until(&mut self, until: Option<Deadline>) -> Result<Option<Outcome<I, F>>, NotYet> {
        self.fill();
        if self.sent == self.taken {
            return Ok(None);
        }
        loop {
            if let Some(outcome) = self.early.remove(&self.taken) {
                self.taken += 1;
                return Ok(Some(outcome));
            }
            let (number, outcome) = match until.map(Deadline::remaining) {
                None => self.outcomes.recv().map_err(|_| NotYet)?, // this holds a sender
                Some(left) => self.outcomes.recv_timeout(left).map_err(|_| NotYet)?,
            };
            if !self.ordered {
                self.taken += 1;
                return Ok(Some(outcome));
            }
            self.early.insert(number, outcome);
        }
    }

    fn fill(&mut self) {
        let ahead = 2 * self.pool.workers() as u64;
        while self.sent - self.taken < ahead {
            let Some(item) = self.items.as_mut().and_then(Iterator::next) else {
                self.items = None;
                return;
            };
            self.send(item);
        }
    }

    fn send(&mut self, item: I::Item) {
        let (number, function, sender) = (self.sent, self.function, self.sender.clone());
        let job = Box::new(move |turn| {
            let outcome = match turn {
                Turn::Run => call(function, (item,)),
                Turn::Skip => Err(TaskError::Terminated),
            };
            let _ = sender.send((number, outcome)); // nobody may want it any more
        });
        self.sent += 1;
        if let Err(error) = self.pool.post(job) {
            self.items = None;
            let _ = self.sender.send((number, Err(error))); // this holds the receiver
        }
    }
}

impl<I, F> Iterator for ThreadImap<I, F>
where
    I: Iterator<Item: Send + 'static>,
    F: Target<(I::Item,), Output: Send> + Send,
{
    type Item = Outcome<I, F>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None).unwrap_or(None) // without a deadline there is no `NotYet`
    }
}

impl<I, F> fmt::Debug for ThreadImap<I, F>
where
    I: Iterator,
    F: Target<(I::Item,)>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadImap")
            .field("sent", &self.sent)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}
