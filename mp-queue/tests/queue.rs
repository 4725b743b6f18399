//! What a queue promises between processes, and when they die.

use std::{
    process::abort,
    time::{Duration, Instant},
};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_process::Process;
use mp_queue::{Bytes, Claimed, GetError, PutError, Queue, SimpleQueue, TryGetError, TryPutError};
use serde::{Deserialize, Serialize, Serializer};

mp_process::init_in_tests!();

/// Every test: nothing is left behind, and nothing hangs.
fn guard() -> (Census, Watchdog) {
    (Census::take(), Watchdog::secs(60))
}

fn drain_six(queue: Queue<u32>) -> Vec<u32> {
    (0..6).map(|_| queue.get().unwrap()).collect()
}

/// Conformance: _TestQueue.test_put
#[test]
fn a_full_queue_refuses_until_another_process_drains_it() {
    let _guard = guard();
    let queue = Queue::bounded(6).unwrap();
    assert!(queue.is_empty() && !queue.is_full());
    queue.put(1).unwrap();
    queue.put_timeout(2, Duration::from_secs(1)).unwrap();
    queue.try_put(3).unwrap();
    queue.put_many([4, 5]).unwrap();
    assert_eq!(queue.put_numbered(6).unwrap(), 5);
    assert!(!queue.is_empty() && queue.is_full());
    assert!(matches!(queue.try_put(7), Err(TryPutError::Full(7))));
    let start = Instant::now();
    let full = queue.put_timeout(8, Duration::from_millis(100));
    assert!(matches!(full, Err(TryPutError::Full(8))));
    assert!(start.elapsed() >= Duration::from_millis(100));
    let child = Process::new(drain_six, (queue.clone(),)).start().unwrap();
    assert_eq!(child.join().unwrap(), [1, 2, 3, 4, 5, 6]);
    assert!(queue.is_empty() && !queue.is_full());
}

fn put_four(queue: Queue<u32>) {
    for n in 2..=5 {
        queue.put(n).unwrap();
    }
}

/// Conformance: _TestQueue.test_get
#[test]
fn items_of_another_process_come_out_in_order() {
    let _guard = guard();
    let queue = Queue::new().unwrap();
    let child = Process::new(put_four, (queue.clone(),)).start().unwrap();
    assert_eq!(queue.get().unwrap(), 2);
    assert_eq!(queue.get_timeout(Duration::from_secs(30)).unwrap(), 3);
    child.join().unwrap();
    assert_eq!(queue.try_get().unwrap(), 4);
    assert_eq!(queue.get_timeout(Duration::ZERO).unwrap(), 5);
    assert!(matches!(queue.try_get(), Err(TryGetError::Empty)));
    let start = Instant::now();
    let empty = queue.get_timeout(Duration::from_millis(100));
    assert!(matches!(empty, Err(TryGetError::Empty)));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(queue.is_empty());
}

/// Conformance: _TestQueue.test_timeout
#[test]
fn a_timeout_is_never_early() {
    let _guard = guard();
    let queue = Queue::<u32>::new().unwrap();
    let start = Instant::now();
    let empty = queue.get_timeout(Duration::from_millis(200));
    assert!(matches!(empty, Err(TryGetError::Empty)));
    assert!(start.elapsed() >= Duration::from_millis(200));
}

/// Refuses to be encoded, or to be decoded.
#[derive(Debug)]
struct Fussy {
    encodes: bool,
}

impl Serialize for Fussy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.encodes {
            return Err(serde::ser::Error::custom("not in the mood"));
        }
        serializer.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encodes = bool::deserialize(deserializer)?;
        Ok(Self { encodes })
    }
}

/// Where Python drops the item and tells a hook, `put` itself fails and hands the item back.
///
/// Conformance: _TestQueue.test_queue_feeder_donot_stop_onexc
/// Conformance: _TestQueue.test_queue_feeder_on_queue_feeder_error
#[test]
fn a_value_that_cannot_be_encoded_is_handed_back_and_takes_no_room() {
    let _guard = guard();
    let queue = Queue::bounded(1).unwrap();
    let refused = queue.put(Fussy { encodes: false }).unwrap_err();
    assert!(refused.to_string().contains("not in the mood"), "{refused}");
    assert!(matches!(
        refused,
        PutError::Encode(Fussy { encodes: false }, _)
    ));
    queue
        .put_timeout(Fussy { encodes: true }, Duration::from_secs(1))
        .unwrap();
    assert_eq!(queue.len(), 1);
    assert!(queue.get().unwrap().encodes);
    assert!(queue.is_empty());
}

