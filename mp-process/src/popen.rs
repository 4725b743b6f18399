//! The ways of making a process. Each is one function; everything before and after is common.
//!
//! ```text
//! Process::start        checks                                                    (this module)
//!   └─ spawn            executes /proc/self/exe with an end of a socket pair as descriptor 3
//!   └─ forkserver       takes a child that the zygote has forked, and that waits at its socket
//!   └─ fork             forks here, with an end of a socket pair open
//! bootstrap             the child's half: reads the prelude, calls the function, reports
//! ```
//!
//! What a new process does to itself before anything of the program runs in it is a [`Setup`]. An
//! executed child is set up before it executes; the others get their [`Orders`] at the socket, and
//! answer. Then comes the prelude, with the function and its arguments. No child runs anything of
//! the program before this process holds its pidfd.

pub(crate) mod control;
pub(crate) mod fork;
pub(crate) mod forkserver;
pub(crate) mod setup;
pub(crate) mod spawn;
pub(crate) mod zygote;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use mp_core::{
    authkey, codec,
    fd::{self, SockKind, socketpair},
    transfer::{self, Outgoing},
};
use nix::libc;

use crate::{
    bootstrap::{self, Prelude},
    child::{self, Child, NewChild},
    current::{self, Current},
    error::{StartError, Step},
    exit,
    image::Image,
    init::{self, Launch},
    options::Options,
    outcome::Job,
    pidfd::{self, Ended, Pidfd, Scope},
    private_fd::{PrivateFd, above_streams},
    start_method::{StartMethod, start_method},
    wire,
};

pub(crate) use self::{
    fork::MayFork,
    setup::{Orders, Setup},
};
use self::{
    fork::{Forked, NotForked},
    forkserver::{Parked, Server},
};

/// What a start method returns.
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) pidfd: Pidfd,
    pub(crate) source: StatusSource,
}

/// Where the exit status of a child comes from.
#[derive(Debug)]
pub(crate) enum StatusSource {
    /// The kernel: the child is ours to wait for.
    Kernel {
        /// A peak that is not above this may be ours: until it executes, a child is resident in our
        /// memory, and the kernel counts that as its own.
        borrowed_peak: u64,
    },
    /// The fork server: the child is its own.
    Server {
        server: Arc<Server>,
        pid: u32,
        number: u64,
        watched: bool,
    },
}

impl StatusSource {
    /// How the process behind `pidfd` ended; `None` while it runs.
    pub(crate) fn try_reap(&self, pidfd: &Pidfd) -> io::Result<Option<Ended>> {
        match self {
            Self::Kernel { borrowed_peak } => Ok(pidfd.try_reap()?.map(|ended| Ended {
                peak_rss: ended.peak_rss.filter(|peak| peak > borrowed_peak),
                ..ended
            })),
            Self::Server {
                server,
                pid,
                number,
                watched,
            } => server.try_reap(*pid, *number, pidfd, *watched),
        }
    }
}

/// Why a start method made no process.
pub(crate) type Failure = (Step, io::Error);

/// Starts a child that does `job`. `may_fork` is asked for by [`StartMethod::Fork`]; `None` looks
/// for threads.
pub(crate) fn start(
    job: Box<dyn Job + '_>,
    options: Options,
    may_fork: Option<MayFork>,
) -> Result<Child, StartError> {
    let parent = current::current_process();
    if parent.is_daemon() {
        return Err(StartError::Daemon {
            name: options.name,
            parent: parent.name().to_owned(),
        });
    }
    child::reap_abandoned();
    exit::install();
    let method = options.start_method.unwrap_or_else(start_method);
    let start = Start {
        options,
        parent,
        method,
    };
    let environment = start.options.check_environment();
    environment.map_err(|error| start.failed((Step::Environment, error)))?;
    match method {
        StartMethod::Spawn => start.spawn(&*job),
        StartMethod::ForkServer => start.fork_by_server(&*job),
        StartMethod::Fork => start.fork(job, may_fork),
    }
}

/// A socket pair that never carries data: the child is [killed](crate::life) when our end closes.
struct LifeSocket {
    ours: PrivateFd,
    theirs: OwnedFd,
}

/// One start.
struct Start {
    options: Options,
    parent: Current,
    method: StartMethod,
}

