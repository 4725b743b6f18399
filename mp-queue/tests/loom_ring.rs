//! The commit and wake protocol under loom: every interleaving of two or three threads, with every
//! value a load may see. Run by `ci/loom.sh`.
#![cfg(mp_loom)]

use loom::{
    cell::UnsafeCell,
    sync::{Arc, Mutex},
    thread,
};
use mp_core::{
    deadline::Deadline,
    primitive::{AtomicU32, AtomicU64},
};
use mp_queue::ring::{hunger::Hunger, number::Number, signal::Signal, word::Word};

/// One end of a ring: its lock, its word, and who sleeps on it.
#[derive(Default)]
struct End {
    lock: Mutex<()>,
    word: AtomicU64,
    registered: AtomicU32,
    cleared: AtomicU32,
    hungry: AtomicU32,
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

/// What `ring::turn` makes of a hunger word, without its clock: who is overtaken once is hungry, and
/// no declaration is ever stale, so that one which is not ended shows as a deadlock.
struct Turn<'a> {
    hunger: Hunger<'a>,
    served: Option<u32>,
    declared: u32,
}

impl<'a> Turn<'a> {
    fn after_the_hungry(end: &'a End) -> Self {
        let hunger = Hunger(&end.hungry);
        let declared = hunger.declared();
        if declared != 0 {
            hunger.step_aside(declared, Deadline::now());
        }
        Self {
            hunger,
            served: None,
            declared: 0,
        }
    }

    fn refused(&mut self, served: u32) {
        let first = *self.served.get_or_insert(served);
        if first != served && self.declared == 0 && self.hunger.declare(0, served) {
            self.declared = served;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.declared != 0 {
            self.hunger.end(self.declared);
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
        let mut turn = Turn::after_the_hungry(&self.put);
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
            turn.refused(tail.items());
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
                let next = head.next(head.position() + 1);
                let committed = self.get.signal().commit(next);
                drop(held);
                self.get.signal().notify(committed, 1);
                if woken && self.put.signal().load().items_since(next) > 0 {
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

/// By who does not hold the lock: a word older than the number would be taken for one far ahead.
#[test]
fn who_counts_what_was_put_finds_it_or_less() {
    loom::model(|| {
        let (end, number) = (Arc::new(End::default()), Arc::new(AtomicU64::new(0)));
        let producer = thread::spawn({
            let (end, number) = (Arc::clone(&end), Arc::clone(&number));
            move || {
                for position in 1..=2 {
                    let _held = end.lock.lock().unwrap();
                    let tail = end.signal().load();
                    let _ = end.signal().commit(tail.next(position));
                    Number(&number).note(Number(&number).of(tail) + 1);
                }
            }
        });
        let observer = thread::spawn({
            let (end, number) = (Arc::clone(&end), Arc::clone(&number));
            move || Number(&number).count(&end.signal())
        });
        producer.join().unwrap();
        assert!(observer.join().unwrap() <= 2);
        assert_eq!(Number(&number).count(&end.signal()), 2);
    });
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

/// One of the producers is overtaken by the other and declares hunger; then the other steps aside
/// and is let go again.
#[test]
fn who_steps_aside_for_the_hungry_is_let_go() {
    loom::model(|| {
        let end = Arc::new(End::default());
        let hungry = thread::spawn({
            let end = Arc::clone(&end);
            move || {
                let mut turn = Turn::after_the_hungry(&end);
                turn.refused(1);
                turn.refused(2); // overtaken
                drop(end.lock.lock().unwrap());
            }
        });
        let second = thread::spawn({
            let end = Arc::clone(&end);
            move || {
                let mut turn = Turn::after_the_hungry(&end);
                turn.refused(1);
                turn.refused(3);
                drop(end.lock.lock().unwrap());
            }
        });
        let newcomer = Turn::after_the_hungry(&end);
        drop(end.lock.lock().unwrap());
        drop(newcomer);
        hungry.join().unwrap();
        second.join().unwrap();
        assert_eq!(Hunger(&end.hungry).declared(), 0);
    });
}

/// Through the whole protocol: whoever is overtaken, steps aside or sleeps, all is put and taken.
#[test]
fn producers_that_overtake_each_other_all_get_their_turn() {
    loom::model(|| {
        let ring = Ring::<1>::new();
        let producers = [1, 2].map(|count| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || (0..count).for_each(|_| ring.put(count)))
        });
        let sum: u32 = (0..3).map(|_| ring.get().unwrap()).sum();
        assert_eq!(sum, 5);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}
