//! A handshake as a state machine that never waits: driven by whoever polls its socket.
//!
//! [`Handshake`] knows the protocol and no socket, [`Exchange`] cuts and makes its frames on a
//! non-blocking one. A listener holds many exchanges at once, a client one.

use std::io;

use crate::{
    AuthError,
    auth::{CHALLENGE, FAILURE, MAX_FRAME, Policy, WELCOME, challenge},
};

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Challenges first.
    Listener,
    /// Is challenged first.
    Client,
}

/// What the next frame of the peer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    /// Its answer to our challenge.
    Response,
    /// Its challenge.
    Challenge,
    /// What it says to our answer.
    Verdict,
    /// Nothing: the key is proved on both sides.
    Nothing,
}

/// The protocol: payloads in, payloads out.
#[derive(Debug)]
struct Handshake {
    role: Role,
    policy: Policy,
    /// Our own challenge, once it is sent.
    message: Vec<u8>,
    expects: Expects,
}

impl Handshake {
    fn new(role: Role, policy: Policy, out: &mut Vec<u8>) -> Self {
        let mut handshake = Self {
            role,
            policy,
            message: Vec::new(),
            expects: Expects::Challenge,
        };
        if role == Role::Listener {
            handshake.challenge(out);
        }
        handshake
    }

    fn challenge(&mut self, out: &mut Vec<u8>) {
        self.message = challenge(self.policy.digest);
        put_frame(out, &[CHALLENGE, &self.message]);
        self.expects = Expects::Response;
    }

    /// Takes one frame; answers go to `out`, also when it fails.
    fn on_frame(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), AuthError> {
        match self.expects {
            Expects::Response => {
                if let Err(refusal) = self.policy.verify(&self.message, payload) {
                    put_frame(out, &[FAILURE]);
                    return Err(refusal);
                }
                put_frame(out, &[WELCOME]);
                self.expects = match self.role {
                    Role::Listener => Expects::Challenge,
                    Role::Client => Expects::Nothing,
                };
            }
            Expects::Challenge => {
                let message = payload
                    .strip_prefix(CHALLENGE)
                    .ok_or(AuthError::Protocol("a challenge was expected"))?;
                if message == self.message {
                    return Err(AuthError::Protocol("it sent our own challenge back"));
                }
                put_frame(out, &[&self.policy.respond(message)?]);
                self.expects = Expects::Verdict;
            }
            Expects::Verdict => {
                match payload {
                    WELCOME => {}
                    FAILURE => return Err(AuthError::Rejected),
                    _ => return Err(AuthError::Protocol("a verdict was expected")),
                }
                match self.role {
                    Role::Listener => self.expects = Expects::Nothing,
                    Role::Client => self.challenge(out),
                }
            }
            Expects::Nothing => unreachable!("the exchange is over"),
        }
        Ok(())
    }
}

fn put_frame(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(len as u32).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// A socket that never waits: `WouldBlock` instead.
pub(crate) trait Wire {
    /// Bytes from the peer, 0 at end of file.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Bytes to the peer.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// What an exchange waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The peer has to send.
    Reading,
    /// The peer has to receive.
    Writing,
    /// Nothing: both sides have proved the key.
    Done,
}

/// A handshake on a socket. Takes not one byte beyond its last frame.
#[derive(Debug)]
pub(crate) struct Exchange {
    handshake: Handshake,
    inbox: [u8; 4 + MAX_FRAME],
    have: usize,
    outbox: Vec<u8>,
    sent: usize,
}

impl Exchange {
    pub(crate) fn new(role: Role, policy: Policy) -> Self {
        let mut outbox = Vec::with_capacity(128); // the longest challenge and a welcome
        Self {
            handshake: Handshake::new(role, policy, &mut outbox),
            inbox: [0; 4 + MAX_FRAME],
            have: 0,
            outbox,
            sent: 0,
        }
    }

    /// Whether a listener's peer has proved that it knows the key.
    pub(crate) fn is_proved(&self) -> bool {
        self.handshake.expects != Expects::Response
    }

    /// Goes on as far as the socket allows.
    ///
    /// # Errors
    ///
    /// The handshake failed; the peer was told if the protocol says so.
    pub(crate) fn advance(&mut self, wire: &mut impl Wire) -> Result<Progress, AuthError> {
        loop {
            if !self.flush(wire)? {
                return Ok(Progress::Writing);
            }
            if self.handshake.expects == Expects::Nothing {
                return Ok(Progress::Done);
            }
            if !self.fill(wire)? {
                return Ok(Progress::Reading);
            }
            let payload = &self.inbox[4..self.have];
            let result = self.handshake.on_frame(payload, &mut self.outbox);
            self.have = 0;
            if let Err(error) = result {
                // One attempt: the verdict fits any socket buffer, and nobody waits for this peer.
                let _ = self.flush(wire);
                return Err(error);
            }
        }
    }

    /// Whether everything is out.
    fn flush(&mut self, wire: &mut impl Wire) -> Result<bool, AuthError> {
        while self.sent < self.outbox.len() {
            match wire.write(&self.outbox[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(failed(error)),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Whether a whole frame is in.
    fn fill(&mut self, wire: &mut impl Wire) -> Result<bool, AuthError> {
        loop {
            let wanted = self.wanted()?;
            if self.have == wanted {
                return Ok(true);
            }
            match wire.read(&mut self.inbox[self.have..wanted]) {
                Ok(0) => return Err(AuthError::Disconnected),
                Ok(n) => self.have += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// How many bytes the inbox has to hold before the next step.
    fn wanted(&self) -> Result<usize, AuthError> {
        let Some((header, _)) = self.inbox[..self.have].split_first_chunk::<4>() else {
            return Ok(4);
        };
        match usize::try_from(i32::from_be_bytes(*header)) {
            Ok(len) if len <= MAX_FRAME => Ok(4 + len),
            Ok(_) => Err(AuthError::Protocol("a frame is too long")),
            Err(_) => Err(AuthError::Protocol("a frame has a negative length")),
        }
    }
}

fn failed(error: io::Error) -> AuthError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => AuthError::Disconnected,
        _ => AuthError::Io(error),
    }
}