impl Start {
    fn spawn(self, job: &dyn Job) -> Result<Child, StartError> {
        let launch = init::launch(&self.options)?;
        let (ours, theirs) = channel().map_err(|failure| self.failed(failure))?;
        let setup = Orders::new(&self.options, launch.hides_stdout()).and_then(Setup::try_from);
        let setup = setup.map_err(|failure| self.failed(failure))?;
        let life = self.life_socket()?;
        // Before the process exists, so that it never waits for its parent.
        let outgoing = self.send_prelude(ours.as_fd(), job, &launch, life.as_ref())?;
        let started = spawn::start(&setup, &launch, &theirs);
        let mut started = started.map_err(|failure| self.failed(failure))?;
        if self.options.memory_limit().is_some() {
            // Now that the child has given our memory back. Where our peak is unknown, so is the child's.
            let borrowed_peak = pidfd::own_peak_rss().unwrap_or(u64::MAX);
            started.source = StatusSource::Kernel { borrowed_peak };
        }
        outgoing.commit();
        Ok(self.register(started, ours, life.map(|life| life.ours)))
    }

    fn fork_by_server(self, job: &dyn Job) -> Result<Child, StartError> {
        /// After so many children that something killed while they waited, there is no point.
        const TRIES: u32 = 3;
        let launch = init::launch(&self.options)?;
        let watched = self.options.memory_limit().is_some();
        let mut tries = 1;
        loop {
            let life = self.life_socket()?;
            let (server, parked) =
                forkserver::take(&launch).map_err(|failure| self.failed(failure))?;
            let prepared = self.prepare_parked(job, &launch, &server, &parked, life.as_ref());
            server.replenish_if_empty();
            let Parked {
                pid,
                number,
                pidfd,
                line,
            } = parked;
            let source = StatusSource::Server {
                server,
                pid,
                number,
                watched,
            };
            let started = Started { pid, pidfd, source };
            match prepared {
                Ok(outgoing) => {
                    outgoing.commit();
                    return Ok(self.register(started, line, life.map(|life| life.ours)));
                }
                Err(error) => {
                    started.undo();
                    if tries == TRIES || !error.is_of_a_dead_child() {
                        return Err(error);
                    }
                    tries += 1;
                }
            }
        }
    }

    fn prepare_parked(
        &self,
        job: &dyn Job,
        launch: &Launch,
        server: &Server,
        parked: &Parked,
        life: Option<&LifeSocket>,
    ) -> Result<Outgoing, StartError> {
        let orders = Orders::new(&self.options, launch.hides_stdout());
        let orders = orders.map_err(|failure| self.failed(failure))?;
        let mut orders = server.complete(orders);
        let passed = orders.pass_stdin();
        passed.map_err(|failure| self.failed(failure))?;
        if launch.hides_stdout() {
            orders.keep_stdout(); // hidden already
        }
        let done = orders.carry_out(parked.line.as_fd(), &parked.pidfd);
        done.map_err(|failure| self.failed(failure))?;
        if self.options.memory_limit().is_some() {
            server.watch(parked);
        }
        self.send_prelude(parked.line.as_fd(), job, launch, life)
    }

    fn fork(self, job: Box<dyn Job + '_>, may_fork: Option<MayFork>) -> Result<Child, StartError> {
        let may_fork = match may_fork {
            Some(may_fork) => may_fork,
            None => match MayFork::unless_threads() {
                Ok(may_fork) => may_fork,
                Err(NotForked::Threads(threads)) => {
                    return Err(StartError::Threads {
                        name: self.options.name,
                        threads,
                    });
                }
                Err(NotForked::System(error)) => return Err(self.failed((Step::Process, error))),
            },
        };
        let (ours, theirs) = channel().map_err(|failure| self.failed(failure))?;
        let orders = Orders::new(&self.options, false).map_err(|failure| self.failed(failure))?;
        let plain = orders.is_plain();
        let setup = Setup::try_from(orders).map_err(|failure| self.failed(failure))?;
        let identity = self.options.identity(&self.parent, self.method);
        let life = self.life_socket()?;
        let forked = fork::fork(may_fork).map_err(|failure| self.failed(failure))?;
        let Forked::Parent(started) = forked else {
            let life = life.map(|life| life.theirs);
            bootstrap::run_forked(theirs, life, identity, &setup, !plain, job)
        };
        drop(theirs);
        let life = life.map(|life| life.ours);
        let sent = wire::send(ours.as_fd(), wire::PRELUDE, &[], &[]);
        let begun = match sent {
            Ok(()) if plain => Ok(()),
            Ok(()) => setup::answer(ours.as_fd(), &started.pidfd),
            Err(error) => Err((Step::Arguments, error)),
        };
        match begun {
            Ok(()) => Ok(self.register(started, ours, life)),
            Err(failure) => {
                started.undo();
                Err(self.failed(failure))
            }
        }
    }

