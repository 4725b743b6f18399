//! The ways of making a process. Each is one function; everything before and after is common.
//!
//! ```text
//! Process::start        checks, socket pair, writes the prelude into its own end  (this module)
//!   └─ spawn            executes /proc/self/exe with the other end as descriptor 3
//!   └─ forkserver       hands the other end to the zygote, which forks
//!   └─ fork             forks here, with the other end open
//! bootstrap             the child's half: reads the prelude, calls the function, reports
//! ```
//!
//! A start method gets a [`Setup`] (what the new process does to itself before anything of the
//! program runs in it) and the child's end of the bootstrap socket, in which the prelude already
//! waits. It returns a [`Started`]: the pid, the pidfd, and where the exit status will come from.
//! The prelude is sent before the process exists, so a child never waits for its parent; that
//! the parent holds the pidfd before anything can reap the child is up to the start method.

pub(crate) mod setup;
pub(crate) mod spawn;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use mp_core::{
    codec,
    fd::{SockKind, socketpair},
    transfer,
};

use crate::{
    bootstrap::Prelude,
    child::{self, Child, NewChild},
    current,
    error::{StartError, Step},
    exit,
    image::Image,
    init,
    options::Options,
    outcome::Job,
    pidfd::{Ended, Pidfd},
    wire,
};

pub(crate) use self::setup::Setup;

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
    Kernel,
}

impl StatusSource {
    /// How the process behind `pidfd` ended; `None` while it runs.
    pub(crate) fn try_reap(&self, pidfd: &Pidfd) -> io::Result<Option<Ended>> {
        match self {
            Self::Kernel => pidfd.try_reap(),
        }
    }
}

/// Why a start method made no process.
pub(crate) type Failure = (Step, io::Error);

/// Starts a child that does `job`.
pub(crate) fn start(job: Box<dyn Job>, options: Options) -> Result<Child, StartError> {
    let launch = init::launch(&options)?;
    let parent = current::current_process();
    if parent.is_daemon() {
        return Err(StartError::Daemon {
            name: options.name,
            parent: parent.name().to_owned(),
        });
    }
    child::reap_abandoned();
    exit::install();

    let system = |(step, source)| StartError::System {
        name: options.name.clone(),
        step,
        source,
    };
    let (ours, theirs) =
        socketpair(SockKind::SeqPacket).map_err(|error| system((Step::Channel, error)))?;
    let setup = Setup::new(&options, &launch).map_err(system)?;

    let target = job.address().map_err(|source| StartError::Target {
        name: options.name.clone(),
        source,
    })?;
    let prelude = Prelude {
        build: Image::main().build(),
        target,
        identity: options.identity(&parent),
        launch: launch.for_child(),
    };
    let outgoing = codec::with_buffer(|body| {
        let (encoded, outgoing) = transfer::collect(|| {
            codec::encode_into(&prelude, body)?;
            job.encode(body)
        });
        encoded.map_err(|source| StartError::Encode {
            name: options.name.clone(),
            source,
        })?;
        let fds: Vec<_> = launch
            .fds()
            .into_iter()
            .chain(outgoing.fds().iter().map(AsFd::as_fd))
            .collect();
        wire::send(ours.as_fd(), wire::PRELUDE, body, &fds)
            .map_err(|error| system((Step::Arguments, error)))?;
        Ok::<_, StartError>(outgoing)
    })?;
    let started = spawn::start(&setup, &theirs).map_err(system)?;
    outgoing.commit();
    Ok(register(started, ours, options))
}

fn register(started: Started, line: OwnedFd, options: Options) -> Child {
    Child::register(NewChild {
        pid: started.pid,
        pidfd: started.pidfd,
        source: started.source,
        line,
        daemon: options.daemon,
        memory_limit: options.memory_limit(),
        name: options.name,
    })
}
