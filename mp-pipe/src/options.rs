//! What clients and listeners are told alike.

use std::time::Duration;

use mp_core::authkey::{self, AuthKey};

use crate::{Digest, auth::Policy, channel::DEFAULT_MAX_MESSAGE_LEN};

/// How long a peer may take to prove that it knows the key, from its connect to its last byte.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Without one there is no handshake.
    pub(crate) key: Option<AuthKey>,
    pub(crate) digest: Digest,
    pub(crate) legacy_md5: bool,
    pub(crate) timeout: Duration,
    pub(crate) max_message_len: u64,
}

impl Options {
    /// With the key of this program.
    pub(crate) fn new() -> Self {
        Self {
            key: Some(authkey::current()),
            digest: Digest::default(),
            legacy_md5: false,
            timeout: HANDSHAKE_TIMEOUT,
            max_message_len: DEFAULT_MAX_MESSAGE_LEN,
        }
    }

    /// What a handshake goes by, if there is to be one.
    pub(crate) fn policy(&self) -> Option<Policy> {
        Some(Policy {
            key: self.key.clone()?,
            digest: self.digest,
            legacy_md5: self.legacy_md5,
        })
    }
}

/// The methods of a builder that has `options`.
macro_rules! options {
    ($builder:ident) => {
        impl $builder {
            /// The key that both sides prove to know; the empty one is a key. By default it is the key
            /// of this program, which its child processes inherit.
            pub fn authkey(mut self, key: impl Into<$crate::AuthKey>) -> Self {
                self.options.key = Some(key.into());
                self
            }

            /// Without any handshake: whoever can reach the address is let in, and whoever is there is
            /// believed.
            pub fn unauthenticated(mut self) -> Self {
                self.options.key = None;
                self
            }

            /// The digest for challenges of this side. (The peer chooses the one for its own.)
            pub fn digest(mut self, digest: $crate::Digest) -> Self {
                self.options.digest = digest;
                self
            }

            /// Whether MD5 is good enough, for peers in Python up to 3.11. Off by default.
            pub fn legacy_md5(mut self, allowed: bool) -> Self {
                self.options.legacy_md5 = allowed;
                self
            }

            /// The longest message that a connection receives; [`DEFAULT_MAX_MESSAGE_LEN`] by default.
            ///
            /// [`DEFAULT_MAX_MESSAGE_LEN`]: crate::DEFAULT_MAX_MESSAGE_LEN
            pub fn max_message_len(mut self, len: u64) -> Self {
                self.options.max_message_len = len;
                self
            }
        }
    };
}
pub(crate) use options;
