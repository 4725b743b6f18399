//! `ForkServer`: a small process, forked from one that has been waiting for this.
//!
//! The other half is the [`zygote`](super::zygote): started when first needed, again when it died, and ended
//! by the end of this process. A few children are born ahead of time and [`Parked`] here, so a
//! start costs one message to one of them; the zygote replaces it while it works.
//!
//! All that the zygote sends comes over one socket, and anybody may be waiting for any of it: one
//! thread reads at a time, and wakes the others to look at what it found.
#![allow(unsafe_code)] // one reference to what is leaked on purpose

use std::{
    collections::{HashMap, VecDeque},
    env, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    path::PathBuf,
    process::ExitStatus,
    ptr,
    sync::Arc,
    time::Duration,
};

use mp_core::{
    deadline::Deadline,
    fd, hooks,
    primitive::{AtomicBool, AtomicPtr, Ordering},
};
use nix::libc;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    Failure, Orders, Setup, channel,
    control::{self, News, Order},
    spawn,
};
use crate::{
    error::Step,
    init::Launch,
    options::Options,
    pidfd::{Ended, Pidfd, Scope},
    private_fd::PrivateFd,
    wire,
};

/// Whether servers launched from now on have to tell how every child ended.
static TELLS: AtomicBool = AtomicBool::new(false);

/// Lets the next fork server do as if the kernel forgot how reaped processes ended, as it did before
/// Linux 6.15.
pub fn fork_server_tells() {
    TELLS.store(true, Ordering::Relaxed); // stands for itself
}

/// How many children wait ahead of time: one for each start that can follow the last at once.
const SPARE: u32 = 2;

/// How long the status of a child that has ended may be on its way: it comes at once, unless the server
/// is stopped or starved.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may be, if the server is dead and nobody but `init` may know it.
const ORPHANS_PATIENCE: Duration = Duration::from_millis(300);

/// This process's end of its fork server.
#[derive(Debug)]
pub(crate) struct Server {
    control: PrivateFd,
    zygote: Pidfd,
    /// Where it works, and so do its children.
    directory: PathBuf,
    /// Whether the kernel remembers how a process ended that the zygote reaped.
    keeps_status: bool,
    state: Mutex<State>,
    /// Something new is in `state`, or nobody reads the socket any more.
    news: Condvar,
}

/// Each child that was ordered is answered once, in the order of the orders: it is parked, or refused.
///
/// No start waits for an answer that nobody owes it: whoever finds neither a child nor a refusal
/// orders what is missing before it waits, and looks again after every answer.
#[derive(Debug, Default)]
struct State {
    parked: VecDeque<Parked>,
    /// How many children were ordered so far, and so the number of the next one.
    ordered: u64,
    /// How many of them were answered.
    answered: u64,
    /// Starts that wait for a child.
    waiting: u32,
    /// The numbers of orders that could not be carried out, while starts wait: one for each to fail of.
    refused: VecDeque<(u64, io::Error)>,
    /// How children ended whose end the zygote tells, by their numbers; `None` until it has. Only those
    /// that somebody will ask for.
    ended: HashMap<u64, Option<Ended>>,
    /// A thread waits at the socket.
    reading: bool,
    /// The zygote is dead: nothing new will come.
    gone: bool,
}

/// A child of the zygote that waits at its bootstrap socket.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) pid: u32,
    pub(crate) number: u64,
    pub(crate) pidfd: Pidfd,
    pub(crate) line: PrivateFd,
}

/// The server of this process. Leaked anew for each generation, so that a forked child, which must
/// not use its parent's, can forget it without taking a lock.
static CURRENT: AtomicPtr<Mutex<Option<Arc<Server>>>> = AtomicPtr::new(ptr::null_mut());

fn current() -> &'static Mutex<Option<Arc<Server>>> {
    let mut slot = CURRENT.load(Ordering::Acquire); // meets the exchange below
    if slot.is_null() {
        hooks::after_fork_in_child(forget);
        let fresh = Box::into_raw(Box::default());
        let raced = CURRENT.compare_exchange(slot, fresh, Ordering::AcqRel, Ordering::Acquire);
        slot = raced.map_or_else(|other| other, |_| fresh);
    }
    // SAFETY:
    // * made by `Box::into_raw` above, and never freed.
    unsafe { &*slot }
}

