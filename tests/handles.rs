//! What mp-sync shares reaches a child as an argument, and over a connection.

use std::time::Duration;

use mp::{
    Array, Barrier, BoundedSemaphore, Condition, Connection, Event, Lock, OnceValue, Process,
    RLock, RawArray, RawValue, RwLock, Semaphore, ShareableList, SharedMemory, Value,
};
use mp_core::testing::Watchdog;
use serde::{Deserialize, Serialize};

mp::init_in_tests!();

#[derive(Clone, Serialize, Deserialize)]
struct Handles {
    lock: Lock,
    rlock: RLock,
    rwlock: RwLock,
    value: Value<u32>,
    array: Array<u32>,
    raw_value: RawValue<u32>,
    raw_array: RawArray<u32>,
    once: OnceValue<u32>,
    condition: Condition,
    event: Event,
    semaphore: Semaphore,
    bounded: BoundedSemaphore,
    barrier: Barrier,
    memory: SharedMemory,
    list: ShareableList,
}

impl Handles {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            lock: Lock::new()?,
            rlock: RLock::new()?,
            rwlock: RwLock::new()?,
            value: Value::new(1)?,
            array: Array::zeroed(2)?,
            raw_value: RawValue::new(1)?,
            raw_array: RawArray::zeroed(2)?,
            once: OnceValue::new()?,
            condition: Condition::new()?,
            event: Event::new()?,
            semaphore: Semaphore::new(0)?,
            bounded: BoundedSemaphore::new(1)?,
            barrier: Barrier::new(2)?,
            memory: SharedMemory::create(None, 8)?,
            list: ShareableList::create(None, [1.into()])?,
        })
    }

    /// In the child: leaves a trace in each.
    fn use_all(&self) {
        drop((self.lock.lock().unwrap(), self.rlock.lock().unwrap()));
        drop(self.rwlock.write().unwrap());
        *self.value.lock().unwrap() += 1;
        self.array.lock().unwrap()[1] = 7;
        self.raw_value.set(2);
        self.raw_array.write(1, &[7]);
        self.once.get_or_init(|| 7).unwrap();
        self.memory.write(3, &[7]);
        self.list.set(0, 7).unwrap();
        self.bounded.acquire().unwrap().forget();
        self.semaphore.release().unwrap();
        self.event.set();
        self.barrier.wait().unwrap();
        // Under the lock, which is free only once the parent waits.
        let _guard = self.condition.lock().unwrap();
        self.condition.notify_all();
    }

    fn assert_used(&self) {
        let guard = self.condition.lock().unwrap();
        self.barrier.wait().unwrap();
        let long = Duration::from_secs(60);
        assert!(self.condition.wait_timeout(guard, long).unwrap().1);
        assert!(self.event.is_set());
        self.semaphore.acquire().unwrap().forget();
        assert_eq!(self.bounded.available(), 0);
        assert_eq!(self.value.get().unwrap(), 2);
        assert_eq!(self.array.to_vec().unwrap(), [0, 7]);
        assert_eq!((self.raw_value.get(), self.raw_array.get(1)), (2, Some(7)));
        assert_eq!(self.once.get(), Some(&7));
        let mut byte = [0];
        self.memory.read(3, &mut byte);
        assert_eq!((byte, self.list.get(0)), ([7], Ok(7.into())));
        assert!(self.lock.try_lock().is_ok() && self.rlock.try_lock().is_ok());
        assert!(self.rwlock.try_write().is_ok());
    }
}

#[test]
fn every_handle_works_in_a_child_that_got_it_as_an_argument() {
    let _dog = Watchdog::secs(60);
    let handles = Handles::new().unwrap();
    let child = Process::new(|handles: Handles| handles.use_all(), (handles.clone(),));
    let child = child.start().unwrap();
    handles.assert_used();
    child.join().unwrap();
}

#[test]
fn every_handle_works_in_a_child_that_got_it_over_a_connection() {
    let _dog = Watchdog::secs(60);
    let handles = Handles::new().unwrap();
    let (ours, theirs) = mp::duplex::<Handles, ()>().unwrap();
    let take = |there: Connection<(), Handles>| there.recv().unwrap().use_all();
    let child = Process::new(take, (theirs,)).start().unwrap();
    ours.send(&handles).unwrap();
    handles.assert_used();
    child.join().unwrap();
}
