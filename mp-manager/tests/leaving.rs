//! Who leaves an object, by dropping its last proxy or by dying, gives back what it held of that
//! object: all of it, and nothing else.

use std::time::Duration;

use mp_core::testing::{Watchdog, eventually};
use mp_manager::{
    Address, Call, Client, Condition, Fault, Lock, LockError, Managed, Manager, Proxy, Referent,
    TryLockError,
};
use mp_process::Process;
use nix::sys::signal::{Signal, kill};
use parking_lot::{Condvar, Mutex};

mp_process::init_in_tests!();

fn start() -> (Watchdog, Manager) {
    let manager = Manager::builder()
        .setup(|registry| {
            registry.register("Seat", |()| Seat::default());
            registry.register("Brittle", |()| Brittle);
        })
        .start()
        .unwrap();
    (Watchdog::secs(60), manager)
}

/// The server has handled what this client sent before, dropped proxies included.
fn settled(manager: &Manager) {
    manager.number_of_objects().unwrap();
}

fn finds_it_locked(lock: Lock) -> bool {
    matches!(lock.try_lock(), Err(TryLockError::WouldBlock))
}

fn finds_its_lock_held(condition: Condition) -> bool {
    matches!(condition.try_lock(), Err(TryLockError::WouldBlock))
}

#[test]
fn a_dropped_condition_takes_no_lock_that_was_not_taken_through_it() {
    let (_dog, manager) = start();
    let lock = manager.lock().unwrap();
    let condition = manager.condition_with(&lock).unwrap();
    let guard = lock.lock().unwrap();
    std::thread::scope(|scope| scope.spawn(|| drop(condition)).join().unwrap());
    settled(&manager);
    let child = Process::new(finds_it_locked, (lock.clone(),));
    assert!(child.start().unwrap().join().unwrap());
    drop(guard);
    drop(lock.try_lock().unwrap());
}

#[test]
fn a_dropped_lock_stays_held_through_its_condition() {
    let (_dog, manager) = start();
    let lock = manager.rlock().unwrap();
    let condition = manager.condition_with(&lock).unwrap();
    let outer = lock.lock().unwrap();
    let inner = condition.lock().unwrap();
    drop(outer);
    drop(lock);
    settled(&manager);
    let child = Process::new(finds_its_lock_held, (condition.clone(),));
    assert!(child.start().unwrap().join().unwrap());
    drop(inner);
    drop(condition.try_lock().unwrap());
}

fn wait_and_die(condition: Condition) {
    let guard = condition.lock().unwrap();
    std::mem::forget(condition.wait(guard).unwrap());
    kill(nix::unistd::getpid(), Signal::SIGKILL).unwrap();
}

#[test]
fn a_notification_that_died_with_its_waiter_wakes_the_others() {
    let (_dog, manager) = start();
    let condition = manager.condition().unwrap();
    let sleeping = |count: usize| {
        let text = format!("{count} sleeping");
        manager.debug_info().unwrap().list[0].text.contains(&text)
    };
    let first = Process::new(wait_and_die, (condition.clone(),))
        .start()
        .unwrap();
    while !sleeping(1) {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let guard = condition.lock().unwrap();
            let woken = condition.wait(guard);
            assert!(matches!(woken, Err(LockError::OwnerDied(_))), "{woken:?}");
        });
        while !sleeping(2) {
            std::thread::yield_now();
        }
        condition.notify_one().unwrap();
        second.join().unwrap();
    });
    first.wait().unwrap();
}

/// Counts who sits down until the client leaves, which takes until somebody sits down meanwhile,
/// or a moment.
#[derive(Default)]
struct Seat {
    taken: Mutex<u32>,
    changed: Condvar,
}

impl Referent for Seat {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        let mut taken = self.taken.lock();
        if call.method() == "take" {
            *taken += 1;
            self.changed.notify_all();
        }
        call.reply(&*taken)
    }

    fn client_left(&self, _: u64) {
        let mut taken = self.taken.lock();
        let moment = Duration::from_millis(200);
        self.changed.wait_for(&mut taken, moment);
        *taken = 0;
    }
}

struct SeatProxy(Proxy);

impl Managed for SeatProxy {
    const KIND: &'static str = "Seat";

    fn from_proxy(proxy: Proxy) -> Self {
        Self(proxy)
    }

    fn proxy(&self) -> &Proxy {
        &self.0
    }
}

#[test]
fn who_comes_back_while_it_leaves_keeps_what_it_takes() {
    let (_dog, manager) = start();
    let seat: SeatProxy = manager.create(&()).unwrap();
    manager.share("seat", &seat).unwrap();
    drop(seat);
    // One of the two has a connection of its own, and does not come after the farewell.
    let take = || {
        let SeatProxy(seat) = manager.find("seat").unwrap();
        seat.call::<_, u32>("take", &()).unwrap();
        seat
    };
    let seats = std::thread::scope(|scope| {
        let other = scope.spawn(take);
        (take(), other.join().unwrap())
    });
    assert_eq!(seats.0.call::<_, u32>("look", &()).unwrap(), 2);
}

/// Panics wherever it is not called.
struct Brittle;

impl Referent for Brittle {
    fn call(&self, call: &mut Call<'_>) -> Result<(), Fault> {
        call.reply(&())
    }

    fn client_left(&self, _: u64) {
        panic!("a panic that this test wants");
    }

    fn describe(&self) -> String {
        panic!("a panic that this test wants");
    }
}

#[test]
fn an_object_that_cannot_describe_itself_is_listed_as_such() {
    let (_dog, manager) = start();
    let brittle = manager.create_named("Brittle", &()).unwrap();
    let info = manager.debug_info().unwrap();
    assert!(info.list[0].text.contains("panicked"), "{info}");
    brittle.call::<_, ()>("any", &()).unwrap();
}

fn hold_brittle_things_and_die(address: Address) {
    let client = Client::connect(&address, mp_core::authkey::current()).unwrap();
    let create = |_| client.create_named("Brittle", &()).unwrap();
    let _brittle: Vec<_> = (0..8).map(create).collect();
    let lock = client.find::<Lock>("lock").unwrap();
    let _guard = lock.lock().unwrap();
    kill(nix::unistd::getpid(), Signal::SIGKILL).unwrap();
}

#[test]
fn an_object_that_panics_keeps_nothing_else_from_coming_back() {
    let (_dog, manager) = start();
    let lock = manager.lock().unwrap();
    manager.share("lock", &lock).unwrap();
    let args = (manager.address().clone(),);
    let child = Process::new(hold_brittle_things_and_die, args);
    child.start().unwrap().wait().unwrap();
    let next = lock.lock_timeout(Duration::from_secs(20));
    assert!(matches!(next, Err(TryLockError::OwnerDied(_))), "{next:?}");
    drop(next);
    // Nor what the session had: its objects go after the session itself.
    eventually(20, || manager.debug_info().unwrap().clients.len() == 1);
    eventually(20, || manager.number_of_objects().unwrap() == 1);
}
