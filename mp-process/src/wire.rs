//! One message over the bootstrap socket: what the parent hands its child, and what comes back.
//!
//! A message is one packet `[magic, place, body]`, with descriptors beside it. A body too large for
//! a packet lies in a memfd that comes along as the first descriptor: whoever sends never waits for
//! the other side to read.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Seek},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use mp_core::{
    fd::{self, Mode},
    shm::memfd_with,
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};

/// Bodies up to this size travel in the packet.
pub(crate) const INLINE: usize = 8 << 10;

/// Says that a socket is ours, and which side speaks.
pub(crate) type Magic = [u8; 8];

/// From the parent: a [prelude](crate::bootstrap::Prelude) and the arguments.
pub(crate) const PRELUDE: Magic = *b"mp\x01start";
/// From the child: its [report](crate::bootstrap::Report).
pub(crate) const REPORT: Magic = *b"mp\x01ended";

/// From the parent, to a child that its fork server has made: [orders](crate::popen::Orders).
pub(crate) const ORDERS: Magic = *b"mp\x01order";
/// From the child: whether it could carry them out.
pub(crate) const ANSWER: Magic = *b"mp\x01answr";
/// From the program, to a child that is to be its [zygote](crate::popen::zygote).
pub(crate) const ZYGOTE: Magic = *b"mp\x01zygot";

/// Where the body of a message is.
const IN_PACKET: u8 = 0;
const IN_MEMFD: u8 = 1;

const HEADER: usize = size_of::<Magic>() + 1;

/// What [`receive`] got: the body, and the descriptors that belong to it.
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Sends one message.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    magic: Magic,
    body: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if body.len() <= INLINE {
        let parts = [
            IoSlice::new(&magic),
            IoSlice::new(&[IN_PACKET]),
            IoSlice::new(body),
        ];
        fd::send(socket, &parts, fds, Mode::NonBlocking)?;
    } else {
        let memory = memfd_with("mp-message", body)?;
        let mut all = Vec::with_capacity(fds.len() + 1);
        all.push(memory.as_fd());
        all.extend(fds);
        let parts = [IoSlice::new(&magic), IoSlice::new(&[IN_MEMFD])];
        fd::send(socket, &parts, &all, Mode::NonBlocking)?;
    }
    Ok(())
}

/// Receives a message that is there already; `None` if there is none, or it is not one of ours.
pub(crate) fn receive(socket: BorrowedFd<'_>, magic: Magic) -> io::Result<Option<Message>> {
    let mut fds = Vec::new();
    // No larger than it has to be: a forked child pays for every page that it touches.
    let mut packet = vec![0; packet_len(socket)];
    let len = match fd::recv(socket, &mut packet, &mut fds, Mode::NonBlocking) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        // The peer is gone without a word.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        result => result?,
    };
    packet.truncate(len);
    if len < HEADER || !packet.starts_with(&magic) {
        return Ok(None);
    }
    let body = match packet[HEADER - 1] {
        IN_PACKET => {
            packet.drain(..HEADER);
            packet
        }
        IN_MEMFD if !fds.is_empty() => read_all(fds.remove(0))?,
        _ => return Ok(None),
    };
    Ok(Some(Message { body, fds }))
}

/// How long the message is that is there; long enough for any, if none is.
fn packet_len(socket: BorrowedFd<'_>) -> usize {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
    recv(socket.as_raw_fd(), &mut [], flags).unwrap_or(HEADER + INLINE)
}

/// What kind of message is there, without taking it; `None` if there is none.
pub(crate) fn peek(socket: BorrowedFd<'_>) -> Option<Magic> {
    let mut magic = Magic::default();
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let len = recv(socket.as_raw_fd(), &mut magic, flags);
    (len == Ok(magic.len())).then_some(magic)
}

/// Waits for a message, and tells its kind without taking it; `None` if the peer is gone.
pub(crate) fn wait(socket: BorrowedFd<'_>) -> Option<Magic> {
    loop {
        let mut magic = Magic::default();
        match recv(socket.as_raw_fd(), &mut magic, MsgFlags::MSG_PEEK) {
            Err(Errno::EINTR) => {}
            len => return (len == Ok(magic.len())).then_some(magic),
        }
    }
}

/// Waits for an empty prelude: the word that a forked child may go on. `false` if the peer is gone.
pub(crate) fn await_go(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut packet = [0; HEADER];
    loop {
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            len => return Ok(len? == HEADER && packet.starts_with(&PRELUDE)),
        }
    }
}

fn read_all(memory: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(memory);
    file.rewind()?; // it shares its position with the one who wrote it
    let mut body = Vec::new();
    file.read_to_end(&mut body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use mp_core::fd::{SockKind, socketpair};

    use super::*;

    #[test]
    fn small_and_large_bodies_arrive_with_their_descriptors() {
        for len in [0, 1, INLINE, INLINE + 1, 3 << 20] {
            let (here, there) = socketpair(SockKind::SeqPacket).unwrap();
            let body = vec![7; len];
            send(here.as_fd(), PRELUDE, &body, &[here.as_fd()]).unwrap();
            let message = receive(there.as_fd(), PRELUDE).unwrap().unwrap();
            assert_eq!((message.body.len(), message.fds.len()), (len, 1));
        }
    }

    #[test]
    fn strangers_and_silence_are_no_message() {
        let (here, there) = socketpair(SockKind::SeqPacket).unwrap();
        assert!(receive(there.as_fd(), PRELUDE).unwrap().is_none());
        send(here.as_fd(), REPORT, b"x", &[]).unwrap();
        assert!(receive(there.as_fd(), PRELUDE).unwrap().is_none());
        drop(here);
        assert!(receive(there.as_fd(), PRELUDE).unwrap().is_none());
    }
}
