//! Where children begin: `init()` at the top of `main`, `init_in_tests!` in a test file.
#![allow(unsafe_code)] // takes over descriptors and the environment at the start of a child

use std::{
    ffi::{CString, OsStr, c_char, c_int, c_void},
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
    sync::{Arc, OnceLock},
};

use mp_core::primitive::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, Ordering};
use nix::{
    libc,
    sys::socket::{SockType, getsockopt, sockopt},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    bootstrap::{self, MP_BOOTSTRAP},
    error::NotInitialized,
    image::Image,
    options::{Options, Stdio},
    wire::{self, Magic},
};

/// Whether children can be started, and why not.
static STATE: AtomicU8 = AtomicU8::new(MISSING);
const MISSING: u8 = 0;
const IN_MAIN: u8 = 1;
const IN_TEST: u8 = 2;
const IN_THREAD: u8 = 3;
const IN_SHARED_LIBRARY: u8 = 4;

type Hook = Arc<dyn Fn() + Send + Sync>;

/// What [`init_with`] was given.
static HOOK: Mutex<Option<Hook>> = Mutex::new(None);

/// Has to be called first in `main`: it is where child processes begin.
///
/// In a process that the user started it only notes that children may be started. In a child it
/// takes the child's function, runs it, tells the parent what it returned, and exits: nothing after
/// it runs in a child, and what comes before it runs in every child again.
///
/// In a test binary, whose `main` is not yours, use [`init_in_tests!`](crate::init_in_tests).
///
/// ```
/// fn main() {
///     mp_process::init();
///     let child = mp_process::Process::new(|a: u32, b: u32| a + b, (40, 2)).start().unwrap();
///     assert_eq!(child.join().unwrap(), 42);
/// }
/// ```
#[doc(alias = "freeze_support")]
#[allow(clippy::needless_doctest_main, reason = "where in `main` is the point")]
pub fn init() {
    init_with(|| ());
}

/// As [`init`], and runs `hook` in this process and first of all in every child: to set up logging,
/// say.
///
/// A child that is made by [`StartMethod::Fork`](crate::StartMethod::Fork) is a copy of a process in
/// which it has run already. Where it panics, the child does not run its function, and `join` tells
/// the panic.
pub fn init_with(hook: impl Fn() + Send + Sync + 'static) {
    *HOOK.lock() = Some(Arc::new(hook));
    if let Some((line, message)) = bootstrap::take() {
        STATE.store(IN_MAIN, Ordering::Relaxed); // read by threads that are yet to be started
        bootstrap::run(line, message);
    }
    note();
    run_hook();
}

/// Notes that children may be started from here on, or why not.
fn note() {
    let here = init as fn() as usize;
    let state = if Image::main().offset_of(here, 1).is_none() {
        IN_SHARED_LIBRARY
    } else if nix::unistd::gettid() != nix::unistd::getpid() {
        IN_THREAD
    } else {
        IN_MAIN
    };
    // A test file's own entry is better than a call in one of its threads.
    let _ = STATE.try_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
        (before != IN_TEST && before != IN_MAIN).then_some(state)
    });
}

pub(crate) fn run_hook() {
    let hook = HOOK.lock().clone();
    if let Some(hook) = hook {
        hook();
    }
}

/// Takes the bootstrap socket out of the environment, if this process is a child; and what kind of
/// message waits there.
pub(crate) fn take_line() -> Option<(OwnedFd, Magic)> {
    let value = std::env::var_os(MP_BOOTSTRAP)?;
    set_env(OsStr::new(MP_BOOTSTRAP), None);
    let fd: RawFd = value.to_str()?.parse().ok()?;
    let first = first_message(fd)?;
    // SAFETY: it is the socket that our parent made for us: nobody else in this process, which
    // has just begun, knows of it.
    Some((unsafe { OwnedFd::from_raw_fd(fd) }, first))
}

/// What kind of message waits at `fd`, if that is a socket of ours. Nothing is taken from it.
fn first_message(fd: RawFd) -> Option<Magic> {
    if fd <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: only asks about the number; one that is not open is an error.
    let line = unsafe { BorrowedFd::borrow_raw(fd) };
    let Ok(SockType::SeqPacket) = getsockopt(&line, sockopt::SockType) else {
        return None;
    };
    wire::peek(line).filter(|magic| [wire::PRELUDE, wire::ZYGOTE].contains(magic))
}

