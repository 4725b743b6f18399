//! The server's half of `Dict` and `Namespace`.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    protocol::{Encoded, Fault, PAGE_ITEMS, Page, Written},
    referent::{Call, Element, Referent},
};

/// Two keys are one if their encodings are.
#[derive(Default)]
struct State {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Keys in the order in which they came.
    order: BTreeMap<u64, Arc<[u8]>>,
    next_place: u64,
    /// The version of the newest write.
    version: u64,
    /// How often all was removed: an iteration does not outlast that.
    cleared: u64,
}

struct Entry {
    key: Element,
    value: Element,
    version: u64,
    place: u64,
}

pub(super) struct Dict(Mutex<State>);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let () = call.parse()?;
    Ok(Box::new(Dict(Mutex::default())))
}

impl State {
    /// What stood there before.
    fn insert(&mut self, key: Element, value: Element) -> Option<Element> {
        self.version += 1;
        let version = self.version;
        match self.entries.entry(key.bytes.clone()) {
            hash_map::Entry::Occupied(mut entry) => {
                let entry = entry.get_mut();
                entry.version = version;
                Some(std::mem::replace(&mut entry.value, value))
            }
            hash_map::Entry::Vacant(free) => {
                let place = self.next_place;
                self.next_place += 1;
                self.order.insert(place, key.bytes.clone());
                free.insert(Entry {
                    key,
                    value,
                    version,
                    place,
                });
                None
            }
        }
    }

    fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.place);
        Some(entry)
    }

    fn get(&self, key: &[u8]) -> Option<Element> {
        self.entries.get(key).map(|entry| entry.value.clone())
    }

    /// 0 is the version of what is not there.
    fn read(&self, key: &[u8]) -> (u64, Option<Element>) {
        match self.entries.get(key) {
            Some(entry) => (entry.version, Some(entry.value.clone())),
            None => (0, None),
        }
    }
}

impl Referent for Dict {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        // What an element refers to is dropped after the lock.
        match call.method() {
            "get" => {
                let key: Encoded<'_> = call.parse()?;
                let found = self.0.lock().get(key.bytes.0);
                lend(call, found.as_ref())
            }
            "set" => {
                let (key, value): (Encoded<'_>, Encoded<'_>) = call.parse()?;
                let (key, value) = (call.store(&key)?, call.store(&value)?);
                let _replaced = self.0.lock().insert(key, value);
                Ok(())
            }
            "insert" => {
                let (key, value): (Encoded<'_>, Encoded<'_>) = call.parse()?;
                let (key, value) = (call.store(&key)?, call.store(&value)?);
                let replaced = self.0.lock().insert(key, value);
                lend(call, replaced.as_ref())
            }
            "get_or_insert" => {
                let (key, value): (Encoded<'_>, Encoded<'_>) = call.parse()?;
                let (key, value) = (call.store(&key)?, call.store(&value)?);
                let mut state = self.0.lock();
                let found = state.get(&key.bytes).unwrap_or_else(|| {
                    state.insert(key, value.clone());
                    value
                });
                drop(state);
                let found = call.lend(&found);
                call.answer(&found)
            }
            "remove" => {
                let key: Encoded<'_> = call.parse()?;
                let removed = self.0.lock().remove(key.bytes.0);
                lend(call, removed.as_ref().map(|entry| &entry.value))
            }
            "remove_many" => {
                let keys: Vec<Encoded<'_>> = call.parse()?;
                let mut state = self.0.lock();
                let removed: Vec<_> = keys
                    .iter()
                    .filter_map(|key| state.remove(key.bytes.0))
                    .collect();
                drop(state);
                call.answer(&removed.len())
            }
            "pop_last" => {
                let mut state = self.0.lock();
                let last = state.order.last_key_value().map(|(_, key)| key.clone());
                let removed = last.and_then(|key| state.remove(&key));
                drop(state);
                let removed = removed
                    .as_ref()
                    .map(|entry| (call.lend(&entry.key), call.lend(&entry.value)));
                call.answer(&removed)
            }
            "contains" => {
                let key: Encoded<'_> = call.parse()?;
                let contains = self.0.lock().entries.contains_key(key.bytes.0);
                call.answer(&contains)
            }
            "len" => {
                let len = self.0.lock().entries.len();
                call.answer(&len)
            }
            "clear" => {
                let mut state = self.0.lock();
                let entries = std::mem::take(&mut state.entries);
                state.order.clear();
                state.cleared += 1;
                drop(state);
                drop(entries);
                Ok(())
            }
            "read" => {
                let key: Encoded<'_> = call.parse()?;
                let (version, current) = self.0.lock().read(key.bytes.0);
                let current = current.as_ref().map(|current| call.lend(current));
                call.answer(&(version, current))
            }
            "write" => self.write(call),
            "read_many" => {
                let keys: Vec<Encoded<'_>> = call.parse()?;
                let mut budget = call.budget(PAGE_ITEMS);
                let state = self.0.lock();
                let found: Vec<_> = keys
                    .iter()
                    .map(|key| state.read(key.bytes.0))
                    .take_while(|(_, value)| budget.takes(value.as_ref().map_or(16, Element::size)))
                    .collect();
                drop(state);
                let found: Vec<_> = found
                    .iter()
                    .map(|(version, value)| {
                        (*version, value.as_ref().map(|value| call.lend(value)))
                    })
                    .collect();
                call.answer(&found)
            }
            "write_many" => {
                let writes: Vec<(Encoded<'_>, u64, Encoded<'_>)> = call.parse()?;
                let writes: Vec<_> = writes
                    .iter()
                    .map(|(key, version, value)| {
                        Ok((call.store(key)?, *version, call.store(value)?))
                    })
                    .collect::<Result<_, Fault>>()?;
                let (mut done, mut replaced) = (Vec::new(), Vec::new());
                let mut state = self.0.lock();
                for (key, version, value) in writes {
                    let holds = state.read(&key.bytes).0 == version;
                    done.push(holds);
                    if holds {
                        replaced.extend(state.insert(key, value));
                    }
                }
                drop(state);
                drop(replaced);
                call.answer(&done)
            }
            "compare_exchange" => self.compare_exchange(call),
            "extend" => {
                let pairs: Vec<(Encoded<'_>, Encoded<'_>)> = call.parse()?;
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(key, value)| Ok((call.store(key)?, call.store(value)?)))
                    .collect::<Result<_, Fault>>()?;
                let mut state = self.0.lock();
                let _replaced: Vec<_> = pairs
                    .into_iter()
                    .map(|(key, value)| state.insert(key, value))
                    .collect();
                drop(state);
                Ok(())
            }
            "get_many" => {
                let keys: Vec<Encoded<'_>> = call.parse()?;
                let state = self.0.lock();
                let mut budget = call.budget(PAGE_ITEMS);
                let found: Vec<_> = keys
                    .iter()
                    .map(|key| state.get(key.bytes.0))
                    .take_while(|found| budget.takes(found.as_ref().map_or(1, Element::size)))
                    .collect();
                drop(state);
                let found: Vec<_> = found
                    .iter()
                    .map(|found| found.as_ref().map(|found| call.lend(found)))
                    .collect();
                call.answer(&found)
            }
            "keys" => self.page(call, true, false),
            "values" => self.page(call, false, true),
            "items" => self.page(call, true, true),
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        format!("{} entries", self.0.lock().entries.len())
    }
}

