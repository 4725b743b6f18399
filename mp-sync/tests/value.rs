//! `Value`, `Array`, their raw kinds and `OnceValue`: what one process writes, another reads.

use std::{os::fd::AsFd, sync::atomic::Ordering, thread, time::Duration};

use bytemuck::{Pod, Zeroable};
use mp_core::testing::{Census, Forked, Watchdog, fork_child, with_rlimit};
use mp_sync::{
    Array, Event, Lock, LockError, OnceError, OnceValue, RawArray, RawValue, Semaphore,
    TryLockError, Value,
};
use nix::sys::resource::Resource;

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Point {
    x: f64,
    y: i32,
    label: [u8; 20],
}

// `Pod` allows no padding: 8 + 4 + 20 = 32.
const POINT: Point = Point {
    x: 1.5,
    y: -3,
    label: *b"a point\0\0\0\0\0\0\0\0\0\0\0\0\0",
};

fn crosses<T: Pod + PartialEq + std::fmt::Debug>(before: T, after: T) {
    let value = Value::new(before).unwrap();
    assert_eq!(value.get().unwrap(), before);
    fork_child(|| *value.lock().unwrap() = after).wait_success();
    assert_eq!(value.get().unwrap(), after);
    assert_eq!(value.replace(before).unwrap(), after);
}

/// Conformance: _TestValue.test_value
#[test]
fn a_value_written_by_a_child_is_seen() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    crosses(7_i32, 42);
    crosses(3.25_f64, -1.5);
    crosses(-300_i16, 300);
    crosses(i64::MIN, i64::MAX);
    crosses(b'x', b'y');
    crosses(POINT, Point { y: 9, ..POINT });
}

/// Conformance: _TestValue.test_getobj_getlock
#[test]
fn a_value_has_its_own_lock_or_the_one_it_was_given() {
    let _census = Census::take();
    let own = Value::new(1).unwrap();
    assert!(!own.get_lock().is_locked());
    let guard = own.lock().unwrap();
    assert!(own.get_lock().is_locked());
    drop(guard);
    let lock = Lock::new().unwrap();
    let (first, second) = (
        Value::with_lock(1, &lock).unwrap(),
        Value::with_lock(2, &lock).unwrap(),
    );
    let _guard = lock.lock().unwrap();
    assert!(matches!(first.lock(), Err(LockError::Deadlock)));
    assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
}

/// Conformance: _TestArray.test_getobj_getlock_obj
#[test]
fn an_array_has_its_own_lock_or_the_one_it_was_given() {
    let _census = Census::take();
    let lock = Lock::new().unwrap();
    let array = Array::with_lock(&[1, 2, 3], &lock).unwrap();
    let guard = array.lock().unwrap();
    assert!(lock.is_locked() && array.get_lock().is_locked());
    drop(guard);
    assert_eq!(array.to_vec().unwrap(), [1, 2, 3]);
    let guard = lock.lock().unwrap();
    assert_eq!(array.as_ptr(), array.clone().as_ptr());
    drop(guard);
}

/// Conformance: _TestArray.test_array
#[test]
fn an_array_is_a_slice_that_a_child_changes_in_place() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let array = Array::from_slice(&[680, 626, 934, 821, 150, 233, 548, 982, 714, 831]).unwrap();
    assert_eq!(array.len(), 10);
    {
        let mut cells = array.lock().unwrap();
        assert_eq!((cells[0], &cells[2..5]), (680, &[934, 821, 150][..]));
        cells[4..8].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(cells.get(10), None);
    }
    let mut expected = array.to_vec().unwrap();
    prefix_sums(&mut expected);
    fork_child(|| prefix_sums(&mut array.lock().unwrap())).wait_success();
    assert_eq!(array.to_vec().unwrap(), expected);
}

fn prefix_sums(cells: &mut [i32]) {
    for i in 1..cells.len() {
        cells[i] += cells[i - 1];
    }
}

/// Conformance: _TestArray.test_rawarray
#[test]
fn an_array_without_lock_does_the_same() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let array = RawArray::from_slice(&[680_i32, 626, 934, 821, 150]).unwrap();
    assert_eq!(
        (array.len(), array.get(2), array.get(5)),
        (5, Some(934), None)
    );
    array.write(1, &[1, 2]);
    let mut slice = [0; 3];
    array.read(1, &mut slice);
    assert_eq!(slice, [1, 2, 821]);
    fork_child(|| {
        for i in 1..array.len() {
            array[i].fetch_add(array.get(i - 1).unwrap(), Ordering::Relaxed);
        }
    })
    .wait_success();
    assert_eq!(array.to_vec(), [680, 681, 683, 1504, 1654]);
}

