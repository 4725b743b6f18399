//! Who knows the key: Python's challenge and response, byte for byte.
//!
//! ```text
//! challenger → other  "#CHALLENGE#" M       M = "{sha256}" + 40 random bytes
//! other → challenger  "{sha256}" + HMAC-SHA256(key, M)      over all of M, the name included
//! challenger → other  "#WELCOME#", or "#FAILURE#" and close
//! ```
//!
//! The listener challenges first, then the client. Pythons up to 3.11 know only MD5: their M is 20
//! bytes without a name, and they answer any M with 16 bytes of HMAC-MD5.

use std::{fmt, io};

use hmac::{KeyInit, Mac, SimpleHmac};
use md5::Md5;
use mp_core::authkey::AuthKey;
use sha2::{Sha256, Sha384};
use sha3::{Sha3_256, Sha3_384};

use crate::{Connection, RecvError, SendError};

/// No frame of a handshake is longer.
pub(crate) const MAX_FRAME: usize = 256;

pub(crate) const CHALLENGE: &[u8] = b"#CHALLENGE#";
pub(crate) const WELCOME: &[u8] = b"#WELCOME#";
pub(crate) const FAILURE: &[u8] = b"#FAILURE#";

/// Random bytes in a challenge.
const NONCE: usize = 40;

/// Length of the challenges of Pythons up to 3.11, and the least length of any.
const LEGACY_CHALLENGE: usize = 20;

/// Length of an answer of theirs, which does not name its digest.
const MD5_LEN: usize = 16;

/// The hash function under the HMAC of a handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Digest {
    /// MD5, for Pythons up to 3.11. Taken from a peer only where it was asked for.
    Md5,
    /// SHA-256, what Python 3.12 and later use by default.
    #[default]
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA3-256.
    Sha3_256,
    /// SHA3-384.
    Sha3_384,
}

impl Digest {
    const ALL: [Self; 5] = [
        Self::Md5,
        Self::Sha256,
        Self::Sha384,
        Self::Sha3_256,
        Self::Sha3_384,
    ];

    /// Python's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha3_256 => "sha3_256",
            Self::Sha3_384 => "sha3_384",
        }
    }

    fn mac(self, key: &AuthKey, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => keyed::<SimpleHmac<Md5>>(key, message)
                .finalize()
                .as_bytes()
                .to_vec(),
            Self::Sha256 => keyed::<SimpleHmac<Sha256>>(key, message)
                .finalize()
                .as_bytes()
                .to_vec(),
            Self::Sha384 => keyed::<SimpleHmac<Sha384>>(key, message)
                .finalize()
                .as_bytes()
                .to_vec(),
            Self::Sha3_256 => keyed::<SimpleHmac<Sha3_256>>(key, message)
                .finalize()
                .as_bytes()
                .to_vec(),
            Self::Sha3_384 => keyed::<SimpleHmac<Sha3_384>>(key, message)
                .finalize()
                .as_bytes()
                .to_vec(),
        }
    }

    /// In constant time.
    fn verify(self, key: &AuthKey, message: &[u8], mac: &[u8]) -> bool {
        match self {
            Self::Md5 => keyed::<SimpleHmac<Md5>>(key, message).verify_slice(mac),
            Self::Sha256 => keyed::<SimpleHmac<Sha256>>(key, message).verify_slice(mac),
            Self::Sha384 => keyed::<SimpleHmac<Sha384>>(key, message).verify_slice(mac),
            Self::Sha3_256 => keyed::<SimpleHmac<Sha3_256>>(key, message).verify_slice(mac),
            Self::Sha3_384 => keyed::<SimpleHmac<Sha3_384>>(key, message).verify_slice(mac),
        }
        .is_ok()
    }
}

fn keyed<M: Mac + KeyInit>(key: &AuthKey, message: &[u8]) -> M {
    let mut mac =
        <M as KeyInit>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(message);
    mac
}

/// Why a handshake failed. Nothing the peer sent was decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The peer's answer to our challenge was wrong: it does not know the key.
    #[error("the peer does not know the key: its digest is wrong")]
    WrongKey,
    /// The peer refused our answer: its key is another one.
    #[error("the peer refused our key: digest sent was rejected")]
    Rejected,
    /// The peer wants a digest that is not allowed here, such as MD5; or answers with it.
    #[error("the peer wants the digest {0:?}, which is not allowed here{hint}", hint = md5_hint(.0))]
    Digest(String),
    /// The peer does not keep to the protocol.
    #[error("the peer does not keep to the handshake: {0}")]
    Protocol(&'static str),
    /// The peer was gone before the end. (Does it expect no key, or one?)
    #[error("the peer closed the connection during the handshake")]
    Disconnected,
    /// The peer was silent. (Does it expect no key?)
    #[error("the handshake was not finished in time: does the peer expect a key?")]
    TimedOut,
    /// The system refused.
    #[error("cannot shake hands: {0}")]
    Io(#[source] io::Error),
}

fn md5_hint(name: &str) -> &'static str {
    match name {
        "md5" => " (Python up to 3.11 knows nothing else: see `legacy_md5`)",
        _ => "",
    }
}

