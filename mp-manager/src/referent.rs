//! The server's half of a managed type; the client's half is `proxy`.

use std::{any::Any, fmt, sync::Arc};

use mp_core::codec;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    passage,
    protocol::{self, Budget, Encoded, Fault, Raw},
    server::{
        peer::{Peer, Presence},
        state::{Slot, State},
    },
};

/// What lives in the server and answers calls: any number at once, each in a thread of its own.
///
/// [`managed!`](crate::managed) writes this for a trait of yours; by hand it is needed only for
/// methods that are not known when the program is built.
pub trait Referent: Any + Send + Sync {
    /// Answers one call: decides by [`Call::method`], takes [`Call::args`], gives [`Call::reply`].
    ///
    /// # Errors
    ///
    /// What the caller gets instead of a result. A panic is caught and told as well.
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault>;

    /// A client holds no reference any more, because it dropped its last proxy or because it died:
    /// what it held of this object (a lock, a permit) is free again. A panic is caught.
    fn client_left(&self, client: u64) {
        let _ = client;
    }

    /// The state in a few words, for [`DebugInfo`](crate::DebugInfo). A panic is caught.
    fn describe(&self) -> String {
        String::new()
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// `None` is the server's own code.
    peer: Option<Arc<Peer>>,
    presence: Arc<Presence>,
}

impl Caller {
    pub(crate) fn client(peer: Arc<Peer>, presence: Arc<Presence>) -> Self {
        Self {
            peer: Some(peer),
            presence,
        }
    }

    pub(crate) fn server() -> Self {
        Self {
            peer: None,
            presence: Presence::of_this_thread(),
        }
    }

    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.peer.as_deref()
    }

    /// What locks and permits are held by.
    pub(crate) fn number(&self) -> u64 {
        self.peer.as_ref().map_or(0, |peer| peer.number())
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.presence.is_gone()
    }

    /// An object that this caller refers to.
    pub(crate) fn object(&self, state: &State, id: u64) -> Result<Arc<Slot>, Fault> {
        match &self.peer {
            Some(peer) => peer.object(id),
            None => state.slot(id),
        }
        .ok_or_else(|| Fault::NotFound(format!("object {id:016x}")))
    }
}

/// One call on a [`Referent`].
pub struct Call<'a> {
    pub(crate) state: &'a Arc<State>,
    pub(crate) caller: &'a Caller,
    pub(crate) method: &'a str,
    pub(crate) signature: u32,
    pub(crate) args: &'a [u8],
    pub(crate) out: &'a mut Vec<u8>,
    /// Objects that the result refers to: each comes with a reference.
    pub(crate) granted: Vec<Arc<Slot>>,
    /// Undoes the call when its result could not be sent.
    pub(crate) unsent: Option<Box<dyn FnOnce() + Send>>,
}

impl<'a> Call<'a> {
    /// The name of the method.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// A number for the client process that calls, never used for another; 0 is the server.
    #[must_use]
    pub fn client(&self) -> u64 {
        self.caller.number()
    }

    /// The arguments, usually a tuple.
    ///
    /// # Errors
    ///
    /// [`Fault::Arguments`]: others than expected.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let encoded: Encoded<'_> = self.parse()?;
        let slots = self.resolve(&encoded.refs)?;
        passage::unpack_here(self.state, encoded.bytes.0, slots)
            .map_err(|error| Fault::Arguments(error.to_string()))
    }

    /// As [`args`](Self::args), after a look whether the caller has read the same declaration:
    /// `signature` is a number for its text.
    ///
    /// # Errors
    ///
    /// [`Fault::Arguments`]: the declarations differ, or the arguments.
    #[doc(hidden)]
    pub fn checked_args<T: DeserializeOwned>(
        &self,
        signature: u32,
        declaration: &str,
    ) -> Result<T, Fault> {
        if self.signature != 0 && self.signature != signature {
            return Err(Fault::Arguments(format!(
                "the server knows this method as `{declaration}`; the client was built with another"
            )));
        }
        self.args()
    }

    /// Gives the result.
    ///
    /// # Errors
    ///
    /// [`Fault::Encode`]: `value` has no encoding.
    pub fn reply<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        codec::with_buffer(|bytes| {
            let refs = passage::pack_here(self.state, value, bytes, &mut self.granted)
                .map_err(|error| Fault::Encode(error.to_string()))?;
            self.answer(&Encoded {
                bytes: Raw(bytes),
                refs: refs.into(),
            })
        })
    }

    /// The fault of a method that this type does not have.
    #[must_use]
    pub fn unknown(&self) -> Fault {
        Fault::NotFound(format!("method `{}` of this type", self.method))
    }

    /// For a page of so many elements.
    pub(crate) fn budget(&self, items: usize) -> Budget {
        Budget::new(self.state.limits.message, items)
    }

    /// The arguments of a type of ours.
    pub(crate) fn parse<T: Deserialize<'a>>(&self) -> Result<T, Fault> {
        protocol::parse(self.args).map_err(Fault::Arguments)
    }

    /// The result of a type of ours.
    pub(crate) fn answer<T: Serialize>(&mut self, value: &T) -> Result<(), Fault> {
        codec::encode_into(value, self.out).map_err(|error| Fault::Encode(error.to_string()))
    }

    /// A new object as the result.
    pub(crate) fn give(&mut self, kind: &str, object: Box<dyn Referent>) -> Result<(), Fault> {
        let slot = self.state.create(kind, object, self.caller.peer())?;
        self.answer(&slot.id())?;
        self.granted.push(slot);
        Ok(())
    }

    /// Keeps a value, and references to what it refers to.
    pub(crate) fn store(&self, encoded: &Encoded<'_>) -> Result<Element, Fault> {
        let slots = self.resolve(&encoded.refs)?;
        Ok(Element {
            bytes: encoded.bytes.0.into(),
            refs: (!slots.is_empty()).then(|| slots.into()),
        })
    }

    /// An element as part of the result.
    pub(crate) fn lend<'e>(&mut self, element: &'e Element) -> Encoded<'e> {
        let mut encoded = Encoded::plain(&element.bytes);
        if let Some(slots) = &element.refs {
            self.granted.extend(slots.iter().cloned());
            encoded.refs = slots
                .iter()
                .map(|slot| slot.id())
                .collect::<Vec<_>>()
                .into();
        }
        encoded
    }

    fn resolve(&self, refs: &[u64]) -> Result<Vec<Arc<Slot>>, Fault> {
        refs.iter()
            .map(|id| self.caller.object(self.state, *id))
            .collect()
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("client", &self.client())
            .finish_non_exhaustive()
    }
}

/// A user's value as the server keeps it: encoded, with a reference to each object in it.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub(crate) bytes: Arc<[u8]>,
    refs: Option<Arc<[Arc<Slot>]>>,
}

impl Element {
    /// What it takes in a message.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + 16
    }
}
