//! Descriptors: always close-on-exec, travelling by SCM_RIGHTS, waited for by `poll`.
//!
//! EINTR is never seen by a caller, and a broken connection is an error, never a SIGPIPE.
#![allow(unsafe_code)] // control messages are laid out by hand: nix loses descriptors on truncation

use std::{
    io::{self, IoSlice},
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    libc,
    sys::{
        resource::{Resource, getrlimit},
        socket::{AddressFamily, SockFlag, SockType, socketpair as nix_socketpair},
        stat::Mode as FileMode,
    },
};

use crate::deadline::Deadline;

/// How many descriptors one message can carry: the kernel's limit.
pub const MAX_FDS: usize = 253;

/// How a socket keeps messages apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockKind {
    /// Not at all: bytes.
    Stream,
    /// One send is one receive.
    SeqPacket,
}

/// Whether a call may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Until it can make progress.
    Blocking,
    /// Never: [`io::ErrorKind::WouldBlock`] instead.
    NonBlocking,
}

impl Mode {
    fn flags(self) -> libc::c_int {
        match self {
            Self::Blocking => 0,
            Self::NonBlocking => libc::MSG_DONTWAIT,
        }
    }
}

/// A pair of connected Unix sockets.
///
/// # Errors
///
/// Out of descriptors or memory.
pub fn socketpair(kind: SockKind) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = match kind {
        SockKind::Stream => SockType::Stream,
        SockKind::SeqPacket => SockType::SeqPacket,
    };
    nix_socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| explain(errno.into()))
}

/// Sends `parts` as one piece, with `fds` beside its first byte; how many bytes went out.
///
/// # Errors
///
/// [`io::ErrorKind::BrokenPipe`] when the peer is gone, [`io::ErrorKind::WouldBlock`], more than
/// [`MAX_FDS`] descriptors.
pub fn send(
    socket: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    fds: &[BorrowedFd<'_>],
    mode: Mode,
) -> io::Result<usize> {
    if let ([part], []) = (parts, fds) {
        return send_bytes(socket, part, mode);
    }
    let mut control = Control::new();
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut().cast(); // IoSlice is iovec by its own contract
    message.msg_iovlen = parts.len();
    if !fds.is_empty() {
        control.fill(&mut message, fds)?;
    }
    retry(|| {
        // SAFETY: `message` points to `parts` and `control`, which outlive the call.
        unsafe {
            libc::sendmsg(
                socket.as_raw_fd(),
                &raw const message,
                mode.flags() | libc::MSG_NOSIGNAL,
            )
        }
    })
}

/// The shorter way for bytes alone, by a tenth of the whole trip of a small message.
fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], mode: Mode) -> io::Result<usize> {
    let flags = mode.flags() | libc::MSG_NOSIGNAL;
    retry(|| {
        // SAFETY: `bytes` is valid for its length.
        unsafe {
            libc::send(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                flags,
            )
        }
    })
}

/// Receives bytes into `buffer` and descriptors onto `fds`; how many bytes, 0 at end of file.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`], [`io::ErrorKind::ConnectionReset`], or descriptors that this
/// process has no room for: those that did arrive are closed again.
pub fn recv(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    mode: Mode,
) -> io::Result<usize> {
    let mut control = Control::new();
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>();
    let received = retry(|| {
        // SAFETY: `message` points to `part`, `buffer` and `control`, which outlive the call.
        unsafe {
            libc::recvmsg(
                socket.as_raw_fd(),
                &raw mut message,
                mode.flags() | libc::MSG_CMSG_CLOEXEC,
            )
        }
    })?;
    let known = fds.len();
    if message.msg_controllen > 0 {
        collect_fds(&message, fds);
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        fds.truncate(known); // closes what did arrive
        return Err(explain(Errno::EMFILE.into()));
    }
    Ok(received)
}

/// Room for the control message of [`MAX_FDS`] descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; 1040]);

const _: () = {
    // SAFETY: CMSG_SPACE only computes.
    let needed = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize;
    assert!(size_of::<Control>() >= needed);
};

impl Control {
    fn new() -> Self {
        Self([MaybeUninit::uninit(); 1040])
    }

    fn fill(&mut self, message: &mut libc::msghdr, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} descriptors in one message; the kernel takes at most {MAX_FDS}",
                    fds.len()
                ),
            ));
        }
        let bytes = size_of_val(fds) as u32; // BorrowedFd is a RawFd by its own contract
        self.0.fill(MaybeUninit::new(0));
        message.msg_control = self.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as usize;
        // SAFETY: `message` has a control buffer of at least one header.
        let header = unsafe { libc::CMSG_FIRSTHDR(message) };
        // SAFETY: CMSG_LEN only computes.
        let len = unsafe { libc::CMSG_LEN(bytes) } as usize;
        let filled = libc::cmsghdr {
            cmsg_len: len,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: `header` points into `self`, aligned to 8.
        unsafe { header.write(filled) };
        // SAFETY: CMSG_DATA of a header inside a buffer of CMSG_SPACE(bytes).
        let data = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: room for `bytes` bytes behind the header; both are plain descriptors.
        unsafe { ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), data, bytes as usize) };
        Ok(())
    }
}

/// Takes ownership of every descriptor in the control messages of a received `message`.
fn collect_fds(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the kernel filled the control buffer that `message` points to.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: `header` is one the kernel wrote.
        let found = unsafe { header.read() };
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (found.cmsg_len - overhead) / size_of::<RawFd>();
            // SAFETY: the data of a header the kernel wrote.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: `count` descriptors lie there, perhaps unaligned.
                let fd = unsafe { data.wrapping_add(index).read_unaligned() };
                // SAFETY: the kernel made this descriptor for us; nobody else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: walks the buffer that the kernel filled.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
}