/// After `close`, ours can still be asked whether it is empty, used before or not; Python raises.
///
/// Conformance: _TestQueue.test_closed_queue_empty_exceptions
/// Conformance: TestSimpleQueue.test_empty_exceptions
#[test]
fn a_closed_queue_can_still_be_asked() {
    let _guard = guard();
    let queue = Queue::<u32>::new().unwrap();
    queue.close();
    assert!(queue.is_empty() && queue.is_closed());
    let queue = Queue::new().unwrap();
    queue.put(1).unwrap();
    queue.close();
    assert!(!queue.is_empty() && queue.is_closed());
    let queue = SimpleQueue::<u32>::new().unwrap();
    queue.close();
    assert!(queue.is_empty() && queue.is_closed());
}

/// Conformance: _TestQueue.test_closed_queue_put_get_exceptions
#[test]
fn a_closed_queue_neither_takes_nor_gives() {
    let _guard = guard();
    let queue = Queue::new().unwrap();
    queue.close();
    assert!(matches!(queue.put(7), Err(PutError::Closed(7))));
    assert!(matches!(queue.try_put(7), Err(TryPutError::Closed(7))));
    assert!(matches!(queue.get(), Err(GetError::Closed)));
    assert!(matches!(queue.try_get(), Err(TryGetError::Closed)));
    assert_eq!(queue.iter().count(), 0);
    let many = queue.put_many([1, 2]).unwrap_err();
    assert_eq!((many.put, many.rest.len()), (0, 2));
}

fn count_all(queue: Queue<u32>) -> usize {
    queue.iter().map(Result::unwrap).count()
}

fn put_until_closed(queue: Queue<u32>) -> u32 {
    let mut put = 0;
    while queue.put(put).is_ok() {
        put += 1;
    }
    put
}

#[test]
fn close_drains_and_wakes_those_who_wait() {
    let _guard = guard();
    let empty = Queue::<u32>::new().unwrap();
    let consumers = [(); 2].map(|()| Process::new(count_all, (empty.clone(),)).start().unwrap());
    let full = Queue::<u32>::bounded(5).unwrap();
    let producers = [(); 2].map(|()| {
        Process::new(put_until_closed, (full.clone(),))
            .start()
            .unwrap()
    });
    eventually(30, || full.is_full());
    empty.put_many([1, 2, 3]).unwrap();
    empty.close();
    full.close();
    let taken: usize = consumers.into_iter().map(|c| c.join().unwrap()).sum();
    assert_eq!(taken, 3);
    let put: u32 = producers.into_iter().map(|p| p.join().unwrap()).sum();
    assert_eq!(put, 5);
    assert_eq!(full.drain().unwrap().len(), 5);
}

fn put_and_abort(queue: Queue<String>) {
    queue.put("last words".to_owned()).unwrap();
    abort();
}

#[test]
fn what_was_put_outlives_its_producer() {
    let _guard = guard();
    let queue = Queue::new().unwrap();
    let child = Process::new(put_and_abort, (queue.clone(),))
        .start()
        .unwrap();
    assert!(child.join().is_err());
    assert_eq!(queue.get().unwrap(), "last words");
}

fn put_megabytes(queue: Queue<Bytes>) {
    for n in 0..40 {
        queue.put_bytes(&vec![n; 1 << 20]).unwrap();
    }
}

fn put_that_many_bytes(queue: Queue<Bytes>, len: usize) {
    queue.put_bytes(&vec![7; len]).unwrap();
}

#[test]
fn an_area_takes_an_item_of_its_size() {
    let _guard = guard();
    for area in [1, 5000, 100_000, 1 << 20, (9 << 20) + 1] {
        let queue = Queue::<Bytes>::builder().area(area).build().unwrap();
        let child = Process::new(put_that_many_bytes, (queue.clone(), area));
        child.start().unwrap().join().unwrap();
        assert_eq!(*queue.get().unwrap(), *vec![7; area]);
    }
    let queue = Queue::<Bytes>::builder().area(1 << 30).build().unwrap();
    assert!(queue.max_item_bytes() > 1 << 30);
    let refused = Queue::<Bytes>::builder().area((64 << 30) + 1).build();
    assert!(refused.unwrap_err().to_string().contains("64 GiB"));
}

