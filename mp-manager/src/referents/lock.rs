//! The server's half of `Lock` and `RLock`, and the lock inside `Condition`.

use std::{collections::BTreeMap, sync::Arc, thread::Thread};

use mp_core::primitive::{AtomicU64, Ordering};
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

/// An object through which a lock is taken: the lock itself, or a condition that shares it. A
/// client that leaves one of them loses nothing that it took through another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Door(u64);

impl Door {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed)) // only has to differ
    }
}

/// How often an owner holds a lock through which doors; never zero times.
type Depths = Vec<(Door, u32)>;

#[derive(Debug, Default)]
struct State {
    owner: Option<Owner>,
    /// Of the owner. More than one time, or door, only for a recursive lock.
    depths: Depths,
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
    /// Who waits without the lock until a condition that shares it is notified. Not locked while
    /// `state` is.
    pub(super) sleepers: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
pub(super) struct Sleepers {
    next: u64,
    /// In the order of arrival, until they have left.
    sleeping: BTreeMap<u64, Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    condition: Door,
    thread: Thread,
    notified: bool,
}

impl Sleepers {
    /// This thread, from now on.
    pub(super) fn join(&mut self, condition: Door) -> u64 {
        let place = self.next;
        self.next += 1;
        let sleeper = Sleeper {
            condition,
            thread: std::thread::current(),
            notified: false,
        };
        self.sleeping.insert(place, sleeper);
        place
    }

    pub(super) fn is_notified(&self, place: u64) -> bool {
        self.sleeping[&place].notified
    }

    pub(super) fn leave(&mut self, place: u64) {
        self.sleeping.remove(&place);
    }

    pub(super) fn len(&self, condition: Door) -> usize {
        let of = |sleeper: &&Sleeper| sleeper.condition == condition;
        self.sleeping.values().filter(of).count()
    }

    /// Of one condition, in the order of arrival.
    pub(super) fn notify(&mut self, condition: Door, count: usize) {
        let sleeping = self.sleeping.values_mut();
        sleeping
            .filter(|sleeper| sleeper.condition == condition && !sleeper.notified)
            .take(count)
            .for_each(Sleeper::notify);
    }

    fn notify_all(&mut self) {
        self.sleeping.values_mut().for_each(Sleeper::notify);
    }
}

impl Sleeper {
    fn notify(&mut self) {
        self.notified = true;
        self.thread.unpark();
    }
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
            sleepers: Mutex::default(),
        }
    }

    fn acquire(
        &self,
        door: Door,
        caller: &Caller,
        thread: u64,
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
            state.enter(door)?;
            return Ok(state.locked());
        }
        drop(state);
        self.take(caller, owner, &[(door, 1)], patience)
    }

    /// Takes all of a lock again that [`release_all`](Self::release_all) has released.
    pub(super) fn reacquire(
        &self,
        caller: &Caller,
        thread: u64,
        depths: &[(Door, u32)],
    ) -> Result<Locked, Fault> {
        let owner = Owner {
            client: caller.number(),
            thread,
        };
        self.take(caller, owner, depths, Patience::Endless)
    }

    /// Waits until nobody has the lock.
    fn take(
        &self,
        caller: &Caller,
        owner: Owner,
        depths: &[(Door, u32)],
        patience: Patience,
    ) -> Result<Locked, Fault> {
        let attempt = |state: &mut State| {
            if state.owner.is_some() {
                return None;
            }
            state.owner = Some(owner);
            state.depths.extend_from_slice(depths);
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
    fn release(
        &self,
        door: Door,
        caller: &Caller,
        thread: u64,
        hold: Option<u64>,
    ) -> Result<(), Fault> {
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
        state.leave(door);
        Ok(())
    }

    /// Releases all of a lock that a thread is about to wait without; how deep it was.
    pub(super) fn release_all(&self, caller: &Caller, thread: u64) -> Result<Depths, Fault> {
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
        let depths = std::mem::take(&mut state.depths);
        state.free();
        Ok(depths)
    }

    /// What both `Lock` and `Condition` are asked. `None`: another method.
    pub(super) fn call(&self, door: Door, call: &mut Call<'_>) -> Option<Result<(), Fault>> {
        Some(match call.method() {
            "acquire" => call
                .parse()
                .and_then(|(thread, nanos)| {
                    let patience = Patience::from_nanos(nanos);
                    self.acquire(door, call.caller, thread, patience)
                })
                .and_then(|locked| call.answer(&locked)),
            "release" => call
                .parse()
                .and_then(|(thread, hold)| self.release(door, call.caller, thread, hold)),
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

    pub(super) fn client_left(&self, door: Door, client: u64) {
        let mut state = self.state.lock();
        if state.owner.is_none_or(|owner| owner.client != client) {
            return;
        }
        let before = state.depths.len();
        state.depths.retain(|(through, _)| *through != door);
        if state.depths.len() == before || !state.depths.is_empty() {
            return;
        }
        state.abandoned = true;
        state.free();
        drop(state);
        // It may have died with a notification, or before it notified: everybody looks.
        self.sleepers.lock().notify_all();
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

    /// Once more through this door.
    fn enter(&mut self, door: Door) -> Result<(), Fault> {
        match self.depths.iter_mut().find(|(through, _)| *through == door) {
            Some((_, depth)) => {
                *depth = depth.checked_add(1).ok_or_else(|| {
                    Fault::Refused("the lock is held four billion times".to_owned())
                })?;
            }
            None => self.depths.push((door, 1)),
        }
        Ok(())
    }

    /// Once less: through this door, or the last one if it was not taken through this.
    fn leave(&mut self, door: Door) {
        let mut doors = self.depths.iter();
        let last = self.depths.len() - 1; // somebody holds it
        let index = doors.position(|(through, _)| *through == door);
        let index = index.unwrap_or(last);
        self.depths[index].1 -= 1;
        if self.depths[index].1 == 0 {
            self.depths.remove(index);
        }
        if self.depths.is_empty() {
            self.free();
        }
    }

    fn free(&mut self) {
        self.owner = None;
        self.line.wake_first();
    }
}

pub(super) struct Lock {
    pub(super) core: Arc<Core>,
    door: Door,
}

impl Lock {
    fn new(recursive: bool) -> Self {
        Self {
            core: Arc::new(Core::new(recursive)),
            door: Door::new(),
        }
    }
}

pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let () = call.parse()?;
    Ok(Box::new(Lock::new(false)))
}

pub(super) fn make_recursive(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let () = call.parse()?;
    Ok(Box::new(Lock::new(true)))
}

impl Referent for Lock {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        self.core
            .call(self.door, call)
            .unwrap_or_else(|| Err(call.unknown()))
    }

    fn client_left(&self, client: u64) {
        self.core.client_left(self.door, client);
    }

    fn describe(&self) -> String {
        self.core.describe()
    }
}
