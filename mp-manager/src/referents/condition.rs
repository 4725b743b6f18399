//! The server's half of `Condition`: a lock, and who sleeps without it.

use std::{any::Any, sync::Arc};

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
    referents::lock::{Core, Door, Lock, Locked},
    server::line::{self, Patience},
};

pub(super) struct Condition {
    lock: Arc<Core>,
    /// This condition among all that share the lock.
    door: Door,
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
        door: Door::new(),
    }))
}

impl Referent for Condition {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        if let Some(result) = self.lock.call(self.door, call) {
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
                self.lock.sleepers.lock().notify(self.door, count);
                Ok(())
            }
            _ => Err(call.unknown()),
        }
    }

    fn client_left(&self, client: u64) {
        self.lock.client_left(self.door, client);
    }

    fn describe(&self) -> String {
        let sleeping = self.lock.sleepers.lock().len(self.door);
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
        let place = self.lock.sleepers.lock().join(self.door);
        // In the list before the lock is free: who notifies under the lock finds this sleeper.
        let depths = self.lock.release_all(call.caller, thread);
        let notified = loop {
            let over = depths.is_err() || call.caller.is_gone() || patience.is_over();
            let mut sleepers = self.lock.sleepers.lock();
            let notified = sleepers.is_notified(place);
            if notified || over {
                sleepers.leave(place);
                break notified;
            }
            drop(sleepers);
            match patience {
                Patience::Until(deadline) => std::thread::park_timeout(deadline.remaining()),
                _ => std::thread::park(),
            }
        };
        let depths = depths.inspect_err(|_| self.pass_on(notified))?;
        if call.caller.is_gone() {
            self.pass_on(notified);
            return Err(line::gone());
        }
        let locked = self
            .lock
            .reacquire(call.caller, thread, &depths)
            .inspect_err(|_| self.pass_on(notified))?;
        Ok((notified, locked))
    }

    /// A notification that reached a client which is gone is for the next one.
    fn pass_on(&self, notified: bool) {
        if notified {
            self.lock.sleepers.lock().notify(self.door, 1);
        }
    }
}
