//! The child's half of a start: from the first line of `main` to the exit. The other half is
//! [`crate::popen`].

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::Arc,
};

use mp_core::{
    authkey::{self, AuthKey},
    codec::{self, Bytes},
    fd::{SockKind, socketpair},
    hooks,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    child, current, exit,
    image::Image,
    init::{self, LaunchPart},
    life, log,
    outcome::{self, Call, ChildFn, Input, Job, Outcome, PanicReport, Report},
    popen::{Setup, fork, setup, zygote},
    start_method::{StartMethod, set_start_method},
    target::Address,
    wire::{self, Message},
};

/// The environment variable that marks a child: the number of its end of the bootstrap socket.
///
/// It is believed only if that descriptor is such a socket, and removed at once, so that programs
/// which the child starts do not inherit it.
pub(crate) const MP_BOOTSTRAP: &str = "MP_BOOTSTRAP";

/// What a child that was executed has to know. The encoded arguments follow.
#[derive(Serialize, Deserialize)]
pub(crate) struct Prelude {
    /// [`Image::build`] of the parent.
    pub(crate) build: u64,
    pub(crate) target: Address,
    pub(crate) identity: Identity,
    pub(crate) launch: LaunchPart,
}

/// Who a child is.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) path: Vec<u32>,
    pub(crate) daemon: bool,
    pub(crate) end_with_parent: bool,
    pub(crate) quiet_panics: bool,
    pub(crate) start_method: StartMethod,
    pub(crate) parent_name: String,
    pub(crate) parent_pid: u32,
    pub(crate) authkey: TravellingKey,
    /// [`log::stored`] of the parent.
    pub(crate) log_level: u8,
    pub(crate) clear_environment: bool,
    pub(crate) environment: Vec<(Bytes, Option<Bytes>)>,
}

/// The key on its way to a child, and only there: it has no encoding of its own.
pub(crate) struct TravellingKey(pub(crate) AuthKey);

/// For [`rehearse`]: no key.
impl Default for TravellingKey {
    fn default() -> Self {
        Self(AuthKey::new([]))
    }
}

impl Serialize for TravellingKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.as_bytes())
    }
}

impl<'de> Deserialize<'de> for TravellingKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        Ok(Self(AuthKey::new(bytes.into_vec())))
    }
}

/// Becomes the child that the message on `line` describes, and ends as it.
pub(crate) fn run(line: OwnedFd, message: Message) -> ! {
    let line = Arc::new(line);
    let outcome = match begin(&line, message) {
        Ok((call, input)) => call(input),
        Err(outcome) => outcome,
    };
    exit::leave(outcome.tell(line.as_fd()))
}

fn begin(line: &Arc<OwnedFd>, message: Message) -> Result<(ChildFn, Input), Outcome> {
    let refused = |reason| Outcome::Bootstrap { reason };
    let (prelude, mut input) = open(message).map_err(refused)?;
    prelude.launch.restore(&mut input.fds);
    let has_life = prelude.identity.end_with_parent && !input.fds.is_empty();
    let life = has_life.then(|| input.fds.remove(0));
    enter(prelude.identity, line, life)?;
    let call = resolve(prelude.build, &prelude.target).map_err(refused)?;
    Ok((call, input))
}

fn open(message: Message) -> Result<(Prelude, Input), String> {
    let Message { mut body, fds } = message;
    let (prelude, rest) =
        codec::decode_prefix::<Prelude>(&body).map_err(|error| error.to_string())?;
    let start = body.len() - rest.len();
    authkey::wipe(&mut body[..start]); // it stays until the arguments are decoded, and in freed memory
    Ok((prelude, Input { body, start, fds }))
}

fn resolve(build: u64, target: &Address) -> Result<ChildFn, String> {
    if build != Image::main().build() {
        return Err(
            "the program that was executed is another build than its parent; children have to be \
             started from the same executable"
                .to_owned(),
        );
    }
    target
        .resolve::<ChildFn>()
        .map_err(|error| error.to_string())
}

