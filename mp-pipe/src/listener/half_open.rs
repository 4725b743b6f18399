//! Handshakes under way: all at the same time, by whoever is in `accept`.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    io,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Duration,
};

use mp_core::{deadline::Deadline, fd, hooks, primitive::Ordering};
use nix::{
    libc,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{Shutdown, shutdown},
    },
};

use super::{AcceptError, Listener, Peer, alarm::Alarm, socket::Socket};
use crate::{
    Address, AuthError,
    channel::Until,
    handshake::{Exchange, Progress, Role},
    stream::Stream,
};

/// A peer that has not proved the key may be dropped for a newer one after this time, when the most
/// are open.
const GRACE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Accepting {
    /// The listener's, except in a forked child that has called `accept`.
    pub(super) epoll: Arc<Epoll>,
    /// Whose all this is: see [`part_from_parent`](Self::part_from_parent).
    generation: u64,
    pub(super) socket: Option<Socket>,
    /// Whether `epoll` tells of new connections; not while too many are half open.
    listening: bool,
    /// By number, so the first is the oldest.
    pub(super) half_open: BTreeMap<u64, HalfOpen>,
    next: u64,
    pub(super) ready: VecDeque<(Stream, Peer)>,
    /// Whether `epoll` tells that something is in `ready`.
    announced: bool,
    /// Rings in `epoll` when the time of a half-open connection is over.
    alarm: Alarm,
}

#[derive(Debug)]
pub(super) struct HalfOpen {
    pub(super) stream: Stream,
    peer: Peer,
    exchange: Exchange,
    since: Deadline,
    until: Deadline,
}

/// The numbers in `epoll` of what is no half-open connection.
pub(super) const LISTENING: u64 = 0;
pub(super) const CLOSER: u64 = 1;
pub(super) const ALARM: u64 = 2;
const FIRST: u64 = 3;

impl Accepting {
    pub(super) fn new(epoll: Arc<Epoll>, socket: Socket, alarm: Alarm) -> Self {
        Self {
            epoll,
            generation: hooks::fork_generation(),
            socket: Some(socket),
            listening: true,
            half_open: BTreeMap::new(),
            next: FIRST,
            ready: VecDeque::new(),
            announced: false,
            alarm,
        }
    }

    /// Lets go of what a forked child has from its parent, but for the listening socket: only one of
    /// them can serve a connection, and `epoll`, `closer` and `alarm` tell of the parent's.
    pub(super) fn part_from_parent(&mut self) -> io::Result<()> {
        let generation = hooks::fork_generation();
        if self.generation == generation {
            return Ok(());
        }
        // Closed, not ended.
        self.half_open.clear();
        self.ready.clear();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let epoll = epoll.map_err(|errno| fd::explain(errno.into()))?;
        if let Some(socket) = &self.socket {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, LISTENING))?;
        }
        self.epoll = Arc::new(epoll);
        self.listening = true;
        self.generation = generation;
        Ok(())
    }

    /// Ends a connection that nobody gets, also where children that were forked since have copies of
    /// it: else its peer would see no end, and `epoll` tell of it for ever.
    pub(super) fn hang_up(&self, stream: &Stream) {
        let _ = self.epoll.delete(stream); // not in there when it was ready
        let _ = shutdown(stream.as_fd().as_raw_fd(), Shutdown::Both); // the peer was faster
    }

    /// When `accept` has to look even if nothing happens.
    pub(super) fn next_look(&self, until: Until) -> Option<Deadline> {
        let own = match until {
            Until::Now => Some(Deadline::now()),
            Until::At(deadline) => Some(deadline),
            Until::Forever => None,
        };
        [own, self.due()].into_iter().flatten().min()
    }

    /// When [`expire`](Listener::expire) has something to do.
    fn due(&self) -> Option<Deadline> {
        let expiry = self.half_open.values().next();
        let expiry = expiry.map(|oldest| oldest.until);
        let grace = match self.listening {
            true => None,
            false => self
                .half_open
                .values()
                .find(|one| !one.exchange.is_proved()),
        };
        let grace = grace.map(|evictable| evictable.since);
        [expiry, grace].into_iter().flatten().min()
    }
}

impl Listener {
    /// Lets `epoll` tell whoever waits outside of `accept` what would else be known only inside.
    pub(super) fn announce(&self, accepting: &mut Accepting) {
        if !self.is_ours() {
            return; // who waits for a copy looks at its parent's `epoll`
        }
        let due = accepting.due();
        accepting.alarm.set(due);
        let any = !accepting.ready.is_empty();
        if any != accepting.announced {
            let mut flags = EpollFlags::EPOLLIN;
            flags.set(EpollFlags::EPOLLOUT, any);
            let mut event = EpollEvent::new(flags, CLOSER);
            if self.epoll.modify(&self.closer, &mut event).is_ok() {
                accepting.announced = any;
            }
        }
    }

    /// Drops who took too long, and lets in whom there is room for again.
    pub(super) fn expire(&self, accepting: &mut Accepting) {
        while let Some(oldest) = accepting.half_open.first_entry() {
            if !oldest.get().until.is_over() {
                break;
            }
            let oldest = oldest.remove();
            self.reject(accepting, &oldest, &AuthError::TimedOut);
        }
        if !accepting.listening && self.has_room(accepting) {
            self.listen(accepting, true);
        }
    }

    fn listen(&self, accepting: &mut Accepting, on: bool) {
        let Some(socket) = &accepting.socket else {
            return;
        };
        let flags = match on {
            true => EpollFlags::EPOLLIN,
            false => EpollFlags::empty(),
        };
        let mut event = EpollEvent::new(flags, LISTENING);
        if accepting.epoll.modify(socket, &mut event).is_ok() {
            accepting.listening = on;
        }
    }

