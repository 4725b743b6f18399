//! Without a descriptor left there is no further connection; nothing else is lost.

use std::fs::File;

use mp_core::testing::Watchdog;
use mp_manager::{Address, CallError, Client, Lock, Manager, Queue, TryLockError};
use mp_process::Process;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

mp_process::init_in_tests!();

/// All descriptors that this process may still have.
fn take_all() -> Vec<File> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

fn call_without_descriptors(address: Address, lock: Lock, queue: Queue<u32>) {
    // A session of its own, to look with.
    let watch = Client::connect(&address, mp_core::authkey::current()).unwrap();
    let seen = watch.find::<Lock>("lock").unwrap();
    let guard = lock.lock().unwrap();
    std::thread::scope(|scope| {
        let getter = scope.spawn(|| queue.get().unwrap());
        while !watch
            .debug_info()
            .unwrap()
            .to_string()
            .contains("1 getting")
        {
            std::thread::yield_now();
        }
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
