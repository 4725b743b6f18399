//! What lies in shared memory is plain data, without pointers into one process.

use mp_sync::{Array, Value};

fn main() {
    Value::new(String::from("on the heap")).unwrap();
    Array::from_slice(&[&1]).unwrap();
}
