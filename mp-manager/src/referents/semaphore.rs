//! The server's half of `Semaphore` and `BoundedSemaphore`.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
    server::line::{self, Line, Order, Patience},
};

struct State {
    available: u32,
    bound: u32,
    /// Permits held by guards, which come back when their client is gone.
    held: HashMap<u64, u32>,
    line: Line,
}

pub(super) struct Semaphore(Mutex<State>);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let permits = call.parse()?;
    Ok(Semaphore::boxed(permits, u32::MAX))
}

pub(super) fn make_bounded(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let permits = call.parse()?;
    Ok(Semaphore::boxed(permits, permits))
}

impl Semaphore {
    fn boxed(available: u32, bound: u32) -> Box<dyn Referent> {
        Box::new(Self(Mutex::new(State {
            available,
            bound,
            held: HashMap::new(),
            line: Line::default(),
        })))
    }
}

impl State {
    fn add(&mut self, permits: u32) -> Result<(), Fault> {
        match self.available.checked_add(permits) {
            Some(available) if available <= self.bound => {
                self.available = available;
                self.line.wake_first();
                Ok(())
            }
            _ => Err(Fault::Refused(format!(
                "released too many times: there are {} permits of {}",
                self.available, self.bound
            ))),
        }
    }

    /// A client has one permit less in its hand.
    fn let_go(&mut self, client: u64) -> Result<(), Fault> {
        match self.held.get_mut(&client) {
            Some(held) => {
                *held -= 1;
                if *held == 0 {
                    self.held.remove(&client);
                }
                Ok(())
            }
            None => Err(Fault::Refused("this client holds no permit".to_owned())),
        }
    }
}

impl Referent for Semaphore {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "acquire" => {
                let patience = Patience::from_nanos(call.parse()?);
                let client = call.caller.number();
                let acquired = line::wait(
                    &self.0,
                    |state| &mut state.line,
                    Order::Fifo,
                    patience,
                    call.caller,
                    |state| {
                        state.available = state.available.checked_sub(1)?;
                        *state.held.entry(client).or_default() += 1;
                        Some(())
                    },
                )?;
                call.answer(&acquired.is_some())
            }
            // The guard's permit comes back, or is nobody's from now on.
            "return" => {
                let mut state = self.0.lock();
                state.let_go(call.caller.number())?;
                state.add(1)
            }
            "forget" => self.0.lock().let_go(call.caller.number()),
            "release" => {
                let permits = call.parse()?;
                self.0.lock().add(permits)
            }
            "available" => {
                let available = self.0.lock().available;
                call.answer(&available)
            }
            _ => Err(call.unknown()),
        }
    }

    fn client_left(&self, client: u64) {
        let mut state = self.0.lock();
        if let Some(held) = state.held.remove(&client) {
            state.available = state.available.saturating_add(held).min(state.bound);
            state.line.wake_first();
        }
    }

    fn describe(&self) -> String {
        let state = self.0.lock();
        format!("{} permits, {} waiting", state.available, state.line.len())
    }
}