/// Conformance: _TestSharedCTypes.test_sharedctypes
#[test]
fn raw_values_structs_arrays_and_strings_are_doubled_by_a_child() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (count, point) = (RawValue::new(7_i32).unwrap(), RawValue::new(POINT).unwrap());
    let cells = RawArray::from_slice(&[0.0, 0.5, 1.0]).unwrap();
    let text = RawArray::<u8>::zeroed(20).unwrap();
    text.write(0, b"hello");
    fork_child(|| {
        count.fetch_add(count.get(), Ordering::Relaxed);
        point.set(Point {
            x: 3.0,
            y: -6,
            ..point.get()
        });
        let doubled: Vec<f64> = cells.to_vec().iter().map(|x| x * 2.0).collect();
        cells.write(0, &doubled);
        text.write(5, b"hello");
    })
    .wait_success();
    assert_eq!(count.get(), 14);
    assert_eq!(
        point.get(),
        Point {
            x: 3.0,
            y: -6,
            ..POINT
        }
    );
    assert_eq!(cells.to_vec(), [0.0, 1.0, 2.0]);
    assert!(text.to_vec().starts_with(b"hellohello\0"));
}

/// Conformance: _TestSharedCTypes.test_synchronize
#[test]
fn values_structs_arrays_and_strings_are_doubled_by_a_child_under_their_locks() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (count, point) = (Value::new(7_i32).unwrap(), Value::new(POINT).unwrap());
    let cells = Array::from_slice(&[0.0, 0.5, 1.0]).unwrap();
    let text = Array::<u8>::zeroed(20).unwrap();
    text.lock().unwrap()[..5].copy_from_slice(b"hello");
    fork_child(|| {
        *count.lock().unwrap() *= 2;
        let mut point = point.lock().unwrap();
        (point.x, point.y) = (point.x * 2.0, point.y * 2);
        cells.lock().unwrap().iter_mut().for_each(|x| *x *= 2.0);
        text.lock().unwrap().copy_within(0..5, 5);
    })
    .wait_success();
    assert_eq!(count.get().unwrap(), 14);
    assert_eq!(
        point.get().unwrap(),
        Point {
            x: 3.0,
            y: -6,
            ..POINT
        }
    );
    assert_eq!(*cells.lock().unwrap(), [0.0, 1.0, 2.0]);
    assert!(text.lock().unwrap().starts_with(b"hellohello\0"));
}

/// Conformance: _TestSharedCTypes.test_copy
#[test]
fn a_copy_is_independent() {
    let _census = Census::take();
    let original = Value::new(POINT).unwrap();
    let copy = Value::new(original.get().unwrap()).unwrap();
    original.lock().unwrap().x = 99.0;
    assert_eq!(copy.get().unwrap(), POINT);
}

/// Conformance: _TestHeap.test_heap
#[test]
fn thousands_of_values_made_and_dropped_in_any_order_leave_nothing() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let mut rng = mp_core::testing::Rng::from_env();
    let mut alive = Vec::new();
    for round in 0..5_000_u64 {
        let len = 1 + rng.below(5_000) as usize;
        let array = RawArray::<u64>::zeroed(len).unwrap();
        array.write(len - 1, &[round]);
        alive.push((round, array));
        if alive.len() > 50 {
            let index = rng.below(alive.len() as u64) as usize;
            let (round, array) = alive.swap_remove(index);
            assert_eq!(array.get(array.len() - 1), Some(round));
        }
    }
}

#[test]
fn integers_wrap_and_are_counted_by_all() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let count = RawValue::new(u32::MAX).unwrap();
    let add = || {
        for _ in 0..10_000 {
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    let child = fork_child(add);
    add();
    child.wait_success();
    assert_eq!(count.get(), 19_999);
}

#[test]
fn increments_under_the_lock_are_not_lost() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let value = Value::new(0_u64).unwrap();
    let add = || (0..20_000).for_each(|_| *value.lock().unwrap() += 1);
    let children = [(); 2].map(|()| fork_child(add));
    thread::scope(|scope| {
        scope.spawn(add);
        scope.spawn(add);
    });
    children.into_iter().for_each(Forked::wait_success);
    assert_eq!(value.get().unwrap(), 80_000);
}

#[test]
fn sizes_of_zero_or_beyond_memory_are_errors() {
    let _census = Census::take();
    assert!(Array::<u8>::zeroed(0).is_err());
    assert!(RawArray::<u64>::from_slice(&[]).is_err());
    assert!(Value::new([0_u8; 0]).is_err());
    assert!(Array::<u64>::zeroed(usize::MAX).is_err());
    assert!(Array::<u64>::zeroed(usize::MAX / 8).is_err());
    assert!(RawArray::<u8>::zeroed(1 << 60).is_err());
    // More than any machine has, less than can be addressed: nobody is killed for it.
    let beyond = Array::<u8>::zeroed(1 << 46).unwrap_err();
    assert_eq!(beyond.kind(), std::io::ErrorKind::OutOfMemory, "{beyond}");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_no_signal() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    with_rlimit(Resource::RLIMIT_FSIZE, 1 << 20, || {
        assert!(Array::<u8>::zeroed(1 << 21).is_err());
        drop(Array::<u8>::zeroed(1 << 16).unwrap());
        assert!(Lock::new().is_ok());
    });
    with_rlimit(Resource::RLIMIT_FSIZE, 0, || {
        assert!(Lock::new().is_err() && Event::new().is_err() && Semaphore::new(1).is_err());
    });
}

