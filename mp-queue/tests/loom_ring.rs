//! The commit and wake protocol under loom: every interleaving of two or three threads, with every
//! value a load may see. Run by `ci/loom.sh`.
#![cfg(mp_loom)]

use loom::{
    cell::UnsafeCell,
    sync::{Arc, Mutex},
    thread,
};
use mp_core::primitive::{AtomicU32, AtomicU64};
use mp_queue::ring::{signal::Signal, word::Word};

/// One end of a ring: its lock, its word, and who sleeps on it.
#[derive(Default)]
struct End {
    lock: Mutex<()>,
    word: AtomicU64,
    registered: AtomicU32,
    cleared: AtomicU32,
}

impl End {
    fn signal(&self) -> Signal<'_> {
        Signal {
            word: &self.word,
            registered: &self.registered,
            cleared: &self.cleared,
        }
    }
}

/// A ring of `N` cells, each one unit long.
struct Ring<const N: usize> {
    put: End,
    get: End,
    /// loom reports every access that another may overlap.
    cells: [UnsafeCell<u32>; N],
}

// SAFETY: the cells are used as the locks and words allow; loom reports it if they are not.
unsafe impl<const N: usize> Sync for Ring<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Send for Ring<N> {}

impl<const N: usize> Ring<N> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            put: End::default(),
            get: End::default(),
            cells: std::array::from_fn(|_| UnsafeCell::new(0)),
        })
    }

    fn put(&self, value: u32) {
        let mut woken = false;
        loop {
            let held = self.put.lock.lock().unwrap();
            let (tail, head) = (self.put.signal().load(), self.get.signal().load());
            if (tail.items_since(head) as usize) < N {
                let cell = &self.cells[tail.position() as usize % N];
                // SAFETY: under the put lock, beyond the tail; loom reports an overlapping access.
                cell.with_mut(|cell| unsafe { *cell = value });
                let committed = self.put.signal().commit(tail.next(tail.position() + 1));
                drop(held);
                self.put.signal().notify(committed, 1);
                if woken {
                    self.get.signal().pass_on();
                }
                return;
            }
            drop(held);
            self.get.signal().sleep(head, None);
            woken = true;
        }
    }

    /// `None` once closed and drained.
    fn get(&self) -> Option<u32> {
        let mut woken = false;
        loop {
            let held = self.get.lock.lock().unwrap();
            let (head, tail) = (self.get.signal().load(), self.put.signal().load());
            if tail.items_since(head) > 0 {
                let cell = &self.cells[head.position() as usize % N];
                // SAFETY: under the get lock, before the tail; loom reports an overlapping access.
                let value = cell.with(|cell| unsafe { *cell });
                let committed = self.get.signal().commit(head.next(head.position() + 1));
                drop(held);
                self.get.signal().notify(committed, 1);
                if woken {
                    self.put.signal().pass_on();
                }
                return Some(value);
            }
            drop(held);
            if tail.is_closed() {
                return None;
            }
            self.put.signal().sleep(tail, None);
            woken = true;
        }
    }

    fn close(&self) {
        {
            let _held = self.put.lock.lock().unwrap();
            let tail: Word = self.put.signal().load();
            let _ = self.put.signal().commit(tail.closed());
        }
        self.put.signal().wake_all();
    }
}

/// A lost wake-up is a deadlock here, since the model has no slices.
#[test]
fn a_put_wakes_a_sleeping_consumer() {
    loom::model(|| {
        let ring = Ring::<1>::new();
        let consumer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || ring.get()
        });
        ring.put(7);
        assert_eq!(consumer.join().unwrap(), Some(7));
    });
}

#[test]
fn a_get_wakes_a_sleeping_producer_and_cells_are_never_shared() {
    loom::model(|| {
        let ring = Ring::<1>::new();
        let producer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || (1..=2).for_each(|n| ring.put(n))
        });
        assert_eq!((ring.get(), ring.get()), (Some(1), Some(2)));
        producer.join().unwrap();
    });
}

#[test]
fn two_consumers_take_each_item_once() {
    loom::model(|| {
        let ring = Ring::<2>::new();
        let consumer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || ring.get().unwrap()
        });
        let producer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || (1..=2).for_each(|n| ring.put(n))
        });
        let mine = ring.get().unwrap();
        assert_eq!(mine + consumer.join().unwrap(), 3);
        producer.join().unwrap();
    });
}

#[test]
fn close_wakes_who_waits() {
    loom::model(|| {
        let ring = Ring::<1>::new();
        let consumer = thread::spawn({
            let ring = Arc::clone(&ring);
            move || (ring.get(), ring.get())
        });
        ring.put(5);
        ring.close();
        assert_eq!(consumer.join().unwrap(), (Some(5), None));
    });
}
