//! Who locked unlocks: a guard cannot be sent to another thread.

use mp_sync::{Lock, RLock, RwLock, Semaphore, Value};

fn send<T: Send>(_: T) {}

fn main() {
    send(Lock::new().unwrap().lock().unwrap());
    send(RLock::new().unwrap().lock().unwrap());
    send(RwLock::new().unwrap().read().unwrap());
    send(RwLock::new().unwrap().write().unwrap());
    send(Value::new(1).unwrap().lock().unwrap());
    send(Semaphore::new(1).unwrap().acquire().unwrap());
}
