//! Starts a server in a child process, or connects to one.

use std::{fmt, io, ops::Deref, time::Duration};

use mp_core::{
    authkey,
    codec::Bytes,
    hooks::{ExitHook, at_exit},
    primitive::{AtomicU32, Ordering},
};
use mp_pipe::{Address, AuthKey, Sender, simplex};
use mp_process::{ExitError, ExitStatus, Process};
use nix::sys::signal::{SigSet, Signal};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::{
    client::Client,
    error::ConnectError,
    link::Link,
    protocol::Request,
    registry::Registry,
    server::{Server, limits::Limits, state::random_u128},
};

/// How long a server that was asked to end may take, until it is terminated, and again until it is
/// killed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// A server of managed objects in a child process, and the connection to it.
///
/// It [makes and finds](Client) the objects. Dropping the manager that started the server
/// [shuts it down](Self::shutdown); one that [connected](Self::connect) leaves it alone.
///
/// # Process death
///
/// When a client dies, its references and locks are given back within 100 ms. When the server
/// dies, every call is [`CallError::ServerDied`](crate::CallError::ServerDied) at once. When the
/// process that started the server dies, the server ends within a second.
///
/// # Examples
///
/// ```
/// use mp_manager::Manager;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::start()?;
///     let scores = manager.dict::<String, u32>()?;
///     scores.insert("ann".to_owned(), 3)?;
///     assert_eq!(scores.get("ann")?, Some(3));
///     Ok(())
/// }
/// ```
#[doc(alias = "SyncManager")]
#[doc(alias = "BaseManager")]
pub struct Manager {
    client: Client,
    process: Option<Started>,
}

/// The server process, for the manager that started it.
struct Started {
    owner: Arc<Owner>,
    at_exit: Option<ExitHook>,
}

struct Owner {
    client: Client,
    /// Proves to the server that this is who started it.
    token: u128,
    process: Process<()>,
    timeout: Duration,
    /// Removed with a server that could not do it itself.
    private: Option<Address>,
    ended: Mutex<Option<ExitStatus>>,
}

/// Why no server was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The process was not started.
    #[error(transparent)]
    Process(#[from] mp_process::StartError),
    /// The server ended before it served: its set-up or its initializer panicked, say.
    #[error("the manager's server ended before it served: {0}")]
    Server(#[source] ExitError),
    /// It cannot listen at its address.
    #[error("the manager's server cannot listen: {0}")]
    Listen(String),
    /// It serves, but there is no connection to it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Out of descriptors.
    #[error("no pipe to the manager's server: {0}")]
    Pipe(#[source] io::Error),
}

/// What the server process is told.
#[derive(Serialize, Deserialize)]
struct Instructions {
    address: Option<Address>,
    /// Over the private channel to the child, and nowhere else.
    key: Bytes,
    limits: Limits,
    /// With it, and not without, the server can be shut down.
    token: u128,
    /// Where it listens, or why it does not.
    ready: Sender<Result<Address, String>>,
}

impl Manager {
    /// Starts a server on a Unix socket that only this user can open, with this program's key and
    /// the types of this crate.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start() -> Result<Self, StartError> {
        Self::builder().start()
    }

    /// A server with types of one's own, another address, other limits.
    pub fn builder() -> Builder {
        Builder {
            address: None,
            key: None,
            limits: Limits::default(),
            timeout: SHUTDOWN_TIMEOUT,
            setup: Nothing,
        }
    }

    /// Connects to a server that another process has started, with the key that it was given.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub fn connect(
        address: impl Into<Address>,
        key: impl Into<AuthKey>,
    ) -> Result<Self, ConnectError> {
        Ok(Self {
            client: Client::connect(address, key)?,
            process: None,
        })
    }

    /// Ends the server: asks it to, terminates it after a second (or what the
    /// [builder](Builder::shutdown_timeout) says), kills it after another. Its objects are gone;
    /// calls in flight are `ServerDied`. The second time it does nothing, and neither in a forked
    /// child: the server is its parent's.
    ///
    /// # Errors
    ///
    /// This manager has only connected to the server; the system refused.
    pub fn shutdown(&self) -> io::Result<()> {
        let Some(started) = &self.process else {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "this manager did not start its server; the one that did can shut it down",
            ));
        };
        started.owner.shutdown()
    }

    /// Waits for at most `timeout` until the server has ended; whether it has. A manager that has
    /// only connected waits for the end of the connection.
    ///
    /// # Errors
    ///
    /// The system refused.
    pub fn join(&self, timeout: Duration) -> io::Result<bool> {
        match &self.process {
            Some(started) => started.owner.process.join_timeout(timeout),
            None => self.client.wait_for_end(timeout),
        }
    }

    /// How the server ended; `None` while it runs, and for a manager that has only connected.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let owner = &self.process.as_ref()?.owner;
        let ended = *owner.ended.lock();
        ended.or_else(|| owner.process.exit_status())
    }

    /// The server process; `None` for a manager that has only connected.
    #[must_use]
    pub fn process(&self) -> Option<&Process<()>> {
        Some(&self.process.as_ref()?.owner.process)
    }
}

