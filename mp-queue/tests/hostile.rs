//! A damaged ring is an error: never undefined behaviour, a panic or a hang.
//!
//! The two mutexes are left alone: they are glibc's, which follows the pointers in them. Whoever can
//! write there is the same user, and could as well send signals.

use std::{
    os::fd::AsFd,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mp_core::{
    deadline::Deadline,
    shm::Mapping,
    testing::{Census, Rng, Watchdog},
};
use mp_queue::{
    Bytes, Queue,
    ring::{Batch, Patience, Ring},
};

/// Bytes of the header, with its locks.
const HEADER: usize = 4096;
const LINE: usize = 128;
/// A mutex lies at the start of these lines.
const LOCKED_LINES: [usize; 2] = [1, 4];
const MUTEX: usize = 40;

fn view(queue: &impl AsFd) -> Arc<Mapping> {
    let fd = queue.as_fd().try_clone_to_owned().unwrap();
    Arc::new(Mapping::attach(fd).unwrap())
}

fn is_in_a_mutex(at: usize) -> bool {
    at < HEADER && LOCKED_LINES.contains(&(at / LINE)) && at % LINE < MUTEX
}

/// Writes a byte as another process would.
fn poke(mapping: &Mapping, at: usize, value: u8) {
    assert!(at < mapping.len());
    // SAFETY: inside the mapping, which outlives the call.
    let byte = unsafe { AtomicU8::from_ptr(mapping.as_ptr().wrapping_add(at)) };
    byte.store(value, Ordering::Relaxed);
}

/// Where damage is worth while: words, tables, records.
fn place(rng: &mut Rng, span: usize) -> usize {
    loop {
        let at = match rng.below(4) {
            0 => rng.below(10) as usize * LINE + rng.below(48) as usize,
            1 => HEADER + rng.below(64) as usize,
            _ => rng.below(span as u64) as usize,
        };
        if !is_in_a_mutex(at) {
            return at;
        }
    }
}

fn soon() -> Patience {
    Patience::Until(Deadline::after(Duration::from_millis(2)))
}

/// Every operation, whatever it says.
fn use_it(ring: &Ring, rng: &mut Rng, buffer: &mut Vec<u8>) {
    buffer.clear();
    match rng.below(6) {
        0 | 1 => drop(ring.put(&[&vec![1; rng.below(5000) as usize]], soon())),
        2 => drop(ring.get(buffer, soon())),
        3 => {
            let mut batch = Batch::default();
            for n in 0..5 {
                let _ = batch.push(|out| {
                    out.extend([n; 100]);
                    Ok::<_, ()>(())
                });
            }
            drop(ring.put_batch(&batch, 0, soon()));
        }
        4 => drop(ring.get_batch(buffer, &mut Vec::with_capacity(8), 8, Patience::Never)),
        _ => drop((
            ring.len(),
            ring.put_count(),
            ring.get_count(),
            ring.is_closed(),
        )),
    }
    assert!(buffer.len() <= 1 << 20, "no more than the ring holds");
}

#[test]
fn bytes_that_change_at_any_time_give_errors_only() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(120));
    let mut rng = Rng::from_env();
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(2) || rounds < 20 {
        rounds += 1;
        let queue = Queue::<Bytes>::builder().area(64 << 10).build().unwrap();
        let (ring, enemy) = (Ring::attach(view(&queue)).unwrap(), view(&queue));
        let (stop, mut enemy_rng) = (AtomicBool::new(false), Rng::seeded(rng.next_u64()));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = place(&mut enemy_rng, 80 << 10);
                    poke(&enemy, at, enemy_rng.next_u64() as u8);
                    thread::sleep(Duration::from_micros(enemy_rng.below(200)));
                }
            });
            let mut buffer = Vec::new();
            for _ in 0..100 {
                use_it(&ring, &mut rng, &mut buffer);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn each_damaged_byte_of_the_header_gives_errors_only() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(120));
    let mut rng = Rng::from_env();
    for at in (0..10 * LINE)
        .chain(HEADER..HEADER + 64)
        .filter(|at| !is_in_a_mutex(*at))
    {
        let queue = Queue::<Bytes>::builder().area(64 << 10).build().unwrap();
        queue.put_bytes(b"before").unwrap();
        poke(&view(&queue), at, rng.next_u64() as u8 | 1);
        let mut buffer = Vec::new();
        if let Ok(ring) = Ring::attach(view(&queue)) {
            for _ in 0..8 {
                use_it(&ring, &mut rng, &mut buffer);
            }
        }
        // A handle that was there before trusts no more.
        let _ = queue.put_timeout("after".into(), Duration::from_millis(1)); // it may look full
        let _ = queue.get_bytes_into_timeout(&mut buffer, Duration::from_millis(1));
        let _ = queue.get_claimed_timeout(Duration::from_millis(1));
        let _ = queue.take_lost();
    }
}

/// More items than can lie there: the ring would look full for ever.
#[test]
fn a_head_beyond_the_tail_is_corrupt_and_not_full() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let queue = Queue::<Bytes>::builder().area(64 << 10).build().unwrap();
    queue.put_bytes(b"before").unwrap();
    let (head, items) = (5 * LINE, 6);
    poke(&view(&queue), head, items << 1);
    // Too large for what is left of a chunk: whoever puts them looks at the head.
    let error = (0..2 * items).find_map(|_| queue.put_bytes(&[7; 3000]).err());
    let error = error.expect("there is no place where the head is");
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_record_of_another_length_or_number_is_corrupt() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    for (offset, value) in [(0, 0xff), (2, 0x7f), (3, 0xff), (4, 1), (7, 0)] {
        let queue = Queue::<Bytes>::builder().area(64 << 10).build().unwrap();
        queue.put_bytes(b"content").unwrap();
        let mapping = view(&queue);
        // The area begins behind the header and the table of 65 entries, rounded to pages.
        let mark = HEADER + 4096;
        // SAFETY: inside the mapping.
        let len = unsafe { ptr::read_volatile(mapping.as_ptr().wrapping_add(mark)) };
        assert_eq!(len, 8, "this is the record's length");
        poke(&mapping, mark + offset, value);
        let error = queue.get().unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
