//! `Condition`: who is woken, by whom, how often; between threads and processes.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use mp_core::testing::{Case, Census, Child, Forked, Watchdog, eventually, fork_child};
use mp_sync::{Array, Condition, Event, LockError, RLock, Semaphore, TryLockError, Value};

const SHORT: Duration = Duration::from_millis(30);

/// Waiters of one condition, as threads and processes, and what came of them.
struct Scene {
    condition: Condition,
    /// The waiters' thread ids, written under the condition's lock before they wait.
    tids: Array<u32>,
    begun: Semaphore,
    woken: Semaphore,
}

impl Scene {
    fn new(waiters: usize) -> Scene {
        Scene {
            condition: Condition::new().unwrap(),
            tids: Array::zeroed(waiters).unwrap(),
            begun: Semaphore::new(0).unwrap(),
            woken: Semaphore::new(0).unwrap(),
        }
    }

    /// What waiter `index` does; whether it was told.
    fn wait(&self, index: usize, timeout: Option<Duration>) -> bool {
        let guard = self.condition.lock().unwrap();
        self.tids.lock().unwrap()[index] = nix::unistd::gettid().as_raw() as u32;
        self.begun.release().unwrap();
        let noticed = match timeout {
            None => self.condition.wait(guard).map(|_| true).unwrap(),
            Some(timeout) => self.condition.wait_timeout(guard, timeout).unwrap().1,
        };
        self.woken.release().unwrap();
        noticed
    }

    /// Returns when all waiters sleep.
    fn wait_asleep(&self) {
        for _ in 0..self.tids.len() {
            self.begun.acquire().unwrap().forget();
        }
        // Held by nobody who still has to go to sleep: whoever sleeps does so for a notice.
        drop(self.condition.lock().unwrap());
        let tids = self.tids.to_vec().unwrap();
        eventually(30, || tids.iter().all(|tid| is_asleep(*tid)));
    }

    /// Exactly `count` wake up, and nobody else does.
    fn assert_woken(&self, count: u32) {
        for _ in 0..count {
            self.woken.acquire().unwrap().forget();
        }
        // Longer than a slice, after which a sleeper looks by itself.
        assert!(
            self.woken
                .acquire_timeout(Duration::from_millis(400))
                .is_err()
        );
    }
}

fn is_asleep(tid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    stat.contains(") S ")
}

/// `waiters` of them, every other one a process, for as long as `body` runs.
fn with_waiters(scene: &Scene, timeout: Option<Duration>, body: impl FnOnce()) {
    let waiters = scene.tids.len();
    let wait = &|index| assert_eq!(scene.wait(index, timeout), timeout.is_none());
    let children: Vec<Forked> = (0..waiters)
        .step_by(2)
        .map(|index| {
            fork_child(move || {
                wait(index);
                mp_core::hooks::run_exit_hooks(); // a normal exit, which is no death
            })
        })
        .collect();
    thread::scope(|scope| {
        for index in (1..waiters).step_by(2) {
            scope.spawn(move || wait(index));
        }
        body();
    });
    children.into_iter().for_each(Forked::wait_success);
}

/// Conformance: _TestCondition.test_notify
#[test]
fn each_notice_wakes_exactly_one() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let scene = Scene::new(2);
    with_waiters(&scene, None, || {
        scene.wait_asleep();
        scene.assert_woken(0);
        scene.condition.notify_one();
        scene.assert_woken(1);
        scene.condition.notify_one();
        scene.assert_woken(1);
    });
    assert!(!format!("{:?}", scene.condition).is_empty());
}

/// Conformance: _TestCondition.test_notify_n
#[test]
fn a_notice_wakes_as_many_as_it_says_and_none_that_come_later() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let scene = Scene::new(6);
    with_waiters(&scene, None, || {
        scene.wait_asleep();
        scene.condition.notify(2);
        scene.assert_woken(2);
        scene.condition.notify(4);
        scene.assert_woken(4);
        scene.condition.notify(3);
    });
    let guard = scene.condition.lock().unwrap();
    assert!(!scene.condition.wait_timeout(guard, SHORT).unwrap().1);
}

/// Conformance: _TestCondition.test_notify_all
#[test]
fn a_notice_to_all_wakes_all_and_timeouts_need_none() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let timed = Scene::new(6);
    with_waiters(&timed, Some(SHORT), || timed.assert_woken(6));
    let scene = Scene::new(6);
    with_waiters(&scene, None, || {
        scene.wait_asleep();
        scene.condition.notify_all();
        scene.assert_woken(6);
    });
}

/// Conformance: _TestCondition.test_waitfor_timeout
#[test]
fn waiting_for_what_never_comes_ends_with_the_timeout() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (state, changed) = (Value::new(0).unwrap(), Condition::new().unwrap());
    let timeout = Duration::from_millis(150);
    let child = fork_child(|| {
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(10));
            *state.lock().unwrap() += 1;
            changed.notify_one();
        }
    });
    let begun = Instant::now();
    let guard = state.lock().unwrap();
    let (guard, came) = changed
        .wait_while_timeout(guard, timeout, |state| **state < 100)
        .unwrap();
    assert!(!came && begun.elapsed() >= timeout);
    drop(guard);
    child.wait_success();
}

#[test]
fn waiting_for_what_comes_ends_with_it() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (state, changed) = (Value::new(0).unwrap(), Condition::new().unwrap());
    let child = fork_child(|| {
        let state = changed.wait_while(state.lock().unwrap(), |state| **state == 0);
        *state.unwrap() = 2;
        changed.notify_one();
    });
    *state.lock().unwrap() = 1;
    changed.notify_one();
    let guard = state.lock().unwrap();
    let (guard, came) = changed
        .wait_while_timeout(guard, Duration::from_secs(30), |state| **state != 2)
        .unwrap();
    assert!(came && *guard == 2);
    drop(guard);
    child.wait_success();
}