/// Sets or removes a variable of the environment, at the beginning of a child.
pub(crate) fn set_env(name: &OsStr, value: Option<&OsStr>) {
    match value {
        // SAFETY: no other thread of this child reads the environment yet.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}

/// What is executed to make a child.
static EXECUTABLE: Mutex<Option<Arc<CString>>> = Mutex::new(None);

/// Executes `path` to make children, instead of `/proc/self/exe`.
///
/// It has to be the same build as this program, a copy at a place where it may be executed, say;
/// otherwise children end with [`ExitError::Bootstrap`](crate::ExitError::Bootstrap).
///
/// # Errors
///
/// A path with a NUL byte in it.
pub fn set_executable(path: impl AsRef<Path>) -> std::io::Result<()> {
    let path = CString::new(path.as_ref().as_os_str().as_bytes())?;
    *EXECUTABLE.lock() = Some(Arc::new(path));
    Ok(())
}

/// How the next child is executed.
#[derive(Clone)]
pub(crate) struct Launch {
    program: Arc<CString>,
    /// In a test binary: the name of the test that children run.
    test: Option<&'static str>,
    /// In a test binary: where the child's standard output goes once libtest has had its say.
    stdout: Option<Arc<OwnedFd>>,
}

/// How to execute a child, if that is possible here.
pub(crate) fn launch(options: &Options) -> Result<Launch, NotInitialized> {
    let test = match STATE.load(Ordering::Relaxed) {
        IN_MAIN => None,
        IN_TEST => TEST.get().copied(),
        IN_THREAD => return Err(NotInitialized::InThread),
        IN_SHARED_LIBRARY => return Err(NotInitialized::InSharedLibrary),
        _ => return Err(NotInitialized::Missing),
    };
    let program = EXECUTABLE
        .lock()
        .clone()
        .unwrap_or_else(|| Arc::new(c"/proc/self/exe".to_owned()));
    let stdout = test.and_then(|_| match &options.stdio[1] {
        Stdio::Null => None,
        Stdio::Inherit => std::io::stdout().as_fd().try_clone_to_owned().ok(),
        Stdio::Fd(file) => file.as_fd().try_clone_to_owned().ok(),
    });
    Ok(Launch {
        program,
        test,
        stdout: stdout.map(Arc::new),
    })
}

impl Launch {
    pub(crate) fn program(&self) -> &CString {
        &self.program
    }

    /// The command line: ours, or in a test binary the one that runs the child's entry.
    pub(crate) fn arguments(&self) -> Vec<Vec<u8>> {
        let mut arguments: Vec<_> = std::env::args_os().map(OsStringExt::into_vec).collect();
        if let Some(test) = self.test {
            let count = arguments.len();
            arguments.truncate(1);
            let entry = [test, "--exact", "--nocapture", "--test-threads=1"];
            arguments.extend(entry.map(|argument| argument.as_bytes().to_vec()));
            // As many as we have, for the child to put ours back: naming a test twice is harmless.
            while arguments.len() < count {
                arguments.push(test.as_bytes().to_vec());
            }
        }
        arguments
    }

    /// libtest prints before the child runs; that must not be seen.
    pub(crate) fn hides_stdout(&self) -> bool {
        self.test.is_some()
    }

    /// What goes along before the descriptors of the arguments.
    pub(crate) fn fds(&self) -> Option<BorrowedFd<'_>> {
        self.stdout.as_ref().map(|fd| fd.as_fd())
    }

    pub(crate) fn for_child(&self) -> LaunchPart {
        LaunchPart {
            stdout: self.stdout.is_some(),
            arguments: self.test.map(|_| {
                std::env::args_os()
                    .map(|argument| argument.into_vec().into())
                    .collect()
            }),
        }
    }
}

/// What a child of a test binary has to put back.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct LaunchPart {
    /// The first descriptor is the standard output.
    stdout: bool,
    arguments: Option<Vec<mp_core::codec::Bytes>>,
}

impl LaunchPart {
    /// Takes what belongs to it out of `fds`.
    pub(crate) fn restore(self, fds: &mut Vec<OwnedFd>) {
        if self.stdout && !fds.is_empty() {
            let _ = std::io::stdout().flush(); // what libtest wrote goes where it cannot be seen
            let _ = nix::unistd::dup2_stdout(fds.remove(0));
        }
        if let Some(arguments) = self.arguments {
            restore_arguments(arguments);
        }
    }
}

/// The name of the test that children of this test binary run.
static TEST: OnceLock<&'static str> = OnceLock::new();
/// A child of a test binary has not come to its entry yet.
static ON_THE_WAY: AtomicBool = AtomicBool::new(false);
/// The command line, as the program was started with.
static ARGC: AtomicI32 = AtomicI32::new(0);
static ARGV: AtomicPtr<*const c_char> = AtomicPtr::new(std::ptr::null_mut());

