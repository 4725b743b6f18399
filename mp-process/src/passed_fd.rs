//! A descriptor as an argument.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mp_core::transfer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Any descriptor, as an argument or result of a process: a file, a pipe, a socket.
///
/// Passing one duplicates it: the child's has its own number, and is the same open file.
///
/// ```
/// use std::{fs::File, io::Read, os::fd::OwnedFd};
///
/// use mp_process::{Fd, Process};
///
/// fn first_line(file: Fd) -> String {
///     let mut text = String::new();
///     File::from(OwnedFd::from(file)).read_to_string(&mut text).unwrap();
///     text.lines().next().unwrap_or_default().to_owned()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// mp_process::init();
/// let file = File::open("/proc/self/status")?;
/// let child = Process::new(first_line, (Fd::from(OwnedFd::from(file)),)).start()?;
/// assert!(child.join()?.starts_with("Name:"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Fd(OwnedFd);

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Fd> for OwnedFd {
    fn from(fd: Fd) -> Self {
        fd.0
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Fd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd("Fd", self.0.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize_fd("Fd", deserializer).map(Self)
    }
}