impl Deref for Manager {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("address", &self.client.address().to_string())
            .field("pid", &self.process().map(Process::pid))
            .finish()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(started) = &mut self.process {
            if let Err(error) = started.owner.shutdown() {
                tracing::warn!(%error, "a manager's server was not shut down");
            }
            if let Some(hook) = started.at_exit.take() {
                hook.cancel();
            }
        }
    }
}

impl Owner {
    fn shutdown(&self) -> io::Result<()> {
        // A forked child has a copy of the manager, and its parent has the server.
        let Link::Remote(session) = self.client.link() else {
            return Ok(());
        };
        if session.is_of_another_process() {
            return Ok(());
        }
        let mut ended = self.ended.lock();
        if ended.is_some() {
            return Ok(());
        }
        let token = self.token;
        let request = Request::Shutdown { token };
        // A server that is gone already has ended, which is what is asked for; one that does not
        // answer is not waited for beyond its time.
        let _asked = session.tell(&request, self.timeout);
        if !self.process.join_timeout(self.timeout)? {
            self.process.terminate()?;
            if !self.process.join_timeout(self.timeout)? {
                self.process.kill()?;
            }
        }
        *ended = Some(self.process.wait()?);
        remove_socket(self.private.as_ref());
        Ok(())
    }
}

/// What a server leaves behind that was killed.
fn remove_socket(private: Option<&Address>) {
    if let Some(Address::Unix(path)) = private {
        let _ = std::fs::remove_file(path); // gone already, if the server could
        if let Some(directory) = path.parent() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Ends a server that nobody will shut down: the exit of this process would wait for it.
fn discard(process: &Process<()>, private: Option<&Address>) {
    let ended = process.kill().and_then(|()| process.wait());
    if let Err(error) = ended {
        tracing::warn!(%error, "a manager's server was not ended");
    }
    remove_socket(private);
}

/// How to start a server: [`Manager::builder`].
///
/// The functions that it is given run in the server process. They are functions or closures that
/// capture nothing, as for [`Process::new`].
///
/// # Examples
///
/// ```
/// use mp_manager::{Client, Manager, Value};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::builder()
///         .initializer(|here: &Client| {
///             let answer = here.value(&42_u32).unwrap();
///             here.share("answer", &answer).unwrap();
///         })
///         .start()?;
///     assert_eq!(manager.find::<Value<u32>>("answer")?.get()?, 42);
///     Ok(())
/// }
/// ```
#[must_use = "nothing is started before `start`"]
pub struct Builder<S = Nothing> {
    address: Option<Address>,
    key: Option<AuthKey>,
    limits: Limits,
    timeout: Duration,
    setup: S,
}

/// What runs in the server before it serves.
pub trait Setup: Copy + 'static {
    #[doc(hidden)]
    fn register(self, registry: &mut Registry);
    #[doc(hidden)]
    fn initialize(self, client: &Client);
}

/// A server as it comes.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

/// Types of one's own: [`Builder::setup`].
#[derive(Clone, Copy)]
pub struct Register<S, F>(S, F);

/// A function that runs first: [`Builder::initializer`].
#[derive(Clone, Copy)]
pub struct Initialize<S, F>(S, F);

impl Setup for Nothing {
    fn register(self, _: &mut Registry) {}

    fn initialize(self, _: &Client) {}
}

impl<S: Setup, F: Fn(&mut Registry) + Copy + 'static> Setup for Register<S, F> {
    fn register(self, registry: &mut Registry) {
        self.0.register(registry);
        (self.1)(registry);
    }

    fn initialize(self, client: &Client) {
        self.0.initialize(client);
    }
}

