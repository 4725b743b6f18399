//! The helper process that takes away the names of segments whose owner was killed.
//!
//! It is this program's own executable, run once more: a constructor that runs before `main` finds
//! itself to be the helper, does its work and exits. Nothing else would do: a forked helper would keep
//! the memory of a large parent, and there need not be any other program on a machine.
//!
//! It is nobody's child (made by two forks), in a session of its own, deaf to signals that a
//! terminal or a service manager sends to all, and reads names from a socket until its end. Only the
//! owner holds the other end, so the end of file is the owner's death, whatever killed it.
//!
//! ```text
//! "+INODE NAME"  watch     "-INODE NAME"  forget     one message each: never half of one
//! ```
#![allow(unsafe_code)] // a constructor, and what it does before `main`

use std::{
    env, fs,
    io::{self, ErrorKind, IoSlice},
    mem::ManuallyDrop,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    process::{Command, Stdio},
    sync::{
        Mutex,
        PoisonError,
        atomic::{AtomicBool, Ordering}, // of this process alone
    },
};

use mp_core::{
    fd::{self, Mode, SockKind},
    hooks::{self, ForkClosed, fork_generation},
};
use nix::{
    libc,
    sys::{
        signal::{SigHandler, Signal, signal},
        socket::{SockType, getsockopt, sockopt},
    },
    unistd::{ForkResult, fork, setsid},
};

/// Marks the helper; believed only with a fitting socket as its standard input.
const MARK: &str = "MP_SYNC_TRACKER";
const HELLO: &[u8] = b"mp-sync tracker 1";
/// Longer than any name, and sent in one piece.
const LONGEST: usize = 512;

/// Whether the constructor has run in this process: then it runs in the helper, too.
static READY: AtomicBool = AtomicBool::new(false);
static TRACKER: Mutex<Option<Tracker>> = Mutex::new(None);

/// Our end, which a forked child closes at once: the helper would take it for its owner.
struct Socket {
    fd: ManuallyDrop<OwnedFd>,
    entry: ForkClosed,
}