impl From<RecvError> for AuthError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Io(error) => Self::Io(error),
            RecvError::TooLarge { .. } | RecvError::OverLimit { .. } => {
                Self::Protocol("a frame is too long")
            }
            RecvError::InvalidFrame(_) => Self::Protocol("a frame has a negative length"),
            RecvError::Empty => Self::TimedOut,
            _ => Self::Disconnected,
        }
    }
}

impl From<SendError> for AuthError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Io(error) => Self::Io(error),
            SendError::TimedOut => Self::TimedOut,
            _ => Self::Disconnected,
        }
    }
}

/// The key, and what is allowed in proving it.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) key: AuthKey,
    /// For our own challenges.
    pub(crate) digest: Digest,
    pub(crate) legacy_md5: bool,
}

/// A fresh challenge, without `#CHALLENGE#`.
pub(crate) fn challenge(digest: Digest) -> Vec<u8> {
    let mut message = format!("{{{}}}", digest.name()).into_bytes();
    let prefix = message.len();
    message.resize(prefix + NONCE, 0);
    getrandom::fill(&mut message[prefix..]).expect("the kernel has random numbers");
    message
}

impl Policy {
    fn allows(&self, digest: Digest) -> bool {
        digest != Digest::Md5 || self.legacy_md5
    }

    /// The answer to a challenge of the peer.
    pub(crate) fn respond(&self, message: &[u8]) -> Result<Vec<u8>, AuthError> {
        if message.len() < LEGACY_CHALLENGE {
            return Err(AuthError::Protocol("the challenge is too short"));
        }
        if message.len() == LEGACY_CHALLENGE {
            return match self.legacy_md5 {
                true => Ok(Digest::Md5.mac(&self.key, message)),
                false => Err(AuthError::Digest("md5".into())),
            };
        }
        let (name, _) =
            split(message).ok_or(AuthError::Protocol("the challenge names no digest"))?;
        let digest = named(name)
            .filter(|digest| self.allows(*digest))
            .ok_or_else(|| AuthError::Digest(String::from_utf8_lossy(name).into_owned()))?;
        let mut response = format!("{{{}}}", digest.name()).into_bytes();
        response.extend(digest.mac(&self.key, message));
        Ok(response)
    }

    /// Whether the peer's `response` to our `message` proves that it knows the key.
    pub(crate) fn verify(&self, message: &[u8], response: &[u8]) -> Result<(), AuthError> {
        let (digest, mac) = match split(response) {
            Some((name, mac)) => (named(name), mac),
            None if response.len() == MD5_LEN => (Some(Digest::Md5), response),
            None => (None, response),
        };
        let digest = digest.ok_or(AuthError::WrongKey)?;
        if !self.allows(digest) {
            return Err(AuthError::Digest(digest.name().to_owned()));
        }
        let knows_the_key = digest.verify(&self.key, message, mac);
        knows_the_key.then_some(()).ok_or(AuthError::WrongKey)
    }
}

/// The name in braces at the front, and what comes behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    /// No allowed name is longer.
    const LONGEST: usize = 20;
    let rest = bytes.strip_prefix(b"{")?;
    let end = rest.iter().take(LONGEST).position(|&byte| byte == b'}')?;
    Some((&rest[..end], &rest[end + 1..]))
}

fn named(name: &[u8]) -> Option<Digest> {
    Digest::ALL
        .into_iter()
        .find(|digest| digest.name().as_bytes() == name)
}

/// Makes the peer of `connection` prove that it knows `key`; its counterpart there is
/// [`answer_challenge`], or Python's function of that name.
///
/// [`Listener`](crate::Listener) and [`Client`](crate::Client) do this by themselves, in both
/// directions, within a deadline; this is for connections made by other means. It has no deadline of
/// its own: [`Connection::shutdown`] from another thread ends it.
///
/// # Errors
///
/// [`AuthError::WrongKey`] after telling the peer so, and the other failures of a handshake. The
/// connection is to be dropped then.
///
/// # Examples
///
/// ```
/// use mp_pipe::{AuthKey, Digest, answer_challenge, deliver_challenge, duplex};
///
/// let (ours, theirs) = duplex::<(), ()>()?;
/// let key = AuthKey::from("secret");
/// std::thread::scope(|scope| {
///     scope.spawn(|| answer_challenge(&theirs, &key));
///     deliver_challenge(&ours, &key, Digest::Sha256)
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn deliver_challenge<S, R>(
    connection: &Connection<S, R>,
    key: &AuthKey,
    digest: Digest,
) -> Result<(), AuthError> {
    let policy = Policy {
        key: key.clone(),
        digest,
        legacy_md5: digest == Digest::Md5,
    };
    let message = challenge(digest);
    connection.send_bytes(&[CHALLENGE, &message].concat())?;
    let response = connection.recv_bytes_limit(MAX_FRAME)?;
    if let Err(refusal) = policy.verify(&message, &response) {
        connection.send_bytes(FAILURE)?;
        return Err(refusal);
    }
    Ok(connection.send_bytes(WELCOME)?)
}

