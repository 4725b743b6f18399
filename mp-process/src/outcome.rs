//! Calling a function in a child, and what comes of it.

use std::{
    any::Any,
    cell::RefCell,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use mp_core::{
    codec::{self, EncodeError},
    primitive::{AtomicU64, Ordering},
    transfer::{self, Outgoing},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    target::{self, Address, AddressError, Entry, Target},
    wire,
};

/// What a child has to do, as its parent holds it before the start.
pub(crate) trait Job {
    /// How a child that was executed finds the function.
    fn address(&self) -> Result<Address, AddressError>;

    /// Appends the arguments.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Does it, in a process that was forked with it.
    fn call(self: Box<Self>) -> Outcome;
}

/// A target and its arguments.
pub(crate) struct Call<F, A> {
    pub(crate) target: F,
    pub(crate) args: A,
}

impl<F, A> Job for Call<F, A>
where
    F: Target<A>,
    F::Output: Serialize,
    A: Serialize + DeserializeOwned + 'static,
{
    fn address(&self) -> Result<Address, AddressError> {
        Address::of::<CallEntry<F, A>>()
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        codec::encode_into(&self.args, out)
    }

    fn call(self: Box<Self>) -> Outcome {
        let Self { target, args } = *self;
        guard(|| target.call(args))
    }
}

/// A closure with what it captures, for a process that is forked.
pub(crate) struct Closure<F>(pub(crate) F);

impl<F, R> Job for Closure<F>
where
    F: FnOnce() -> R,
    R: Serialize,
{
    fn address(&self) -> Result<Address, AddressError> {
        Err(AddressError::Captures {
            name: std::any::type_name::<F>(),
        })
    }

    fn encode(&self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        Ok(()) // never asked for, without an address
    }

    fn call(self: Box<Self>) -> Outcome {
        guard(self.0)
    }
}

/// The arguments as a child got them.
pub(crate) struct Input {
    /// A message; the arguments begin at `start`.
    pub(crate) body: Vec<u8>,
    pub(crate) start: usize,
    pub(crate) fds: Vec<OwnedFd>,
}

/// The type of function that a child is told to call.
pub(crate) type ChildFn = fn(Input) -> Outcome;

/// Names "decode an `A`, call an `F` with it" to a child.
struct CallEntry<F, A>(PhantomData<(F, A)>);

impl<F, A> Entry for CallEntry<F, A>
where
    F: Target<A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    type Call = ChildFn;
    const CALL: ChildFn = decode_and_call::<F, A>;
}

fn decode_and_call<F, A>(input: Input) -> Outcome
where
    F: Target<A>,
    F::Output: Serialize,
    A: DeserializeOwned,
{
    let Input { body, start, fds } = input;
    let args = match catch(|| transfer::attach(fds, || codec::decode::<A>(&body[start..]))) {
        Ok(Ok(args)) => args,
        Ok(Err(error)) => {
            return Outcome::Bootstrap {
                reason: error.to_string(),
            };
        }
        Err(panic) => return Outcome::Panic(panic),
    };
    drop(body); // it may be large
    guard(|| target::conjure::<F>().call(args))
}

/// Calls `f`, and encodes what it returns.
fn guard<R: Serialize>(f: impl FnOnce() -> R) -> Outcome {
    let encoded = catch(f).and_then(|value| {
        // And drops it there: that is the program's code, too.
        catch(move || {
            let mut bytes = Vec::new();
            let (result, outgoing) = transfer::collect(|| codec::encode_into(&value, &mut bytes));
            // A handle in the value has been duplicated by now.
            result.map(|()| (bytes, outgoing))
        })
    });
    match encoded {
        Ok(Ok((bytes, outgoing))) => Outcome::Value(bytes, outgoing),
        Ok(Err(error)) => Outcome::Encode {
            reason: error.to_string(),
        },
        Err(panic) => Outcome::Panic(panic),
    }
}

