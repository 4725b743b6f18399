//! Other programs, other addresses, and proxies on their way.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mp_core::testing::{Watchdog, eventually};
use mp_manager::{
    Address, AuthKey, CallError, Client, ConnectError, Dict, List, Manager, Queue, Value,
};
use mp_pipe::{Receiver, simplex};
use mp_process::Process;
use serde::{Deserialize, Serialize, Serializer};

mp_process::init_in_tests!();

fn loopback() -> Address {
    Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Mixed {
    text: String,
    none: Option<u8>,
    truth: bool,
    number: f64,
    umlauts: String,
    bytes: Vec<u8>,
}

fn mixed() -> Mixed {
    Mixed {
        text: "hello world".to_owned(),
        none: None,
        truth: true,
        number: 2.25,
        umlauts: "hall\u{e5} v\u{e4}rlden".to_owned(),
        bytes: b"hall\xe5".to_vec(),
    }
}

fn put_one(address: Address, key: Vec<u8>) {
    let manager = Manager::connect(address, key).unwrap();
    let queue: Queue<Mixed> = manager.find("queue").unwrap();
    queue.put(mixed()).unwrap();
}

/// With the format of this crate instead of XML-RPC.
///
/// Conformance: _TestRemoteManager.test_remote
#[test]
fn another_program_shares_a_queue_by_address_and_key() {
    let _dog = Watchdog::secs(60);
    let key = b"a key of its own".to_vec();
    let manager = Manager::builder()
        .address(loopback())
        .authkey(key.clone())
        .start()
        .unwrap();
    let queue: Queue<Mixed> = manager.queue().unwrap();
    manager.share("queue", &queue).unwrap();
    let args = (manager.address().clone(), key.clone());
    Process::new(put_one, args).start().unwrap().join().unwrap();
    let second = Manager::connect(manager.address(), key).unwrap();
    let same: Queue<Mixed> = second.find("queue").unwrap();
    assert_eq!(same, queue);
    assert_eq!(same.get().unwrap(), mixed());
    drop((queue, same));
    assert_eq!(second.number_of_objects().unwrap(), 1, "the name keeps it");
    assert!(second.unshare("queue").unwrap());
    assert!(!second.unshare("queue").unwrap());
    // What the first connection let go of is told there, and nobody waits for that.
    eventually(30, || second.number_of_objects().unwrap() == 0);
    assert!(second.shutdown().is_err(), "it did not start the server");
}

#[test]
fn what_has_no_encoding_is_the_senders_error() {
    struct Refuses;
    impl Serialize for Refuses {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("not for others"))
        }
    }
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let names = manager.namespace().unwrap();
    let error = names.set("a", &Refuses).unwrap_err();
    assert!(error.to_string().contains("not for others"), "{error}");
    assert!(!names.contains("a").unwrap());
}

/// Conformance: _TestManagerRestart.test_rapid_restart
#[test]
fn a_new_server_takes_over_the_port_of_one_that_was_shut_down() {
    let _dog = Watchdog::secs(60);
    let first = Manager::builder().address(loopback()).start().unwrap();
    let address = first.address().clone();
    let value = first.value(&7_u32).unwrap();
    let other = Manager::connect(&address, first.authkey()).unwrap();
    first.shutdown().unwrap();
    let second = Manager::builder().address(&address).start().unwrap();
    assert_eq!(second.address(), &address);
    assert!(matches!(value.get(), Err(CallError::ServerDied { .. })));
    assert!(matches!(
        other.number_of_objects(),
        Err(CallError::ServerDied { .. })
    ));
    assert_eq!(second.number_of_objects().unwrap(), 0);
}

#[test]
fn a_wrong_key_or_address_is_told_as_such() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let wrong = Manager::connect(manager.address(), AuthKey::random());
    assert!(
        matches!(wrong, Err(ConnectError::WrongKey { .. })),
        "{wrong:?}"
    );
    let nobody = Address::unix("/nowhere/at/all");
    assert!(matches!(
        Manager::connect(nobody, "key"),
        Err(ConnectError::Unreachable { .. })
    ));
    let listener = mp_pipe::Listener::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stranger = listener.accept::<String, ()>().unwrap();
            stranger.send(&"how do you do".to_owned()).unwrap();
            let _ = stranger.recv_bytes();
        });
        let other = Manager::connect(listener.address(), manager.authkey());
        assert!(
            matches!(other, Err(ConnectError::Protocol { .. })),
            "{other:?}"
        );
    });
    assert_eq!(manager.number_of_objects().unwrap(), 0);
}