/// Gives this process the command line of its parent.
fn restore_arguments(arguments: Vec<mp_core::codec::Bytes>) {
    let mut arguments = arguments.into_iter();
    let argv = ARGV.load(Ordering::Relaxed); // written before `main`, in this thread
    for index in 0..usize::try_from(ARGC.load(Ordering::Relaxed)).unwrap_or(0) {
        let argument = arguments
            .next()
            .and_then(|argument| CString::new(argument.into_vec()).ok())
            .map_or(std::ptr::null(), |argument| {
                argument.into_raw().cast_const()
            });
        // SAFETY: the array has ARGC entries and may be written; nobody else reads it meanwhile.
        unsafe { argv.wrapping_add(index).write(argument) };
    }
}

/// Before `main`, from the expansion of [`init_in_tests!`](crate::init_in_tests).
#[doc(hidden)]
pub fn register_test(name: &'static str, argc: c_int, argv: *mut *const c_char) {
    // libtest leaves out the name of the crate.
    let name = name.split_once("::").map_or(name, |(_, rest)| rest);
    if TEST.set(name).is_ok() {
        STATE.store(IN_TEST, Ordering::Relaxed); // before any other thread
    }
    ARGC.store(argc, Ordering::Relaxed);
    ARGV.store(argv, Ordering::Relaxed);
    let line = std::env::var(MP_BOOTSTRAP)
        .ok()
        .and_then(|value| value.parse().ok());
    ON_THE_WAY.store(line.and_then(first_message).is_some(), Ordering::Relaxed);
}

/// The test that children of a test binary run; in any other process it does nothing.
#[doc(hidden)]
pub fn run_test_child() {
    ON_THE_WAY.store(false, Ordering::Relaxed);
    if let Some((line, message)) = bootstrap::take() {
        bootstrap::run(line, message);
    }
}

/// How small a stack a thread may have; std asks before it makes one.
///
/// libtest runs each test in a thread of its own, but where no thread can be made it runs the test
/// in the main thread instead. In a child on its way to its entry, no thread can be made.
#[doc(hidden)]
pub fn min_stack(attributes: *const c_void) -> usize {
    /// More than there are addresses.
    const IMPOSSIBLE: usize = 1 << 47;
    type MinStack = unsafe extern "C" fn(*const c_void) -> usize;
    static NEXT: OnceLock<Option<MinStack>> = OnceLock::new();

    if ON_THE_WAY.load(Ordering::Relaxed) {
        return IMPOSSIBLE;
    }
    let next = NEXT.get_or_init(|| {
        // SAFETY: a name that ends in NUL.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"__pthread_get_minstack".as_ptr()) };
        // SAFETY: null, or glibc's function of this type.
        unsafe { std::mem::transmute::<*mut c_void, Option<MinStack>>(found) }
    });
    match next {
        // SAFETY: passed on as it was given.
        Some(next) => unsafe { next(attributes) },
        None => libc::PTHREAD_STACK_MIN,
    }
}

/// Lets `#[test]` functions start children: one line, once in each test binary. It stands at the top of
/// a file in `tests/`, or behind `#[cfg(test)]` in the crate root for unit tests, in whatever module they
/// are.
///
/// A child of a test begins like a child of a program: in the main thread, after everything that
/// comes before `main` has run, with the arguments of its parent. Its standard output is that of the
/// test binary, which `cargo test` does not capture.
///
/// It defines a symbol by which std asks how small the stack of a thread may be, and through which a
/// child keeps libtest from making threads before it runs. So a second one is an error of the compiler:
/// ``symbol `__pthread_get_minstack` is already defined``.
///
/// The line adds a test with the name `mp_children_begin_here`, which does nothing unless a child
/// runs it. In a test with `harness = false` call [`init`](crate::init) in `main` instead.
///
/// ```no_run
/// // No `main` here: this is a test file.
/// mp_process::init_in_tests!();
///
/// #[test]
/// fn a_child_adds() {
///     let child = mp_process::Process::new(|a: u32, b: u32| a + b, (40, 2)).start().unwrap();
///     assert_eq!(child.join().unwrap(), 42);
/// }
/// ```
#[macro_export]
macro_rules! init_in_tests {
    () => {
        #[test]
        fn mp_children_begin_here() {
            $crate::__private::run_test_child();
        }

        const _: () = {
            extern "C" fn register(
                argc: ::core::ffi::c_int,
                argv: *mut *const ::core::ffi::c_char,
            ) {
                let name = ::core::concat!(::core::module_path!(), "::mp_children_begin_here");
                $crate::__private::register_test(name, argc, argv);
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static REGISTER: extern "C" fn(::core::ffi::c_int, *mut *const ::core::ffi::c_char) =
                register;

            #[unsafe(no_mangle)]
            extern "C" fn __pthread_get_minstack(attributes: *const ::core::ffi::c_void) -> usize {
                $crate::__private::min_stack(attributes)
            }
        };
    };
}
