//! The server's half of `Queue` and `JoinableQueue`.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    protocol::{Encoded, Fault},
    referent::{Call, Element, Referent},
    server::line::{self, Line, Order, Patience},
};

#[derive(Default)]
struct State {
    items: VecDeque<Element>,
    capacity: Option<usize>,
    closed: bool,
    getters: Line,
    putters: Line,
    /// Put and not yet reported done.
    unfinished: u64,
    joiners: Line,
    /// Tasks that a client took and has not reported done.
    in_hand: HashMap<u64, u64>,
    /// Tasks whose client went away before it reported them.
    lost: u64,
}

/// The answer to `put`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Put {
    Yes,
    Full,
    Closed,
}

/// The answer to `get`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Got<'a> {
    Item(#[serde(borrow)] Encoded<'a>),
    Empty,
    Closed,
}

pub(super) struct Queue(Arc<Mutex<State>>);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let capacity: Option<usize> = call.parse()?;
    if capacity == Some(0) {
        return Err(Fault::Arguments("a queue for no items".to_owned()));
    }
    Ok(Box::new(Queue(Arc::new(Mutex::new(State {
        capacity,
        ..State::default()
    })))))
}

impl State {
    fn is_full(&self) -> bool {
        self.capacity
            .is_some_and(|capacity| self.items.len() >= capacity)
    }

    fn push(&mut self, item: Element) {
        self.items.push_back(item);
        self.unfinished += 1;
        self.getters.wake_first();
    }

    fn pop(&mut self, client: u64) -> Option<Element> {
        let item = self.items.pop_front()?;
        *self.in_hand.entry(client).or_default() += 1;
        self.putters.wake_first();
        Some(item)
    }

    /// An item that could not be handed over.
    fn put_back(&mut self, client: u64, item: Element) {
        self.items.push_front(item);
        self.finish(client);
        self.getters.wake_first();
    }

    /// A client has one task less in its hand; if it has none, it reports another's.
    fn finish(&mut self, client: u64) {
        let reported = if self.in_hand.contains_key(&client) {
            Some(client)
        } else {
            self.in_hand.keys().next().copied()
        };
        let Some(client) = reported else {
            return;
        };
        if let Some(count) = self.in_hand.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.in_hand.remove(&client);
            }
        }
    }
}

impl Referent for Queue {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "put" => {
                let (item, nanos): (Encoded<'_>, Option<u64>) = call.parse()?;
                let mut item = Some(call.store(&item)?);
                let put = self.put(call, Patience::from_nanos(nanos), |state| {
                    state.push(item.take().expect("put once"));
                })?;
                call.answer(&put)
            }
            "put_many" => self.put_many(call),
            "get" => {
                let patience = Patience::from_nanos(call.parse()?);
                self.get(call, patience)
            }
            "drain" => {
                let most: usize = call.parse()?;
                let mut state = self.0.lock();
                let (mut budget, mut items) = (call.budget(most), Vec::new());
                while most > 0
                    && let Some(item) = state.items.front()
                    && budget.takes(item.size())
                {
                    items.extend(state.pop(call.caller.number()));
                }
                drop(state);
                let lent: Vec<_> = items.iter().map(|item| call.lend(item)).collect();
                call.answer(&lent)?;
                let (state, client) = (self.0.clone(), call.caller.number());
                call.unsent = Some(Box::new(move || {
                    for item in items.into_iter().rev() {
                        state.lock().put_back(client, item);
                    }
                }));
                Ok(())
            }
            "len" => {
                let len = self.0.lock().items.len();
                call.answer(&len)
            }
            "is_full" => {
                let full = self.0.lock().is_full();
                call.answer(&full)
            }
            "capacity" => {
                let capacity = self.0.lock().capacity;
                call.answer(&capacity)
            }
            "close" => {
                let mut state = self.0.lock();
                state.closed = true;
                state.getters.wake_all();
                state.putters.wake_all();
                Ok(())
            }
            "is_closed" => {
                let closed = self.0.lock().closed;
                call.answer(&closed)
            }
            "task_done" => {
                let mut state = self.0.lock();
                if state.unfinished == 0 {
                    return Err(Fault::Refused(
                        "task_done() was called more often than there were tasks".to_owned(),
                    ));
                }
                state.unfinished -= 1;
                state.finish(call.caller.number());
                if state.unfinished == 0 {
                    state.joiners.wake_all();
                }
                Ok(())
            }
            "join" => {
                let patience = Patience::from_nanos(call.parse()?);
                let done = line::wait(
                    &self.0,
                    |state| &mut state.joiners,
                    Order::Any,
                    patience,
                    call.caller,
                    |state| (state.unfinished == 0).then_some(()),
                )?;
                call.answer(&done.is_some())
            }
            "unfinished" => {
                let state = self.0.lock();
                let counts = (state.unfinished, state.lost);
                drop(state);
                call.answer(&counts)
            }
            _ => Err(call.unknown()),
        }
    }

    /// The tasks that it had in hand will not be reported by anybody: nobody waits for them.
    fn client_left(&self, client: u64) {
        let mut state = self.0.lock();
        let lost = state.in_hand.remove(&client).unwrap_or(0);
        let lost = lost.min(state.unfinished);
        state.lost += lost;
        state.unfinished -= lost;
        if state.unfinished == 0 {
            state.joiners.wake_all();
        }
    }

    fn describe(&self) -> String {
        let state = self.0.lock();
        format!(
            "{} items, {} unfinished, {} getting, {} putting",
            state.items.len(),
            state.unfinished,
            state.getters.len(),
            state.putters.len()
        )
    }
}

impl Queue {
    /// Waits for room, then runs `push`.
    fn put(
        &self,
        call: &Call<'_>,
        patience: Patience,
        mut push: impl FnMut(&mut State),
    ) -> Result<Put, Fault> {
        let put = line::wait(
            &self.0,
            |state| &mut state.putters,
            Order::Fifo,
            patience,
            call.caller,
            |state| {
                if state.closed {
                    return Some(Put::Closed);
                }
                if state.is_full() {
                    return None;
                }
                push(state);
                Some(Put::Yes)
            },
        )?;
        Ok(put.unwrap_or(Put::Full))
    }

    /// As many as have room, at once; how many that were.
    fn put_many(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        let (items, nanos): (Vec<Encoded<'_>>, Option<u64>) = call.parse()?;
        let items: Vec<_> = items
            .iter()
            .map(|item| call.store(item))
            .collect::<Result<_, _>>()?;
        let mut items = items.into_iter();
        let mut count = 0_usize;
        let put = self.put(call, Patience::from_nanos(nanos), |state| {
            while !state.is_full() {
                let Some(item) = items.next() else {
                    break;
                };
                state.push(item);
                count += 1;
            }
        })?;
        call.answer(&(count, put))
    }

    fn get(&self, call: &mut Call<'_>, patience: Patience) -> Result<(), Fault> {
        let client = call.caller.number();
        let got = line::wait(
            &self.0,
            |state| &mut state.getters,
            Order::Fifo,
            patience,
            call.caller,
            |state| match state.pop(client) {
                Some(item) => Some(Some(item)),
                None if state.closed => Some(None),
                None => None,
            },
        )?;
        let item = match got {
            Some(Some(item)) => item,
            Some(None) => return call.answer(&Got::Closed),
            None => return call.answer(&Got::Empty),
        };
        let lent = call.lend(&item);
        call.answer(&Got::Item(lent))?;
        let state = self.0.clone();
        // The client died with its request: the item is for another.
        call.unsent = Some(Box::new(move || state.lock().put_back(client, item)));
        Ok(())
    }
}
