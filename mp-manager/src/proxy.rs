//! The client's half of a managed type; the server's half is `referent`.

use std::fmt;

use serde::{Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    error::CallError,
    link::{self, Link},
    passage::{self, Pack, Packed},
    protocol::{Budget, Encoded},
    reference::Reference,
};

/// A handle to an object of any managed type, by name of the method.
///
/// The typed proxies ([`Dict`](crate::Dict), those that [`managed!`](crate::managed) writes…) are
/// made of one. A clone is another handle to the same object; two are equal if their objects are
/// the same one.
///
/// # Process death
///
/// The object lives as long as a proxy, a name or another object refers to it; what a process
/// that dies referred to is given back at once. The death of the server is
/// [`CallError::ServerDied`] for every call.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    kind: std::sync::Arc<str>,
    reference: Reference,
}

/// A typed proxy: what [`Client::create`](crate::Client::create) makes and
/// [`Client::find`](crate::Client::find) finds.
pub trait Managed: Sized {
    /// The name under which the server knows the type.
    const KIND: &'static str;

    /// This type over `proxy`, which is of [`KIND`](Self::KIND).
    fn from_proxy(proxy: Proxy) -> Self;

    /// The untyped handle.
    fn proxy(&self) -> &Proxy;
}

impl Proxy {
    pub(crate) fn new(kind: impl Into<std::sync::Arc<str>>, reference: Reference) -> Self {
        Self {
            kind: kind.into(),
            reference,
        }
    }

    /// The name of the type.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The number of the object in its server.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.reference.id()
    }

    pub(crate) fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Calls a method by its name: `args` is the tuple of its arguments.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`NotFound`](CallError::NotFound) for a name that the type does not have.
    pub fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        args: &A,
    ) -> Result<R, CallError> {
        self.call_checked(method, 0, args)
    }

    /// As [`call`](Self::call), with a number for the declaration of the method.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), and when the server has read another declaration.
    #[doc(hidden)]
    pub fn call_checked<A: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        signature: u32,
        args: &A,
    ) -> Result<R, CallError> {
        let args = passage::pack_args(self.reference.server(), args);
        self.reference
            .call(&self.kind, method, signature, &args, |link, bytes| {
                passage::unpack(link, &link::parse(bytes)?)
            })
    }

    /// A value for the server to keep.
    pub(crate) fn pack<'a, T: ?Sized>(&self, value: &'a T) -> Pack<'a, T> {
        passage::pack(self.reference.server(), value)
    }

    /// The same, encoded at once: its size is known.
    pub(crate) fn pack_now<T: Serialize + ?Sized>(&self, value: &T) -> Result<Packed, CallError> {
        Ok(passage::pack_now(self.reference.server(), value)?)
    }

    /// For a batch of elements.
    pub(crate) fn budget(&self) -> Result<Budget, CallError> {
        let link = self.reference.link();
        let link = link.ok_or_else(|| CallError::died("here"))?;
        Ok(link.budget())
    }

    /// Calls a method of one of our types.
    pub(crate) fn ask<A: Serialize, R>(
        &self,
        method: &str,
        args: &A,
        read: impl FnOnce(&Link, &[u8]) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        self.reference.call(&self.kind, method, 0, args, read)
    }

    /// The same for an answer that holds no value of the user's.
    pub(crate) fn ask_plain<A: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        args: &A,
    ) -> Result<R, CallError> {
        self.ask(method, args, |_, bytes| link::parse(bytes))
    }

    /// Calls a method that gives back what a dropped guard held. See [`Reference::give_back`].
    pub(crate) fn give_back<A: Serialize>(&self, method: &str, args: &A) {
        self.reference.give_back(&self.kind, method, args);
    }

    /// The same for an answer that is one value of the user's, or none.
    pub(crate) fn ask_option<A: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        args: &A,
    ) -> Result<Option<R>, CallError> {
        self.ask(method, args, |link, bytes| {
            let found: Option<Encoded<'_>> = link::parse(bytes)?;
            found.map(|found| passage::unpack(link, &found)).transpose()
        })
    }
}

/// Decodes all values of a reply. Each is decoded, also after one that cannot be, so that the
/// references that came with them are given back.
pub(crate) fn unpack_all<T: DeserializeOwned>(
    link: &Link,
    encoded: &[Encoded<'_>],
) -> Result<Vec<T>, CallError> {
    let mut failed = None;
    let mut values = Vec::with_capacity(encoded.len());
    for encoded in encoded {
        match passage::unpack(link, encoded) {
            Ok(value) => values.push(value),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(values),
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.kind, self.reference)
    }
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        passage::serialize(&self.kind, &self.reference, serializer)
    }
}

/// Decodes the proxy of a typed one.
#[doc(hidden)]
pub fn deserialize_proxy<'de, P: Managed, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<P, D::Error> {
    let reference = passage::deserialize(P::KIND, deserializer)?;
    Ok(P::from_proxy(Proxy::new(P::KIND, reference)))
}

/// What every typed proxy of ours has.
macro_rules! proxy_type {
    ($name:ident $(<$($param:ident),*>)?, $kind:literal) => {
        impl $(<$($param),*>)? $crate::proxy::Managed for $name $(<$($param),*>)? {
            const KIND: &'static str = $kind;

            fn from_proxy(proxy: $crate::proxy::Proxy) -> Self {
                Self { proxy, $(values: std::marker::PhantomData::<fn() -> ($($param,)*)>)? }
            }

            fn proxy(&self) -> &$crate::proxy::Proxy {
                &self.proxy
            }
        }

        impl $(<$($param),*>)? Clone for $name $(<$($param),*>)? {
            fn clone(&self) -> Self {
                $crate::proxy::Managed::from_proxy(self.proxy.clone())
            }
        }

        impl $(<$($param),*>)? PartialEq for $name $(<$($param),*>)? {
            fn eq(&self, other: &Self) -> bool {
                self.proxy == other.proxy
            }
        }

        impl $(<$($param),*>)? Eq for $name $(<$($param),*>)? {}

        impl $(<$($param),*>)? std::hash::Hash for $name $(<$($param),*>)? {
            fn hash<Hasher: std::hash::Hasher>(&self, state: &mut Hasher) {
                self.proxy.hash(state);
            }
        }

        impl $(<$($param),*>)? std::fmt::Debug for $name $(<$($param),*>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.proxy.fmt(f)
            }
        }

        impl $(<$($param),*>)? serde::Serialize for $name $(<$($param),*>)? {
            fn serialize<Ser: serde::Serializer>(&self, serializer: Ser) -> Result<Ser::Ok, Ser::Error> {
                self.proxy.serialize(serializer)
            }
        }

        impl<'de $($(, $param)*)?> serde::Deserialize<'de> for $name $(<$($param),*>)? {
            fn deserialize<De: serde::Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
                $crate::proxy::deserialize_proxy(deserializer)
            }
        }
    };
}

pub(crate) use proxy_type;
