use mp_core::primitive::{AtomicU64, Ordering};

/// How many connections were dropped instead of accepted, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejections {
    /// The peer does not know the key, or says that we do not.
    pub wrong_key: u64,
    /// The peer asked for a digest that is not allowed, or answered with it: a Python up to 3.11
    /// knows MD5 alone ([`legacy_md5`](crate::Builder::legacy_md5)).
    pub digest: u64,
    /// The peer did not keep to the protocol.
    pub protocol: u64,
    /// The peer went away during the handshake.
    pub disconnected: u64,
    /// The peer took too long.
    pub timed_out: u64,
    /// The peer had proved nothing yet and made room for newer ones.
    pub evicted: u64,
    /// The peer runs as another user, on an abstract address.
    pub foreign: u64,
}

impl Rejections {
    /// All together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.wrong_key
            + self.digest
            + self.protocol
            + self.disconnected
            + self.timed_out
            + self.evicted
            + self.foreign
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) wrong_key: AtomicU64,
    pub(super) digest: AtomicU64,
    pub(super) protocol: AtomicU64,
    pub(super) disconnected: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) foreign: AtomicU64,
}

impl Counts {
    pub(super) fn get(&self) -> Rejections {
        // Relaxed: numbers for people, nothing depends on them.
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Rejections {
            wrong_key: get(&self.wrong_key),
            digest: get(&self.digest),
            protocol: get(&self.protocol),
            disconnected: get(&self.disconnected),
            timed_out: get(&self.timed_out),
            evicted: get(&self.evicted),
            foreign: get(&self.foreign),
        }
    }
}