    /// Does what the sockets are ready for.
    pub(super) fn progress(&self, accepting: &mut Accepting) -> Result<(), AcceptError> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match accepting.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Err(nix::errno::Errno::EINTR) => 0,
            result => result.map_err(|errno| AcceptError::Io(errno.into()))?,
        };
        for event in &events[..count] {
            match event.data() {
                LISTENING => self.take_new(accepting)?,
                CLOSER => {}
                ALARM => accepting.alarm.silence(), // who is late is dropped by `expire`
                number => self.advance(accepting, number),
            }
        }
        Ok(())
    }

    /// Takes connections from the kernel, as long as there is room for another handshake.
    fn take_new(&self, accepting: &mut Accepting) -> Result<(), AcceptError> {
        /// So that the handshakes go on in between.
        const AT_ONCE: usize = 64;
        for _ in 0..AT_ONCE {
            if !self.has_room(accepting) {
                self.listen(accepting, false);
                break;
            }
            let Some(socket) = &accepting.socket else {
                break;
            };
            match socket.accept() {
                Ok((stream, peer)) => self.begin(accepting, stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        // Mute peers must not use up what the program needs.
                        match accepting.half_open.pop_first() {
                            Some((_, oldest)) => self.evict(accepting, &oldest),
                            None => return Err(AcceptError::Io(fd::explain(error))),
                        }
                    }
                    Some(libc::ENOMEM | libc::ENOBUFS | libc::EBADF | libc::EINVAL) => {
                        return Err(AcceptError::Io(error));
                    }
                    _ => {} // of this one connection, which is gone
                },
            }
        }
        Ok(())
    }

    /// Whether one more handshake can begin; drops a peer that has proved nothing for it if there is one.
    fn has_room(&self, accepting: &mut Accepting) -> bool {
        if accepting.half_open.len() < self.builder.max_half_open {
            return true;
        }
        let ripe = |half_open: &HalfOpen| half_open.since.is_over();
        let numbers: Vec<u64> = accepting
            .half_open
            .iter()
            .take_while(|(_, half_open)| ripe(half_open))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.advance(accepting, number); // it may have answered meanwhile
            match accepting.half_open.entry(number) {
                Entry::Vacant(_) => return true,
                Entry::Occupied(one) if one.get().exchange.is_proved() => {}
                Entry::Occupied(one) => {
                    let one = one.remove();
                    self.evict(accepting, &one);
                    return true;
                }
            }
        }
        false
    }

    fn begin(&self, accepting: &mut Accepting, stream: Stream, peer: Peer) {
        if let (Address::Abstract(_), Some(credentials)) = (&self.address, &peer.credentials)
            && !credentials.are_ours()
        {
            self.counts.foreign.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(?peer, "refused a connection from another user");
            return;
        }
        if stream.prepare().is_err() {
            return; // its peer is gone
        }
        let Some(policy) = self.builder.options.policy() else {
            accepting.ready.push_back((stream, peer));
            return;
        };
        let number = accepting.next;
        accepting.next += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        if accepting.epoll.add(&stream, event).is_err() {
            return; // out of kernel memory: this one is closed, the others go on
        }
        let half_open = HalfOpen {
            stream,
            peer,
            exchange: Exchange::new(Role::Listener, policy),
            since: Deadline::after(GRACE),
            until: Deadline::after(self.builder.options.timeout),
        };
        accepting.half_open.insert(number, half_open);
        self.advance(accepting, number); // sends the challenge
    }

    fn advance(&self, accepting: &mut Accepting, number: u64) {
        let Some(half_open) = accepting.half_open.get_mut(&number) else {
            return; // dropped since the event
        };
        let progress = half_open.exchange.advance(&mut &half_open.stream);
        match progress {
            Ok(Progress::Reading | Progress::Writing) => {
                let flags = match progress {
                    Ok(Progress::Writing) => EpollFlags::EPOLLOUT,
                    _ => EpollFlags::EPOLLIN,
                };
                let mut event = EpollEvent::new(flags, number);
                let _ = accepting.epoll.modify(&half_open.stream, &mut event);
            }
            Ok(Progress::Done) => {
                if let Some(done) = accepting.half_open.remove(&number) {
                    let _ = accepting.epoll.delete(&done.stream);
                    done.stream.hurry();
                    accepting.ready.push_back((done.stream, done.peer));
                }
            }
            Err(error) => {
                if let Some(failed) = accepting.half_open.remove(&number) {
                    self.reject(accepting, &failed, &error);
                }
            }
        }
    }

    fn reject(&self, accepting: &Accepting, half_open: &HalfOpen, error: &AuthError) {
        accepting.hang_up(&half_open.stream);
        let peer = &half_open.peer;
        let count = match error {
            AuthError::WrongKey | AuthError::Rejected => &self.counts.wrong_key,
            AuthError::Digest(_) => &self.counts.digest,
            AuthError::Protocol(_) => &self.counts.protocol,
            AuthError::Disconnected | AuthError::Io(_) => &self.counts.disconnected,
            AuthError::TimedOut => &self.counts.timed_out,
        };
        count.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(?peer, %error, address = %self.address, "dropped a connection");
    }

    fn evict(&self, accepting: &Accepting, half_open: &HalfOpen) {
        accepting.hang_up(&half_open.stream);
        let peer = &half_open.peer;
        self.counts.evicted.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(?peer, address = %self.address, "dropped a half-open connection for newer ones");
    }
}
