//! The server's half of `List`.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::{
    protocol::{Encoded, Fault, Page, Written},
    referent::{Call, Element, Referent},
};

#[derive(Clone, Default)]
struct State {
    items: VecDeque<Item>,
    /// The version of the newest change, of any kind. Who reads the list page by page begins again
    /// when it has risen: what changes nothing leaves it alone.
    version: u64,
}

#[derive(Clone)]
struct Item {
    element: Element,
    version: u64,
}

pub(super) struct List(Mutex<State>);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let () = call.parse()?;
    Ok(Box::new(List(Mutex::default())))
}

impl State {
    fn item(&mut self, element: Element) -> Item {
        self.version += 1;
        Item {
            element,
            version: self.version,
        }
    }

    fn check(&self, index: usize) -> Result<(), Fault> {
        let len = self.items.len();
        if index < len {
            return Ok(());
        }
        Err(Fault::Refused(format!(
            "index {index} is beyond the {len} items"
        )))
    }
}

impl Referent for List {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "get" => {
                let index: usize = call.parse()?;
                let found = self
                    .0
                    .lock()
                    .items
                    .get(index)
                    .map(|item| item.element.clone());
                lend(call, found.as_ref())
            }
            "set" => {
                let (index, value): (usize, Encoded<'_>) = call.parse()?;
                let value = call.store(&value)?;
                let mut state = self.0.lock();
                state.check(index)?;
                let item = state.item(value);
                let replaced = std::mem::replace(&mut state.items[index], item);
                drop(state);
                let replaced = call.lend(&replaced.element);
                call.answer(&replaced)
            }
            "push" => {
                let value: Encoded<'_> = call.parse()?;
                let value = call.store(&value)?;
                let mut state = self.0.lock();
                let item = state.item(value);
                state.items.push_back(item);
                Ok(())
            }
            "insert" => {
                let (index, value): (usize, Encoded<'_>) = call.parse()?;
                let value = call.store(&value)?;
                let mut state = self.0.lock();
                if index != state.items.len() {
                    state.check(index)?;
                }
                let item = state.item(value);
                state.items.insert(index, item);
                Ok(())
            }
            "pop" => {
                let mut state = self.0.lock();
                let popped = state.items.pop_back();
                state.version += u64::from(popped.is_some());
                drop(state);
                lend(call, popped.as_ref().map(|item| &item.element))
            }
            "remove" => {
                let index: usize = call.parse()?;
                let mut state = self.0.lock();
                state.check(index)?;
                let removed = state.items.remove(index);
                state.version += 1;
                drop(state);
                lend(call, removed.as_ref().map(|item| &item.element))
            }
            "remove_value" => {
                let value: Encoded<'_> = call.parse()?;
                let mut state = self.0.lock();
                let index = position(&state, &value);
                let removed = index.and_then(|index| state.items.remove(index));
                state.version += u64::from(removed.is_some());
                drop(state);
                call.answer(&removed.is_some())
            }
            "index" => {
                let value: Encoded<'_> = call.parse()?;
                let index = position(&self.0.lock(), &value);
                call.answer(&index)
            }
            "count" => {
                let value: Encoded<'_> = call.parse()?;
                let state = self.0.lock();
                let same = |item: &&Item| *item.element.bytes == *value.bytes.0;
                let count = state.items.iter().filter(same).count();
                drop(state);
                call.answer(&count)
            }
            "len" => {
                let len = self.0.lock().items.len();
                call.answer(&len)
            }
            "clear" => self.truncate(0),
            "truncate" => self.truncate(call.parse()?),
            "reverse" => {
                let mut state = self.0.lock();
                state.version += 1;
                state.items.make_contiguous().reverse();
                Ok(())
            }
            "extend" => {
                let values: Vec<Encoded<'_>> = call.parse()?;
                let values: Vec<_> = values
                    .iter()
                    .map(|value| call.store(value))
                    .collect::<Result<_, _>>()?;
                let mut state = self.0.lock();
                for value in values {
                    let item = state.item(value);
                    state.items.push_back(item);
                }
                Ok(())
            }
            "repeat" => self.repeat(call.parse()?, call.state.limits.message),
            "read" => {
                let index: usize = call.parse()?;
                let state = self.0.lock();
                state.check(index)?;
                let (version, element) = (
                    state.items[index].version,
                    state.items[index].element.clone(),
                );
                drop(state);
                let element = call.lend(&element);
                call.answer(&(version, element))
            }
            "write" => {
                let (index, version, value): (usize, u64, Encoded<'_>) = call.parse()?;
                self.exchange(call, index, &value, |item| item.version == version)
            }
            "compare_exchange" => {
                let (index, expected, value): (usize, Encoded<'_>, Encoded<'_>) = call.parse()?;
                self.exchange(call, index, &value, |item| {
                    *item.element.bytes == *expected.bytes.0
                })
            }
            "permute" => self.permute(call),
            // An object of its own, which nobody changes.
            "copy" => {
                let copy = self.0.lock().clone();
                call.give("List", Box::new(List(Mutex::new(copy))))
            }
            "page" => self.page(call),
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        format!("{} items", self.0.lock().items.len())
    }
}

impl List {
    fn exchange(
        &self,
        call: &mut Call<'_>,
        index: usize,
        value: &Encoded<'_>,
        as_expected: impl Fn(&Item) -> bool,
    ) -> Result<(), Fault> {
        let value = call.store(value)?;
        let mut state = self.0.lock();
        state.check(index)?;
        if !as_expected(&state.items[index]) {
            let version = state.items[index].version;
            let current = state.items[index].element.clone();
            drop(state);
            let current = Some(call.lend(&current));
            return call.answer(&Written::No { version, current });
        }
        let item = state.item(value);
        let _replaced = std::mem::replace(&mut state.items[index], item);
        drop(state);
        call.answer(&Written::Yes)
    }

    fn truncate(&self, len: usize) -> Result<(), Fault> {
        let mut state = self.0.lock();
        let at = len.min(state.items.len());
        let removed = state.items.split_off(at);
        state.version += u64::from(!removed.is_empty());
        drop(state);
        drop(removed);
        Ok(())
    }

    /// In place, as Python's `*=`.
    fn repeat(&self, times: usize, limit: usize) -> Result<(), Fault> {
        let mut state = self.0.lock();
        let len = state.items.len();
        // What a few bytes ask for costs the server this much each.
        let limit = limit / size_of::<Item>();
        if len.saturating_mul(times) > limit {
            return Err(Fault::TooLarge {
                len: len.saturating_mul(times) as u64,
                limit: limit as u64,
            });
        }
        if times == 0 {
            drop(state);
            return self.truncate(0);
        }
        for index in 0..len * (times - 1) {
            let element = state.items[index % len].element.clone();
            let item = state.item(element);
            state.items.push_back(item);
        }
        Ok(())
    }

    /// Puts the items into another order, if the list is still the one that the client knows.
    fn permute(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        let (version, order): (u64, Vec<u32>) = call.parse()?;
        let mut state = self.0.lock();
        if state.version != version {
            return call.answer(&false);
        }
        let mut seen = vec![false; state.items.len()];
        let complete = order.len() == seen.len()
            && order.iter().all(|index| {
                seen.get_mut(*index as usize)
                    .is_some_and(|seen| !std::mem::replace(seen, true))
            });
        if !complete {
            return Err(Fault::Arguments("not an order of the items".to_owned()));
        }
        let mut old: Vec<_> = state.items.drain(..).map(Some).collect();
        state.items = order
            .iter()
            .filter_map(|index| old[*index as usize].take())
            .collect();
        state.version += 1;
        drop(state);
        call.answer(&true)
    }

    /// Items from an index on. With a mark, only if the list has not changed since.
    fn page(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        let (from, most, mark): (usize, usize, Option<u64>) = call.parse()?;
        let state = self.0.lock();
        if mark.is_some_and(|mark| mark != state.version) {
            return call.answer(&None::<Page<'_>>);
        }
        let (mut next, mut elements) = (None, Vec::new());
        let mut budget = call.budget(most);
        for (index, item) in state.items.iter().enumerate().skip(from) {
            if !budget.takes(item.element.size()) {
                next = Some(index as u64);
                break;
            }
            elements.push(item.element.clone());
        }
        let mark = state.version;
        drop(state);
        let items = elements.iter().map(|element| call.lend(element)).collect();
        call.answer(&Some(Page { next, mark, items }))
    }
}

fn position(state: &State, value: &Encoded<'_>) -> Option<usize> {
    let mut items = state.items.iter();
    items.position(|item| *item.element.bytes == *value.bytes.0)
}

fn lend(call: &mut Call<'_>, element: Option<&Element>) -> Result<(), Fault> {
    let element = element.map(|element| call.lend(element));
    call.answer(&element)
}
