//! The types that a server makes objects of.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use serde::de::DeserializeOwned;

use crate::{
    protocol::Fault,
    referent::{Call, Referent},
    referents,
};

#[cfg(feature = "pool")]
use crate::referents::pool::Function;

type Constructor = Box<dyn Fn(&Call<'_>) -> Result<Box<dyn Referent>, Fault> + Send + Sync>;

/// The types of a server: those of this crate, and yours.
///
/// [`Builder::setup`](crate::Builder::setup) gives one. Clients can make objects of these types and call their methods, and nothing else.
pub struct Registry {
    types: HashMap<String, Constructor>,
    /// Only types of which not every method may be called.
    exposed: HashMap<String, HashSet<String>>,
    /// What pools can run.
    #[cfg(feature = "pool")]
    functions: HashMap<String, Function>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let types = referents::CONSTRUCTORS
            .iter()
            .map(|(kind, make)| ((*kind).to_owned(), Box::new(make) as Constructor));
        Self {
            types: types.collect(),
            exposed: HashMap::new(),
            #[cfg(feature = "pool")]
            functions: HashMap::new(),
        }
    }

    /// Registers a type by hand: `make` gets the arguments that a client gives to
    /// [`Client::create`](crate::Client::create). A type declared by
    /// [`managed!`](crate::managed) has a `register` function of its own.
    ///
    /// # Panics
    ///
    /// There is a type of this name.
    pub fn register<A, R>(
        &mut self,
        kind: &str,
        make: impl Fn(A) -> R + Send + Sync + 'static,
    ) -> &mut Self
    where
        A: DeserializeOwned,
        R: Referent,
    {
        let make: Constructor = Box::new(move |call| Ok(Box::new(make(call.args::<A>()?))));
        let known = self.types.insert(kind.to_owned(), make);
        assert!(known.is_none(), "the type `{kind}` is registered twice");
        self
    }

    /// Lets clients call these methods of `kind` only.
    pub fn expose(&mut self, kind: &str, methods: &[&str]) -> &mut Self {
        let methods = methods.iter().map(|method| (*method).to_owned()).collect();
        self.exposed.insert(kind.to_owned(), methods);
        self
    }

    /// Lets pools of this server run `function`, by this name.
    ///
    /// No address of code comes from a client: a pool runs what was registered here and nothing
    /// else.
    ///
    /// # Panics
    ///
    /// There is a function of this name.
    #[cfg(feature = "pool")]
    pub fn function<F, A>(&mut self, name: &str, function: F) -> &mut Self
    where
        F: mp_process::Target<A> + Copy + Send + Sync + 'static,
        F::Output: serde::Serialize + DeserializeOwned + 'static,
        A: serde::Serialize + DeserializeOwned + 'static,
    {
        let known = self
            .functions
            .insert(name.to_owned(), referents::pool::function(function));
        assert!(known.is_none(), "the function `{name}` is registered twice");
        self
    }

    #[cfg(feature = "pool")]
    pub(crate) fn find_function(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    pub(crate) fn constructor(&self, kind: &str) -> Option<&Constructor> {
        self.types.get(kind)
    }

    pub(crate) fn is_exposed(&self, kind: &str, method: &str) -> bool {
        self.exposed.is_empty()
            || self
                .exposed
                .get(kind)
                .is_none_or(|methods| methods.contains(method))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.types.keys()).finish()
    }
}