/// Python's documentation warns of this very deadlock.
#[test]
fn a_child_can_be_joined_before_its_items_are_read() {
    let _guard = guard();
    let queue = Queue::new().unwrap();
    let child = Process::new(put_megabytes, (queue.clone(),))
        .start()
        .unwrap();
    child.join().unwrap();
    assert_eq!(queue.len(), 40);
    let mut bytes = Vec::new();
    for n in 0..40 {
        queue.get_bytes_into(&mut bytes).unwrap();
        assert!(bytes.len() == 1 << 20 && bytes.iter().all(|byte| *byte == n));
    }
}

fn make_a_queue() -> Queue<String> {
    let queue = Queue::new().unwrap();
    queue.put("from the creator".to_owned()).unwrap();
    queue
}

#[test]
fn a_queue_outlives_its_creator() {
    let _guard = guard();
    let child = Process::new(make_a_queue, ()).start().unwrap();
    let queue = child.join().unwrap();
    assert_eq!(queue.get().unwrap(), "from the creator");
    queue.put("and on".to_owned()).unwrap();
    assert_eq!(queue.get().unwrap(), "and on");
}

fn wait_and_take(go: Queue<()>, queue: Queue<u32>) -> u32 {
    go.get().unwrap();
    queue.iter().map(Result::unwrap).sum()
}

/// With the last one the kernel frees it: the census of each test here sees to that.
#[test]
fn items_stay_while_any_handle_is_left() {
    let _guard = guard();
    let (go, queue) = (Queue::new().unwrap(), Queue::new().unwrap());
    queue.put_many([1, 2, 3]).unwrap();
    queue.close();
    let child = Process::new(wait_and_take, (go.clone(), queue)) // moved: the child has the only one
        .start()
        .unwrap();
    go.put(()).unwrap();
    assert_eq!(child.join().unwrap(), 6);
}

fn take_and_hold(queue: Queue<String>, ready: Queue<u64>) {
    let claimed = queue.get_claimed().unwrap();
    ready.put(Claimed::number(&claimed)).unwrap();
    let _ = queue.get(); // nothing more comes
}

#[test]
fn the_item_in_the_hand_of_a_dead_consumer_can_be_named() {
    let _guard = guard();
    let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
    queue.put("first".to_owned()).unwrap();
    assert_eq!(queue.get().unwrap(), "first");
    let number = queue.put_numbered("parcel".to_owned()).unwrap();
    let child = Process::new(take_and_hold, (queue.clone(), ready.clone()))
        .start()
        .unwrap();
    assert_eq!(ready.get().unwrap(), number);
    assert!(queue.take_lost().unwrap().is_empty(), "it lives");
    let pid = child.pid();
    child.kill().unwrap();
    child.wait().unwrap();
    let lost = queue.take_lost().unwrap();
    assert_eq!(
        lost.iter().map(|l| (l.number, l.pid)).collect::<Vec<_>>(),
        [(number, pid)]
    );
    assert!(queue.take_lost().unwrap().is_empty(), "each is named once");
}

fn take_and_panic(queue: Queue<String>) {
    let claimed = queue.get_claimed().unwrap();
    panic!("with item {} in hand", Claimed::number(&claimed));
}

#[test]
fn the_item_in_the_hand_of_a_consumer_that_panicked_can_be_named() {
    let _guard = guard();
    let queue = Queue::new().unwrap();
    let number = queue.put_numbered("parcel".to_owned()).unwrap();
    let child = Process::new(take_and_panic, (queue.clone(),))
        .start()
        .unwrap();
    let pid = child.pid();
    assert!(child.join().is_err());
    let lost = queue.take_lost().unwrap();
    assert_eq!(
        lost.iter().map(|l| (l.number, l.pid)).collect::<Vec<_>>(),
        [(number, pid)]
    );
    assert!(queue.take_lost().unwrap().is_empty(), "each is named once");
}

/// Takes one and is done with it while it is dropped.
struct DeliversAtTheEnd(Queue<String>);

