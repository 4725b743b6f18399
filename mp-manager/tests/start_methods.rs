//! Proxies in children of every start method. Without a harness: forking needs a single thread.

use mp_core::testing::Watchdog;
use mp_manager::{Dict, List, Manager};
use mp_process::{Process, StartMethod};

fn main() {
    mp_process::init();
    // Not the watchdog's thread either: it starts after the forks.
    a_forked_child_has_references_of_its_own();
    let _dog = Watchdog::secs(60);
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        a_proxy_dropped_before_the_child_looks_at_it_still_works(method);
    }
}

fn push(list: List<u32>) -> usize {
    list.push(2).unwrap();
    list.len().unwrap()
}

fn a_proxy_dropped_before_the_child_looks_at_it_still_works(method: StartMethod) {
    let manager = Manager::start().unwrap();
    let list = manager.list_from([1]).unwrap();
    let child = Process::new(push, (list,))
        .start_method(method)
        .start()
        .unwrap();
    assert_eq!(child.join().unwrap(), 2);
    while manager.number_of_objects().unwrap() > 0 {
        std::thread::yield_now();
    }
    println!("test a_proxy_dropped_before_the_child_looks_at_it_still_works {method:?} ... ok");
}

fn a_forked_child_has_references_of_its_own() {
    let manager = std::sync::Arc::new(Manager::start().unwrap());
    let dict: Dict<String, u32> = manager.dict().unwrap();
    let pid = std::process::id();
    for round in 0..3 {
        let (inherited, copy) = (dict.clone(), manager.clone());
        let child = Process::fork(move || {
            assert_ne!(std::process::id(), pid);
            copy.shutdown().unwrap(); // does nothing: the server is the parent's
            inherited.insert(format!("child {round}"), round).unwrap();
            inherited.len().unwrap()
        })
        .start()
        .unwrap();
        // At the same time as the child: they share no connection.
        for n in 0..100 {
            dict.insert("parent".to_owned(), n).unwrap();
        }
        assert!(child.join().unwrap() > round as usize);
    }
    assert_eq!(dict.len().unwrap(), 4);
    // The children's end and their copies of the proxy have taken nothing away.
    assert_eq!(manager.number_of_objects().unwrap(), 1);
    println!("test a_forked_child_has_references_of_its_own ... ok");
}