/// How a function ended, to be told to the parent.
pub(crate) enum Outcome {
    /// It returned: the encoded value, and what travels beside it.
    Value(Vec<u8>, Outgoing),
    /// It panicked.
    Panic(PanicReport),
    /// It returned something that has no encoding.
    Encode { reason: String },
    /// It was not called.
    Bootstrap { reason: String },
}

/// How a function ended, as it is sent. The bytes of a value follow.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Value,
    Panic(PanicReport),
    Encode { reason: String },
    Bootstrap { reason: String },
}

/// A panic, in words.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PanicReport {
    pub(crate) message: String,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<String>,
}

thread_local! {
    /// The last panic of this thread that the hook saw.
    static LAST_PANIC: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
}

/// Calls `f`; a panic in words.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, PanicReport> {
    // What `f` leaves behind half-done ends with this process.
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let message = message_of(payload.as_ref());
        std::mem::forget(payload); // its drop is the program's, too, and could panic again
        // The last one that the hook saw may have been caught by `f`, and this one raised without.
        LAST_PANIC
            .with_borrow_mut(Option::take)
            .filter(|last| last.message == message)
            .unwrap_or_else(|| PanicReport {
                message,
                ..PanicReport::default()
            })
    })
}

/// Lets the panics of this process be told to the parent; unless `quiet`, they go on to stderr.
///
/// It can be installed again, around another hook that was set meanwhile.
pub(crate) fn install_panic_hook(quiet: bool) {
    /// How many were installed: only the last one tells.
    static INSTALLED: AtomicU64 = AtomicU64::new(0);
    let number = INSTALLED.fetch_add(1, Ordering::Relaxed) + 1; // stands for itself
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if number != INSTALLED.load(Ordering::Relaxed) {
            return next(info); // called by the last one
        }
        let report = PanicReport {
            message: message_of(info.payload()),
            location: info.location().map(ToString::to_string),
            backtrace: backtrace(),
        };
        if cfg!(panic = "abort") {
            // Nobody will come to catch it: this is the last chance to tell.
            crate::bootstrap::report_before_abort(&report);
        }
        LAST_PANIC.with_borrow_mut(|last| *last = Some(report));
        if !quiet {
            next(info);
        }
    }));
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is not a text".to_owned()
    }
}

fn backtrace() -> Option<String> {
    let backtrace = std::backtrace::Backtrace::capture();
    (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then(|| backtrace.to_string())
}

impl Outcome {
    /// Tells the parent at the other end of `line`, and the exit code to end with.
    ///
    /// A parent that is gone is not told; it does not matter any more.
    pub(crate) fn tell(self, line: BorrowedFd<'_>) -> i32 {
        let (report, code) = match self {
            Self::Value(value, outgoing) => {
                return match send(line, &Report::Value, &value, &outgoing) {
                    Err(reason) => Self::Encode { reason }.tell(line),
                    Ok(()) => {
                        outgoing.commit();
                        0
                    }
                };
            }
            Self::Panic(report) => (Report::Panic(report), PANICKED),
            Self::Encode { reason } => (Report::Encode { reason }, FAILED),
            Self::Bootstrap { reason } => (Report::Bootstrap { reason }, FAILED),
        };
        let _ = send(line, &report, &[], &Outgoing::default());
        code
    }
}

/// Rust's own exit code of a panic.
pub(crate) const PANICKED: i32 = 101;
/// The exit code of a child whose value did not travel, or that did not begin.
const FAILED: i32 = 1;

pub(crate) fn send(
    line: BorrowedFd<'_>,
    report: &Report,
    value: &[u8],
    outgoing: &Outgoing,
) -> Result<(), String> {
    let mut body = Vec::with_capacity(value.len() + 16);
    codec::encode_into(report, &mut body).map_err(|error| error.to_string())?;
    body.extend_from_slice(value);
    let fds: Vec<_> = outgoing.fds().iter().map(AsFd::as_fd).collect();
    match wire::send(line, wire::REPORT, &body, &fds) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| error.to_string()),
    }
}