impl<S: Setup, F: Fn(&Client) + Copy + 'static> Setup for Initialize<S, F> {
    fn register(self, registry: &mut Registry) {
        self.0.register(registry);
    }

    fn initialize(self, client: &Client) {
        self.0.initialize(client);
        (self.1)(client);
    }
}

impl<S: Setup> Builder<S> {
    /// Where it serves: a path, an abstract name, or TCP. By default a path of its own that only
    /// this user can open.
    ///
    /// Beyond the loopback device nothing keeps others from reading and changing what is sent
    /// after the key was proved: tunnel it (SSH, WireGuard).
    pub fn address(mut self, address: impl Into<Address>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The key that clients have to know; by default this program's, which its children inherit.
    ///
    /// A process that decodes a proxy uses the key with which it has connected to that address,
    /// else its program's.
    pub fn authkey(mut self, key: impl Into<AuthKey>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Registers types: `setup` gets the [`Registry`] of the server. May be called repeatedly.
    pub fn setup<F>(self, setup: F) -> Builder<Register<S, F>>
    where
        F: Fn(&mut Registry) + Copy + 'static,
    {
        self.and(|before| Register(before, setup))
    }

    /// Runs `initialize` once in the server, before it serves, with a [`Client`] of it. May be
    /// called repeatedly.
    ///
    /// A panic in it is the failure of `start`.
    pub fn initializer<F>(self, initialize: F) -> Builder<Initialize<S, F>>
    where
        F: Fn(&Client) + Copy + 'static,
    {
        self.and(|before| Initialize(before, initialize))
    }

    fn and<T>(self, setup: impl FnOnce(S) -> T) -> Builder<T> {
        Builder {
            address: self.address,
            key: self.key,
            limits: self.limits,
            timeout: self.timeout,
            setup: setup(self.setup),
        }
    }

    /// The longest request and reply, in bytes; 16 MiB by default, 1 GiB at most.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.limits.message = bytes.clamp(4 << 10, 1 << 30);
        self
    }

    /// How many connections there may be, each with a thread; 1024 by default. A client process
    /// has one for each call that it waits for at the same time.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections.max(1);
        self
    }

    /// How many of them one session may have; 512 by default. A session is what
    /// [`connect`](Client::connect) begins, and with it the proxies that are made, found or decoded
    /// through it: a client process can have several.
    pub fn max_connections_per_client(mut self, connections: usize) -> Self {
        self.limits.connections_per_client = connections.max(1);
        self
    }

    /// How many objects that one session has made may be alive; 100 000 by default.
    pub fn max_objects_per_client(mut self, objects: usize) -> Self {
        self.limits.objects_per_client = objects;
        self
    }

    /// How many names objects may be shared by; 100 000 by default.
    pub fn max_names(mut self, names: usize) -> Self {
        self.limits.names = names;
        self
    }

    /// How long a proxy that was sent may be on its way: so long its object is kept for whoever decodes
    /// it, if nobody else refers to it; a minute by default.
    pub fn ticket_timeout(mut self, timeout: Duration) -> Self {
        self.limits.ticket = timeout;
        self
    }