/// In a forked child: the server is the parent's.
fn forget() {
    CURRENT.store(ptr::null_mut(), Ordering::Relaxed); // the child has one thread
}

/// A child that waits for something to do, and the server it comes from.
pub(crate) fn take(launch: &Launch) -> Result<(Arc<Server>, Parked), Failure> {
    for _ in 0..2 {
        let server = server(launch)?;
        match server.take().map_err(|error| (Step::Process, error))? {
            Some(parked) => return Ok((server, parked)),
            None => retire(&server),
        }
    }
    let error = io::Error::other("the fork server was killed twice while it was asked");
    Err((Step::Process, error))
}

fn server(launch: &Launch) -> Result<Arc<Server>, Failure> {
    let mut current = current().lock();
    match &*current {
        Some(server) => Ok(Arc::clone(server)),
        None => {
            let server = Arc::new(Server::launch(launch)?);
            Ok(Arc::clone(current.insert(server)))
        }
    }
}

/// Makes the next start launch another server. The children of this one go on.
fn retire(server: &Arc<Server>) {
    let mut current = current().lock();
    if current
        .as_ref()
        .is_some_and(|current| Arc::ptr_eq(current, server))
    {
        *current = None;
        // It closed its socket, so it is ending, or does not deserve to go on.
        let _ = server.zygote.signal(libc::SIGKILL, Scope::Process);
        server.zygote.reap();
    }
}

impl Server {
    /// Executes a zygote and waits until it is ready.
    fn launch(launch: &Launch) -> Result<Self, Failure> {
        let (control, theirs) = channel()?;
        let tells = [u8::from(TELLS.load(Ordering::Relaxed))];
        let sent = wire::send(control.as_fd(), wire::ZYGOTE, &tells, &[]);
        sent.map_err(|error| (Step::Channel, error))?;
        let orders = Orders::new(&Options::plain("forkserver"), launch.hides_stdout())?;
        let directory = env::current_dir().unwrap_or_default();
        let started = spawn::start(&Setup::try_from(orders)?, launch, &theirs)?;
        drop(theirs);
        let keeps_status = match await_ready(control.as_fd()) {
            Ok(keeps_status) => keeps_status,
            Err(error) => {
                started.undo();
                return Err((Step::Process, error));
            }
        };
        Ok(Self {
            control,
            zygote: started.pidfd,
            directory,
            keeps_status,
            state: Mutex::default(),
            news: Condvar::new(),
        })
    }

    /// Takes a child off the row; `None` if the zygote is dead and the row is empty.
    fn take(&self) -> io::Result<Option<Parked>> {
        let mut state = self.state.lock();
        if !self.keeps_status {
            if !state.reading {
                self.read(&mut state);
            }
            if state.gone {
                state.parked.clear(); // nobody could tell how they ended
            }
        }
        state.waiting += 1;
        let taken = self.next_parked(&mut state);
        state.waiting -= 1;
        if state.waiting == 0 {
            state.refused.clear(); // they concerned spares
        }
        taken
    }

    fn next_parked(&self, state: &mut MutexGuard<'_, State>) -> io::Result<Option<Parked>> {
        // What was refused before this start asked says nothing of what is possible now.
        let since = state.ordered;
        loop {
            let taken = self.until(state, None, |state| {
                let parked = state.parked.pop_front().map(Ok);
                parked
                    .or_else(|| state.take_refusal(since).map(Err))
                    .or_else(|| self.order(state).err().map(Err))
            })?;
            match taken.transpose()? {
                // Something killed it while it waited.
                Some(parked) if parked.has_ended()? => drop(state.ended.remove(&parked.number)),
                taken => return Ok(taken),
            }
        }
    }

    /// Orders new children, if the last one was taken. After its start: the two then work side by side.
    pub(crate) fn replenish_if_empty(&self) {
        let mut state = self.state.lock();
        if state.parked.is_empty() && state.outstanding() == 0 {
            // If they cannot be ordered now, the next start will see why.
            let _ = self.order(&mut state);
        }
    }

