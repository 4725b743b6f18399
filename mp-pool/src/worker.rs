//! The worker's half of the [`dispatcher`](crate::dispatch): takes frames from its lane, calls
//! the functions, commits each result.

use std::{
    cell::RefCell,
    io,
    marker::PhantomData,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use mp_core::{
    codec,
    shm::Mapping,
    transfer::{deserialize_fd, serialize_fd},
};
use mp_process::{
    Target,
    target::{self, Address, Entry},
};
use mp_queue::lane::{Claim, Guest, Host, Hub};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};

use crate::{
    builder::{Initializer, Options},
    error::PanicReport,
    outcome::panic_text,
    share,
    shared::{SPIN, look_for_a_moment},
    wire::{self, FrameHeader, Kind, RECORD_HEADER},
};

/// What a worker says of itself in its lane: nothing yet, or that its initializer is done.
pub(crate) const READY: u32 = 1;

/// A function that does the tasks of one frame.
pub(crate) type TaskFn = fn(&mut Work<'_>);

/// Names "decode an `A`, call an `F` with it" to a worker.
pub(crate) struct Task<F, A>(PhantomData<(F, A)>);

impl<F, A> Entry for Task<F, A>
where
    F: Target<A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    type Call = TaskFn;
    const CALL: TaskFn = do_tasks::<F, A>;
}

/// What a worker gets when it is started: its lane, the hub, and the initializer.
pub(crate) struct Assignment {
    lane: OwnedFd,
    hub: OwnedFd,
    initializer: Option<Init>,
    max_memory: Option<u64>,
}

enum Init {
    /// In the pool.
    Send(Arc<dyn Initializer>),
    /// In the worker.
    Run(Box<dyn FnOnce()>),
}

impl Assignment {
    pub(crate) fn new(host: &Host, hub: &Hub, options: &Options) -> io::Result<Self> {
        Ok(Self {
            lane: host.mapping().fd().try_clone_to_owned()?,
            hub: hub.mapping().fd().try_clone_to_owned()?,
            initializer: options.initializer.clone().map(Init::Send),
            max_memory: options.max_memory_per_child,
        })
    }
}

/// A descriptor, beside a value on its way to a child.
struct Fd<T>(T);

impl Serialize for Fd<&OwnedFd> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use std::os::fd::AsFd;
        serialize_fd("worker's lane", self.0.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Fd<OwnedFd> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_fd("worker's lane", deserializer).map(Self)
    }
}

/// An address, and the encoded arguments of the initializer.
type EncodedInit = (Address, codec::Bytes);

impl Serialize for Assignment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let init: Option<EncodedInit> = match &self.initializer {
            Some(Init::Send(initializer)) => {
                let mut bytes = Vec::new();
                let address = initializer
                    .encode(&mut bytes)
                    .map_err(serde::ser::Error::custom)?;
                Some((address, bytes.into()))
            }
            _ => None,
        };
        (Fd(&self.lane), Fd(&self.hub), init, self.max_memory).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Assignment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (lane, hub, init, max_memory) =
            <(Fd<OwnedFd>, Fd<OwnedFd>, Option<EncodedInit>, Option<u64>)>::deserialize(
                deserializer,
            )?;
        // Decoded while the descriptors of the handles among the arguments are at hand.
        let initializer = init.map(|(address, bytes)| {
            let load = address.resolve::<InitFn>().map_err(D::Error::custom)?;
            load(&bytes).map(Init::Run).map_err(D::Error::custom)
        });
        Ok(Self {
            lane: lane.0,
            hub: hub.0,
            initializer: initializer.transpose()?,
            max_memory,
        })
    }
}

/// Decodes the initializer's arguments; what is left is to call it.
pub(crate) type InitFn = fn(&[u8]) -> Result<Box<dyn FnOnce()>, String>;

/// Names an initializer to a worker.
pub(crate) struct Begin<F, A>(PhantomData<(F, A)>);

impl<F, A> Entry for Begin<F, A>
where
    F: Target<A>,
    A: DeserializeOwned + 'static,
{
    type Call = InitFn;
    const CALL: InitFn = |bytes| {
        let args = codec::decode::<A>(bytes).map_err(|error| error.to_string())?;
        Ok(Box::new(move || {
            target::call_by_type::<F, A>(args);
        }))
    };
}

/// The exit code of a worker whose initializer failed.
const INITIALIZER_FAILED: i32 = 102;

