//! The server's half of `Condition`: a lock, and who sleeps without it.

use std::{any::Any, collections::BTreeMap, sync::Arc, thread::Thread};

use parking_lot::Mutex;

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
    referents::lock::{Core, Lock, Locked},
    server::line::{self, Patience},
};

#[derive(Default)]
struct Sleepers {
    next: u64,
    /// In the order of arrival, until they have left.
    sleeping: BTreeMap<u64, Sleeper>,
}

struct Sleeper {
    thread: Thread,
    notified: bool,
}

pub(super) struct Condition {
    lock: Arc<Core>,
    sleepers: Mutex<Sleepers>,
}

/// With a lock of its own, or that of another object.
pub(super) fn make(call: &Call<'_>) -> Result<Box<dyn Referent>, Fault> {
    let lock: Option<u64> = call.parse()?;
    let lock = match lock {
        None => Arc::new(Core::new(true)),
        Some(id) => {
            let slot = call.caller.object(call.state, id)?;
            let object: &dyn Any = slot.object();
            let lock = object.downcast_ref::<Lock>();
            let lock = lock.ok_or_else(|| Fault::Arguments("not a lock".to_owned()))?;
            lock.core.clone()
        }
    };
    Ok(Box::new(Condition {
        lock,
        sleepers: Mutex::default(),
    }))
}

impl Referent for Condition {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        if let Some(result) = self.lock.call(call) {
            return result;
        }
        match call.method() {
            "wait" => {
                let (thread, nanos): (u64, Option<u64>) = call.parse()?;
                let answer = self.wait(call, thread, Patience::from_nanos(nanos))?;
                call.answer(&answer)
            }
            "notify" => {
                let count: Option<u64> = call.parse()?;
                let count = count.map_or(usize::MAX, |count| count as usize);
                let mut sleepers = self.sleepers.lock();
                let sleeping = sleepers.sleeping.values_mut();
                for sleeper in sleeping.filter(|sleeper| !sleeper.notified).take(count) {
                    sleeper.notified = true;
                    sleeper.thread.unpark();
                }
                Ok(())
            }
            _ => Err(call.unknown()),
        }
    }

    fn client_left(&self, client: u64) {
        self.lock.client_left(client);
    }

    fn describe(&self) -> String {
        let sleeping = self.sleepers.lock().sleeping.len();
        format!("{}, {sleeping} sleeping", self.lock.describe())
    }
}

impl Condition {
    /// Whether it was notified, and the lock again.
    fn wait(
        &self,
        call: &Call<'_>,
        thread: u64,
        patience: Patience,
    ) -> Result<(bool, Locked), Fault> {
        let place = {
            let mut sleepers = self.sleepers.lock();
            let place = sleepers.next;
            sleepers.next += 1;
            let sleeper = Sleeper {
                thread: std::thread::current(),
                notified: false,
            };
            sleepers.sleeping.insert(place, sleeper);
            place
        };
        // In the list before the lock is free: who notifies under the lock finds this sleeper.
        let depth = self.lock.release_all(call.caller, thread);
        let notified = loop {
            let over = depth.is_err() || call.caller.is_gone() || patience.is_over();
            let mut sleepers = self.sleepers.lock();
            let notified = sleepers.sleeping[&place].notified;
            if notified || over {
                sleepers.sleeping.remove(&place);
                break notified;
            }
            drop(sleepers);
            match patience {
                Patience::Until(deadline) => std::thread::park_timeout(deadline.remaining()),
                _ => std::thread::park(),
            }
        };
        let depth = depth?;
        if call.caller.is_gone() {
            self.pass_on(notified);
            return Err(line::gone());
        }
        let locked = self
            .lock
            .acquire(call.caller, thread, depth, Patience::Endless)
            .inspect_err(|_| self.pass_on(notified))?;
        Ok((notified, locked))
    }

    /// A notification that reached a client which is gone is for the next one.
    fn pass_on(&self, notified: bool) {
        let mut sleepers = self.sleepers.lock();
        let mut sleeping = sleepers.sleeping.values_mut();
        if notified && let Some(next) = sleeping.find(|sleeper| !sleeper.notified) {
            next.notified = true;
            next.thread.unpark();
        }
    }
}