impl Dict {
    /// Writes, or removes, if the version is still the one that the client knows.
    fn write(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        let (key, version, value): (Encoded<'_>, u64, Option<Encoded<'_>>) = call.parse()?;
        let key = call.store(&key)?;
        let value = value.map(|value| call.store(&value)).transpose()?;
        self.exchange(call, key, value, |found, _| found == version)
    }

    /// The same, if the value is still encoded as the client says.
    fn compare_exchange(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        type Args<'a> = (Encoded<'a>, Option<Encoded<'a>>, Option<Encoded<'a>>);
        let (key, expected, value): Args<'_> = call.parse()?;
        let key = call.store(&key)?;
        let value = value.map(|value| call.store(&value)).transpose()?;
        let expected = expected.as_ref().map(|expected| expected.bytes.0);
        self.exchange(call, key, value, |_, found| {
            found.map(|found| &*found.bytes) == expected
        })
    }

    fn exchange(
        &self,
        call: &mut Call<'_>,
        key: Element,
        value: Option<Element>,
        as_expected: impl Fn(u64, Option<&Element>) -> bool,
    ) -> Result<(), Fault> {
        let mut state = self.0.lock();
        let (version, current) = state.read(&key.bytes);
        if !as_expected(version, current.as_ref()) {
            drop(state);
            let current = current.as_ref().map(|current| call.lend(current));
            return call.answer(&Written::No { version, current });
        }
        let _replaced = match value {
            Some(value) => state.insert(key, value),
            None => state.remove(&key.bytes).map(|entry| entry.value),
        };
        drop(state);
        call.answer(&Written::Yes)
    }

    /// The entries behind a place. Keys and values alternate if both are asked for.
    fn page(&self, call: &mut Call<'_>, keys: bool, values: bool) -> Result<(), Fault> {
        let (from, most, mark): (u64, usize, Option<u64>) = call.parse()?;
        let state = self.0.lock();
        if mark.is_some_and(|mark| mark != state.cleared) {
            return Err(Fault::Refused(
                "the dict was cleared during the iteration".to_owned(),
            ));
        }
        let (mut next, mut elements) = (None, Vec::new());
        let mut budget = call.budget(most);
        for (place, key) in state.order.range(from..) {
            let entry = &state.entries[key];
            let key = keys.then_some(&entry.key);
            let value = values.then_some(&entry.value);
            if !budget.takes(key.into_iter().chain(value).map(Element::size).sum()) {
                next = Some(*place);
                break;
            }
            elements.extend(key.into_iter().chain(value).cloned());
        }
        let mark = state.cleared;
        drop(state);
        let items = elements.iter().map(|element| call.lend(element)).collect();
        call.answer(&Page { next, mark, items })
    }
}

fn lend(call: &mut Call<'_>, element: Option<&Element>) -> Result<(), Fault> {
    let element = element.map(|element| call.lend(element));
    call.answer(&element)
}