/// A worker's life.
pub(crate) fn work(assignment: Assignment) {
    let Ok(mut worker) = attach(&assignment) else {
        std::process::exit(INITIALIZER_FAILED);
    };
    worker.max_memory = assignment.max_memory;
    listen_to_panics();
    share::attend(worker.guest.hub());
    if let Some(Init::Run(initializer)) = assignment.initializer
        && let Err(report) = catch(initializer)
    {
        let at = report
            .location
            .map(|at| format!(" at {at}"))
            .unwrap_or_default();
        worker.commit(
            Kind::NotReady,
            format!("it panicked{at}: {}", report.message).as_bytes(),
            0,
        );
        std::process::exit(INITIALIZER_FAILED);
    }
    worker.guest.set_state(READY);
    let mut frame = Vec::new();
    loop {
        frame.clear();
        match worker.guest.claim(&mut frame) {
            Ok(Claim::Frame) => {
                if worker.execute(&mut frame).is_none() {
                    std::process::abort(); // the lane is damaged: by now nothing can be trusted
                }
                if worker.leaves {
                    return;
                }
            }
            Ok(Claim::Empty) => worker.idle(),
            Ok(Claim::Closed) => return,
            Err(_) => std::process::abort(),
        }
        // A buffer that was needed once is not kept forever.
        if frame.capacity() > KEPT {
            frame = Vec::new();
        }
    }
}

/// A larger buffer is given back after use.
const KEPT: usize = 4 << 20;

fn attach(assignment: &Assignment) -> io::Result<Worker> {
    let hub = Hub::attach(Mapping::attach(assignment.hub.try_clone()?)?)?;
    let lane = Mapping::attach(assignment.lane.try_clone()?)?;
    Ok(Worker {
        guest: Guest::attach(lane, hub)?,
        record: Vec::new(),
        large: Vec::new(),
        known: Vec::new(),
        max_memory: None,
        looked_at_memory: Instant::now(),
        asked_to_leave: false,
        leaves: false,
        gives_way: false,
    })
}

struct Worker {
    guest: Guest,
    /// The record that is being written.
    record: Vec<u8>,
    /// A large body.
    large: Vec<u8>,
    /// Functions found before, by their encoded addresses; the last one first.
    known: Vec<(Vec<u8>, TaskFn)>,
    max_memory: Option<u64>,
    looked_at_memory: Instant,
    asked_to_leave: bool,
    /// Its successor is there: it leaves what it has not begun, which goes to others.
    leaves: bool,
    /// It slept, and took the CPU of the thread that woke it before that one could wait: looking
    /// for more there would keep the result from it. After a long sleep only, because two that
    /// are in a hurry are moved apart only while both want to run.
    gives_way: bool,
}

/// The tasks of one frame, as their function sees them.
pub(crate) struct Work<'a> {
    worker: &'a mut Worker,
    items: &'a [u8],
    left: u32,
    timed: bool,
}

impl Worker {
    fn execute(&mut self, frame: &mut [u8]) -> Option<()> {
        let (header, address, body) = FrameHeader::decode(frame)?;
        let function = self.find(address)?;
        let mut large = std::mem::take(&mut self.large);
        let items = if header.large {
            let (offset, len) = wire::decode_large(body)?;
            large.clear();
            self.guest.hub().read(offset, len, &mut large).ok()?;
            &large
        } else {
            body
        };
        function(&mut Work {
            worker: self,
            items,
            left: header.count,
            timed: header.timed,
        });
        if large.capacity() <= KEPT {
            self.large = large;
        }
        Some(())
    }

    fn find(&mut self, address: &[u8]) -> Option<TaskFn> {
        const REMEMBERED: usize = 16;
        let known = self.known.iter().position(|(known, _)| known == address);
        match known {
            Some(0) => {}
            Some(index) => self.known.swap(0, index),
            None => {
                let decoded = codec::decode::<Address>(address).ok()?;
                let function = decoded.resolve::<TaskFn>().ok()?;
                self.known.truncate(REMEMBERED - 1);
                self.known.insert(0, (address.to_vec(), function));
            }
        }
        Some(self.known[0].1)
    }

    /// Commits a record, in pieces if it is a long one.
    fn commit(&mut self, kind: Kind, payload: &[u8], items: u64) {
        let max = self.guest.max_record() - RECORD_HEADER;
        let mut payload = payload;
        while payload.len() > max {
            let (piece, rest) = payload.split_at(max);
            let header = wire::record_header(Kind::Piece, piece.len());
            self.guest.commit([&header, piece], 0);
            payload = rest;
        }
        let header = wire::record_header(kind, payload.len());
        self.guest.commit([&header, payload], items);
    }

    /// Looks for a moment, then sleeps.
    fn idle(&mut self) {
        if std::mem::take(&mut self.gives_way) || !look_for_a_moment(|| self.guest.is_due()) {
            share::forget();
            let since = Instant::now();
            self.guest.sleep();
            self.gives_way = since.elapsed() > SPIN && self.guest.was_woken_here();
        }
    }