#[test]
fn names_are_given_once_and_can_be_moved() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let (one, two) = (manager.value(&1).unwrap(), manager.value(&2).unwrap());
    manager.share("n", &one).unwrap();
    assert!(matches!(
        manager.share("n", &two),
        Err(CallError::Denied { .. })
    ));
    manager.share_again("n", &two).unwrap();
    assert_eq!(manager.find::<Value<i32>>("n").unwrap(), two);
    assert!(matches!(
        manager.find::<Value<i32>>("m"),
        Err(CallError::NotFound { .. })
    ));
    assert_eq!(manager.debug_info().unwrap().names, ["n"]);
}

fn first_item(lists: Receiver<List<u32>>, go: Receiver<()>) -> u32 {
    go.recv().unwrap();
    lists.recv().unwrap().get(0).unwrap().unwrap()
}

#[test]
fn a_proxy_on_its_way_keeps_its_object() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let (receiver, sender) = simplex().unwrap();
    let (waits, go) = simplex().unwrap();
    let child = Process::new(first_item, (receiver, waits)).start().unwrap();
    let list = manager.list_from([7]).unwrap();
    sender.send(&list).unwrap();
    // Dropped here before the child has looked at it.
    drop(list);
    assert_eq!(manager.debug_info().unwrap().tickets, 1);
    assert_eq!(manager.number_of_objects().unwrap(), 1);
    go.send(&()).unwrap();
    assert_eq!(child.join().unwrap(), 7);
    while manager.number_of_objects().unwrap() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(manager.debug_info().unwrap().tickets, 0);
}

fn send_and_exit(address: Address, key: Vec<u8>) -> Vec<u8> {
    let client = Client::connect(address, key).unwrap();
    let list = client.list_from([1, 2, 3]).unwrap();
    let mut bytes = Vec::new();
    mp_core::codec::encode_into(&list, &mut bytes).unwrap();
    std::mem::forget(list);
    bytes
}

#[test]
fn a_ticket_ends_with_its_issuer() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    let args = (
        manager.address().clone(),
        manager.authkey().as_bytes().to_vec(),
    );
    let bytes = Process::new(send_and_exit, args)
        .start()
        .unwrap()
        .join()
        .unwrap();
    while manager.number_of_objects().unwrap() > 0 {
        std::thread::yield_now();
    }
    let error = mp_core::codec::decode::<List<i32>>(&bytes).unwrap_err();
    assert!(error.to_string().contains("List"), "{error}");
}

/// On a server on which nothing else happens.
#[test]
fn a_ticket_that_nobody_comes_for_ends() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::builder().ticket_timeout(Duration::from_millis(300));
    let manager = manager.start().unwrap();
    let list = manager.list::<u8>().unwrap();
    let mut bytes = Vec::new();
    mp_core::codec::encode_into(&list, &mut bytes).unwrap();
    drop(list);
    while manager.number_of_objects().unwrap() > 0 {
        std::thread::yield_now();
    }
    let error = mp_core::codec::decode::<List<u8>>(&bytes).unwrap_err();
    assert!(error.to_string().contains("List"), "{error}");
}

fn insert_there(dict: Dict<String, Value<u32>>, value: Value<u32>) {
    dict.insert("value".to_owned(), value).unwrap();
}

#[test]
fn a_child_of_a_manager_with_a_key_of_its_own_connects_first() {
    type Proxies = (Dict<String, Value<u32>>, Value<u32>);
    fn connect_and_insert(address: Address, key: Vec<u8>, proxies: Receiver<Proxies>) {
        let _manager = Manager::connect(address, key).unwrap();
        let (dict, value) = proxies.recv().unwrap();
        insert_there(dict, value);
    }
    let _dog = Watchdog::secs(60);
    let key = b"another key".to_vec();
    let manager = Manager::builder().authkey(key.clone()).start().unwrap();
    let dict = manager.dict().unwrap();
    let value = manager.value(&5).unwrap();
    let (receiver, sender) = simplex().unwrap();
    let args = (manager.address().clone(), key, receiver);
    let child = Process::new(connect_and_insert, args).start().unwrap();
    sender.send(&(dict.clone(), value)).unwrap();
    child.join().unwrap();
    assert_eq!(dict.get("value").unwrap().unwrap().get().unwrap(), 5);
}

