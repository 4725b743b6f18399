//! Locks, semaphores, conditions, events, barriers and queues in a server, used by other processes.

use std::time::Duration;

use mp_core::testing::Watchdog;
use mp_manager::{
    Array, Barrier, BarrierError, BoundedSemaphore, CallError, Condition, Dict, Event, GetError,
    JoinableQueue, List, Lock, LockError, Manager, Queue, RLock, Semaphore, TryAcquireError,
    TryGetError, TryLockError, TryPutError, Value,
};
use mp_process::Process;

mp_process::init_in_tests!();

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(10);

fn start() -> (Watchdog, Manager) {
    (Watchdog::secs(60), Manager::start().unwrap())
}

fn acquire_and_exit(lock: Lock) {
    std::mem::forget(lock.lock().unwrap());
}

/// The last owner ended with the lock: the next one is told and gets it (Python's stays locked).
///
/// Conformance: TestSyncManagerTypes.test_lock
#[test]
fn a_lock_that_a_child_kept_is_told_to_the_next_owner() {
    let (_dog, manager) = start();
    let lock = manager.lock().unwrap();
    let child = Process::new(acquire_and_exit, (lock.clone(),))
        .start()
        .unwrap();
    child.join().unwrap();
    let Err(LockError::OwnerDied(died)) = lock.lock() else {
        panic!("nobody was told");
    };
    std::mem::forget(died.into_guard());
    lock.release().unwrap();
    let again = lock.release();
    assert!(matches!(again, Err(CallError::Refused { .. })), "{again:?}");
}

fn lock_and_unlock(lock: Lock, recursive: RLock) {
    drop(lock.lock().unwrap());
    let outer = recursive.lock().unwrap();
    drop(recursive.lock().unwrap());
    assert!(recursive.is_locked().unwrap());
    drop(outer);
}

/// Conformance: TestSyncManagerTypes.test_rlock
#[test]
fn a_child_locks_and_unlocks() {
    let (_dog, manager) = start();
    let (lock, recursive) = (manager.lock().unwrap(), manager.rlock().unwrap());
    let args = (lock.clone(), recursive.clone());
    Process::new(lock_and_unlock, args)
        .start()
        .unwrap()
        .join()
        .unwrap();
    assert!(!lock.is_locked().unwrap());
    assert!(!recursive.is_locked().unwrap());
    drop(lock.try_lock().unwrap());
    drop(recursive.lock().unwrap());
}

#[test]
fn a_lock_is_one_owner_at_a_time() {
    let (_dog, manager) = start();
    let lock = manager.lock().unwrap();
    let guard = lock.lock().unwrap();
    assert!(matches!(lock.lock(), Err(LockError::Deadlock)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
            assert!(matches!(
                lock.lock_timeout(SHORT),
                Err(TryLockError::TimedOut)
            ));
        });
    });
    // Whoever waits longest is next.
    let waiting = manager.event().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            waiting.set().unwrap();
            drop(lock.lock().unwrap());
        });
        waiting.wait().unwrap();
        drop(guard);
        waiter.join().unwrap();
    });
    let recursive = manager.rlock().unwrap();
    let _outer = recursive.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(recursive.try_lock().is_err());
            assert!(recursive.release().is_err(), "another thread's");
        });
    });
}

fn take_a_permit(semaphore: Semaphore) {
    semaphore.acquire().unwrap().forget().unwrap();
}

/// Conformance: TestSyncManagerTypes.test_semaphore
#[test]
fn a_permit_that_a_child_took_is_released_here() {
    let (_dog, manager) = start();
    let semaphore = manager.semaphore(1).unwrap();
    let child = Process::new(take_a_permit, (semaphore.clone(),))
        .start()
        .unwrap();
    child.join().unwrap();
    assert_eq!(semaphore.available().unwrap(), 0);
    assert!(matches!(
        semaphore.try_acquire(),
        Err(TryAcquireError::Empty)
    ));
    semaphore.release().unwrap();
    assert_eq!(semaphore.available().unwrap(), 1);
}

fn die_with_a_permit(semaphore: BoundedSemaphore) {
    std::mem::forget(semaphore.acquire().unwrap());
    std::process::abort();
}

#[test]
fn a_permit_of_the_dead_comes_back() {
    let (_dog, manager) = start();
    let semaphore = manager.bounded_semaphore(1).unwrap();
    let child = Process::new(die_with_a_permit, (semaphore.clone(),))
        .start()
        .unwrap();
    assert!(child.join().is_err());
    let permit = semaphore.acquire_timeout(LONG).unwrap();
    assert!(matches!(
        semaphore.acquire_timeout(SHORT),
        Err(TryAcquireError::Empty)
    ));
    drop(permit);
    assert!(matches!(
        semaphore.release(),
        Err(CallError::Refused { .. })
    ));
    assert_eq!(semaphore.available().unwrap(), 1);
}

