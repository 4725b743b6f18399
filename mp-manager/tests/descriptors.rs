//! Without a descriptor left there is no further connection; nothing else is lost.

use std::fs::File;

use mp_core::testing::Watchdog;
use mp_manager::{
    Address, CallError, Client, GetError, Lock, LockError, Manager, Queue, Semaphore, TryLockError,
};
use mp_process::Process;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

mp_process::init_in_tests!();

/// All descriptors that this process may still have.
fn take_all() -> Vec<File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn until_somebody_gets(watch: &Client) {
    while !watch
        .debug_info()
        .unwrap()
        .to_string()
        .contains("1 getting")
    {
        std::thread::yield_now();
    }
}

fn call_without_descriptors(address: Address, lock: Lock, queue: Queue<u32>) {
    // A session of its own, to look with.
    let watch = Client::connect(&address, mp_core::authkey::current()).unwrap();
    let seen = watch.find::<Lock>("lock").unwrap();
    let guard = lock.lock().unwrap();
    std::thread::scope(|scope| {
        let getter = scope.spawn(|| queue.get().unwrap());
        until_somebody_gets(&watch);
        // The only connection is in use: a call needs another, and its descriptors.
        let mut taken = take_all();
        while let Err(error) = queue.len() {
            assert!(matches!(error, CallError::NoConnection(_)), "{error:?}");
            taken.pop().expect("a connection takes only a few");
        }
        drop(taken);
        assert!(matches!(seen.try_lock(), Err(TryLockError::WouldBlock)));
        queue.put(7).unwrap();
        assert_eq!(getter.join().unwrap(), 7);
    });
    drop(guard);
    drop(seen.try_lock().unwrap());
}

#[test]
fn a_call_without_a_descriptor_fails_alone() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u32>().unwrap());
    manager.share("lock", &lock).unwrap();
    let args = (manager.address().clone(), lock, queue);
    let child = Process::new(call_without_descriptors, args).start();
    child.unwrap().join().unwrap();
}

/// Where, and by whom, connections run out.
struct Cut<'a> {
    address: &'a Address,
    queue: &'a Queue<u32>,
    /// Or the server's quota is used up.
    descriptors: bool,
}

/// Drops what the server holds for this process while its only connection waits for an item, and
/// there is no other. What another client sees then.
fn drop_without_connection<H>(cut: &Cut<'_>, held: H, see: impl FnOnce(&Client)) {
    let _dog = Watchdog::secs(60);
    // A session of its own, to look with.
    let watch = Client::connect(cut.address, mp_core::authkey::current()).unwrap();
    std::thread::scope(|scope| {
        let getter = scope.spawn(|| cut.queue.get());
        until_somebody_gets(&watch);
        let taken = if cut.descriptors {
            take_all()
        } else {
            Vec::new()
        };
        drop(held);
        drop(taken);
        see(&watch);
        // The session is over: the server has taken back what it cannot be told of.
        let got = getter.join().unwrap();
        assert!(
            matches!(got, Err(GetError::Call(CallError::ServerDied { .. }))),
            "{got:?}"
        );
    });
}

fn drop_guard(address: Address, lock: Lock, queue: Queue<u32>, descriptors: bool) {
    let (address, queue) = (&address, &queue);
    let cut = Cut {
        address,
        queue,
        descriptors,
    };
    drop_without_connection(&cut, lock.lock().unwrap(), |watch| {
        let seen = watch.find::<Lock>("held").unwrap();
        assert!(matches!(seen.lock(), Err(LockError::OwnerDied(_))));
    });
}

fn drop_permit(address: Address, seats: Semaphore, queue: Queue<u32>, descriptors: bool) {
    let (address, queue) = (&address, &queue);
    let cut = Cut {
        address,
        queue,
        descriptors,
    };
    drop_without_connection(&cut, seats.acquire().unwrap(), |watch| {
        let seen = watch.find::<Semaphore>("held").unwrap();
        drop(seen.acquire().unwrap());
    });
}

#[test]
fn a_guard_dropped_without_a_connection_leaves_the_lock_to_others() {
    let _dog = Watchdog::secs(60);
    for descriptors in [true, false] {
        let manager = start_with_one_connection_each();
        let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u32>().unwrap());
        manager.share("held", &lock).unwrap();
        let args = (manager.address().clone(), lock, queue, descriptors);
        let child = Process::new(drop_guard, args).start();
        child.unwrap().join().unwrap();
    }
}

#[test]
fn a_permit_dropped_without_a_connection_goes_back() {
    let _dog = Watchdog::secs(60);
    for descriptors in [true, false] {
        let manager = start_with_one_connection_each();
        let (seats, queue) = (
            manager.semaphore(1).unwrap(),
            manager.queue::<u32>().unwrap(),
        );
        manager.share("held", &seats).unwrap();
        let args = (manager.address().clone(), seats, queue, descriptors);
        let child = Process::new(drop_permit, args).start();
        child.unwrap().join().unwrap();
    }
}

fn start_with_one_connection_each() -> Manager {
    let builder = Manager::builder().max_connections_per_client(1);
    builder.start().unwrap()
}
