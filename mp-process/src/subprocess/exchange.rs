//! Input in, outputs out, all at once: no pipe waits for another, so nothing deadlocks.

use std::{
    io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use mp_core::{deadline::Deadline, fd};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
};

/// What one step reads at most; the size of a pipe by default.
pub(super) const CHUNK: usize = 64 * 1024;

/// What has been said so far; it survives a timeout.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    input: Vec<u8>,
    sent: usize,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// Our ends of a program's standard streams; a stream that is done becomes `None`.
pub(super) struct Streams<'a> {
    pub(super) stdin: &'a mut Option<PipeWriter>,
    pub(super) stdout: &'a mut Option<PipeReader>,
    pub(super) stderr: &'a mut Option<PipeReader>,
}

impl Exchange {
    pub(super) fn has_input(&self) -> bool {
        self.sent < self.input.len()
    }

    pub(super) fn set_input(&mut self, input: Vec<u8>) {
        (self.input, self.sent) = (input, 0);
    }

    /// Goes on until every stream is done; `false` if the deadline came first.
    pub(super) fn run(
        &mut self,
        streams: &mut Streams<'_>,
        until: Option<Deadline>,
    ) -> io::Result<bool> {
        streams.set_blocking(false)?;
        let done = self.go_on(streams, until);
        // Whoever goes on by hand finds the pipes as they were made.
        let restored = streams.set_blocking(true);
        done.and_then(|done| restored.map(|()| done))
    }

    fn go_on(&mut self, streams: &mut Streams<'_>, until: Option<Deadline>) -> io::Result<bool> {
        while self.step(streams)? {
            if !streams.wait(until)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves what can be moved without waiting; `false` if every stream is done.
    pub(super) fn step(&mut self, streams: &mut Streams<'_>) -> io::Result<bool> {
        self.write_some(streams.stdin)?;
        read_some(streams.stdout, &mut self.stdout)?;
        read_some(streams.stderr, &mut self.stderr)?;
        Ok(streams.stdin.is_some() || streams.stdout.is_some() || streams.stderr.is_some())
    }

    /// A program that does not read its input to the end is no error.
    fn write_some(&mut self, stream: &mut Option<PipeWriter>) -> io::Result<()> {
        while let Some(pipe) = stream {
            let sent = match &self.input[self.sent..] {
                [] => Ok(0),
                rest => pipe.write(rest),
            };
            match sent {
                Ok(0) => *stream = None,
                Ok(count) => self.sent += count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::BrokenPipe => *stream = None,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

fn read_some(stream: &mut Option<PipeReader>, data: &mut Vec<u8>) -> io::Result<()> {
    // At most one chunk: a program that writes without end must not keep us from the other streams.
    let Some(pipe) = stream else {
        return Ok(());
    };
    match pipe.by_ref().take(CHUNK as u64).read_to_end(data) {
        Ok(CHUNK) => Ok(()),
        Ok(_) => {
            *stream = None;
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

impl Streams<'_> {
    /// Whether a read or write waits until it can move something.
    pub(super) fn set_blocking(&self, blocks: bool) -> io::Result<()> {
        let ends = [
            self.stdin.as_ref().map(AsFd::as_fd),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
        ];
        let mut ends = ends.into_iter().flatten();
        ends.try_for_each(|end| set_blocking(end, blocks))
    }

    /// Waits until one of them can move; `false` if the deadline came first.
    fn wait(&self, until: Option<Deadline>) -> io::Result<bool> {
        let events = |fd: i32, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let reader = |end: &Option<PipeReader>| end.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let writer = self.stdin.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let mut ends = [
            events(writer, libc::POLLOUT),
            events(reader(self.stdout), libc::POLLIN),
            events(reader(self.stderr), libc::POLLIN),
        ];
        Ok(fd::poll(&mut ends, until)? > 0)
    }
}

/// The end is ours alone: the program's own end of the pipe stays as it is.
fn set_blocking(end: BorrowedFd<'_>, blocks: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_NONBLOCK, !blocks);
    fcntl(end, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