impl Drop for DeliversAtTheEnd {
    fn drop(&mut self) {
        assert!(std::thread::panicking());
        drop(self.0.get_claimed().unwrap());
    }
}

fn deliver_in_a_panic(queue: Queue<String>) {
    let _delivers = DeliversAtTheEnd(queue);
    panic!("for another reason");
}

#[test]
fn an_item_that_is_taken_and_done_with_during_a_panic_is_not_lost() {
    let _guard = guard();
    let queue = Queue::new().unwrap();
    queue.put("parcel".to_owned()).unwrap();
    let child = Process::new(deliver_in_a_panic, (queue.clone(),));
    assert!(child.start().unwrap().join().is_err());
    assert!(queue.is_empty());
    assert!(queue.take_lost().unwrap().is_empty());
}

fn take_deliver_and_hold(queue: Queue<String>, ready: Queue<u64>) {
    let claimed = queue.get_claimed().unwrap();
    let number = Claimed::number(&claimed);
    drop(claimed);
    ready.put(number).unwrap();
    let _ = queue.get();
}

#[test]
fn an_item_whose_guard_was_dropped_is_not_lost() {
    let _guard = guard();
    let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
    queue.put("parcel".to_owned()).unwrap();
    let child = Process::new(take_deliver_and_hold, (queue.clone(), ready.clone()))
        .start()
        .unwrap();
    ready.get().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(queue.take_lost().unwrap().is_empty());
}

