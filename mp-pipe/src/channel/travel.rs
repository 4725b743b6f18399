//! An end as part of a value: it leaves here and goes on there, with what it had read ahead.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use mp_core::{
    codec::Bytes,
    fd::{self, SockKind},
    primitive::Ordering,
    transfer,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    ser::{Error as _, SerializeTuple},
};

use super::{Channel, HERE, LEAVING, MOVED};
use crate::frame::FrameReader;

/// The end while a value with it is on its way: it comes back when the value does not leave.
struct Leaving {
    channel: Arc<Channel>,
    /// Takes the place of the socket, so that the number stays valid for who borrows it.
    inert: OwnedFd,
    committed: bool,
}

impl Leaving {
    fn commit(mut self) {
        self.committed = true;
        let channel = &self.channel;
        channel.place.store(MOVED, Ordering::Release); // meets the Acquire of `read` and `write`
        let mut rx = channel.rx.lock();
        rx.frames = FrameReader::default();
        channel.note_buffered(&mut rx);
        fd::replace(&channel.fd, self.inert.as_fd());
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.committed {
            *self.channel.leaving.lock() = None;
            self.channel.place.store(HERE, Ordering::Release);
        }
    }
}

/// Encodes an end so that it moves with the value: descriptor, limits, and what was read ahead.
pub(crate) fn serialize<S: Serializer>(
    channel: &Arc<Channel>,
    type_name: &'static str,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let busy = || S::Error::custom(format_args!("another thread is using this {type_name}"));
    let me = std::thread::current().id();
    let mut leaving = channel.leaving.lock();
    if channel.place.load(Ordering::Acquire) == MOVED {
        return Err(S::Error::custom(format_args!(
            "this {type_name} was sent to another process already"
        )));
    }
    if leaving.is_some_and(|other| other != me) {
        return Err(busy());
    }
    // (Whoever looks for the text of an error encodes again what is leaving.)
    let met = transfer::met_while_explaining(Arc::as_ptr(channel).addr());
    if met.unwrap_or(leaving.is_some()) {
        return Err(S::Error::custom(format_args!(
            "this {type_name} is being sent already: is it in the value twice?"
        )));
    }
    let rx = channel.rx.try_lock().ok_or_else(busy)?;
    let _tx = channel.tx.try_lock().ok_or_else(busy)?;
    if leaving.is_none() && transfer::is_collecting() {
        let inert = inert().map_err(S::Error::custom)?;
        *leaving = Some(me);
        channel.place.store(LEAVING, Ordering::Release);
        let guard = Leaving {
            channel: channel.clone(),
            inert,
            committed: false,
        };
        transfer::on_commit(move || guard.commit());
    }
    drop(leaving);
    let (bytes, groups) = rx.frames.leftover();
    let groups: Vec<_> = groups
        .iter()
        .map(|(end, fds)| (*end, fds.iter().map(|fd| Riding(fd.as_fd())).collect()))
        .collect::<Vec<(u64, Vec<_>)>>();
    let mut tuple = serializer.serialize_tuple(5)?;
    tuple.serialize_element(&Handle(channel.fd.as_fd(), type_name))?;
    tuple.serialize_element(&channel.max_len.load(Ordering::Relaxed))?;
    tuple.serialize_element(&channel.cautious)?;
    tuple.serialize_element(&Bytes::from(bytes))?;
    tuple.serialize_element(&groups)?;
    tuple.end()
}

/// A socket whose peer is gone.
fn inert() -> io::Result<OwnedFd> {
    Ok(fd::socketpair(SockKind::Stream)?.0)
}

struct Handle<'a>(BorrowedFd<'a>, &'static str);

impl Serialize for Handle<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd(self.1, self.0, serializer)
    }
}

struct Riding<'a>(BorrowedFd<'a>);

impl Serialize for Riding<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        transfer::serialize_fd("message in transit", self.0, serializer)
    }
}

struct Arrived(OwnedFd);

impl<'de> Deserialize<'de> for Arrived {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transfer::deserialize_fd("connection", deserializer).map(Self)
    }
}

/// The other half of [`serialize`].
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Arc<Channel>, D::Error> {
    type Parts = (Arrived, u64, bool, Bytes, Vec<(u64, Vec<Arrived>)>);
    let (Arrived(fd), max_len, cautious, bytes, groups) = Parts::deserialize(deserializer)?;
    let groups = groups
        .into_iter()
        .map(|(end, fds)| (end, fds.into_iter().map(|Arrived(fd)| fd).collect()))
        .collect();
    let mut channel = Channel::from_fd(fd, max_len, cautious).map_err(serde::de::Error::custom)?;
    let rx = channel.rx.get_mut();
    rx.frames = FrameReader::resume(&bytes, groups);
    channel.note_buffered(&mut channel.rx.lock());
    Ok(Arc::new(channel))
}
