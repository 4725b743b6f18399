//! What a server knows: objects, who refers to them, names and tickets.
//!
//! An object lives as long as somebody refers to it: a session (a client process), an element of
//! another object, a name, a ticket, or a proxy of the server's own. All of these are `Arc<Slot>`;
//! the table of objects itself holds none, and is told by the last of them.
//!
//! Locks: none of the tables is locked while a `Slot` is dropped, since its drop locks the table
//! of objects and runs users' code.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock, Weak},
};

use mp_core::{
    authkey::AuthKey,
    deadline::Deadline,
    primitive::{AtomicUsize, Ordering},
};
use parking_lot::Mutex;

use crate::{
    protocol::Fault,
    referent::Referent,
    registry::Registry,
    server::{limits::Limits, peer::Peer},
    transport::Address,
};

pub(crate) fn random_u128() -> u128 {
    let key = AuthKey::random();
    let bytes = key.as_bytes().first_chunk().expect("32 random bytes");
    u128::from_ne_bytes(*bytes)
}

/// An object, and who is told when nobody refers to it any more.
pub(crate) struct Slot {
    id: u64,
    kind: Arc<str>,
    object: Option<Box<dyn Referent>>,
    state: Weak<State>,
    /// How many objects its creator has.
    quota: Arc<AtomicUsize>,
}

impl Slot {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn kind(&self) -> &Arc<str> {
        &self.kind
    }

    pub(crate) fn object(&self) -> &dyn Referent {
        self.object.as_deref().expect("taken only by drop")
    }

    /// Tells the object. A panic in it is the object's own: its client has left, all the same.
    pub(crate) fn client_left(&self, client: u64) {
        let told = catch_unwind(AssertUnwindSafe(|| self.object().client_left(client)));
        if told.is_err() {
            tracing::warn!(object = ?self, client, "it panicked when its client left it");
        }
    }

    /// What the object says of itself.
    pub(crate) fn describe(&self) -> String {
        catch_unwind(AssertUnwindSafe(|| self.object().describe()))
            .unwrap_or_else(|_| "it panicked when it was to describe itself".to_owned())
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{:016x}", self.kind, self.id)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(state) = self.state.upgrade() {
            state.objects.lock().remove(&self.id);
        }
        self.quota.fetch_sub(1, Ordering::Relaxed); // a count; it orders nothing
        if let Some(object) = self.object.take() {
            bury(object);
        }
    }
}

/// Drops an object. What it alone referred to is dropped after it and not inside it, so that a
/// chain of objects may be as long as it likes.
fn bury(object: Box<dyn Referent>) {
    thread_local!(static WAITING: RefCell<Option<Vec<Box<dyn Referent>>>> = const { RefCell::new(None) });
    let first = WAITING.with_borrow_mut(|waiting| match waiting {
        Some(waiting) => {
            waiting.push(object);
            None
        }
        None => {
            *waiting = Some(Vec::new());
            Some(object)
        }
    });
    let mut next = first;
    while let Some(object) = next {
        // A panic in a user's drop is that object's; the default hook has printed it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(object)));
        next = WAITING.with_borrow_mut(|waiting| {
            let object = waiting.as_mut().and_then(Vec::pop);
            if object.is_none() {
                *waiting = None;
            }
            object
        });
    }
}

struct Ticket {
    slot: Arc<Slot>,
    /// The session that took it; 0 is the server itself.
    issuer: u64,
    until: Deadline,
}

#[derive(Default)]
struct Tickets {
    open: HashMap<u128, Ticket>,
    /// The same by when they end.
    ends: BTreeSet<(Deadline, u128)>,
}

impl Tickets {
    fn insert(&mut self, number: u128, ticket: Ticket) {
        self.ends.insert((ticket.until, number));
        self.open.insert(number, ticket);
    }

    fn remove(&mut self, number: u128) -> Option<Ticket> {
        let ticket = self.open.remove(&number)?;
        self.ends.remove(&(ticket.until, number));
        Some(ticket)
    }

    fn next_end(&self) -> Option<Deadline> {
        self.ends.first().map(|(until, _)| *until)
    }

    fn remove_over(&mut self) -> Vec<Ticket> {
        let mut over = Vec::new();
        while let Some((until, number)) = self.ends.first().copied()
            && until.is_over()
        {
            over.extend(self.remove(number));
        }
        over
    }

    fn remove_if(&mut self, ended: impl Fn(&Ticket) -> bool) -> Vec<Ticket> {
        let gone = self.open.extract_if(|_, ticket| ended(ticket));
        let (numbers, gone): (Vec<_>, Vec<_>) = gone
            .map(|(number, ticket)| ((ticket.until, number), ticket))
            .unzip();
        for number in numbers {
            self.ends.remove(&number);
        }
        gone
    }
}

pub(crate) struct State {
    id: u128,
    pub(crate) address: Address,
    pub(crate) registry: Registry,
    pub(crate) limits: Limits,
    objects: Mutex<HashMap<u64, Weak<Slot>>>,
    names: Mutex<HashMap<String, Arc<Slot>>>,
    tickets: Mutex<Tickets>,
    pub(crate) peers: Mutex<HashMap<u128, Arc<Peer>>>,
    /// Objects that the server's own code has made.
    own: Arc<AtomicUsize>,
    /// Workers of the pools that clients have made.
    #[cfg(feature = "pool")]
    pub(crate) pool_workers: Arc<AtomicUsize>,
    /// What a client has to know to end the server; nobody can if it is not set.
    pub(crate) shutdown_token: OnceLock<u128>,
}