/// Does once, to no effect, what a child does from its message to its end, so that whatever memory
/// this takes is there before somebody waits for it.
///
/// `None` if something is missing for it; the child will see that for itself.
pub(crate) fn rehearse() -> Option<()> {
    let (ours, theirs) = socketpair(SockKind::SeqPacket).ok()?;
    let job = Call {
        target: || (),
        args: (),
    };
    let prelude = Prelude {
        build: Image::main().build(),
        target: job.address().ok()?,
        identity: Identity::default(),
        launch: LaunchPart::default(),
    };
    let mut body = Vec::new();
    codec::encode_into(&prelude, &mut body).ok()?;
    wire::send(ours.as_fd(), wire::PRELUDE, &body, &[]).ok()?;
    let (prelude, input) = open(wire::receive(theirs.as_fd(), wire::PRELUDE).ok()??).ok()?;
    let call = resolve(prelude.build, &prelude.target).ok()?;
    std::panic::set_hook(std::panic::take_hook());
    call(input).tell(theirs.as_fd());
    hooks::at_exit(0, || ()).cancel();
    fork::flush();
    Some(())
}

/// What every child does before its function, whichever way it was made.
///
/// Much of it is the program's, which may panic: that ends the child as one of its function does. In
/// one that was forked it would unwind into a copy of the code that started it.
fn enter(identity: Identity, line: &Arc<OwnedFd>, life: Option<OwnedFd>) -> Result<(), Outcome> {
    let line = line.clone();
    outcome::catch(|| assume(identity, line, life)).map_err(Outcome::Panic)
}

fn assume(mut identity: Identity, line: Arc<OwnedFd>, life: Option<OwnedFd>) {
    let quiet_panics = identity.quiet_panics;
    outcome::install_panic_hook(quiet_panics);
    if let Some(life) = life {
        life::end_with_peer(life);
    }
    log::inherit(identity.log_level);
    set_start_method(identity.start_method);
    setup::set_name(&identity.name);
    let clear = identity.clear_environment;
    let environment = std::mem::take(&mut identity.environment);
    current::become_child(identity, line);
    apply_environment(clear, &environment);
    init::run_hook();
    log::show(); // unless the hook has installed a subscriber of the program's own
    // Again, around the one that the program's hook may have set.
    outcome::install_panic_hook(quiet_panics);
}

fn apply_environment(clear: bool, changes: &[(Bytes, Option<Bytes>)]) {
    if clear {
        for (name, _) in std::env::vars_os() {
            init::set_env(&name, None);
        }
    }
    for (name, value) in changes {
        let value = value.as_ref().map(|value| OsStr::from_bytes(value));
        init::set_env(OsStr::from_bytes(name), value);
    }
}

/// In a program that aborts on panic, from the hook: nothing else will run.
pub(crate) fn report_before_abort(report: &PanicReport) {
    if let Some(line) = current::current_process().parent_line() {
        let report = Report::Panic(report.clone());
        let _ = outcome::send(line.as_fd(), &report, &[], &Default::default());
    }
}

/// The message that waits on the descriptor that [`MP_BOOTSTRAP`] names, if that is ours.
///
/// A process that is to be a fork server stays in here; it is its children that come out. A child that
/// cannot take its message tells so, and ends in here.
pub(crate) fn take() -> Option<(OwnedFd, Message)> {
    let (mut line, first) = init::take_line()?;
    if first == wire::ZYGOTE {
        line = zygote::serve(line);
    }
    // It had to outlive one exec; the programs that this child starts must not get it.
    let _ = fcntl(&line, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)); // cannot fail: it is open
    // Who has come so far is a child, and must never go on as the program.
    let reason = match wire::receive(line.as_fd(), wire::PRELUDE) {
        Ok(Some(message)) => return Some((line, message)),
        Ok(None) => "what it was given did not arrive".to_owned(),
        Err(error) => error.to_string(),
    };
    exit::leave(Outcome::Bootstrap { reason }.tell(line.as_fd()))
}

/// Becomes the child that does `job`, in a process that was forked from its parent just now.
///
/// `setup` is what it has to be told of; otherwise its input is closed, and nobody waits to know.
pub(crate) fn run_forked(
    line: OwnedFd,
    life: Option<OwnedFd>,
    identity: Identity,
    setup: &Setup,
    answers: bool,
    job: Box<dyn Job + '_>,
) -> ! {
    let begun = fork::begin(line.as_fd(), setup, answers);
    child::forget_all();
    let line = Arc::new(line);
    let begun = begun.map_err(|error| Outcome::Bootstrap {
        reason: error.to_string(),
    });
    let outcome = match begun.and_then(|()| enter(identity, &line, life)) {
        Ok(()) => job.call(),
        Err(outcome) => outcome,
    };
    exit::leave(outcome.tell(line.as_fd()))
}