    /// How many worker processes the pools of all clients may have together; 256 by default.
    #[cfg(feature = "pool")]
    pub fn max_pool_workers(mut self, workers: usize) -> Self {
        self.limits.pool_workers = workers;
        self
    }

    /// How long the server may take to end when it is asked to; 1 s by default.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts the server in a child process, and connects to it.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub fn start(self) -> Result<Manager, StartError> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let key = self.key.unwrap_or_else(authkey::current);
        let private = self.address.is_none();
        let (told, ready) = simplex().map_err(StartError::Pipe)?;
        let token = random_u128();
        let instructions = Instructions {
            token,
            address: self.address,
            key: key.as_bytes().into(),
            limits: self.limits,
            ready,
        };
        let setup = self.setup;
        let number = NEXT.fetch_add(1, Ordering::Relaxed); // only has to differ
        let process = Process::new(
            move |instructions: Instructions| serve(instructions, setup),
            (instructions,),
        )
        .name(format!("Manager-{number}"))
        .end_with_parent(true)
        .start()?;
        let address = match told.recv() {
            Ok(Ok(address)) => address,
            Ok(Err(reason)) => return Err(StartError::Listen(reason)),
            Err(error) => {
                return Err(match process.join() {
                    Err(ended) => StartError::Server(ended),
                    Ok(()) => StartError::Listen(error.to_string()),
                });
            }
        };
        let private = private.then(|| address.clone());
        let client =
            Client::connect(&address, key).inspect_err(|_| discard(&process, private.as_ref()))?;
        let owner = Arc::new(Owner {
            client: client.clone(),
            token,
            process,
            timeout: self.timeout,
            private,
            ended: Mutex::new(None),
        });
        // The server is no daemon, since it may have children: the exit would wait for it.
        let at_end = Arc::downgrade(&owner);
        let at_exit = at_exit(10, move || {
            if let Some(owner) = at_end.upgrade() {
                let _ = owner.shutdown(); // nobody is left to be told
            }
        });
        Ok(Manager {
            client,
            process: Some(Started {
                owner,
                at_exit: Some(at_exit),
            }),
        })
    }

    /// A server that this process itself runs: see [`Server`].
    ///
    /// # Errors
    ///
    /// It cannot listen at its address.
    pub fn server(self) -> io::Result<Server> {
        let key = self.key.unwrap_or_else(authkey::current);
        open(self.address, key, self.limits, self.setup)
    }
}

impl<S> fmt::Debug for Builder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("address", &self.address)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<S, F> fmt::Debug for Register<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Register(..)")
    }
}

impl<S, F> fmt::Debug for Initialize<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Initialize(..)")
    }
}

fn open<S: Setup>(
    address: Option<Address>,
    key: AuthKey,
    limits: Limits,
    setup: S,
) -> io::Result<Server> {
    let mut registry = Registry::new();
    setup.register(&mut registry);
    let server = Server::bind(address, key, registry, limits)?;
    setup.initialize(&server.client());
    Ok(server)
}

/// The server process.
fn serve<S: Setup>(instructions: Instructions, setup: S) {
    // Ctrl-C is for the program; its server ends when the program says so. Before any other thread
    // starts, so that they are as deaf.
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    let _ = interrupt.thread_block(); // cannot fail with a valid set
    let Instructions {
        token,
        address,
        key,
        limits,
        ready,
    } = instructions;
    let server = match open(address, AuthKey::new(key.into_vec()), limits, setup) {
        Ok(server) => server,
        Err(error) => {
            let _ = ready.send(&Err(error.to_string())); // or nobody waits for it any more
            return;
        }
    };
    server.set_shutdown_token(token);
    if ready.send(&Ok(server.address().clone())).is_err() {
        return;
    }
    drop(ready);
    if let Err(error) = server.serve() {
        panic!("the manager's server cannot serve: {error}");
    }
}