/// The slot of the dead is taken by the next; its claim must not pass for the next one's.
#[test]
fn a_claim_of_the_dead_is_found_after_others_have_come() {
    let _guard = guard();
    let (queue, ready) = (Queue::new().unwrap(), Queue::new().unwrap());
    let mut lost = Vec::new();
    for n in 0..3 {
        queue.put(format!("parcel {n}")).unwrap();
        let child = Process::new(take_and_hold, (queue.clone(), ready.clone()))
            .start()
            .unwrap();
        lost.push(ready.get().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let named: Vec<u64> = queue
        .take_lost()
        .unwrap()
        .iter()
        .map(|l| l.number)
        .collect();
    assert_eq!(named, lost);
}

fn wait_for_one(queue: Queue<u32>) -> u32 {
    queue.get().unwrap()
}

#[test]
fn sleepers_that_are_killed_steal_no_wake_up() {
    let _guard = guard();
    let queue = Queue::<u32>::new().unwrap();
    for n in 0..8 {
        let victims = [(); 2].map(|()| {
            Process::new(wait_for_one, (queue.clone(),))
                .start()
                .unwrap()
        });
        let survivor = Process::new(wait_for_one, (queue.clone(),))
            .start()
            .unwrap();
        for victim in &victims {
            victim.kill().unwrap();
        }
        queue.put(n).unwrap();
        // Killed on its way out, a victim may have taken the item with it.
        for victim in &victims {
            victim.wait().unwrap();
        }
        let taken_by_victim = queue.is_empty()
            && survivor
                .join_timeout(Duration::from_secs(1))
                .is_ok_and(|ended| !ended);
        if taken_by_victim {
            queue.put(n).unwrap();
        }
        assert_eq!(survivor.join().unwrap(), n);
    }
}

#[test]
fn a_handle_goes_where_descriptors_go_and_nowhere_else() {
    let _guard = guard();
    let queue = Queue::<Queue<u32>>::new().unwrap();
    let error = queue.put(Queue::new().unwrap()).unwrap_err();
    assert!(error.to_string().contains("Queue"), "{error}");
    assert!(queue.is_empty());
    let twin = Queue::<u32>::from_fd(
        std::os::fd::AsFd::as_fd(&Queue::<u32>::new().unwrap())
            .try_clone_to_owned()
            .unwrap(),
    );
    assert!(twin.unwrap().is_empty());
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(Queue::<u32>::from_fd(file.into()).is_err());
}

#[test]
fn an_item_of_another_type_is_consumed_and_named() {
    let _guard = guard();
    let text = Queue::<String>::new().unwrap();
    let fd = std::os::fd::AsFd::as_fd(&text)
        .try_clone_to_owned()
        .unwrap();
    let numbers = Queue::<(u8, u8)>::from_fd(fd).unwrap();
    text.put("neither".to_owned()).unwrap();
    numbers.put((1, 2)).unwrap();
    assert!(matches!(numbers.get(), Err(GetError::Decode(_))));
    assert_eq!(numbers.get().unwrap(), (1, 2));
}

#[test]
fn threads_of_one_process_share_a_handle() {
    let _guard = guard();
    let queue = Queue::<u64>::bounded(10).unwrap();
    let sum: u64 = std::thread::scope(|scope| {
        let takers =
            [(); 3].map(|()| scope.spawn(|| queue.iter().map(Result::unwrap).sum::<u64>()));
        let givers =
            [(); 3].map(|()| scope.spawn(|| (1..=1000).for_each(|n| queue.put(n).unwrap())));
        givers.into_iter().for_each(|giver| giver.join().unwrap());
        queue.close();
        takers.into_iter().map(|taker| taker.join().unwrap()).sum()
    });
    assert_eq!(sum, 3 * 500_500);
}

#[test]
fn many_at_once_keep_their_order() {
    let _guard = guard();
    let queue = Queue::<String>::new().unwrap();
    let all: Vec<String> = (0..5000).map(|n| format!("item {n}")).collect();
    queue.put_many(all.clone()).unwrap();
    assert_eq!(queue.len(), 5000);
    let some: Vec<String> = queue.get_many(10).unwrap().map(Result::unwrap).collect();
    assert_eq!(some, all[..10]);
    let drained = queue.drain().unwrap();
    assert_eq!(drained.len(), 4990);
    assert_eq!(drained.map(Result::unwrap).collect::<Vec<_>>(), all[10..]);
    assert_eq!(queue.drain().unwrap().len(), 0);
}

#[test]
fn a_batch_goes_up_to_the_value_that_cannot() {
    let _guard = guard();
    let queue = Queue::new().unwrap();
    let fussy = |encodes| Fussy { encodes };
    let error = queue
        .put_many([fussy(true), fussy(true), fussy(false), fussy(true)])
        .unwrap_err();
    assert_eq!((error.put, error.rest.len()), (2, 2));
    assert!(matches!(error.cause, PutError::Encode((), _)));
    assert_eq!(queue.len(), 2);
}

#[test]
fn what_is_too_large_is_handed_back_with_the_limit() {
    let _guard = guard();
    let queue = Queue::<Vec<u8>>::builder().max_bytes(1000).build().unwrap();
    let error = queue.put(vec![1; 2000]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&queue.max_item_bytes().to_string()),
        "{error}"
    );
    assert_eq!(error.into_value().len(), 2000);
    queue.put(vec![1; 900]).unwrap();
    assert!(matches!(
        queue.try_put(vec![1; 900]),
        Err(TryPutError::Full(_))
    ));
}

#[test]
fn bytes_and_values_are_the_same_items() {
    let _guard = guard();
    let queue = Queue::<Bytes>::new().unwrap();
    let mut buffer = b"old content".to_vec();
    for len in [0, 1, 127, 128, 5000, 200_000] {
        let bytes = vec![len as u8; len];
        queue.put_bytes(&bytes).unwrap();
        queue.put(Bytes::from(bytes.clone())).unwrap();
        assert_eq!(*queue.get().unwrap(), *bytes);
        queue.get_bytes_into(&mut buffer).unwrap();
        assert_eq!(buffer, bytes);
    }
    let empty = queue.get_bytes_into_timeout(&mut buffer, Duration::from_millis(1));
    assert!(matches!(empty, Err(TryGetError::Empty)));
}

fn put_numbers(queue: Queue<(u8, u32)>, producer: u8, count: u32) {
    (0..count).for_each(|n| queue.put((producer, n)).unwrap());
}

#[test]
fn each_producer_keeps_its_order_among_others() {
    let _guard = guard();
    const COUNT: u32 = 20_000;
    let queue = Queue::bounded(100).unwrap();
    let producers: Vec<_> = (0..3_u8)
        .map(|p| {
            Process::new(put_numbers, (queue.clone(), p, COUNT))
                .start()
                .unwrap()
        })
        .collect();
    let mut next = [0; 3];
    for _ in 0..3 * COUNT {
        let (producer, n) = queue.get().unwrap();
        assert_eq!(n, next[producer as usize]);
        next[producer as usize] += 1;
    }
    producers
        .into_iter()
        .for_each(|producer| producer.join().unwrap());
    assert!(queue.is_empty());
}
