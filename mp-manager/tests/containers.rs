//! Dicts, lists, namespaces, values and arrays, through their proxies.

use std::{collections::HashMap, sync::Mutex};

use mp_core::testing::Watchdog;
use mp_manager::{CallError, Dict, Event, List, Manager, Queue, Value};
use mp_process::Process;
use serde::{Deserialize, Deserializer, Serialize};

mp_process::init_in_tests!();

fn start() -> (Watchdog, Manager) {
    (Watchdog::secs(60), Manager::start().unwrap())
}

/// Conformance: _TestContainers.test_list
#[test]
fn a_list_does_what_a_vector_does() {
    let (_dog, manager) = start();
    let a = manager.list_from(0..10).unwrap();
    assert_eq!(a.to_vec().unwrap(), (0..10).collect::<Vec<_>>());
    let b = manager.list::<i32>().unwrap();
    assert!(b.is_empty().unwrap());
    b.extend(0..5).unwrap();
    assert_eq!(b.get(2).unwrap(), Some(2));
    assert_eq!(b.get(10).unwrap(), None);
    assert_eq!(b.range(2..).unwrap(), [2, 3, 4]);
    assert_eq!(b.range(1..=2).unwrap(), [1, 2]);
    b.repeat(2).unwrap();
    assert_eq!(b.to_vec().unwrap(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    assert_eq!(b.position(&3).unwrap(), Some(3));
    assert_eq!(b.position(&9).unwrap(), None);
    assert_eq!(b.count(&4).unwrap(), 2);
    // Concatenation is a local copy.
    let both = [b.to_vec().unwrap(), vec![5, 6]].concat();
    assert_eq!(both.len(), 12);
    assert_eq!(b.len().unwrap(), 10);
    // A change through one proxy is seen through the list that contains it.
    let d = manager.list_from([a.clone(), b.clone()]).unwrap();
    a.push(10).unwrap();
    let seen: Vec<_> = d
        .iter()
        .map(|inner| inner.unwrap().to_vec().unwrap())
        .collect();
    assert_eq!(seen[0], (0..11).collect::<Vec<_>>());
    assert_eq!(seen[1], b.to_vec().unwrap());
    let nested = manager.list_from([a.clone()]).unwrap();
    let outer = manager.list_from([nested]).unwrap();
    drop(a);
    let innermost = outer.get(0).unwrap().unwrap().get(0).unwrap().unwrap();
    assert_eq!(innermost.len().unwrap(), 11);
}

#[test]
fn a_list_is_changed_in_place() {
    let (_dog, manager) = start();
    let list = manager.list_from([5, 3, 9, 1]).unwrap();
    list.sort().unwrap();
    assert_eq!(list.to_vec().unwrap(), [1, 3, 5, 9]);
    list.sort_by_key(|n| std::cmp::Reverse(*n)).unwrap();
    assert_eq!(list.to_vec().unwrap(), [9, 5, 3, 1]);
    list.reverse().unwrap();
    assert_eq!(list.set(0, 2).unwrap(), 1);
    list.insert(1, 7).unwrap();
    list.insert(5, 8).unwrap();
    assert_eq!(list.to_vec().unwrap(), [2, 7, 3, 5, 9, 8]);
    assert_eq!(list.remove(1).unwrap(), 7);
    assert!(list.remove_value(&5).unwrap());
    assert!(!list.remove_value(&5).unwrap());
    assert_eq!(list.pop().unwrap(), Some(8));
    assert_eq!(list.update(1, |n| n * 10).unwrap(), 30);
    assert_eq!(list.compare_exchange(0, &1, &4).unwrap(), Err(Some(2)));
    assert_eq!(list.compare_exchange(0, &2, &4).unwrap(), Ok(()));
    assert_eq!(list.to_vec().unwrap(), [4, 30, 9]);
    list.truncate(1).unwrap();
    assert_eq!(list.to_vec().unwrap(), [4]);
    list.clear().unwrap();
    assert_eq!(list.pop().unwrap(), None);
    for beyond in [
        list.set(0, 1).map(drop),
        list.insert(1, 1),
        list.remove(0).map(drop),
        list.update(3, |n| n).map(drop),
    ] {
        assert!(
            matches!(beyond, Err(CallError::Refused { .. })),
            "{beyond:?}"
        );
    }
}

/// Conformance: _TestContainers.test_list_iter
#[test]
fn a_list_iterator_sees_what_stands_there_when_it_comes_by() {
    let (_dog, manager) = start();
    let list = manager.list_from(0..10).unwrap();
    let mut iter = list.iter();
    let all: Vec<_> = iter.by_ref().map(Result::unwrap).collect();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert!(iter.next().is_none());
    assert!(iter.next().is_none());
    let mut iter = list.iter();
    list.set(0, 100).unwrap();
    assert_eq!(iter.next().unwrap().unwrap(), 100);
    // Page by page: each is fetched when it is reached.
    let mut iter = list.iter_by(3);
    assert_eq!(iter.next().unwrap().unwrap(), 100);
    list.set(9, 900).unwrap();
    assert_eq!(iter.last().unwrap().unwrap(), 900);
}

/// Conformance: _TestContainers.test_dict
#[test]
fn a_dict_gives_copies_of_all_it_has() {
    let (_dog, manager) = start();
    let dict = manager.dict::<u32, char>().unwrap();
    for n in 65..70 {
        dict.insert(n, char::from_u32(n).unwrap()).unwrap();
    }
    let local: HashMap<u32, char> = (65..70).map(|n| (n, char::from_u32(n).unwrap())).collect();
    assert_eq!(dict.to_map().unwrap(), local);
    assert_eq!(dict.keys().unwrap(), (65..70).collect::<Vec<_>>());
    assert_eq!(dict.values().unwrap(), ['A', 'B', 'C', 'D', 'E']);
    assert_eq!(dict.items().unwrap()[1], (66, 'B'));
    assert_eq!(dict.get(&67).unwrap(), Some('C'));
    assert_eq!(dict.get(&1).unwrap(), None);
}

#[test]
fn a_dict_does_what_a_map_does() {
    let (_dog, manager) = start();
    let dict = manager
        .dict_from([("a".to_owned(), 1), ("b".to_owned(), 2)])
        .unwrap();
    assert_eq!(dict.insert("a".to_owned(), 3).unwrap(), Some(1));
    assert_eq!(dict.insert("c".to_owned(), 4).unwrap(), None);
    assert_eq!(dict.get_or_insert("a".to_owned(), 9).unwrap(), 3);
    assert_eq!(dict.get_or_insert("d".to_owned(), 9).unwrap(), 9);
    assert!(dict.contains_key("d").unwrap());
    assert_eq!(dict.remove("d").unwrap(), Some(9));
    assert_eq!(dict.remove("d").unwrap(), None);
    assert_eq!(
        dict.get_many(["c", "x", "a"]).unwrap(),
        [Some(4), None, Some(3)]
    );
    assert_eq!(dict.pop_last().unwrap(), Some(("c".to_owned(), 4)));
    assert_eq!(dict.remove_many(["a", "x"]).unwrap(), 1);
    assert_eq!(dict.len().unwrap(), 1);
    assert_eq!(
        dict.compare_exchange("b", Some(&2), Some(&20)).unwrap(),
        Ok(())
    );
    assert_eq!(
        dict.compare_exchange("b", None, Some(&0)).unwrap(),
        Err(Some(20))
    );
    assert_eq!(dict.compare_exchange("b", Some(&20), None).unwrap(), Ok(()));
    assert!(dict.is_empty().unwrap());
    assert_eq!(dict.update_with("n", |n| n.or(Some(5))).unwrap(), Some(5));
    assert_eq!(dict.update_with("n", |_| None).unwrap(), None);
    assert_eq!(dict.pop_last().unwrap(), None);
}

/// Conformance: _TestContainers.test_dict_iter
#[test]
fn clearing_a_dict_ends_its_iterations_with_an_error() {
    let (_dog, manager) = start();
    let dict = manager.dict_from((0..10).map(|n| (n, n * n))).unwrap();
    let mut iter = dict.iter();
    let keys: Vec<_> = iter.by_ref().map(|entry| entry.unwrap().0).collect();
    assert_eq!(keys, (0..10).collect::<Vec<_>>());
    assert!(iter.next().is_none());
    let mut iter = dict.iter_by(1);
    assert_eq!(iter.next().unwrap().unwrap(), (0, 0));
    dict.clear().unwrap();
    assert!(matches!(
        iter.next(),
        Some(Err(CallError::Refused { reason, .. })) if reason.contains("cleared")
    ));
    assert!(iter.next().is_none());
}

#[test]
fn an_iteration_outlasts_other_changes_and_sees_nothing_twice() {
    let (_dog, manager) = start();
    let dict = manager.dict_from((0..10).map(|n| (n, ()))).unwrap();
    let mut seen = Vec::new();
    for entry in dict.iter_by(2) {
        let key = entry.unwrap().0;
        seen.push(key);
        dict.remove(&key).unwrap();
        if key < 10 {
            dict.insert(key + 10, ()).unwrap();
        }
    }
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
    assert!(dict.is_empty().unwrap());
}

/// Conformance: _TestContainers.test_dict_proxy_nested
#[test]
fn nested_dicts_live_as_long_as_something_refers_to_them() {
    let (_dog, manager) = start();
    let pets = manager
        .dict_from([("ferrets".to_owned(), 2), ("hamsters".to_owned(), 4)])
        .unwrap();
    let water = manager
        .dict_from([("water".to_owned(), 10), ("feed".to_owned(), 20)])
        .unwrap();
    let dicts = manager
        .dict_from([("pets".to_owned(), pets), ("supplies".to_owned(), water)])
        .unwrap();
    assert_eq!(
        dicts.get("supplies").unwrap().unwrap().get("feed").unwrap(),
        Some(20)
    );
    dicts
        .get("pets")
        .unwrap()
        .unwrap()
        .insert("blanket".to_owned(), 5)
        .unwrap();
    assert_eq!(
        dicts.get("pets").unwrap().unwrap().get("blanket").unwrap(),
        Some(5)
    );
    let list = manager
        .list_from([dicts.get("pets").unwrap().unwrap()])
        .unwrap();
    assert_eq!(manager.number_of_objects().unwrap(), 4);
    dicts.clear().unwrap(); // `supplies` goes, `pets` is in the list
    assert_eq!(manager.number_of_objects().unwrap(), 3);
    assert_eq!(
        list.get(0).unwrap().unwrap().get("hamsters").unwrap(),
        Some(4)
    );
    drop(dicts);
    drop(list);
    assert_eq!(manager.number_of_objects().unwrap(), 0);
    // What is no proxy comes back as a copy.
    let plain = manager
        .dict_from([("a".to_owned(), HashMap::from([("b".to_owned(), 1)]))])
        .unwrap();
    let mut copy = plain.get("a").unwrap().unwrap();
    copy.insert("b".to_owned(), 2);
    assert_eq!(plain.get("a").unwrap().unwrap()["b"], 1);
}

/// Conformance: _TestContainers.test_nested_queue
#[test]
fn queues_in_lists_and_dicts_can_be_used() {
    let (_dog, manager) = start();
    let queues = manager
        .list_from((0..5).map(|_| manager.queue::<i32>().unwrap()))
        .unwrap();
    for n in 0..5 {
        let queue: Queue<i32> = queues.get(n).unwrap().unwrap();
        queue.put(n as i32 * 10).unwrap();
    }
    for n in 0..5 {
        assert_eq!(
            queues.get(n).unwrap().unwrap().get().unwrap(),
            n as i32 * 10
        );
    }
    let named = manager.dict::<String, Queue<String>>().unwrap();
    named
        .insert("in".to_owned(), manager.queue().unwrap())
        .unwrap();
    let queue = named.get("in").unwrap().unwrap();
    queue.put("text".to_owned()).unwrap();
    assert_eq!(named.get("in").unwrap().unwrap().get().unwrap(), "text");
}

/// Conformance: _TestContainers.test_namespace
#[test]
fn a_namespace_holds_values_of_any_type_under_names() {
    let (_dog, manager) = start();
    let names = manager.namespace().unwrap();
    names.set("name", "Bob").unwrap();
    names.set("job", "Builder").unwrap();
    names.set("_hidden", &0_u8).unwrap();
    names.set("age", &31_u32).unwrap();
    assert_eq!(names.get::<String>("name").unwrap().as_deref(), Some("Bob"));
    assert_eq!(names.get::<u32>("age").unwrap(), Some(31));
    assert!(names.remove("job").unwrap());
    assert!(!names.remove("job").unwrap());
    assert_eq!(names.get::<String>("job").unwrap(), None);
    assert!(!names.contains("job").unwrap());
    assert_eq!(names.to_string(), "Namespace(name, age)");
    assert_eq!(names.names().unwrap(), ["name", "_hidden", "age"]);
    assert_eq!(names.update("age", 0, |age: u32| age + 1).unwrap(), 32);
    assert_eq!(
        names.update("visits", 5, |visits: u8| visits + 1).unwrap(),
        6
    );
    assert_eq!(names.get::<u8>("visits").unwrap(), Some(6));
    let text = names.update("name", 0_u64, |n| n);
    assert!(matches!(text, Err(CallError::Decode(_))), "{text:?}");
}

#[test]
fn values_and_arrays_are_changed_in_place() {
    let (_dog, manager) = start();
    let value: Value<String> = manager.value(&"a".to_owned()).unwrap();
    assert_eq!(value.swap(&"b".to_owned()).unwrap(), "a");
    assert_eq!(value.update(|text| text + "c").unwrap(), "bc");
    assert_eq!(
        value
            .compare_exchange(&"x".to_owned(), &"y".to_owned())
            .unwrap(),
        Err(Some("bc".to_owned()))
    );
    value.set(&"d".to_owned()).unwrap();
    assert_eq!(value.get().unwrap(), "d");

    let array = manager.array([1.5, 2.5, 3.5]).unwrap();
    assert_eq!(array.len().unwrap(), 3);
    array.set(1, &0.5).unwrap();
    assert_eq!(array.update(2, |x| x * 2.0).unwrap(), 7.0);
    assert_eq!(array.to_vec().unwrap(), [1.5, 0.5, 7.0]);
    array.set_range(1, [8.0, 9.0]).unwrap();
    assert_eq!(array.get(2).unwrap(), 9.0);
    assert!(array.set_range(2, [1.0, 2.0]).is_err());
    assert_eq!(array.compare_exchange(0, &1.5, &0.0).unwrap(), Ok(()));
    array.fill(&4.0).unwrap();
    assert_eq!(array.iter().unwrap().sum::<f64>(), 12.0);
    assert!(matches!(array.get(3), Err(CallError::Refused { .. })));
    assert!(manager.array::<u8>([]).unwrap().is_empty().unwrap());
    assert_eq!(
        manager.array_of(1000, &7_u8).unwrap().to_vec().unwrap(),
        [7; 1000]
    );
}

#[test]
fn large_containers_come_in_pages() {
    let (_dog, manager) = start();
    let list = manager
        .list_from((0..20_000).map(|n: u32| n.to_string()))
        .unwrap();
    assert_eq!(list.len().unwrap(), 20_000);
    let all = list.to_vec().unwrap();
    assert_eq!(all[19_999], "19999");
    assert_eq!(
        list.range(10_000..10_003).unwrap(),
        ["10000", "10001", "10002"]
    );
    assert_eq!(list.iter().count(), 20_000);
    list.sort().unwrap();
    assert_eq!(list.get(1).unwrap().unwrap(), "1");
    assert_eq!(list.get(2).unwrap().unwrap(), "10");
    let dict = manager
        .dict_from((0..20_000_u32).map(|n| (n, vec![0_u8; 100])))
        .unwrap();
    assert_eq!(dict.iter().count(), 20_000);
    assert_eq!(dict.keys().unwrap().len(), 20_000);
    let many = dict.get_many(&(0..20_001).collect::<Vec<_>>()).unwrap();
    assert_eq!(many.len(), 20_001);
    assert!(many[19_999].is_some() && many[20_000].is_none());
    assert_eq!(
        dict.remove_many(&(0..15_000).collect::<Vec<_>>()).unwrap(),
        15_000
    );
    assert_eq!(dict.len().unwrap(), 5_000);
}

fn add(dict: Dict<String, u64>, list: List<u64>, value: Value<u64>) {
    for _ in 0..200 {
        dict.update("n".to_owned(), 0, |n| n + 1).unwrap();
        let twice = [
            ("n".to_owned(), 2),
            ("m".to_owned(), 1),
            ("n".to_owned(), 3),
        ];
        dict.merge(twice, |n, more| n.unwrap_or(0) + more).unwrap();
        list.update(0, |n| n + 1).unwrap();
        value.update(|n| n + 1).unwrap();
    }
}

#[test]
fn no_update_is_lost_between_processes() {
    let (_dog, manager) = start();
    let dict = manager.dict().unwrap();
    let list = manager.list_from([0]).unwrap();
    let value = manager.value(&0).unwrap();
    let children: Vec<_> = (0..3)
        .map(|_| {
            let args = (dict.clone(), list.clone(), value.clone());
            Process::new(add, args).start().unwrap()
        })
        .collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(dict.get("n").unwrap(), Some(600 + 5 * 600));
    assert_eq!(dict.get("m").unwrap(), Some(600));
    assert_eq!(list.get(0).unwrap(), Some(600));
    assert_eq!(value.get().unwrap(), 600);
}

fn push_all(list: List<u32>) {
    for n in 0..300 {
        list.push(n).unwrap();
    }
}

const LAST: usize = 20_000;

/// Changes the list without a pause, from both ends.
fn keep_counting(list: List<u32>, enough: Event) {
    for n in 1.. {
        list.set(0, n).unwrap();
        list.set(LAST, n).unwrap();
        if n % 100 == 0 && enough.is_set().unwrap() {
            break;
        }
    }
}

#[test]
fn a_long_list_that_always_changes_is_read_as_of_one_moment() {
    let (_dog, manager) = start();
    let list = manager.list_from(vec![0; LAST + 1]).unwrap();
    let enough = manager.event().unwrap();
    let objects = manager.number_of_objects().unwrap();
    let child = Process::new(keep_counting, (list.clone(), enough.clone()));
    let child = child.start().unwrap();
    while list.get(LAST).unwrap() == Some(0) {
        std::thread::yield_now();
    }
    for read in [list.to_vec(), list.range(..), list.range(..=LAST)] {
        let read = read.unwrap();
        assert_eq!(read.len(), LAST + 1);
        let (first, last) = (read[0], read[LAST]);
        assert!(first == last || first == last + 1, "{first} {last}");
    }
    enough.set().unwrap();
    child.join().unwrap();
    assert_eq!(manager.number_of_objects().unwrap(), objects);
}

/// Changes its list whenever its first item is read, so often.
static CHANGES: Mutex<Option<(List<u32>, usize)>> = Mutex::new(None);

#[derive(Serialize)]
struct Restless(u32);

impl<'de> Deserialize<'de> for Restless {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let item = u32::deserialize(deserializer)?;
        if let Some((list, left)) = &mut *CHANGES.lock().unwrap()
            && item == 0
            && *left > 0
        {
            *left -= 1;
            list.set(0, 0).unwrap();
        }
        Ok(Self(item))
    }
}

#[test]
fn a_list_that_changes_often_is_read_where_no_copy_can_be_made() {
    let _dog = Watchdog::secs(60);
    let full = Manager::builder().max_objects_per_client(1).start();
    let closed = Manager::builder().setup(|registry| {
        registry.expose("List", &["extend", "set", "page"]);
    });
    for manager in [full, closed.start()] {
        let manager = manager.unwrap();
        let list = manager.list_from(0..20_000).unwrap();
        manager.share("list", &list).unwrap();
        let restless = manager.find::<List<Restless>>("list").unwrap();
        *CHANGES.lock().unwrap() = Some((list, 15));
        let read = restless.to_vec().unwrap();
        assert!(read.iter().map(|item| item.0).eq(0..20_000));
        let changes = CHANGES.lock().unwrap().take().unwrap();
        assert_eq!(changes.1, 0);
    }
}

#[test]
fn what_changes_nothing_holds_up_no_sort() {
    let (_dog, manager) = start();
    let list = manager.list_from([3, 1, 2]).unwrap();
    let mut compared = 0;
    list.sort_by(|a, b| {
        compared += 1;
        assert!(compared < 100, "it begins again for nothing");
        assert!(!list.remove_value(&7).unwrap());
        list.truncate(3).unwrap();
        a.cmp(b)
    })
    .unwrap();
    assert_eq!(list.to_vec().unwrap(), [1, 2, 3]);
}

#[test]
fn sorting_loses_nothing_that_is_pushed_meanwhile() {
    let (_dog, manager) = start();
    let list = manager.list::<u32>().unwrap();
    let child = Process::new(push_all, (list.clone(),)).start().unwrap();
    while child.is_alive() {
        list.sort_by_key(|n| std::cmp::Reverse(*n)).unwrap();
    }
    child.join().unwrap();
    list.sort().unwrap();
    assert_eq!(list.to_vec().unwrap(), (0..300).collect::<Vec<_>>());
}

#[test]
fn a_closure_may_use_the_manager_while_it_updates() {
    let (_dog, manager) = start();
    let dict = manager.dict::<String, u64>().unwrap();
    let runs = manager.value(&0_u32).unwrap();
    dict.update("a".to_owned(), 1, |n| {
        // The first run is overtaken by a write of its own.
        if runs.update(|runs| runs + 1).unwrap() == 1 {
            dict.insert("a".to_owned(), 10).unwrap();
        }
        n + 1
    })
    .unwrap();
    assert_eq!(dict.get("a").unwrap(), Some(11));
    assert_eq!(runs.get().unwrap(), 2);
}

#[test]
fn what_cannot_be_decoded_is_an_error_that_names_both_types() {
    let (_dog, manager) = start();
    let dict = manager.dict::<String, String>().unwrap();
    dict.insert("a".to_owned(), "text".to_owned()).unwrap();
    manager.share("dict", &dict).unwrap();
    let wrong: Dict<String, [u64; 8]> = manager.find("dict").unwrap();
    let error = wrong.get("a").unwrap_err();
    assert!(matches!(error, CallError::Decode(_)), "{error}");
    assert!(matches!(
        manager.find::<List<u8>>("dict"),
        Err(CallError::Denied { reason }) if reason == "`dict` is a Dict, not a List"
    ));
}
