//! Makes and finds objects of a server.

use std::{fmt, time::Duration};

use mp_core::authkey::AuthKey;
use mp_pipe::Address;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{CallError, ConnectError},
    link::Link,
    passage,
    proxies::{
        Array, Barrier, BoundedSemaphore, Condition, Dict, Event, JoinableQueue, List, Lock,
        Namespace, Queue, RLock, Semaphore, Value,
    },
    proxy::{Managed, Proxy},
    server::info::DebugInfo,
    session::Session,
};

/// A connection to a server: makes objects there, finds them, and tells about them.
///
/// A [`Manager`](crate::Manager) is one, too. Proxies do not need it: they keep their connection
/// themselves.
#[derive(Clone)]
pub struct Client {
    link: Link,
    key: AuthKey,
}

impl Client {
    pub(crate) fn new(link: Link, key: AuthKey) -> Self {
        Self { link, key }
    }

    /// Connects to a server, with the key that it was started with.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub fn connect(
        address: impl Into<Address>,
        key: impl Into<AuthKey>,
    ) -> Result<Self, ConnectError> {
        let key = key.into();
        let session = Session::open(&address.into(), &key)?;
        Ok(Self::new(Link::Remote(session), key))
    }

    /// The server that calls this very method, constructor or initializer: for objects of a
    /// server that make others, or hold proxies to them. `None` anywhere else.
    ///
    /// Its calls take no connection.
    #[must_use]
    pub fn here() -> Option<Self> {
        let state = passage::host()?;
        Some(Self::new(Link::Local(state), mp_core::authkey::current()))
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Waits until the connection to the server has ended.
    pub(crate) fn wait_for_end(&self, timeout: Duration) -> std::io::Result<bool> {
        match &self.link {
            Link::Remote(session) => session.wait_for_end(timeout),
            Link::Local(_) => Ok(false),
        }
    }

    /// Where the server is.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.link.address()
    }

    /// The key that was proved.
    #[must_use]
    pub fn authkey(&self) -> AuthKey {
        self.key.clone()
    }

    /// Makes an object of a type that the server has registered; `args` is the tuple of the
    /// constructor's arguments.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`NotFound`](CallError::NotFound): the type is not registered.
    pub fn create<M: Managed>(&self, args: &impl Serialize) -> Result<M, CallError> {
        let args = passage::pack_args(self.link.server(), args);
        self.make(&args)
    }

    /// As [`create`](Self::create), by the name of the type.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_named(&self, kind: &str, args: &impl Serialize) -> Result<Proxy, CallError> {
        let args = passage::pack_args(self.link.server(), args);
        Ok(Proxy::new(kind, self.link.create(kind, &args)?))
    }

    fn make<M: Managed>(&self, args: &impl Serialize) -> Result<M, CallError> {
        let reference = self.link.create(M::KIND, args)?;
        Ok(M::from_proxy(Proxy::new(M::KIND, reference)))
    }

    /// An empty dictionary.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn dict<K, V>(&self) -> Result<Dict<K, V>, CallError> {
        self.make(&())
    }

    /// A dictionary with these entries.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn dict_from<K, V>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Dict<K, V>, CallError>
    where
        K: Serialize + DeserializeOwned,
        V: Serialize + DeserializeOwned,
    {
        let dict = self.dict()?;
        dict.extend(entries)?;
        Ok(dict)
    }

    /// An empty list.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn list<T>(&self) -> Result<List<T>, CallError> {
        self.make(&())
    }

    /// A list of these items.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn list_from<T>(&self, items: impl IntoIterator<Item = T>) -> Result<List<T>, CallError>
    where
        T: Serialize + DeserializeOwned,
    {
        let list = self.list()?;
        list.extend(items)?;
        Ok(list)
    }

    /// An empty namespace.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn namespace(&self) -> Result<Namespace, CallError> {
        self.make(&())
    }

    /// A value.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn value<T: Serialize>(&self, value: &T) -> Result<Value<T>, CallError> {
        self.make(&passage::pack(self.link.server(), value))
    }

    /// An array of these elements.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn array<T>(&self, elements: impl IntoIterator<Item = T>) -> Result<Array<T>, CallError>
    where
        T: Serialize + DeserializeOwned,
    {
        let elements: Vec<T> = elements.into_iter().collect();
        let array = match elements.first() {
            Some(first) => self.array_of(elements.len(), first)?,
            None => self.make(&(0_usize, passage::pack(self.link.server(), &())))?,
        };
        array.set_range(0, elements)?;
        Ok(array)
    }

    /// An array of so many times the same element.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn array_of<T: Serialize>(&self, len: usize, element: &T) -> Result<Array<T>, CallError> {
        self.make(&(len, passage::pack(self.link.server(), element)))
    }

    /// A queue for any number of items.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn queue<T>(&self) -> Result<Queue<T>, CallError> {
        self.make(&None::<usize>)
    }

    /// A queue for so many items.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) for 0.
    pub fn bounded_queue<T>(&self, capacity: usize) -> Result<Queue<T>, CallError> {
        self.make(&Some(capacity))
    }

    /// A queue that counts unfinished tasks.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn joinable_queue<T>(&self) -> Result<JoinableQueue<T>, CallError> {
        self.make(&None::<usize>)
    }

    /// The same for so many items.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) for 0.
    pub fn bounded_joinable_queue<T>(
        &self,
        capacity: usize,
    ) -> Result<JoinableQueue<T>, CallError> {
        self.make(&Some(capacity))
    }

    /// A lock.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn lock(&self) -> Result<Lock, CallError> {
        self.make(&())
    }

    /// A recursive lock.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn rlock(&self) -> Result<RLock, CallError> {
        self.make(&())
    }

    /// A semaphore with so many permits.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn semaphore(&self, permits: u32) -> Result<Semaphore, CallError> {
        self.make(&permits)
    }

    /// A semaphore that never has more permits than these.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn bounded_semaphore(&self, permits: u32) -> Result<BoundedSemaphore, CallError> {
        self.make(&permits)
    }

    /// A condition with a recursive lock of its own.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn condition(&self) -> Result<Condition, CallError> {
        self.make(&None::<u64>)
    }

    /// A condition with the lock of a [`Lock`] or [`RLock`].
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) for an object of another type.
    pub fn condition_with<L: Managed>(&self, lock: &L) -> Result<Condition, CallError> {
        self.make(&Condition::args(lock))
    }

    /// An event that is not set.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn event(&self) -> Result<Event, CallError> {
        self.make(&())
    }

    /// A barrier for so many parties.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused) for 0.
    pub fn barrier(&self, parties: u32) -> Result<Barrier, CallError> {
        self.make(&parties)
    }

    /// A pool of so many worker processes of the server; as many as it has CPUs if none are said.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused): they cannot be started;
    /// [`Denied`](CallError::Denied): they are more than the server's
    /// [quota](crate::Builder::max_pool_workers).
    #[cfg(feature = "pool")]
    pub fn pool(&self, workers: Option<usize>) -> Result<crate::Pool, CallError> {
        self.make(&workers)
    }

    /// Named memory of so many bytes, all zero, that the server owns.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused): the system has no such memory.
    #[cfg(feature = "sync")]
    pub fn shared_memory(&self, size: usize) -> Result<crate::SharedMemory, CallError> {
        self.make(&size)
    }

    /// A list of fixed length in named memory that the server owns.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Refused`](CallError::Refused): the system has no such memory.
    #[cfg(feature = "sync")]
    pub fn shareable_list(
        &self,
        items: impl IntoIterator<Item = mp_sync::Item>,
    ) -> Result<crate::ShareableList, CallError> {
        use crate::referents::shared_memory::Entry;
        let entries: Vec<Entry> = items.into_iter().map(Entry::from).collect();
        self.make(&entries)
    }

    /// Gives an object a name, by which other programs [find](Self::find) it. The name keeps the
    /// object.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`Denied`](CallError::Denied): the name is taken.
    pub fn share<M: Managed>(&self, name: &str, object: &M) -> Result<(), CallError> {
        self.link.share(name, object.proxy().reference(), false)
    }

    /// As [`share`](Self::share); a name that is taken is this object's from now on.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn share_again<M: Managed>(&self, name: &str, object: &M) -> Result<(), CallError> {
        self.link.share(name, object.proxy().reference(), true)
    }

    /// Takes a name away; whether there was one.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn unshare(&self, name: &str) -> Result<bool, CallError> {
        self.link.unshare(name)
    }

    /// The object of a name.
    ///
    /// The server does not know of what types its elements are: they have to be those that the
    /// object was made with.
    ///
    /// # Errors
    ///
    /// [`CallError`]; [`NotFound`](CallError::NotFound): there is no such name;
    /// [`Denied`](CallError::Denied): it is an object of another type.
    pub fn find<M: Managed>(&self, name: &str) -> Result<M, CallError> {
        let (kind, reference) = self.link.find(name)?;
        if kind != M::KIND {
            return Err(CallError::Denied {
                reason: format!("`{name}` is a {kind}, not a {}", M::KIND),
            });
        }
        Ok(M::from_proxy(Proxy::new(kind, reference)))
    }

    /// How many objects the server holds.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "_number_of_objects")]
    pub fn number_of_objects(&self) -> Result<usize, CallError> {
        Ok(self.link.info(false)?.objects)
    }

    /// What the server holds, object by object.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    #[doc(alias = "_debug_info")]
    pub fn debug_info(&self) -> Result<DebugInfo, CallError> {
        self.link.info(true)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.link.address())
    }
}