/// Proves to the peer of `connection` that this side knows `key`: the other half of
/// [`deliver_challenge`]. Refuses MD5.
///
/// # Errors
///
/// [`AuthError::Rejected`], and the other failures of a handshake. The connection is to be dropped then.
pub fn answer_challenge<S, R>(
    connection: &Connection<S, R>,
    key: &AuthKey,
) -> Result<(), AuthError> {
    let policy = Policy {
        key: key.clone(),
        digest: Digest::default(),
        legacy_md5: false,
    };
    let frame = connection.recv_bytes_limit(MAX_FRAME)?;
    let message = frame
        .strip_prefix(CHALLENGE)
        .ok_or(AuthError::Protocol("a challenge was expected"))?;
    connection.send_bytes(&policy.respond(message)?)?;
    match connection.recv_bytes_limit(MAX_FRAME)?.as_slice() {
        WELCOME => Ok(()),
        FAILURE => Err(AuthError::Rejected),
        _ => Err(AuthError::Protocol("a verdict was expected")),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(legacy_md5: bool) -> Policy {
        Policy {
            key: AuthKey::from("secret"),
            digest: Digest::Sha256,
            legacy_md5,
        }
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn numbered() -> Vec<u8> {
        let mut message = b"{sha256}".to_vec();
        message.extend(0..40);
        message
    }

    /// Conformance: ChallengeResponseTest.test_challengeresponse
    #[test]
    fn responses_are_those_of_python() {
        let expected = unhex(
            "7b7368613235367dfc57fbe650d6124b98215e7b5d197d5807ad69982d275a9735ea2d56f1fa6989",
        );
        assert_eq!(policy(false).respond(&numbered()).unwrap(), expected);
        assert!(policy(false).verify(&numbered(), &expected).is_ok());

        let old_peer = unhex("8e48d2bb349b4b72b9382999ed5b62eb");
        assert!(policy(true).verify(&numbered(), &old_peer).is_ok());
        assert!(matches!(
            policy(false).verify(&numbered(), &old_peer),
            Err(AuthError::Digest(_))
        ));

        let old_challenge: Vec<u8> = (0..20).collect();
        let answer = unhex("7defa9cc46abc3583325d17ccda75190");
        assert_eq!(policy(true).respond(&old_challenge).unwrap(), answer);
        assert!(policy(true).verify(&old_challenge, &answer).is_ok());
        assert!(matches!(
            policy(false).respond(&old_challenge),
            Err(AuthError::Digest(_))
        ));

        let md5 = [b"{md5}".as_slice(), &[7; 20]].concat();
        let answer = policy(true).respond(&md5).unwrap();
        assert!(answer.starts_with(b"{md5}") && policy(true).verify(&md5, &answer).is_ok());
    }

    /// A session between two Pythons 3.13, as it was recorded.
    #[test]
    fn a_recorded_session_verifies() {
        let first = unhex(
            "7b7368613235367de60d58799ce6fe6564bbc99274d5397116bbc777ef2943c1c1ff3958edfaecace9dae08df7e561b8",
        );
        let response = unhex(
            "7b7368613235367d984310dd746dd4ae92a87fd45f2c87db9baf535d2e6264b1a57b3d9e96767050",
        );
        assert!(policy(false).verify(&first, &response).is_ok());
        let second = unhex(
            "7b7368613235367d9618c86805519c92c884066205b1072f0005cc3ebe763de24b638f528898eca47780a65f6eb1f668",
        );
        let response = unhex(
            "7b7368613235367d9405042dea867614b5f44b8e6eb509617ed5a07ec06d0c547fca324035a6fb73",
        );
        assert_eq!(policy(false).respond(&second).unwrap(), response);
    }

    #[test]
    fn every_digest_answers_its_own_challenge_and_no_other_key() {
        for digest in Digest::ALL {
            let message = challenge(digest);
            let response = policy(true).respond(&message).unwrap();
            assert!(policy(true).verify(&message, &response).is_ok(), "{digest}");
            let mut other = policy(true);
            other.key = AuthKey::from("secreT");
            assert!(other.verify(&message, &response).is_err(), "{digest}");
            assert!(
                policy(true).verify(&challenge(digest), &response).is_err(),
                "{digest}"
            );
        }
    }

    #[test]
    fn a_changed_name_in_challenge_or_response_is_a_wrong_digest() {
        let message = numbered();
        let response = policy(true).respond(&message).unwrap();
        let mut renamed = message.clone();
        renamed[1..7].copy_from_slice(b"sha384");
        assert!(policy(true).verify(&renamed, &response).is_err());
        let downgraded = [b"{md5}".as_slice(), &response[8..24]].concat();
        assert!(policy(true).verify(&message, &downgraded).is_err());
    }

    #[test]
    fn challenges_without_a_name_that_is_known_are_refused() {
        for message in [
            &b"{sha1}0123456789012345678901234567890123456789"[..],
            b"{}01234567890123456789",
            b"{sha256 012345678901234567890123456789",
            b"no name at all, but quite some bytes",
            b"{sha256}",
            b"",
        ] {
            assert!(policy(true).respond(message).is_err(), "{message:?}");
        }
    }
}
