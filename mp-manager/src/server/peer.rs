//! A client process, as the server sees it: its channels and what it refers to.

use std::{collections::HashMap, sync::Arc, thread::Thread};

use mp_core::primitive::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use parking_lot::{Condvar, Mutex};

use crate::{
    protocol::{Fault, SESSION_ENDED},
    server::state::{Slot, State, random_u128},
};

/// Whether the client at the other end of a channel is still there.
#[derive(Debug)]
pub(crate) struct Presence {
    gone: AtomicBool,
    /// Whoever answers its calls, and may sleep meanwhile.
    thread: Thread,
}

impl Presence {
    /// Of a client that this thread answers.
    pub(crate) fn of_this_thread() -> Arc<Self> {
        Arc::new(Self {
            gone: AtomicBool::new(false),
            thread: std::thread::current(),
        })
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) // meets the Release in `end`
    }

    fn end(&self) {
        self.gone.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// One session: channels of one client process. It ends with the last of them.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Never used twice in one server: what locks and permits are held by.
    number: u64,
    token: u128,
    pub(crate) pid: u32,
    references: Mutex<References>,
    /// An object has been left.
    left: Condvar,
    channels: Mutex<HashMap<u64, Arc<Presence>>>,
    objects: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct References {
    held: HashMap<u64, Held>,
    ended: bool,
}

impl References {
    fn is_left(&self, id: u64) -> bool {
        self.held.get(&id).is_some_and(|held| held.count == 0)
    }
}

#[derive(Debug)]
struct Held {
    slot: Arc<Slot>,
    /// 0 while the client leaves the object: nothing of it can be called or granted meanwhile,
    /// since what is taken then would be given back with the rest.
    count: usize,
}

impl Peer {
    pub(crate) fn new(pid: u32) -> Self {
        /// 0 is the server itself.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed), // only has to differ
            token: random_u128(),
            pid,
            references: Mutex::default(),
            left: Condvar::new(),
            channels: Mutex::default(),
            objects: Arc::default(),
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn token(&self) -> u128 {
        self.token
    }

    pub(crate) fn objects(&self) -> &Arc<AtomicUsize> {
        &self.objects
    }

    pub(crate) fn channel_count(&self) -> usize {
        self.channels.lock().len()
    }

    /// One more channel; or why not.
    pub(crate) fn open(
        &self,
        channel: u64,
        presence: Arc<Presence>,
        limit: usize,
    ) -> Result<(), String> {
        let mut channels = self.channels.lock();
        // Known until all is given back, but over.
        if self.references.lock().ended {
            return Err(SESSION_ENDED.to_owned());
        }
        if channels.len() >= limit {
            return Err(format!("this session has {limit} connections, its quota"));
        }
        channels.insert(channel, presence);
        Ok(())
    }

    /// Nobody listens on a channel any more.
    pub(crate) fn hang_up(&self, channel: u64) {
        if let Some(presence) = self.channels.lock().get(&channel) {
            presence.end();
        }
    }

    /// A channel is closed; `true` for the last one, which ends the session.
    pub(crate) fn closed(&self, channel: u64) -> bool {
        let mut channels = self.channels.lock();
        let Some(presence) = channels.remove(&channel) else {
            return false;
        };
        presence.end();
        let last = channels.is_empty();
        if last {
            self.references.lock().ended = true;
        }
        last
    }

    /// The object, if this client refers to it.
    pub(crate) fn object(&self, id: u64) -> Option<Arc<Slot>> {
        let references = self.references.lock();
        let held = references.held.get(&id).filter(|held| held.count > 0)?;
        Some(held.slot.clone())
    }

    /// One more reference of this client.
    pub(crate) fn grant(&self, slot: &Arc<Slot>) -> Result<(), Fault> {
        let mut references = self.references.lock();
        while !references.ended && references.is_left(slot.id()) {
            self.left.wait(&mut references);
        }
        if references.ended {
            return Err(Fault::Denied(SESSION_ENDED.to_owned()));
        }
        references
            .held
            .entry(slot.id())
            .or_insert_with(|| Held {
                slot: slot.clone(),
                count: 0,
            })
            .count += 1;
        Ok(())
    }

    /// One reference less. With the last one the client has left the object, with all that it
    /// held of it.
    pub(crate) fn release(&self, id: u64) {
        let mut references = self.references.lock();
        let Some(held) = references.held.get_mut(&id) else {
            return;
        };
        if held.count != 1 {
            held.count = held.count.saturating_sub(1); // 0: the client releases too often
            return;
        }
        held.count = 0;
        let slot = held.slot.clone();
        drop(references);
        slot.client_left(self.number);
        let left = self.references.lock().held.remove(&id);
        self.left.notify_all();
        drop(left); // outside the lock
    }

    /// Gives back what a client that is gone referred to and held.
    pub(crate) fn end(&self, state: &State) {
        let mut references = self.references.lock();
        references.ended = true;
        let held = std::mem::take(&mut references.held);
        drop(references);
        self.left.notify_all();
        // First every lock and permit, then the objects: a user's drop may take its time.
        for held in held.values().filter(|held| held.count > 0) {
            held.slot.client_left(self.number);
        }
        state.peers.lock().remove(&self.token);
        state.drop_tickets_of(self.number);
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_has_ended_is_no_question_of_quota() {
        let peer = Peer::new(1);
        let open = |channel| peer.open(channel, Presence::of_this_thread(), 1);
        open(1).unwrap();
        assert!(open(2).unwrap_err().contains("quota"));
        assert!(peer.closed(1));
        assert_eq!(open(3).unwrap_err(), SESSION_ENDED);
    }
}
