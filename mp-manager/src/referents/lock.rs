//! The server's half of `Lock` and `RLock`, and the lock inside `Condition`.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    protocol::Fault,
    referent::{Call, Caller, Referent},
    server::line::{self, Line, Order, Patience},
};

/// Who holds a lock: a thread of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    client: u64,
    thread: u64,
}

#[derive(Debug, Default)]
struct State {
    owner: Option<Owner>,
    /// How often a recursive lock is held by its owner.
    depth: u32,
    /// Which acquisition this is: a guard releases its own and no other.
    hold: u64,
    /// An owner died with the lock, and nobody has accepted that yet.
    abandoned: bool,
    line: Line,
}

#[derive(Debug)]
pub(super) struct Core {
    state: Mutex<State>,
    recursive: bool,
}

/// The answer to `acquire`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Locked {
    Yes {
        hold: u64,
        abandoned: bool,
    },
    TimedOut,
    /// This thread holds it, and would wait for itself.
    Deadlock,
}

impl Core {
    pub(super) fn new(recursive: bool) -> Self {
        Self {
            state: Mutex::default(),
            recursive,
        }
    }

    pub(super) fn acquire(
        &self,
        caller: &Caller,
        thread: u64,
        depth: u32,
        patience: Patience,
    ) -> Result<Locked, Fault> {
        let owner = Owner {
            client: caller.number(),
            thread,
        };
        let mut state = self.state.lock();
        if state.owner == Some(owner) {
            if !self.recursive {
                return Ok(match patience {
                    Patience::None => Locked::TimedOut,
                    _ => Locked::Deadlock,
                });
            }
            state.depth = state
                .depth
                .checked_add(1)
                .ok_or_else(|| Fault::Refused("the lock is held four billion times".to_owned()))?;
            return Ok(state.locked());
        }
        drop(state);
        let attempt = |state: &mut State| {
            if state.owner.is_some() {
                return None;
            }
            state.owner = Some(owner);
            state.depth = depth;
            state.hold += 1;
            Some(state.locked())
        };
        let locked = line::wait(
            &self.state,
            |state| &mut state.line,
            Order::Fifo,
            patience,
            caller,
            attempt,
        )?;
        Ok(locked.unwrap_or(Locked::TimedOut))
    }

    /// Of one acquisition, or of whoever has it.
    fn release(&self, caller: &Caller, thread: u64, hold: Option<u64>) -> Result<(), Fault> {
        let mut state = self.state.lock();
        let Some(owner) = state.owner else {
            return Err(Fault::Refused("the lock is not held".to_owned()));
        };
        let mine = owner.client == caller.number() && owner.thread == thread;
        let foreign = match hold {
            Some(hold) => hold != state.hold || owner.client != caller.number(),
            None => self.recursive && !mine,
        };
        if foreign {
            return Err(Fault::Refused(
                "the lock is held by somebody else".to_owned(),
            ));
        }
        state.depth -= 1;
        if state.depth == 0 {
            state.free();
        }
        Ok(())
    }

    /// Releases all of a lock that a thread is about to wait without; how deep it was.
    pub(super) fn release_all(&self, caller: &Caller, thread: u64) -> Result<u32, Fault> {
        let mut state = self.state.lock();
        let owner = Owner {
            client: caller.number(),
            thread,
        };
        if state.owner != Some(owner) {
            return Err(Fault::Refused(
                "the lock of the condition is not held by this thread".to_owned(),
            ));
        }
        let depth = std::mem::take(&mut state.depth);
        state.free();
        Ok(depth)
    }

    /// What both `Lock` and `Condition` are asked. `None`: another method.
    pub(super) fn call(&self, call: &mut Call<'_>) -> Option<Result<(), Fault>> {
        Some(match call.method() {
            "acquire" => call
                .parse()
                .and_then(|(thread, nanos)| {
                    let patience = Patience::from_nanos(nanos);
                    self.acquire(call.caller, thread, 1, patience)
                })
                .and_then(|locked| call.answer(&locked)),
            "release" => call
                .parse()
                .and_then(|(thread, hold)| self.release(call.caller, thread, hold)),
            // Who holds the lock takes note that an owner died.
            "accept" => call.parse().map(|hold: u64| {
                let mut state = self.state.lock();
                if state.hold == hold {
                    state.abandoned = false;
                }
            }),
            "is_locked" => {
                let locked = self.state.lock().owner.is_some();
                call.answer(&locked)
            }
            _ => return None,
        })
    }

    pub(super) fn client_left(&self, client: u64) {
        let mut state = self.state.lock();
        if state.owner.is_some_and(|owner| owner.client == client) {
            state.abandoned = true;
            state.depth = 0;
            state.free();
        }
    }

    pub(super) fn describe(&self) -> String {
        let state = self.state.lock();
        let held = match state.owner {
            Some(owner) => format!("held by client {}", owner.client),
            None => "free".to_owned(),
        };
        let abandoned = if state.abandoned {
            ", an owner died"
        } else {
            ""
        };
        format!("{held}, {} waiting{abandoned}", state.line.len())
    }
}

impl State {
    fn locked(&self) -> Locked {
        Locked::Yes {
            hold: self.hold,
            abandoned: self.abandoned,
        }
    }

    fn free(&mut self) {
        self.owner = None;
        self.line.wake_first();
    }
}

pub(super) struct Lock {
    pub(super) core: Arc<Core>,
}

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let () = call.parse()?;
    let core = Arc::new(Core::new(false));
    Ok(Box::new(Lock { core }))
}

pub(super) fn make_recursive(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let () = call.parse()?;
    let core = Arc::new(Core::new(true));
    Ok(Box::new(Lock { core }))
}

impl Referent for Lock {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        self.core.call(call).unwrap_or_else(|| Err(call.unknown()))
    }

    fn client_left(&self, client: u64) {
        self.core.client_left(client);
    }

    fn describe(&self) -> String {
        self.core.describe()
    }
}