    /// Asks to be replaced once this process has grown beyond `max`. Until its successor is there it
    /// goes on.
    #[cold]
    fn mind_memory(&mut self, max: u64) {
        const INTERVAL: Duration = Duration::from_millis(10);
        if self.asked_to_leave {
            self.leaves = self.guest.is_closed();
        } else if self.looked_at_memory.elapsed() >= INTERVAL {
            self.looked_at_memory = Instant::now();
            if private_bytes().is_some_and(|bytes| bytes > max) {
                self.asked_to_leave = true;
                self.commit(Kind::Recycle, &[], 0);
                self.guest.hub().ring(); // no task, so no threshold counts it
            }
        }
    }
}

/// Private memory that this process has in use.
fn private_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

impl<'a> Work<'a> {
    /// The next item, which has begun.
    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        if self.timed {
            while !self.worker.guest.begin_timed(monotonic_nanos()) {
                self.worker.guest.wait_while_stopped();
            }
        } else {
            self.worker.guest.begin();
        }
        let Some((item, rest)) = wire::split_item(self.items) else {
            std::process::abort(); // the lane is damaged
        };
        self.items = rest;
        Some(item)
    }
}

/// Does all tasks of a frame.
fn do_tasks<F, A>(work: &mut Work<'_>)
where
    F: Target<A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    let mut record = std::mem::take(&mut work.worker.record);
    // A panic ends the round, and concerns the one task that was at work.
    while let Err(report) = catch(|| {
        while let Some(item) = work.next() {
            record.clear();
            record.extend_from_slice(&[0; RECORD_HEADER]);
            let kind = do_task::<F, A>(item, work.worker.guest.hub(), &mut record);
            work.finish(kind, &mut record);
        }
    }) {
        record.truncate(RECORD_HEADER);
        let _ = codec::encode_into(&report, &mut record); // texts: nothing to refuse
        work.finish(Kind::Panicked, &mut record);
    }
    if record.capacity() <= KEPT {
        work.worker.record = record;
    }
}

impl Work<'_> {
    /// Commits the record of the item at work, whose header is still to be written.
    #[inline]
    fn finish(&mut self, kind: Kind, record: &mut [u8]) {
        let worker = &mut *self.worker;
        if record.len() <= worker.guest.max_record() {
            let header = wire::record_header(kind, record.len() - RECORD_HEADER);
            record[..RECORD_HEADER].copy_from_slice(&header);
            worker.guest.commit([record, &[]], 1);
        } else {
            worker.commit(kind, &record[RECORD_HEADER..], 1);
        }
        if let Some(max) = worker.max_memory {
            worker.mind_memory(max);
            if worker.leaves {
                self.left = 0;
            }
        }
    }
}

/// Does one task: decode, call, encode. What is written is as the returned kind says.
#[inline]
fn do_task<F, A>(item: &[u8], hub: &Hub, record: &mut Vec<u8>) -> Kind
where
    F: Target<A>,
    F::Output: Serialize,
    A: DeserializeOwned + 'static,
{
    let block = |place: u64, len: usize| {
        let mut block = Vec::new();
        let place = usize::try_from(place).ok()?;
        hub.read(place, len, &mut block).ok().map(|()| block)
    };
    let args = match codec::decode_apart::<A>(item, &block) {
        Ok(args) => args,
        Err(error) => {
            record.extend(error.to_string().bytes());
            return Kind::Undecodable;
        }
    };
    let span = tracing::debug_span!(
        "task",
        worker = std::process::id(),
        function = std::any::type_name::<F>()
    );
    let value = span.in_scope(|| target::call_by_type::<F, A>(args));
    match codec::encode_into(&value, record) {
        Ok(()) => Kind::Value,
        Err(error) => {
            record.extend(error.to_string().bytes());
            Kind::Unsendable
        }
    }
}

thread_local! {
    /// The panic of the task that runs on this thread; `None` while no task does.
    static PANIC: RefCell<Option<PanicReport>> = const { RefCell::new(None) };
    static CATCHING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Keeps what a task's panic says for the caller instead of printing it; other threads print as ever.
fn listen_to_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !CATCHING.get() {
            return print(info);
        }
        let backtrace = std::backtrace::Backtrace::capture();
        let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
        PANIC.set(Some(PanicReport {
            message: panic_text(info.payload()).to_owned(),
            location: info.location().map(ToString::to_string),
            backtrace: captured.then(|| backtrace.to_string()),
        }));
    }));
}

/// Calls user code; its panic is an error.
#[inline]
fn catch<R>(user: impl FnOnce() -> R) -> Result<R, PanicReport> {
    CATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(user));
    CATCHING.set(false);
    result.map_err(|panic| {
        PANIC.take().unwrap_or_else(|| PanicReport {
            message: panic_text(&*panic).to_owned(), // resumed, so the hook did not see it
            ..PanicReport::default()
        })
    })
}

/// The monotonic clock, the same in all processes of the machine.
pub(crate) fn monotonic_nanos() -> u64 {
    let now = mp_core::deadline::Deadline::now().as_timespec();
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