fn lock_condition(condition: Condition) {
    drop(condition.lock().unwrap());
}

/// Conformance: TestSyncManagerTypes.test_condition
#[test]
fn a_child_locks_a_condition() {
    let (_dog, manager) = start();
    let condition = manager.condition().unwrap();
    let child = Process::new(lock_condition, (condition.clone(),))
        .start()
        .unwrap();
    child.join().unwrap();
    drop(condition.try_lock().unwrap());
}

fn wait_for_ten(condition: Condition, value: Value<u32>) -> u32 {
    let guard = condition.lock().unwrap();
    let guard = condition
        .wait_while(guard, || Ok(value.get()? < 10))
        .unwrap();
    let seen = value.get().unwrap();
    drop(guard);
    seen
}

#[test]
fn waiters_of_a_condition_are_woken() {
    let (_dog, manager) = start();
    let condition = manager.condition().unwrap();
    let value = manager.value(&0_u32).unwrap();
    let children: Vec<_> = (0..2)
        .map(|_| {
            let args = (condition.clone(), value.clone());
            Process::new(wait_for_ten, args).start().unwrap()
        })
        .collect();
    for n in 1..=10 {
        let guard = condition.lock().unwrap();
        value.set(&n).unwrap();
        condition.notify_all().unwrap();
        drop(guard);
    }
    for child in children {
        assert_eq!(child.join().unwrap(), 10);
    }
    let guard = condition.lock().unwrap();
    let (guard, notified) = condition.wait_timeout(guard, SHORT).unwrap();
    assert!(!notified);
    let (guard, ended) = condition
        .wait_while_timeout(guard, SHORT, || Ok(true))
        .unwrap();
    assert!(!ended);
    drop(guard);
    // A condition over the lock of another object.
    let lock = manager.rlock().unwrap();
    let over = manager.condition_with(&lock).unwrap();
    let guard = over.lock().unwrap();
    assert!(lock.is_locked().unwrap());
    drop(guard);
    assert!(!lock.is_locked().unwrap());
    assert!(manager.condition_with(&value).is_err());
}

fn wait_for_event(event: Event, passed: Semaphore) -> bool {
    passed.release().unwrap();
    event.wait_timeout(LONG).unwrap()
}

#[test]
fn an_event_wakes_all_who_wait_also_when_it_is_cleared_at_once() {
    let (_dog, manager) = start();
    let event = manager.event().unwrap();
    let passed = manager.semaphore(0).unwrap();
    assert!(!event.is_set().unwrap());
    assert!(!event.wait_timeout(SHORT).unwrap());
    let children: Vec<_> = (0..2)
        .map(|_| {
            let args = (event.clone(), passed.clone());
            Process::new(wait_for_event, args).start().unwrap()
        })
        .collect();
    for _ in 0..2 {
        passed.acquire().unwrap().forget().unwrap();
    }
    let waiting = |count: usize| {
        let text = format!("not set, {count} waiting");
        while !manager
            .debug_info()
            .unwrap()
            .list
            .iter()
            .any(|object| object.text == text)
        {
            std::thread::yield_now();
        }
    };
    waiting(2);
    event.set().unwrap();
    event.clear().unwrap();
    for child in children {
        assert!(child.join().unwrap());
    }
    event.set().unwrap();
    event.wait().unwrap();
}

fn reset_barrier(barrier: Barrier) {
    assert_eq!(barrier.parties().unwrap(), 5);
    barrier.reset().unwrap();
}

/// Conformance: TestSyncManagerTypes.test_barrier
#[test]
fn a_child_reads_and_resets_a_barrier() {
    let (_dog, manager) = start();
    let barrier = manager.barrier(5).unwrap();
    let child = Process::new(reset_barrier, (barrier.clone(),))
        .start()
        .unwrap();
    child.join().unwrap();
    assert!(!barrier.is_broken().unwrap());
    assert!(manager.barrier(0).is_err());
}

fn meet(barrier: Barrier, rounds: u32) -> Vec<(u32, bool)> {
    (0..rounds)
        .map(|_| {
            let turn = barrier.wait().unwrap();
            (turn.index(), turn.is_leader())
        })
        .collect()
}

fn die_waiting(barrier: Barrier) {
    let _ = barrier.wait();
}