#[test]
fn running_out_of_descriptors_is_an_error_that_leaves_nothing_half_made() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    with_rlimit(Resource::RLIMIT_NOFILE, 32, || {
        let mut made = Vec::new();
        let error = loop {
            match Lock::new() {
                Ok(lock) => made.push(lock),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("descriptor") || error.raw_os_error().is_some());
        made.pop();
        drop(Lock::new().unwrap());
    });
}

#[test]
fn what_a_guard_hands_out_is_not_reached_as_atomics() {
    let _census = Census::take();
    let lock = Lock::new().unwrap();
    let value = Value::with_lock(1_u64, &lock).unwrap();
    let array = Array::with_lock(&[1_u64], &lock).unwrap();
    for fd in [value.as_fd(), array.as_fd()] {
        let fd = || fd.try_clone_to_owned().unwrap();
        assert!(RawValue::<u64>::from_fd(fd()).is_err());
        assert!(RawArray::<u64>::from_fd(fd()).is_err());
    }
    let raw = RawValue::new(1_u64).unwrap();
    let same = RawValue::<u64>::from_fd(raw.as_fd().try_clone_to_owned().unwrap()).unwrap();
    same.set(2);
    assert_eq!(raw.get(), 2);
}

#[test]
fn a_descriptor_of_another_shape_is_refused() {
    let _census = Census::take();
    let narrow = Value::new(1_u32).unwrap();
    let fd = || narrow.as_fd().try_clone_to_owned().unwrap();
    assert!(Value::<u64>::from_fd(fd()).is_err());
    assert!(Array::<u64>::from_fd(fd()).is_err());
    assert!(RawValue::<u32>::from_fd(fd()).is_err());
    assert_eq!(Value::<u32>::from_fd(fd()).unwrap().get().unwrap(), 1);
    let array = Array::from_slice(&[1_u32, 2]).unwrap();
    assert!(Value::<u32>::from_fd(array.as_fd().try_clone_to_owned().unwrap()).is_err());
}

#[test]
fn a_value_is_initialised_once_by_whoever_comes_first() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (value, runs) = (
        OnceValue::<u64>::new().unwrap(),
        RawValue::new(0_u64).unwrap(),
    );
    assert_eq!(value.get(), None);
    let ask = || {
        let init = || {
            thread::sleep(Duration::from_millis(5));
            41 + runs.fetch_add(1, Ordering::Relaxed) + 1
        };
        assert_eq!(value.get_or_init(init).unwrap(), &42);
    };
    let children = [(); 3].map(|()| fork_child(ask));
    ask();
    children.into_iter().for_each(Forked::wait_success);
    assert_eq!(runs.get(), 1);
}

#[test]
fn an_initialiser_that_panics_or_dies_or_asks_itself_has_done_nothing() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let value = OnceValue::<u64>::new().unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = value.get_or_init(|| std::panic::resume_unwind(Box::new(())));
    }));
    assert!(panicked.is_err());
    fork_child(|| {
        let _ = value.get_or_init(|| {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
            0
        });
    })
    .wait();
    let inner = |value: &OnceValue<u64>| value.get_or_init(|| 0).map(|_| ());
    let made = value.get_or_init(|| {
        assert!(matches!(inner(&value), Err(OnceError::Reentered)));
        5
    });
    assert_eq!(made.unwrap(), &5);
}

#[test]
fn debug_shows_the_data_unless_it_is_locked() {
    let _census = Census::take();
    let value = Value::new(5).unwrap();
    assert_eq!(format!("{value:?}"), "Value { data: 5, owner: none }");
    let guard = value.lock().unwrap();
    assert_eq!(
        format!("{value:?} {guard:?}"),
        "Value { data: <locked>, owner: this thread } 5"
    );
    let array = Array::from_slice(&[1, 2]).unwrap();
    assert_eq!(format!("{array:?}"), "Array { data: [1, 2], owner: none }");
    assert_eq!(format!("{:?}", RawValue::new(1).unwrap()), "RawValue(1)");
    assert_eq!(
        format!("{:?}", OnceValue::<u8>::new().unwrap()),
        "OnceValue(None)"
    );
}
