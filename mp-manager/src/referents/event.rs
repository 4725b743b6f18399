//! The server's half of `Event`.

use parking_lot::Mutex;

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
    server::line::{self, Line, Order, Patience},
};

#[derive(Default)]
struct State {
    set: bool,
    /// How often it was set: who waited then is released, also when it was cleared at once.
    times: u64,
    line: Line,
}

pub(super) struct Event(Mutex<State>);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let () = call.parse()?;
    Ok(Box::new(Event(Mutex::default())))
}

impl Referent for Event {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "is_set" => {
                let set = self.0.lock().set;
                call.answer(&set)
            }
            "set" => {
                let mut state = self.0.lock();
                state.set = true;
                state.times += 1;
                state.line.wake_all();
                Ok(())
            }
            "clear" => {
                self.0.lock().set = false;
                Ok(())
            }
            "wait" => {
                let patience = Patience::from_nanos(call.parse()?);
                let before = self.0.lock().times;
                let released = line::wait(
                    &self.0,
                    |state| &mut state.line,
                    Order::Any,
                    patience,
                    call.caller,
                    |state| (state.set || state.times != before).then_some(()),
                )?;
                call.answer(&released.is_some())
            }
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        let state = self.0.lock();
        let set = if state.set { "set" } else { "not set" };
        format!("{set}, {} waiting", state.line.len())
    }
}
