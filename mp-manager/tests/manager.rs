//! A server in a child process, and clients in others.

use std::time::Duration;

use mp_core::testing::Watchdog;
use mp_manager::{CallError, Dict, List, Lock, LockError, Manager, Value};
use mp_process::Process;

mp_process::init_in_tests!();

fn count(words: Dict<String, u64>, text: String) {
    for word in text.split_whitespace() {
        words.update(word.to_owned(), 0, |n| n + 1).unwrap();
    }
}

#[test]
fn processes_count_words_in_one_dict() {
    let _dog = Watchdog::secs(30);
    let manager = Manager::start().unwrap();
    let words = manager.dict::<String, u64>().unwrap();
    let children = ["to be or", "not to be"].map(|text| {
        Process::new(count, (words.clone(), text.to_owned()))
            .start()
            .unwrap()
    });
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(words.get("be").unwrap(), Some(2));
    assert_eq!(words.len().unwrap(), 4);
    let again = Manager::connect(manager.address(), manager.authkey()).unwrap();
    assert_eq!(again.debug_info().unwrap().objects, 1);
}

fn die_holding(lock: Lock) {
    std::mem::forget(lock.lock().unwrap());
    std::process::abort();
}

#[test]
fn the_next_owner_of_a_lock_is_told_that_the_last_one_died() {
    let _dog = Watchdog::secs(30);
    let manager = Manager::start().unwrap();
    let lock = manager.lock().unwrap();
    let child = Process::new(die_holding, (lock.clone(),)).start().unwrap();
    assert!(child.join().is_err());
    let Err(LockError::OwnerDied(died)) = lock.lock() else {
        panic!("nobody was told");
    };
    drop(died.into_guard());
    drop(lock.lock().unwrap());
}

#[test]
fn a_proxy_in_an_element_stays_live() {
    let _dog = Watchdog::secs(30);
    let manager = Manager::start().unwrap();
    let outer = manager.dict::<String, List<i64>>().unwrap();
    let inner = manager.list_from([1, 2]).unwrap();
    outer.insert("a".to_owned(), inner).unwrap();
    assert_eq!(manager.number_of_objects().unwrap(), 2);
    outer.get("a").unwrap().unwrap().push(3).unwrap();
    assert_eq!(
        outer.get("a").unwrap().unwrap().to_vec().unwrap(),
        [1, 2, 3]
    );
    outer.clear().unwrap();
    assert_eq!(manager.number_of_objects().unwrap(), 1);
}

#[test]
fn calls_after_the_shutdown_are_server_died() {
    let _dog = Watchdog::secs(30);
    let manager = Manager::start().unwrap();
    let value: Value<u32> = manager.value(&7).unwrap();
    assert_eq!(value.get().unwrap(), 7);
    manager.shutdown().unwrap();
    manager.shutdown().unwrap();
    assert_eq!(manager.exit_status().unwrap().exitcode(), Some(0));
    assert!(matches!(value.get(), Err(CallError::ServerDied { .. })));
    assert!(manager.join(Duration::ZERO).unwrap());
}
