//! Objects in a server process, for many clients.
//!
//! * [`Manager`]: starts a server process, or connects to one; makes and finds objects.
//! * [`Dict`], [`List`], [`Namespace`], [`Value`], [`Array`]: data that every client sees.
//! * [`Queue`], [`JoinableQueue`], [`Lock`], [`RLock`], [`Semaphore`], [`BoundedSemaphore`],
//!   [`Condition`], [`Event`], [`Barrier`]: the same between machines.
//! * `Pool` (feature `pool`): workers that the server starts, for functions that it has registered.
//! * `SharedMemory`, `ShareableList` (feature `sync`): named memory that goes with the server.
//! * [`managed!`]: a trait of yours as such a type.
//! * [`Server`]: serves from this process.
//!
//! A client holds proxies. A proxy is a value: it can be an argument of a process, go through a
//! pipe or a queue, and be kept in another managed object; where it arrives, it connects by itself.
//! An object lives as long as somebody refers to it; what a process that dies referred to, or had
//! locked, is given back by the server within 100 ms.
//!
//! Reading gives copies. To change a value where it is, use [`Dict::update`] and its like: they
//! lose nobody's write, and hold no lock while they run.
//!
//! A call costs a message to the server and one back, in the order of microseconds; memory that is
//! shared without a server is in `mp-sync` and `mp-queue`.

#![forbid(unsafe_code)]

mod channel;
mod client;
mod crowd;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod macros;
mod manager;
mod passage;
mod protocol;
mod proxies;
mod proxy;
mod reference;
mod referent;
mod referents;
mod registry;
mod server;
mod session;
mod transport;

pub use mp_pipe::{Address, AuthKey};

pub use crate::{
    client::Client,
    error::{CallError, ConnectError},
    manager::{Builder, Initialize, Manager, Nothing, Register, Setup, StartError},
    protocol::Fault,
    proxies::{
        Array, Barrier, BarrierError, BarrierTurn, BoundedSemaphore, Condition, Dict, DictIter,
        Event, GetError, Guard, JoinableQueue, List, ListIter, Lock, LockError, LockGuard,
        Namespace, OwnerDied, Permit, PutError, Queue, QueueIter, RLock, RLockGuard, Semaphore,
        TryAcquireError, TryGetError, TryLockError, TryPutError, Value,
    },
    proxy::{Managed, Proxy},
    referent::{Call, Referent},
    registry::Registry,
    server::{
        Server, ServerHandle,
        info::{ClientInfo, DebugInfo, ObjectInfo},
    },
};

#[cfg(feature = "pool")]
pub use crate::proxies::{AsyncResult, Pool, PoolImap, PoolScope, TaskError};

#[cfg(feature = "sync")]
pub use crate::proxies::{ShareableList, SharedMemory};

/// For the expansion of [`managed!`].
#[doc(hidden)]
pub mod __private {
    pub use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

    pub use crate::{protocol::signature, proxy::deserialize_proxy};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
