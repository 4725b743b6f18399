//! The secret that the processes of one program share.

use std::fmt;

use parking_lot::RwLock;
use zeroize::{Zeroize, Zeroizing};

/// A key that proves membership; it is wiped when dropped and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey(Zeroizing<Vec<u8>>);

impl AuthKey {
    /// A key of one's own choice; the empty one is a key, too.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// 32 random bytes.
    ///
    /// # Panics
    ///
    /// The kernel has no random numbers, which no supported one does.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        getrandom::fill(&mut bytes).expect("the kernel has random numbers");
        Self(bytes)
    }

    /// The secret itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthKey(..)")
    }
}

impl<T: Into<Vec<u8>>> From<T> for AuthKey {
    fn from(bytes: T) -> Self {
        Self::new(bytes)
    }
}

/// Wipes a message in which a key has travelled.
pub fn wipe(message: &mut [u8]) {
    message.zeroize();
}

static CURRENT: RwLock<Option<AuthKey>> = RwLock::new(None);

/// The key of this process: inherited from its parent, else random.
#[must_use]
pub fn current() -> AuthKey {
    if let Some(key) = CURRENT.read().as_ref() {
        return key.clone();
    }
    CURRENT.write().get_or_insert_with(AuthKey::random).clone()
}

/// Replaces the key of this process, for the children and connections that come after.
pub fn set_current(key: AuthKey) {
    *CURRENT.write() = Some(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_key_stays_and_is_never_shown() {
        assert_eq!(current(), current());
        assert_ne!(AuthKey::random(), AuthKey::random());
        assert_eq!(format!("{:?}", AuthKey::from("secret")), "AuthKey(..)");
    }
}
