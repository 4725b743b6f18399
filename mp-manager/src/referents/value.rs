//! The server's half of `Value`.

use parking_lot::Mutex;

use crate::{
    protocol::{Encoded, Fault, Written},
    referent::{Call, Element, Referent},
};

struct State {
    element: Element,
    version: u64,
}

pub(super) struct Value(Mutex<State>);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let value: Encoded<'_> = call.parse()?;
    Ok(Box::new(Value(Mutex::new(State {
        element: call.store(&value)?,
        version: 0,
    }))))
}

impl Referent for Value {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "get" => {
                let element = self.0.lock().element.clone();
                let element = call.lend(&element);
                call.answer(&element)
            }
            "set" => {
                let value: Encoded<'_> = call.parse()?;
                let value = call.store(&value)?;
                let _replaced = self.0.lock().replace(value);
                Ok(())
            }
            "swap" => {
                let value: Encoded<'_> = call.parse()?;
                let value = call.store(&value)?;
                let replaced = self.0.lock().replace(value);
                let replaced = call.lend(&replaced);
                call.answer(&replaced)
            }
            "read" => {
                let state = self.0.lock();
                let (version, element) = (state.version, state.element.clone());
                drop(state);
                let element = call.lend(&element);
                call.answer(&(version, element))
            }
            "write" => {
                let (version, value): (u64, Encoded<'_>) = call.parse()?;
                self.exchange(call, &value, |state| state.version == version)
            }
            "compare_exchange" => {
                let (expected, value): (Encoded<'_>, Encoded<'_>) = call.parse()?;
                self.exchange(call, &value, |state| {
                    *state.element.bytes == *expected.bytes.0
                })
            }
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        let state = self.0.lock();
        format!(
            "{} bytes, set {} times",
            state.element.bytes.len(),
            state.version
        )
    }
}

impl State {
    fn replace(&mut self, element: Element) -> Element {
        self.version += 1;
        std::mem::replace(&mut self.element, element)
    }
}

impl Value {
    fn exchange(
        &self,
        call: &mut Call<'_>,
        value: &Encoded<'_>,
        as_expected: impl Fn(&State) -> bool,
    ) -> Result<(), Fault> {
        let value = call.store(value)?;
        let mut state = self.0.lock();
        if as_expected(&state) {
            let _replaced = state.replace(value);
            drop(state);
            return call.answer(&Written::Yes);
        }
        let (version, current) = (state.version, state.element.clone());
        drop(state);
        let current = Some(call.lend(&current));
        call.answer(&Written::No { version, current })
    }
}
