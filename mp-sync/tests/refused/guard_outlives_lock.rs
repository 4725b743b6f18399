//! A guard keeps its lock's memory mapped: it cannot outlive the handle.

use mp_sync::{Array, Lock};

fn main() {
    let guard = {
        let lock = Lock::new().unwrap();
        lock.lock().unwrap()
    };
    drop(guard);

    let array = Array::from_slice(&[1, 2]).unwrap();
    let guard = array.lock().unwrap();
    drop(array);
    drop(guard);
}
