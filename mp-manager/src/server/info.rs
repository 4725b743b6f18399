//! What a server tells about itself.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::server::state::State;

/// What a server holds at the moment: [`Client::debug_info`](crate::Client::debug_info).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DebugInfo {
    /// Objects that are alive.
    pub objects: usize,
    /// Client processes.
    pub clients: Vec<ClientInfo>,
    /// Proxies on their way, which nobody has decoded yet.
    pub tickets: usize,
    /// The names that objects are shared by.
    pub names: Vec<String>,
    /// Each object, in the order of their numbers.
    pub list: Vec<ObjectInfo>,
}

/// One client process of a [`DebugInfo`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClientInfo {
    /// Its number, in the texts of locks.
    pub number: u64,
    /// Its process, as it says itself.
    pub pid: u32,
    /// Its connections.
    pub connections: usize,
}

/// One object of a [`DebugInfo`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its number.
    pub id: u64,
    /// Its type.
    pub kind: String,
    /// Who refers to it: clients, names, tickets, other objects, calls that run.
    pub references: usize,
    /// Its state in a few words.
    pub text: String,
}

/// Objects listed one by one, at most.
const LISTED: usize = 1000;

pub(crate) fn collect(state: &Arc<State>, list: bool) -> DebugInfo {
    let peers: Vec<_> = state.peers.lock().values().cloned().collect();
    let clients = peers.iter().map(|peer| ClientInfo {
        number: peer.number(),
        pid: peer.pid,
        connections: peer.channel_count(),
    });
    let slots = if list { state.slots() } else { Vec::new() };
    DebugInfo {
        objects: state.object_count(),
        clients: clients.collect(),
        tickets: state.ticket_count(),
        names: if list { state.names() } else { Vec::new() },
        list: slots
            .into_iter()
            .take(LISTED)
            .map(|slot| ObjectInfo {
                id: slot.id(),
                kind: slot.kind().to_string(),
                references: Arc::strong_count(&slot) - 1, // this one
                text: slot.describe(),
            })
            .collect(),
    }
}

impl fmt::Display for DebugInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} objects, {} clients, {} proxies on their way",
            self.objects,
            self.clients.len(),
            self.tickets
        )?;
        for object in &self.list {
            write!(
                f,
                "\n  {:016x}: {} references={}\n    {}",
                object.id, object.kind, object.references, object.text
            )?;
        }
        Ok(())
    }
}