#[test]
fn parties_of_a_barrier_meet_and_a_dead_one_breaks_it() {
    let (_dog, manager) = start();
    let barrier = manager.barrier(3).unwrap();
    let children: Vec<_> = (0..3)
        .map(|_| Process::new(meet, (barrier.clone(), 20)).start().unwrap())
        .collect();
    let turns: Vec<_> = children
        .into_iter()
        .map(|child| child.join().unwrap())
        .collect();
    for round in 0..20 {
        let mut places: Vec<_> = turns.iter().map(|turns| turns[round]).collect();
        places.sort_unstable();
        assert_eq!(places, [(0, false), (1, false), (2, true)]);
    }
    let child = Process::new(die_waiting, (barrier.clone(),))
        .start()
        .unwrap();
    while barrier.waiting().unwrap() == 0 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| barrier.wait());
        while barrier.waiting().unwrap() < 2 {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        assert!(matches!(waiter.join().unwrap(), Err(BarrierError::Broken)));
    });
    assert!(barrier.is_broken().unwrap());
    assert!(matches!(barrier.wait(), Err(BarrierError::Broken)));
    barrier.reset().unwrap();
    assert!(matches!(
        barrier.wait_timeout(SHORT),
        Err(BarrierError::Broken)
    ));
    barrier.reset().unwrap();
    barrier.abort().unwrap();
    assert!(barrier.is_broken().unwrap());
}

fn get_two(queue: Queue<u32>) -> (bool, usize, u32, u32) {
    (
        queue.is_full().unwrap(),
        queue.len().unwrap(),
        queue.get().unwrap(),
        queue.get().unwrap(),
    )
}

fn get_two_tasks(queue: JoinableQueue<u32>) -> (bool, usize, u32, u32) {
    let seen = (
        queue.is_full().unwrap(),
        queue.len().unwrap(),
        queue.get().unwrap(),
        queue.get().unwrap(),
    );
    queue.task_done().unwrap();
    queue.task_done().unwrap();
    seen
}

/// Conformance: TestSyncManagerTypes.test_queue
#[test]
fn a_child_empties_a_full_queue_in_order() {
    let (_dog, manager) = start();
    let queue = manager.bounded_queue::<u32>(2).unwrap();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    let child = Process::new(get_two, (queue.clone(),)).start().unwrap();
    assert_eq!(child.join().unwrap(), (true, 2, 1, 2));
    assert!(queue.is_empty().unwrap());
    assert!(!queue.is_full().unwrap());
}

/// Conformance: TestSyncManagerTypes.test_joinable_queue
#[test]
fn a_child_empties_a_full_joinable_queue_in_order() {
    let (_dog, manager) = start();
    let queue = manager.bounded_joinable_queue::<u32>(2).unwrap();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    assert!(!queue.join_timeout(SHORT).unwrap());
    let child = Process::new(get_two_tasks, (queue.clone(),))
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), (true, 2, 1, 2));
    queue.join().unwrap();
    assert_eq!(queue.lost().unwrap(), 0);
    assert!(queue.is_empty().unwrap());
    assert!(queue.task_done().is_err());
}

fn die_with_a_task(queue: JoinableQueue<u32>) {
    queue.get().unwrap();
    std::process::abort();
}

#[test]
fn a_task_of_the_dead_is_lost_and_nobody_waits_for_it() {
    let (_dog, manager) = start();
    let queue = manager.joinable_queue::<u32>().unwrap();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    let child = Process::new(die_with_a_task, (queue.clone(),))
        .start()
        .unwrap();
    assert!(child.join().is_err());
    assert_eq!(queue.get().unwrap(), 2);
    queue.task_done().unwrap();
    assert!(queue.join_timeout(LONG).unwrap());
    assert_eq!((queue.unfinished().unwrap(), queue.lost().unwrap()), (0, 1));
}

fn wait_for_an_item(queue: Queue<u32>) {
    let _ = queue.get();
}

