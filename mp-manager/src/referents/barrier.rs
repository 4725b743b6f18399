//! The server's half of `Barrier`.

use std::{mem, sync::Arc};

use mp_core::primitive::{AtomicU8, Ordering};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
    server::line::{self, Line, Order, Patience},
};

/// One gathering of all parties. Its outcome is read and written under the lock of the state.
#[derive(Default)]
struct Round(AtomicU8);

const GATHERING: u8 = 0;
const COMPLETE: u8 = 1;
const BROKEN: u8 = 2;

impl Round {
    fn outcome(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn end(&self, outcome: u8) {
        self.0.store(outcome, Ordering::Relaxed);
    }
}

struct State {
    parties: u32,
    arrived: u32,
    broken: bool,
    round: Arc<Round>,
    line: Line,
}

/// The answer to `wait`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Passed {
    /// In this place, counted from the first to arrive.
    Yes {
        index: u32,
        last: bool,
    },
    Broken,
}

pub(super) struct Barrier(Mutex<State>);

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let parties: u32 = call.parse()?;
    if parties == 0 {
        return Err(Fault::Arguments("a barrier of no parties".to_owned()));
    }
    Ok(Box::new(Barrier(Mutex::new(State {
        parties,
        arrived: 0,
        broken: false,
        round: Arc::default(),
        line: Line::default(),
    }))))
}

impl State {
    /// Ends the round; the next one begins.
    fn end_round(&mut self, outcome: u8) {
        mem::take(&mut self.round).end(outcome);
        self.arrived = 0;
        self.line.wake_all();
    }
}

impl Referent for Barrier {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        match call.method() {
            "wait" => {
                let patience = Patience::from_nanos(call.parse()?);
                let passed = self.wait(call, patience)?;
                call.answer(&passed)
            }
            "abort" => {
                let mut state = self.0.lock();
                state.broken = true;
                state.end_round(BROKEN);
                Ok(())
            }
            "reset" => {
                let mut state = self.0.lock();
                state.broken = false;
                state.end_round(BROKEN);
                Ok(())
            }
            "parties" => {
                let parties = self.0.lock().parties;
                call.answer(&parties)
            }
            "waiting" => {
                let arrived = self.0.lock().arrived;
                call.answer(&arrived)
            }
            "is_broken" => {
                let broken = self.0.lock().broken;
                call.answer(&broken)
            }
            _ => Err(call.unknown()),
        }
    }

    fn describe(&self) -> String {
        let state = self.0.lock();
        let broken = if state.broken { ", broken" } else { "" };
        format!("{} of {} parties{broken}", state.arrived, state.parties)
    }
}

impl Barrier {
    fn wait(&self, call: &Call<'_>, patience: Patience) -> Result<Passed, Fault> {
        let mut state = self.0.lock();
        if state.broken {
            return Ok(Passed::Broken);
        }
        let index = state.arrived;
        if index + 1 == state.parties {
            state.end_round(COMPLETE);
            return Ok(Passed::Yes { index, last: true });
        }
        state.arrived += 1;
        let round = state.round.clone();
        drop(state);
        let outcome = line::wait(
            &self.0,
            |state| &mut state.line,
            Order::Any,
            patience,
            call.caller,
            |_| Some(round.outcome()).filter(|outcome| *outcome != GATHERING),
        );
        match outcome {
            Ok(Some(COMPLETE)) => Ok(Passed::Yes { index, last: false }),
            Ok(Some(_)) => Ok(Passed::Broken),
            // Out of patience, or gone: the others would wait in vain.
            Ok(None) | Err(_) => {
                let mut state = self.0.lock();
                if round.outcome() == COMPLETE {
                    return Ok(Passed::Yes { index, last: false });
                }
                if round.outcome() == GATHERING {
                    state.broken = true;
                    state.end_round(BROKEN);
                }
                drop(state);
                outcome.map(|_| Passed::Broken)
            }
        }
    }
}