    /// What tells the child that this process is gone, if it is to end then.
    ///
    /// Not the bootstrap socket: its data, too, would be told to the child, and whoever sends data
    /// may be held up between its arrival and the telling.
    fn life_socket(&self) -> Result<Option<LifeSocket>, StartError> {
        if !self.options.daemon && !self.options.end_with_parent {
            return Ok(None);
        }
        let (ours, theirs) = channel().map_err(|failure| self.failed(failure))?;
        Ok(Some(LifeSocket { ours, theirs }))
    }

    /// Puts function and arguments into the bootstrap socket.
    fn send_prelude(
        &self,
        line: BorrowedFd<'_>,
        job: &dyn Job,
        launch: &Launch,
        life: Option<&LifeSocket>,
    ) -> Result<Outgoing, StartError> {
        let target = job.address().map_err(|source| StartError::Target {
            name: self.options.name.clone(),
            source,
        })?;
        let prelude = Prelude {
            build: Image::main().build(),
            target,
            identity: self.options.identity(&self.parent, self.method),
            launch: launch.for_child(),
        };
        codec::with_buffer(|body| {
            body.reserve(wire::INLINE); // what grows leaves a copy behind
            let mut secret = 0; // how much of it holds the key
            let (encoded, outgoing) = transfer::collect(|| {
                codec::encode_into(&prelude, body)?;
                secret = body.len();
                job.encode(body)
            });
            let fds: Vec<_> = launch
                .fds()
                .into_iter()
                .chain(life.map(|life| life.theirs.as_fd()))
                .chain(outgoing.fds().iter().map(AsFd::as_fd))
                .collect();
            let sent = encoded.map(|()| wire::send(line, wire::PRELUDE, body, &fds));
            authkey::wipe(&mut body[..secret]); // this thread keeps the buffer
            sent.map_err(|source| StartError::Encode {
                name: self.options.name.clone(),
                source,
            })?
            .map_err(|error| self.failed((Step::Arguments, error)))?;
            Ok(outgoing)
        })
    }

    fn failed(&self, (step, source): Failure) -> StartError {
        StartError::System {
            name: self.options.name.clone(),
            step,
            source: match (step, source.kind()) {
                (Step::Process, io::ErrorKind::WouldBlock) => io::Error::other(
                    "its user may have no more processes (RLIMIT_NPROC, `ulimit -u`), or there are \
                     no more in its cgroup or in the system",
                ),
                _ => fd::explain(source),
            },
        }
    }

    fn register(self, started: Started, line: PrivateFd, life: Option<PrivateFd>) -> Child {
        Child::register(NewChild {
            pid: started.pid,
            pidfd: started.pidfd,
            source: started.source,
            line,
            life,
            daemon: self.options.daemon,
            memory_limit: self.options.memory_limit(),
            name: self.options.name,
        })
    }
}

impl Started {
    /// Ends and reaps a child that was not to be.
    fn undo(self) {
        let _ = self.pidfd.signal(libc::SIGKILL, Scope::Process);
        match self.source {
            StatusSource::Kernel { .. } => self.pidfd.reap(),
            // It is the server's to reap; what is told of it is forgotten.
            StatusSource::Server { .. } => {
                let _ = self.pidfd.wait(None);
                let _ = self.source.try_reap(&self.pidfd);
            }
        }
    }
}

/// A socket pair: our end, which no forked child of this process gets, and the child's.
fn channel() -> Result<(PrivateFd, OwnedFd), Failure> {
    let pair = socketpair(SockKind::SeqPacket).map_err(|error| (Step::Channel, error))?;
    Ok((pair.0.into(), above_streams(pair.1)))
}