/// Waits until one of `fds` is ready, or `until`; how many are. An empty list only sleeps.
///
/// # Errors
///
/// Out of memory, or more descriptors than `RLIMIT_NOFILE`.
pub fn poll(fds: &mut [libc::pollfd], until: Option<Deadline>) -> io::Result<usize> {
    loop {
        let left = until.map(|until| nix::sys::time::TimeSpec::from(until.remaining()));
        let left = left
            .as_ref()
            .map_or(ptr::null(), |left| ptr::from_ref(left.as_ref()));
        // SAFETY:
        // * `fds` is a valid slice for its length.
        // * `left` is null or points to a timespec that outlives the call; no mask is given.
        let ready = unsafe {
            libc::ppoll(
                fds.as_mut_ptr(),
                fds.len() as libc::nfds_t,
                left,
                ptr::null(),
            )
        };
        match Errno::result(ready) {
            Err(Errno::EINTR) => {}
            result => return Ok(result? as usize),
        }
    }
}

/// Waits until `fd` shows one of `events` (or an error or hang-up); `false` if `until` came first.
///
/// # Errors
///
/// As [`poll`].
pub fn poll_one(
    fd: BorrowedFd<'_>,
    events: libc::c_short,
    until: Option<Deadline>,
) -> io::Result<bool> {
    let mut entry = [libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    }];
    Ok(poll(&mut entry, until)? > 0)
}

/// The same file with an open file description of its own (its own offset, flags and locks).
///
/// # Errors
///
/// `/proc` is not mounted, or out of descriptors.
pub fn reopen(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(
        path.as_str(),
        OFlag::O_RDWR | OFlag::O_CLOEXEC,
        FileMode::empty(),
    )
    .map_err(|errno| explain(errno.into()))
}

/// Puts another file behind the number of `target`, which stays open and valid for its borrowers.
pub fn replace(target: &OwnedFd, with: BorrowedFd<'_>) {
    loop {
        // SAFETY: both are open; what is closed is the file behind `target`, which its owner gives up.
        let result = unsafe { libc::dup3(with.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
        match Errno::result(result) {
            Err(Errno::EINTR | Errno::EBUSY) => {}
            _ => return,
        }
    }
}

/// Names the limit behind an error of the system, where one is; else the error as it is.
#[must_use]
pub fn explain(error: io::Error) -> io::Error {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
            io::Error::other(format!(
                "out of file descriptors: this process may have {limit} (RLIMIT_NOFILE, `ulimit -n`)"
            ))
        }
        Some(Errno::ENFILE) => io::Error::other(
            "out of file descriptors: the whole system has no more (/proc/sys/fs/file-max)",
        ),
        _ => error,
    }
}

/// Repeats an interrupted call, and turns its result into a size.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match Errno::result(call()) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(explain(errno.into())),
            Ok(len) => return Ok(len as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::fd::AsFd,
        time::Duration,
    };

    use super::*;

    #[test]
    fn descriptors_arrive_with_their_bytes() {
        let (here, there) = socketpair(SockKind::SeqPacket).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let parts = [IoSlice::new(b"he"), IoSlice::new(b"llo")];
        let sent = send(here.as_fd(), &parts, &[writer.as_fd()], Mode::Blocking).unwrap();
        assert_eq!(sent, 5);
        drop(writer);
        let (mut buffer, mut fds) = ([0; 8], Vec::new());
        let len = recv(there.as_fd(), &mut buffer, &mut fds, Mode::Blocking).unwrap();
        assert_eq!(&buffer[..len], b"hello");
        File::from(fds.pop().unwrap())
            .write_all(b"through")
            .unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_takes() {
        let (here, there) = socketpair(SockKind::Stream).unwrap();
        let fds = vec![here.as_fd(); MAX_FDS];
        let part = [IoSlice::new(b"x")];
        send(here.as_fd(), &part, &fds, Mode::Blocking).unwrap();
        let mut got = Vec::new();
        recv(there.as_fd(), &mut [0; 1], &mut got, Mode::Blocking).unwrap();
        assert_eq!(got.len(), MAX_FDS);
        let fds = vec![here.as_fd(); MAX_FDS + 1];
        assert!(send(here.as_fd(), &part, &fds, Mode::Blocking).is_err());
    }

    #[test]
    fn a_gone_peer_is_an_error_and_not_a_signal() {
        let (here, there) = socketpair(SockKind::Stream).unwrap();
        drop(there);
        let error = send(here.as_fd(), &[IoSlice::new(b"x")], &[], Mode::Blocking).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let len = recv(here.as_fd(), &mut [0; 1], &mut Vec::new(), Mode::Blocking).unwrap();
        assert_eq!(len, 0);
    }

    #[test]
    fn a_replaced_file_is_closed_and_its_number_stays_valid() {
        let (here, there) = socketpair(SockKind::Stream).unwrap();
        let (inert, _) = socketpair(SockKind::Stream).unwrap();
        replace(&here, inert.as_fd());
        for fd in [here.as_fd(), there.as_fd()] {
            let len = recv(fd, &mut [0; 1], &mut Vec::new(), Mode::Blocking).unwrap();
            assert_eq!(len, 0);
        }
    }

    #[test]
    fn a_poll_ends_at_its_deadline() {
        let (here, _there) = socketpair(SockKind::Stream).unwrap();
        let until = Deadline::after(Duration::from_millis(20));
        assert!(!poll_one(here.as_fd(), libc::POLLIN, Some(until)).unwrap());
        assert!(until.is_over());
    }
}
