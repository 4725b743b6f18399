//! Each crate is there through the facade: one item of each, used, and the prelude.

use std::time::Duration;

use mp_core::testing::{Census, Watchdog};

mp::init_in_tests!();

fn double(n: u32) -> u32 {
    2 * n
}

#[test]
fn a_process_by_the_facade() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let child = mp::Process::new(double, (21,)).start().unwrap();
    assert_eq!(child.join().unwrap(), 42);
    let again: mp::process::Process<u32> = mp::Process::new(double, (4,)).start().unwrap();
    assert_eq!(again.join().unwrap(), 8);
}

#[test]
fn a_program_by_the_facade() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    assert_eq!(mp::subprocess::getoutput("echo hello").unwrap(), "hello");
}

#[test]
fn a_pipe_by_the_facade() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let (receiver, sender) = mp::simplex::<String>().unwrap();
    sender.send(&"hello".to_owned()).unwrap();
    assert_eq!(
        mp::wait(&[&receiver], Duration::from_secs(30)).unwrap(),
        [0]
    );
    let receiver: mp::pipe::Receiver<String> = receiver;
    assert_eq!(receiver.recv().unwrap(), "hello");
}

#[test]
fn a_shared_value_by_the_facade() {
    let value: mp::sync::Value<i64> = mp::Value::new(1).unwrap();
    *value.lock().unwrap() += 1;
    assert_eq!(value.get().unwrap(), 2);
}

#[test]
fn a_queue_by_the_facade() {
    let queue: mp::queue::Queue<u8> = mp::Queue::new().unwrap();
    queue.put(7).unwrap();
    assert_eq!(queue.try_get().unwrap(), 7);
}

#[test]
fn a_pool_by_the_facade() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let pool: mp::pool::Pool = mp::Pool::new(2).unwrap();
    assert_eq!(pool.map(double, 0..4).unwrap(), [0, 2, 4, 6]);
    pool.close().join().unwrap();
}

#[test]
fn a_manager_by_the_facade() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let manager: mp::manager::Manager = mp::Manager::start().unwrap();
    let names: mp::Dict<String, u32> = manager.dict().unwrap();
    names.insert("seven".to_owned(), 7).unwrap();
    assert_eq!(names.get("seven").unwrap(), Some(7));
}

/// What the prelude brings is what the root has, and does not collide with what std brings.
#[test]
fn the_prelude_has_what_signatures_name() {
    use mp::prelude::*;

    /// The name of a type in the prelude, and of the same one in its crate.
    macro_rules! are {
        ($($short:ty = $long:ty;)*) => {$(
            assert_eq!(std::any::TypeId::of::<$short>(), std::any::TypeId::of::<$long>());
        )*};
    }
    are! {
        Process<()> = mp::process::Process<()>;
        Pool = mp::pool::Pool;
        Executor = mp::pool::Executor;
        ThreadPool = mp::pool::ThreadPool;
        AsyncResult<()> = mp::pool::AsyncResult<()>;
        StartMethod = mp::process::StartMethod;
        Queue<u8> = mp::queue::Queue<u8>;
        JoinableQueue<u8> = mp::queue::JoinableQueue<u8>;
        SimpleQueue<u8> = mp::queue::SimpleQueue<u8>;
        Manager = mp::manager::Manager;
        Namespace = mp::manager::Namespace;
        Dict<u8, u8> = mp::manager::Dict<u8, u8>;
        List<u8> = mp::manager::List<u8>;
        Lock = mp::sync::Lock;
        RLock = mp::sync::RLock;
        RwLock = mp::sync::RwLock;
        Event = mp::sync::Event;
        Condition = mp::sync::Condition;
        Barrier = mp::sync::Barrier;
        Semaphore = mp::sync::Semaphore;
        BoundedSemaphore = mp::sync::BoundedSemaphore;
        Value<u8> = mp::sync::Value<u8>;
        Array<u8> = mp::sync::Array<u8>;
        RawValue<u8> = mp::sync::RawValue<u8>;
        RawArray<u8> = mp::sync::RawArray<u8>;
        SharedMemory = mp::sync::SharedMemory;
        Sender<u8> = mp::pipe::Sender<u8>;
        Receiver<u8> = mp::pipe::Receiver<u8>;
        Connection<u8, u8> = mp::pipe::Connection<u8, u8>;
        Listener = mp::pipe::Listener;
        Client = mp::pipe::Client;
    }
    fn runs<T: Run>(_: &T) {}
    let _: fn(&Hello) = runs;
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Hello;

impl mp::Run for Hello {
    type Output = ();

    fn run(self) {}
}

/// Any error of any crate becomes the one of the facade, with its text.
#[test]
fn what_the_error_of_the_facade_holds_can_be_named() {
    fn lock(error: mp::Error) -> Option<mp::error::LockError> {
        match error {
            mp::Error::Lock(error) => Some(error),
            _ => None,
        }
    }
    fn managed(error: mp::Error) -> Option<mp::error::ManagedError> {
        match error {
            mp::Error::Managed(error) => Some(error),
            _ => None,
        }
    }
    let busy = mp::Lock::new().unwrap();
    let _guard = busy.lock().unwrap();
    let error: mp::Error = busy.try_lock().unwrap_err().into();
    assert!(!lock(error).unwrap().is_owner_died());
    let ended: mp::Error = mp::manager::GetError::Closed.into();
    managed(ended).unwrap();
}

#[cfg(feature = "tokio")]
#[test]
fn an_end_of_a_pipe_is_awaited_with_tokio_by_the_facade() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let (receiver, sender) = mp::simplex::<u8>().unwrap();
    let child = mp::Process::new(|sender: mp::Sender<u8>| sender.send(&7).unwrap(), (sender,));
    let child = child.start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let received = runtime.unwrap().block_on(async {
        let receiver: mp::pipe::Async<mp::Receiver<u8>> = receiver.into_async().unwrap();
        receiver.recv().await.unwrap()
    });
    assert_eq!(received, 7);
    child.join().unwrap();
}

#[test]
fn an_error_of_each_crate_becomes_the_error_of_the_facade() {
    fn task() -> Result<(), mp::Error> {
        Err(mp::TaskError::Cancelled)?
    }
    fn queue() -> Result<u8, mp::Error> {
        let queue = mp::Queue::<u8>::new()?;
        Ok(queue.try_get()?)
    }
    fn pipe() -> Result<u8, mp::Error> {
        let (receiver, sender) = mp::simplex()?;
        drop(sender);
        Ok(receiver.recv()?)
    }
    fn permit() -> Result<(), mp::Error> {
        let semaphore = mp::Semaphore::new(0)?;
        let _permit = semaphore.try_acquire()?;
        Ok(())
    }
    fn program() -> Result<(), mp::Error> {
        mp::subprocess::check_call("false")?;
        Ok(())
    }
    let texts = [
        task().unwrap_err(),
        queue().unwrap_err(),
        pipe().unwrap_err(),
        permit().unwrap_err(),
        program().unwrap_err(),
    ]
    .map(|error| error.to_string());
    assert_eq!(
        texts,
        [
            "the task was cancelled",
            "the queue is empty",
            "the other end of the connection is closed, or its process is gone",
            "no permit is free",
            "`false` exited with code 1",
        ]
    );
}