/// Conformance: _TestCondition.test_wait_result
#[test]
fn a_wait_tells_whether_it_was_noticed_and_a_signal_does_not_end_it() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let condition = Condition::new().unwrap();
    for timeout in [Duration::ZERO, SHORT] {
        let begun = Instant::now();
        let guard = condition.lock().unwrap();
        assert!(!condition.wait_timeout(guard, timeout).unwrap().1);
        assert!(begun.elapsed() >= timeout);
    }
    let guard = condition.lock().unwrap();
    let child = fork_child(|| {
        drop(condition.lock().unwrap()); // as soon as the parent waits
        condition.notify_one();
    });
    let (guard, noticed) = condition
        .wait_timeout(guard, Duration::from_secs(30))
        .unwrap();
    assert!(noticed);
    drop(guard);
    child.wait_success();
    // A signal that has a handler interrupts the sleep, not the wait.
    let scene = Scene::new(1);
    let mut child = fork_child(|| {
        handler::install();
        scene.wait(0, None);
    });
    scene.wait_asleep();
    child.signal(nix::sys::signal::Signal::SIGINT);
    scene.assert_woken(0);
    assert!(child.try_wait().is_none());
    scene.condition.notify_one();
    child.wait_success();
}

/// A handler that does nothing, so that a signal interrupts and does not kill.
mod handler {
    #![allow(unsafe_code)]
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    extern "C" fn nothing(_: i32) {}

    pub(super) fn install() {
        let action = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::empty(),
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGINT, &action) }.unwrap();
    }
}

#[test]
fn a_recursive_lock_is_given_up_wholly_and_taken_again_as_deep() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (lock, condition) = (RLock::new().unwrap(), Condition::new().unwrap());
    let outer = lock.lock().unwrap();
    let inner = lock.lock().unwrap();
    let child = fork_child(|| {
        drop(lock.lock().unwrap());
        condition.notify_one();
    });
    let (inner, noticed) = condition
        .wait_timeout(inner, Duration::from_secs(30))
        .unwrap();
    assert!(noticed && format!("{lock:?}").contains("depth: 2"));
    drop((inner, outer));
    assert!(!lock.is_locked());
    child.wait_success();
}

#[test]
fn a_notice_needs_no_lock_and_no_waiter() {
    let _census = Census::take();
    let condition = Condition::new().unwrap();
    condition.notify_one();
    condition.notify(0);
    condition.notify_all();
    let _guard = condition.lock().unwrap();
    condition.notify_all();
    assert!(matches!(condition.lock(), Err(LockError::Deadlock)));
    assert!(matches!(
        condition.try_lock(),
        Err(TryLockError::WouldBlock)
    ));
}

#[test]
fn a_waiter_learns_that_an_owner_died_meanwhile() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (state, changed) = (Value::new(0).unwrap(), Condition::new().unwrap());
    let guard = state.lock().unwrap();
    let mut child = fork_child(|| {
        let mut guard = state.lock().unwrap();
        *guard = 7;
        changed.notify_one();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    let died = changed
        .wait_while(guard, |state| **state == 0)
        .expect_err("told that the owner died");
    assert_eq!(*died.into_guard(), 7);
    child.wait();
}

/// Leaves while its threads wait, right after a notice that one of them is woken by: that one does
/// not get the lock before the end.
#[test]
fn case_exits_normally_with_waiters() {
    let Some(case) = Case::get() else { return };
    let (work, changed, go): (Value<u32>, Condition, Event) = case.args();
    thread::scope(|scope| {
        let waiters = [(); 4].map(|()| {
            let (tid, told) = std::sync::mpsc::channel();
            let (work, changed) = (&work, &changed);
            scope.spawn(move || {
                let guard = work.lock().unwrap();
                tid.send(nix::unistd::gettid().as_raw() as u32).unwrap();
                drop(changed.wait_while(guard, |work| **work == 0));
            });
            told.recv().unwrap()
        });
        drop(work.lock().unwrap()); // all have given it up
        eventually(30, || waiters.iter().all(|tid| is_asleep(*tid)));
        case.ready();
        go.wait();
        let mut guard = work.lock().unwrap();
        *guard = 1;
        changed.notify_one();
        std::process::exit(0);
    });
}

#[test]
fn a_normal_exit_takes_no_notice_along() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let args = (
        Value::new(0).unwrap(),
        Condition::new().unwrap(),
        Event::new().unwrap(),
    );
    let (work, changed, go) = &args;
    let mut child = Child::case("case_exits_normally_with_waiters", &args).wait_ready();
    let mut guard = work.lock().unwrap();
    go.set(); // it gets the lock once this thread waits, behind its own
    while *guard == 0 {
        guard = changed.wait(guard).unwrap_or_else(LockError::into_guard);
    }
    drop(guard);
    assert!(child.wait().success());
}

#[test]
fn two_that_take_turns_never_miss_each_other() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(20));
    let (turn, changed) = (Value::new(0_u32).unwrap(), Condition::new().unwrap());
    let play = |mine: u32| {
        for _ in 0..20_000 {
            let mut turn = changed
                .wait_while(turn.lock().unwrap(), |turn| **turn != mine)
                .unwrap();
            *turn = 1 - mine;
            drop(turn);
            changed.notify_one();
        }
    };
    let child = fork_child(|| {
        play(1);
        mp_core::hooks::run_exit_hooks();
    });
    play(0);
    child.wait_success();
    assert_eq!(turn.get().unwrap(), 0);
}
