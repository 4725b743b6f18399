//! Every handle travels to another program as an argument, and works there.

use std::sync::atomic::Ordering;

use mp_core::testing::{Case, Census, Child, Watchdog};
use mp_sync::{
    Array, Barrier, BoundedSemaphore, Condition, Event, Lock, OnceValue, RLock, RawArray, RawValue,
    RwLock, Semaphore, Value,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Everything {
    lock: Lock,
    rlock: RLock,
    rwlock: RwLock,
    value: Value<u64>,
    array: Array<f64>,
    shared: Value<u32>,
    raw_value: RawValue<u64>,
    raw_array: RawArray<u8>,
    once: OnceValue<u32>,
    event: Event,
    semaphore: Semaphore,
    bounded: BoundedSemaphore,
    condition: Condition,
    barrier: Barrier,
}

impl Everything {
    fn new() -> Everything {
        let lock = Lock::new().unwrap();
        Everything {
            shared: Value::with_lock(1, &lock).unwrap(),
            lock,
            rlock: RLock::new().unwrap(),
            rwlock: RwLock::new().unwrap(),
            value: Value::new(1).unwrap(),
            array: Array::zeroed(3).unwrap(),
            raw_value: RawValue::new(1).unwrap(),
            raw_array: RawArray::zeroed(3).unwrap(),
            once: OnceValue::new().unwrap(),
            event: Event::new().unwrap(),
            semaphore: Semaphore::new(0).unwrap(),
            bounded: BoundedSemaphore::new(1).unwrap(),
            condition: Condition::new().unwrap(),
            barrier: Barrier::new(2).unwrap(),
        }
    }
}

#[test]
fn case_uses_everything() {
    let Some(case) = Case::get() else { return };
    let all: Everything = case.args();
    assert!(all.lock.is_locked() && all.rlock.is_locked());
    assert!(all.shared.get_lock().is_locked());
    assert!(all.rwlock.try_read().is_ok() && all.rwlock.try_write().is_err());
    *all.value.lock().unwrap() += 1;
    all.array.lock().unwrap()[2] = 0.5;
    all.raw_value.fetch_add(1, Ordering::Relaxed);
    all.raw_array.write(1, &[9]);
    all.once.get_or_init(|| 3).unwrap();
    all.semaphore.release().unwrap();
    assert!(all.bounded.try_acquire().is_err());
    all.event.set();
    let guard = all.condition.lock().unwrap();
    case.ready();
    all.condition.wait(guard).map(drop).unwrap();
    all.barrier.wait().unwrap();
}

#[test]
fn every_handle_works_in_another_program() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let all = Everything::new();
    let held = (
        all.lock.lock().unwrap(),
        all.rlock.lock().unwrap(),
        all.rwlock.read().unwrap(),
        all.bounded.acquire().unwrap(),
    );
    let mut child = Child::case("case_uses_everything", &all).wait_ready();
    drop(all.condition.lock().unwrap()); // it waits now
    all.condition.notify_one();
    all.event.wait();
    all.barrier.wait().unwrap();
    assert!(child.wait().success());
    assert_eq!(all.value.get().unwrap(), 2);
    assert_eq!(*all.array.lock().unwrap(), [0.0, 0.0, 0.5]);
    assert_eq!(all.raw_value.get(), 2);
    assert_eq!(all.raw_array.to_vec(), [0, 9, 0]);
    assert_eq!(all.once.get(), Some(&3));
    assert_eq!(all.semaphore.available(), 1);
    drop(held);
}

#[test]
fn plain_data_cannot_carry_a_handle_and_the_error_tells_what_can() {
    let _census = Census::take();
    let lock = Lock::new().unwrap();
    let error = mp_core::codec::encode_into(&lock, &mut Vec::new()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Lock") && text.contains("argument"), "{text}");
}

#[test]
fn handles_dropped_in_any_order_leave_nothing() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let all = Everything::new();
    let clone = all.clone();
    drop(all);
    *clone.shared.lock().unwrap() += 1;
    drop(clone.semaphore.clone());
    drop(clone);
}