#[test]
fn an_object_keeps_proxies_of_its_own_manager_only() {
    let _dog = Watchdog::secs(60);
    let (here, there) = (Manager::start().unwrap(), Manager::start().unwrap());
    let dict = here.dict::<String, List<u8>>().unwrap();
    let foreign = there.list_from([1]).unwrap();
    let error = dict.insert("a".to_owned(), foreign.clone()).unwrap_err();
    assert!(error.to_string().contains("another manager"), "{error}");
    assert!(here.share("a", &foreign).is_err());
    assert_eq!(there.debug_info().unwrap().tickets, 0);
}

#[test]
fn a_server_in_this_process_serves_others_and_its_own_code() {
    let _dog = Watchdog::secs(60);
    let server = Manager::builder().server().unwrap();
    let (address, key) = (server.address().clone(), server.authkey());
    let own = server.client();
    let list = own.list_from([1, 2]).unwrap();
    let dict = own.dict::<u8, List<u32>>().unwrap();
    dict.insert(1, list.clone()).unwrap();
    own.share("dict", &dict).unwrap();
    let handle = server.handle();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve());
        let args = (address.clone(), key.as_bytes().to_vec());
        let child = Process::new(push_three, args).start().unwrap();
        child.join().unwrap();
        assert_eq!(list.to_vec().unwrap(), [1, 2, 3]);
        let client = Client::connect(&address, key).unwrap();
        let same: Dict<u8, List<u32>> = client.find("dict").unwrap();
        handle.stop();
        serving.join().unwrap().unwrap();
        assert!(matches!(same.len(), Err(CallError::ServerDied { .. })));
    });
    // The objects live on here until the last reference goes.
    assert_eq!(dict.len().unwrap(), 1);
}

#[test]
fn a_server_that_stops_ends_also_a_client_that_calls_without_a_pause() {
    let _dog = Watchdog::secs(60);
    let server = Manager::builder().server().unwrap();
    let (address, key) = (server.address().clone(), server.authkey());
    let (handle, calling) = (server.handle(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve());
        let client = scope.spawn(|| {
            let value = Manager::connect(&address, key).unwrap().value(&1).unwrap();
            loop {
                match value.get() {
                    Ok(_) => calling.store(true, Ordering::Relaxed),
                    Err(error) => break error,
                }
            }
        });
        while !calling.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        handle.stop();
        serving.join().unwrap().unwrap();
        assert!(matches!(
            client.join().unwrap(),
            CallError::ServerDied { .. }
        ));
    });
}

fn push_three(address: Address, key: Vec<u8>) {
    let client = Client::connect(address, key).unwrap();
    let dict: Dict<u8, List<u32>> = client.find("dict").unwrap();
    dict.get(&1).unwrap().unwrap().push(3).unwrap();
}

#[test]
fn quotas_are_denied_and_told() {
    let _dog = Watchdog::secs(60);
    let manager = Manager::builder()
        .max_objects_per_client(3)
        .max_connections_per_client(2)
        .max_names(1)
        .max_message(4096)
        .start()
        .unwrap();
    let kept: Vec<_> = (0..3).map(|n| manager.value(&n).unwrap()).collect();
    let refused = manager.value(&3);
    assert!(
        matches!(refused, Err(CallError::Denied { .. })),
        "{refused:?}"
    );
    manager.share("a", &kept[0]).unwrap();
    assert!(matches!(
        manager.share("b", &kept[1]),
        Err(CallError::Denied { .. })
    ));
    drop(kept);
    let list = manager.list::<Vec<u8>>().unwrap();
    assert!(matches!(
        list.push(vec![0; 10_000]),
        Err(CallError::TooLarge { limit: 4096, .. })
    ));
    list.push(vec![0; 1000]).unwrap();
    list.repeat(5).unwrap();
    assert_eq!(list.to_vec().unwrap().len(), 5, "page by page");
    let event = manager.event().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| event.wait_timeout(Duration::from_secs(20)));
        let waiting = || {
            manager
                .debug_info()
                .unwrap()
                .list
                .iter()
                .any(|o| o.text.contains("1 waiting"))
        };
        while !waiting() {
            std::thread::yield_now();
        }
        std::thread::scope(|inner| {
            // Two threads at once need one connection more than there may be.
            let calls =
                (0..2).map(|_| inner.spawn(|| (0..100).map(|_| list.len()).collect::<Vec<_>>()));
            for result in calls
                .collect::<Vec<_>>()
                .into_iter()
                .flat_map(|call| call.join().unwrap())
            {
                assert!(
                    matches!(result, Ok(5) | Err(CallError::Denied { .. })),
                    "{result:?}"
                );
            }
        });
        event.set().unwrap();
        assert!(waiter.join().unwrap().unwrap());
    });
}
