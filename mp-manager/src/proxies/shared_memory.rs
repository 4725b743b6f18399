//! The clients' halves of `SharedMemory` and `ShareableList`; the server's halves are in
//! `referents::shared_memory`.

use std::io;

use crate::{
    error::CallError,
    proxy::{Proxy, proxy_type},
};

/// Named memory that the server owns, for clients on its machine.
///
/// The name goes with the last reference to this object, and with the server at the latest; who has
/// the memory mapped keeps it.
///
/// # Process death
///
/// A client that dies takes nothing away. When the server is killed, the name is removed within 2 s.
#[doc(alias = "SharedMemoryManager")]
pub struct SharedMemory {
    proxy: Proxy,
}

/// A [`mp_sync::ShareableList`] in named memory that the server owns.
///
/// # Process death
///
/// As for [`SharedMemory`].
pub struct ShareableList {
    proxy: Proxy,
}

proxy_type!(SharedMemory, "SharedMemory");
proxy_type!(ShareableList, "ShareableList");

impl SharedMemory {
    /// The name, by which any program can attach it.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn name(&self) -> Result<String, CallError> {
        self.proxy.ask_plain("name", &())
    }

    /// Maps the memory into this process.
    ///
    /// # Errors
    ///
    /// The server is gone, or on another machine.
    pub fn attach(&self) -> io::Result<mp_sync::SharedMemory> {
        mp_sync::SharedMemory::attach(&self.name().map_err(io::Error::other)?)
    }
}

impl ShareableList {
    /// The name, by which any program can attach it.
    ///
    /// # Errors
    ///
    /// [`CallError`].
    pub fn name(&self) -> Result<String, CallError> {
        self.proxy.ask_plain("name", &())
    }

    /// Maps the list into this process.
    ///
    /// # Errors
    ///
    /// The server is gone, or on another machine.
    pub fn attach(&self) -> io::Result<mp_sync::ShareableList> {
        mp_sync::ShareableList::attach(&self.name().map_err(io::Error::other)?)
    }
}