impl State {
    pub(crate) fn new(address: Address, registry: Registry, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            id: random_u128(),
            address,
            registry,
            limits,
            objects: Mutex::default(),
            names: Mutex::default(),
            tickets: Mutex::default(),
            peers: Mutex::default(),
            own: Arc::default(),
            #[cfg(feature = "pool")]
            pool_workers: Arc::default(),
            shutdown_token: OnceLock::new(),
        })
    }

    pub(crate) fn id(&self) -> u128 {
        self.id
    }

    pub(crate) fn slot(&self, id: u64) -> Option<Arc<Slot>> {
        self.objects.lock().get(&id)?.upgrade()
    }

    /// Makes an object; who asked gets the only reference.
    pub(crate) fn create(
        self: &Arc<Self>,
        kind: &str,
        object: Box<dyn Referent>,
        peer: Option<&Peer>,
    ) -> Result<Arc<Slot>, Fault> {
        let (quota, limit) = match peer {
            Some(peer) => (peer.objects(), self.limits.objects_per_client),
            None => (&self.own, usize::MAX),
        };
        if quota.fetch_add(1, Ordering::Relaxed) >= limit {
            quota.fetch_sub(1, Ordering::Relaxed);
            return Err(Fault::Denied(format!(
                "this session has {limit} objects, its quota"
            )));
        }
        let mut slot = Slot {
            id: 0,
            kind: kind.into(),
            object: Some(object),
            state: Arc::downgrade(self),
            quota: quota.clone(),
        };
        let mut objects = self.objects.lock();
        while slot.id == 0 || objects.contains_key(&slot.id) {
            slot.id = random_u128() as u64;
        }
        let slot = Arc::new(slot);
        objects.insert(slot.id, Arc::downgrade(&slot));
        Ok(slot)
    }

    pub(crate) fn object_count(&self) -> usize {
        self.objects.lock().len()
    }

    /// Every object, in the order of their ids.
    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        let objects = self.objects.lock();
        let mut slots: Vec<_> = objects.values().filter_map(Weak::upgrade).collect();
        drop(objects);
        slots.sort_by_key(|slot| slot.id);
        slots
    }

    pub(crate) fn issue(&self, slot: Arc<Slot>, issuer: u64) -> u128 {
        self.expire_tickets();
        let ticket = random_u128();
        let until = Deadline::after(self.limits.ticket);
        self.tickets.lock().insert(
            ticket,
            Ticket {
                slot,
                issuer,
                until,
            },
        );
        ticket
    }

    /// The object of a ticket that is still good, which ends with this; else of any that somebody
    /// refers to.
    pub(crate) fn redeem(&self, object: u64, ticket: u128) -> Option<Arc<Slot>> {
        let mut tickets = self.tickets.lock();
        let known = tickets
            .open
            .get(&ticket)
            .is_some_and(|ticket| ticket.slot.id == object);
        let redeemed = if known { tickets.remove(ticket) } else { None };
        drop(tickets);
        match redeemed {
            Some(ticket) => Some(ticket.slot),
            None => self.slot(object),
        }
    }

    /// Ends the tickets that nobody came for; when the next one ends.
    pub(crate) fn expire_tickets(&self) -> Option<Deadline> {
        let mut tickets = self.tickets.lock();
        let over = tickets.remove_over();
        let next = tickets.next_end();
        drop(tickets);
        drop(over); // outside the lock
        next
    }

    pub(crate) fn drop_tickets_of(&self, issuer: u64) {
        self.drop_tickets(|ticket| ticket.issuer == issuer);
    }

    fn drop_tickets(&self, ended: impl Fn(&Ticket) -> bool) {
        let gone = self.tickets.lock().remove_if(ended);
        drop(gone); // outside the lock
    }

    pub(crate) fn ticket_count(&self) -> usize {
        self.tickets.lock().open.len()
    }

    pub(crate) fn share(&self, name: &str, slot: Arc<Slot>, replace: bool) -> Result<(), Fault> {
        let mut names = self.names.lock();
        if !replace && names.contains_key(name) {
            return Err(Fault::Denied(format!("the name `{name}` is taken")));
        }
        if names.len() >= self.limits.names && !names.contains_key(name) {
            return Err(Fault::Denied(format!(
                "there are {} names, as many as allowed",
                names.len()
            )));
        }
        let replaced = names.insert(name.to_owned(), slot);
        drop(names);
        drop(replaced); // outside the lock
        Ok(())
    }

    pub(crate) fn unshare(&self, name: &str) -> bool {
        let removed = self.names.lock().remove(name);
        removed.is_some()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Slot>> {
        self.names.lock().get(name).cloned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.names.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// Ends every reference that no client holds: names and tickets.
    pub(crate) fn clear(&self) {
        let names = std::mem::take(&mut *self.names.lock());
        drop(names);
        self.drop_tickets(|_| true);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("address", &self.address)
            .field("objects", &self.object_count())
            .finish_non_exhaustive()
    }
}