impl Socket {
    fn new(fd: OwnedFd) -> Self {
        Self {
            entry: hooks::close_after_fork(fd.as_raw_fd()),
            fd: ManuallyDrop::new(fd),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.entry.forget() {
            // SAFETY: taken once, here; not closed by a fork, as `forget` has just told.
            drop(unsafe { ManuallyDrop::take(&mut self.fd) });
        }
    }
}

struct Tracker {
    socket: Socket,
    /// A forked child has a helper of its own: its parent's would not notice its death.
    generation: u64,
    /// What the helper knows, for the next one if somebody kills it.
    watched: Vec<String>,
}

/// Has `name` removed when this process is gone, if it names `inode` then.
pub(crate) fn watch(name: &str, inode: u64) -> io::Result<()> {
    let entry = format!("{inode} {name}");
    let mut tracker = TRACKER.lock().unwrap_or_else(PoisonError::into_inner);
    let watched = match tracker.as_mut() {
        Some(running) if running.generation == fork_generation() => {
            running.watched.push(entry);
            if tell(
                &running.socket,
                '+',
                running.watched.last().expect("just pushed"),
            )
            .is_ok()
            {
                return Ok(());
            }
            std::mem::take(&mut running.watched) // somebody killed it
        }
        _ => vec![entry],
    };
    *tracker = None;
    let socket = start()?;
    for entry in &watched {
        tell(&socket, '+', entry)?;
    }
    *tracker = Some(Tracker {
        socket,
        generation: fork_generation(),
        watched,
    });
    Ok(())
}

/// The name is gone, or is to stay.
pub(crate) fn forget(name: &str, inode: u64) {
    let entry = format!("{inode} {name}");
    let mut tracker = TRACKER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = tracker.as_mut()
        && running.generation == fork_generation()
    {
        running.watched.retain(|watched| *watched != entry);
        let _ = tell(&running.socket, '-', &entry); // a killed helper has nothing to forget
    }
}

fn tell(socket: &Socket, sign: char, entry: &str) -> io::Result<()> {
    let message = format!("{sign}{entry}");
    let parts = [IoSlice::new(message.as_bytes())];
    fd::send(socket.fd.as_fd(), &parts, &[], Mode::Blocking).map(drop)
}

fn start() -> io::Result<Socket> {
    if !READY.load(Ordering::Relaxed) || !in_main_image() {
        return Err(io::Error::new(
            ErrorKind::Unsupported,
            "named shared memory needs mp-sync to be linked into the program itself, not into a \
             library that it loads",
        ));
    }
    let (ours, theirs) = fd::socketpair(SockKind::SeqPacket)?;
    fd::send(ours.as_fd(), &[IoSlice::new(HELLO)], &[], Mode::Blocking)?;
    let mut helper = Command::new("/proc/self/exe")
        .arg0("mp-sync-tracker")
        .env(MARK, "1")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let _ = helper.wait(); // it has forked; another's wait may have been faster
    let ours = Socket::new(ours);
    let mut answer = [0; HELLO.len()];
    let len = fd::recv(
        ours.fd.as_fd(),
        &mut answer,
        &mut Vec::new(),
        Mode::Blocking,
    )?;
    if &answer[..len] != HELLO {
        return Err(io::Error::other(
            "the helper that removes the shared memory of killed processes did not start",
        ));
    }
    Ok(ours)
}

/// Whether this code is part of the executable: `/proc/self/exe` has the constructor, too.
fn in_main_image() -> bool {
    unsafe extern "C" {
        static __executable_start: u8;
        static _end: u8;
    }
    let start = &raw const __executable_start as usize;
    let end = &raw const _end as usize;
    (start..end).contains(&(constructor as *const () as usize))
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    READY.store(true, Ordering::Relaxed);
    if env::var_os(MARK).is_none() {
        return;
    }
    // SAFETY: this early nobody else looks at the environment; programs that this one starts must
    // not take themselves for the helper.
    unsafe { env::remove_var(MARK) };
    // SAFETY: looked at only; if it is not open, the calls say so.
    let stdin = unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) };
    let mut hello = [0; LONGEST];
    let is_ours = getsockopt(&stdin, sockopt::SockType) == Ok(SockType::SeqPacket)
        && matches!(
            fd::recv(stdin, &mut hello, &mut Vec::new(), Mode::NonBlocking),
            Ok(len) if &hello[..len] == HELLO
        );
    if is_ours {
        run(stdin);
    }
}

/// The helper's life.
fn run(socket: BorrowedFd<'_>) -> ! {
    // SAFETY: there is one thread; the parent leaves at once, so that the helper is nobody's child.
    if !matches!(unsafe { fork() }, Ok(ForkResult::Child)) {
        leave();
    }
    let _ = setsid();
    for deaf in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        // SAFETY: no handler is installed.
        let _ = unsafe { signal(deaf, SigHandler::SigIgn) };
    }
    let _ = nix::unistd::chdir("/"); // keep no file system busy
    let _ = nix::sys::prctl::set_name(c"mp-sync-tracker");
    let _ = fd::send(socket, &[IoSlice::new(HELLO)], &[], Mode::Blocking);
    let (mut watched, mut message) = (Vec::<String>::new(), [0; LONGEST]);
    while let Ok(len) = fd::recv(socket, &mut message, &mut Vec::new(), Mode::Blocking)
        && len > 0
    {
        let text = String::from_utf8_lossy(&message[..len]);
        match text.split_at(1) {
            ("+", entry) => watched.push(entry.to_owned()),
            (_, entry) => watched.retain(|watched| watched != entry),
        }
    }
    for (inode, name) in watched.iter().filter_map(|entry| entry.split_once(' ')) {
        let path = format!("/dev/shm/{name}");
        if fs::metadata(&path).is_ok_and(|meta| inode == meta.ino().to_string()) {
            let _ = fs::remove_file(path);
        }
    }
    leave();
}

fn leave() -> ! {
    // SAFETY: ends this process without running what `main` would have registered.
    unsafe { libc::_exit(0) }
}