#[test]
fn a_killed_getter_takes_no_item_with_it() {
    let (_dog, manager) = start();
    let queue = manager.queue::<u32>().unwrap();
    let child = Process::new(wait_for_an_item, (queue.clone(),))
        .start()
        .unwrap();
    let getting = |count: usize| {
        let text = format!("{count} getting");
        manager.debug_info().unwrap().list[0].text.contains(&text)
    };
    while !getting(1) {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while !getting(0) {
        std::thread::yield_now();
    }
    queue.put(7).unwrap();
    assert_eq!(queue.get_timeout(LONG).unwrap(), 7);
}

/// Conformance: TestManagerExceptions.test_queue_get
#[test]
fn empty_full_and_closed_are_told_as_such() {
    let (_dog, manager) = start();
    let queue = manager.bounded_queue::<u32>(1).unwrap();
    assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    assert!(matches!(queue.get_timeout(SHORT), Err(TryGetError::Empty)));
    queue.try_put(1).unwrap();
    assert!(matches!(queue.try_put(2), Err(TryPutError::Full(2))));
    assert!(matches!(
        queue.put_timeout(2, SHORT),
        Err(TryPutError::Full(2))
    ));
    assert_eq!(queue.capacity().unwrap(), Some(1));
    queue.close().unwrap();
    assert!(queue.is_closed().unwrap());
    assert_eq!(queue.put(3).unwrap_err().into_value(), 3);
    assert_eq!(queue.get().unwrap(), 1);
    assert!(matches!(queue.get(), Err(GetError::Closed)));
    assert!(queue.iter().next().is_none());
    assert!(manager.bounded_queue::<u32>(0).is_err());
}

fn put_all(queue: Queue<u32>) {
    queue.put_many(0..10_000).unwrap();
    queue.close().unwrap();
}

#[test]
fn many_items_go_through_a_small_queue() {
    let (_dog, manager) = start();
    let queue = manager.bounded_queue::<u32>(100).unwrap();
    let child = Process::new(put_all, (queue.clone(),)).start().unwrap();
    let mut all: Vec<u32> = queue.iter().take(500).map(Result::unwrap).collect();
    while all.len() < 10_000 {
        all.extend(queue.drain(50).unwrap());
    }
    child.join().unwrap();
    assert_eq!(all, (0..10_000).collect::<Vec<_>>());
}

fn use_list(list: List<i32>) {
    assert_eq!(list.get(0).unwrap(), Some(0));
    assert_eq!(list.count(&1).unwrap(), 1);
    assert_eq!(list.position(&5).unwrap(), Some(5));
    list.sort_by_key(|n| -n).unwrap();
    list.reverse().unwrap();
    let walked: Vec<_> = list.iter().map(Result::unwrap).collect();
    assert_eq!(walked, (0..10).collect::<Vec<_>>());
    for n in (0..10).rev() {
        assert_eq!(list.pop().unwrap(), Some(n));
    }
}

/// Conformance: TestSyncManagerTypes.test_list
#[test]
fn a_child_uses_up_a_list() {
    let (_dog, manager) = start();
    let list = manager.list_from(0..10).unwrap();
    let child = Process::new(use_list, (list.clone(),)).start().unwrap();
    child.join().unwrap();
    assert!(list.is_empty().unwrap());
}

fn use_dict(dict: Dict<String, u32>) {
    assert_eq!(dict.len().unwrap(), 1);
    assert_eq!(dict.get("a").unwrap(), Some(5));
    assert_eq!(dict.get("b").unwrap().unwrap_or(9), 9);
    assert_eq!(dict.items().unwrap(), [("a".to_owned(), 5)]);
    assert_eq!(dict.keys().unwrap(), ["a"]);
    assert_eq!(dict.values().unwrap(), [5]);
    assert_eq!(dict.to_map().unwrap()["a"], 5);
    assert_eq!(dict.pop_last().unwrap(), Some(("a".to_owned(), 5)));
}

/// Conformance: TestSyncManagerTypes.test_dict
#[test]
fn a_child_uses_up_a_dict() {
    let (_dog, manager) = start();
    let dict = manager.dict_from([("a".to_owned(), 5)]).unwrap();
    let child = Process::new(use_dict, (dict.clone(),)).start().unwrap();
    child.join().unwrap();
    assert!(dict.is_empty().unwrap());
}

fn set_value(value: Value<u32>) {
    assert_eq!(value.get().unwrap(), 1);
    value.set(&2).unwrap();
}

/// Conformance: TestSyncManagerTypes.test_value
#[test]
fn a_child_sets_a_value() {
    let (_dog, manager) = start();
    let value = manager.value(&1_u32).unwrap();
    Process::new(set_value, (value.clone(),))
        .start()
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(value.get().unwrap(), 2);
    assert_eq!(value.swap(&3).unwrap(), 2);
}

fn read_array(array: Array<i64>) -> Vec<i64> {
    assert_eq!(array.len().unwrap(), 3);
    assert_eq!(array.get(1).unwrap(), 1);
    array.iter().unwrap().collect()
}

/// Conformance: TestSyncManagerTypes.test_array
#[test]
fn a_child_reads_an_array() {
    let (_dog, manager) = start();
    let array = manager.array([0, 1, 2]).unwrap();
    let child = Process::new(read_array, (array,)).start().unwrap();
    assert_eq!(child.join().unwrap(), [0, 1, 2]);
}

#[test]
fn a_call_that_waits_holds_up_no_other_thread_of_its_client() {
    let (_dog, manager) = start();
    let queue = manager.queue::<u32>().unwrap();
    let dict = manager.dict::<u32, u32>().unwrap();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| queue.get().unwrap()))
            .collect();
        for n in 0..100 {
            dict.insert(n, n).unwrap();
        }
        assert_eq!(dict.len().unwrap(), 100);
        queue.put_many(0..8).unwrap();
        let mut got: Vec<_> = waiting
            .into_iter()
            .map(|waiter| waiter.join().unwrap())
            .collect();
        got.sort_unstable();
        assert_eq!(got, (0..8).collect::<Vec<_>>());
    });
}
