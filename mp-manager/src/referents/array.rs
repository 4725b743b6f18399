//! The server's half of `Array`: a fixed number of elements.

use parking_lot::Mutex;

use crate::{
    protocol::{Encoded, Fault, Page, Written},
    referent::{Call, Element, Referent},
};

struct State {
    items: Vec<(u64, Element)>,
    version: u64,
}

pub(super) struct Array(Mutex<State>);

/// Of so many times the same element.
pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let (len, fill): (usize, Encoded<'_>) = call.parse()?;
    // What a few bytes ask for costs the server this much each.
    let most = call.state.limits.message / size_of::<(u64, Element)>();
    if len > most {
        return Err(Fault::TooLarge {
            len: len as u64,
            limit: most as u64,
        });
    }
    let fill = call.store(&fill)?;
    Ok(Box::new(Array(Mutex::new(State {
        items: vec![(0, fill); len],
        version: 0,
    }))))
}

impl Referent for Array {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "len" => {
                let len = self.0.lock().items.len();
                call.answer(&len)
            }
            "get" => {
                let index: usize = call.parse()?;
                let state = self.0.lock();
                let element = state.at(index)?.1.clone();
                drop(state);
                let element = call.lend(&element);
                call.answer(&element)
            }
            "set" => {
                let (from, values): (usize, Vec<Encoded<'_>>) = call.parse()?;
                self.set(call, from, &values)
            }
            "fill" => {
                let value: Encoded<'_> = call.parse()?;
                let value = call.store(&value)?;
                let mut state = self.0.lock();
                state.version += 1;
                let version = state.version;
                let len = state.items.len();
                let replaced = std::mem::replace(&mut state.items, vec![(version, value); len]);
                drop(state);
                drop(replaced);
                Ok(())
            }
            "read" => {
                let index: usize = call.parse()?;
                let state = self.0.lock();
                let (version, element) = state.at(index)?.clone();
                drop(state);
                let element = call.lend(&element);
                call.answer(&(version, element))
            }
            "write" => {
                let (index, version, value): (usize, u64, Encoded<'_>) = call.parse()?;
                self.exchange(call, index, &value, |item| item.0 == version)
            }
            "compare_exchange" => {
                let (index, expected, value): (usize, Encoded<'_>, Encoded<'_>) = call.parse()?;
                self.exchange(call, index, &value, |item| {
                    *item.1.bytes == *expected.bytes.0
                })
            }
            "page" => self.page(call),
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        format!("{} elements", self.0.lock().items.len())
    }
}

impl State {
    fn at(&self, index: usize) -> Result<&(u64, Element), Fault> {
        let len = self.items.len();
        self.items
            .get(index)
            .ok_or_else(|| Fault::Refused(format!("index {index} is beyond the {len} elements")))
    }

    fn replace(&mut self, index: usize, element: Element) -> Element {
        self.version += 1;
        std::mem::replace(&mut self.items[index], (self.version, element)).1
    }
}

impl Array {
    fn set(&self, call: &Call<'_>, from: usize, values: &[Encoded<'_>]) -> Result<(), Fault> {
        let values: Vec<_> = values
            .iter()
            .map(|value| call.store(value))
            .collect::<Result<_, _>>()?;
        let mut state = self.0.lock();
        if let Some(last) = values.len().checked_sub(1) {
            state.at(from.saturating_add(last))?;
        }
        let _replaced: Vec<_> = values
            .into_iter()
            .enumerate()
            .map(|(offset, value)| state.replace(from + offset, value))
            .collect();
        drop(state);
        Ok(())
    }

    fn exchange(
        &self,
        call: &mut Call<'_>,
        index: usize,
        value: &Encoded<'_>,
        as_expected: impl Fn(&(u64, Element)) -> bool,
    ) -> Result<(), Fault> {
        let value = call.store(value)?;
        let mut state = self.0.lock();
        let item = state.at(index)?;
        if as_expected(item) {
            let _replaced = state.replace(index, value);
            drop(state);
            return call.answer(&Written::Yes);
        }
        let (version, current) = item.clone();
        drop(state);
        let current = Some(call.lend(&current));
        call.answer(&Written::No { version, current })
    }

    fn page(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        let (from, most): (usize, usize) = call.parse()?;
        let state = self.0.lock();
        let (mut next, mut elements) = (None, Vec::new());
        let mut budget = call.budget(most);
        for (index, (_, element)) in state.items.iter().enumerate().skip(from) {
            if !budget.takes(element.size()) {
                next = Some(index as u64);
                break;
            }
            elements.push(element.clone());
        }
        let mark = state.version;
        drop(state);
        let items = elements.iter().map(|element| call.lend(element)).collect();
        call.answer(&Page { next, mark, items })
    }
}
