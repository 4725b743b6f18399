//! What one client may take from a server. A session is what one `connect` begins; a client process
//! may have several.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::MAX_MESSAGE;

/// Limits of a server; the builders of [`Manager`](crate::Manager) and [`Server`](crate::Server)
/// set them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Longest request and reply.
    pub(crate) message: usize,
    /// Connections in all; each has a thread.
    pub(crate) connections: usize,
    /// Connections of one session.
    pub(crate) connections_per_client: usize,
    /// Objects that one session has made and that still live.
    pub(crate) objects_per_client: usize,
    /// Names in all.
    pub(crate) names: usize,
    /// How long a ticket waits for who decodes its proxy.
    pub(crate) ticket: Duration,
    /// Workers of all pools that clients have made.
    #[cfg(feature = "pool")]
    pub(crate) pool_workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: MAX_MESSAGE,
            connections: 1024,
            connections_per_client: 512,
            objects_per_client: 100_000,
            names: 100_000,
            ticket: Duration::from_secs(60),
            #[cfg(feature = "pool")]
            pool_workers: 256,
        }
    }
}
