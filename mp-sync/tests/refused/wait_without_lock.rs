//! A condition waits with a guard that holds its lock alone, and with nothing else.

use mp_sync::{Condition, Lock, RwLock};

fn main() {
    let condition = Condition::new().unwrap();
    condition.wait(Lock::new().unwrap()).unwrap();
    let lock = RwLock::new().unwrap();
    condition.wait(lock.read().unwrap()).unwrap();
}