    /// Orders a child for one that has ended: while it worked, the zygote left it the CPU.
    fn replenish(&self) {
        let _ = self.order(&mut self.state.lock()); // as above
    }

    /// Orders as many children as are missing.
    fn order(&self, state: &mut State) -> io::Result<()> {
        let coming = state.outstanding() + state.parked.len() as u64;
        let wanted = state.waiting + SPARE;
        let count = wanted.saturating_sub(u32::try_from(coming).unwrap_or(u32::MAX));
        if count == 0 || state.gone {
            return Ok(());
        }
        match control::send(self.control.as_fd(), &Order::Fork { count }, &[]) {
            Ok(()) => state.ordered += u64::from(count),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {} // reading will tell
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What a child of this server has to be told in addition: the working directory, should this
    /// process have changed its own.
    pub(crate) fn complete(&self, mut orders: Orders) -> Orders {
        if let Ok(here) = env::current_dir()
            && here != self.directory
        {
            let dir = orders.current_dir.take();
            orders.current_dir = Some(dir.map_or_else(|| here.clone(), |dir| here.join(dir)));
        }
        orders
    }

    /// Has the zygote tell how a child ends and what it had used, which the kernel does not remember.
    pub(crate) fn watch(&self, &Parked { pid, number, .. }: &Parked) {
        self.state.lock().ended.entry(number).or_insert(None);
        // If the zygote is dead, nobody can tell.
        let _ = control::send(self.control.as_fd(), &Order::Watch { pid, number }, &[]);
    }

    /// How a child of the zygote ended; `None` while it runs. `watched` says whether the zygote was
    /// asked to [tell](Self::watch).
    pub(crate) fn try_reap(
        &self,
        pid: u32,
        number: u64,
        pidfd: &Pidfd,
        watched: bool,
    ) -> io::Result<Option<Ended>> {
        if !pidfd.wait(Some(Deadline::now()))? {
            return Ok(None);
        }
        // It has ended; that it is reaped, or told, follows at once, unless the zygote is stopped or dead.
        let (mut recorded, mut told) = (None, None);
        if self.keeps_status {
            recorded = self.recorded_status(pid, pidfd)?;
        }
        if watched || !self.keeps_status {
            let until = if self.keeps_status {
                Deadline::now()
            } else {
                Deadline::after(PATIENCE)
            };
            let mut state = self.state.lock();
            told = self.until(&mut state, Some(until), |state| {
                *state.ended.get(&number)?
            })?;
            state.ended.remove(&number);
        }
        self.replenish();
        Ok(Some(told.unwrap_or(Ended {
            status: recorded,
            peak_rss: None,
        })))
    }

    /// How a child ended, as the kernel remembers it from when it was reaped: by the zygote at once.
    ///
    /// A child that outlived its zygote is reaped when `init` gets round to it, which may be seconds
    /// later; until then it can be looked at.
    fn recorded_status(&self, pid: u32, pidfd: &Pidfd) -> io::Result<Option<ExitStatus>> {
        let waker = |pidfd: &Pidfd, events| libc::pollfd {
            fd: pidfd.as_fd().as_raw_fd(),
            events,
            revents: 0,
        };
        let mut wakers = [waker(pidfd, 0), waker(&self.zygote, libc::POLLIN)]; // reaped, ended
        fd::poll(&mut wakers, Some(Deadline::after(PATIENCE)))?;
        let known = pidfd
            .recorded_status()
            .or_else(|| pidfd.unreaped_status(pid));
        if known.is_some() {
            return Ok(known);
        }
        // Reaped just now, or not ours to look at.
        pidfd.wait_reaped(Deadline::after(ORPHANS_PATIENCE))?;
        Ok(pidfd.recorded_status())
    }

    /// Waits until `found` finds something; `None` once the deadline has passed or the zygote is dead.
    fn until<T>(
        &self,
        state: &mut MutexGuard<'_, State>,
        deadline: Option<Deadline>,
        mut found: impl FnMut(&mut State) -> Option<T>,
    ) -> io::Result<Option<T>> {
        loop {
            if let Some(found) = found(state) {
                return Ok(Some(found));
            }
            if !state.reading {
                self.read(state);
            }
            if let Some(found) = found(state) {
                return Ok(Some(found));
            }
            if state.gone || deadline.is_some_and(Deadline::is_over) {
                return Ok(None);
            }
            if state.reading {
                match deadline {
                    None => self.news.wait(state),
                    Some(deadline) => drop(self.news.wait_for(state, deadline.remaining())),
                }
                continue;
            }
            state.reading = true;
            let waited = MutexGuard::unlocked(state, || {
                fd::poll_one(self.control.as_fd(), libc::POLLIN, deadline)
            });
            state.reading = false;
            self.read(state);
            self.news.notify_all();
            waited?;
        }
    }

    /// Notes what the zygote has sent. Not while another thread waits at the socket: it would not
    /// learn of it.
    fn read(&self, state: &mut State) {
        while !state.gone {
            match control::receive(self.control.as_fd()) {
                Ok(Some((news, fds))) => {
                    if let News::Parked { number, .. } = news
                        && !self.keeps_status
                    {
                        state.ended.insert(number, None);
                    }
                    state.note(news, fds);
                }
                Ok(None) => state.gone = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // No room for the descriptors of a child, which now ends by itself.
                Err(error) => state.refuse(error),
            }
        }
    }
}

/// Waits for a zygote's first word: whether the kernel keeps the status of what it reaps.
fn await_ready(control: BorrowedFd<'_>) -> io::Result<bool> {
    fd::poll_one(control, libc::POLLIN, None)?;
    match control::receive(control)? {
        Some((News::Ready { keeps_status }, _)) => Ok(keeps_status),
        Some((News::Threaded { threads }, _)) => Err(io::Error::other(format!(
            "the fork server has {threads} threads already where it begins, and a fork copies only \
             one: start threads after `init()`, or use `StartMethod::Spawn`"
        ))),
        _ => Err(io::Error::other(
            "the fork server ended before it was ready",
        )),
    }
}

impl State {
    fn note(&mut self, news: News, fds: Vec<OwnedFd>) {
        match news {
            News::Parked { pid, number } => {
                let Ok([line, pidfd]) = <[OwnedFd; 2]>::try_from(fds) else {
                    return self.refuse(io::ErrorKind::InvalidData.into());
                };
                self.answer();
                let (pidfd, line) = (pidfd.into(), line.into());
                let parked = Parked {
                    pid,
                    number,
                    pidfd,
                    line,
                };
                self.parked.push_back(parked);
            }
            News::Refused { errno } => self.refuse(io::Error::from_raw_os_error(errno)),
            News::Ended {
                number,
                status,
                peak_rss,
            } => {
                let status = Some(ExitStatus::from_raw(status));
                if let Some(ended) = self.ended.get_mut(&number) {
                    *ended = Some(Ended { status, peak_rss });
                }
            }
            News::Ready { .. } | News::Threaded { .. } => {} // only ever the first
        }
    }

    fn refuse(&mut self, error: io::Error) {
        if let Some(number) = self.answer()
            && self.waiting > 0
        {
            self.refused.push_back((number, error));
        }
    }

    /// Why an order was refused that was made since there were `since` of them.
    fn take_refusal(&mut self, since: u64) -> Option<io::Error> {
        let index = self
            .refused
            .iter()
            .position(|(number, _)| *number >= since)?;
        self.refused.remove(index).map(|(_, error)| error)
    }

    /// Notes an answer; the number of its order, if there was one.
    fn answer(&mut self) -> Option<u64> {
        let number = Some(self.answered).filter(|number| *number < self.ordered)?;
        self.answered += 1;
        Some(number)
    }

    /// How many answers are still to come.
    fn outstanding(&self) -> u64 {
        self.ordered - self.answered
    }
}

impl Parked {
    fn has_ended(&self) -> io::Result<bool> {
        self.pidfd.wait(Some(Deadline::now()))
    }
}
