//! Lanes between a pool and its workers: order, room, taking back, and death at every instruction.

use std::thread;

use mp_core::{
    shm::Mapping,
    testing::{
        Census, Watchdog, cpus, stay_on,
        stepper::{self, Outcome, Sweep},
    },
};
use mp_queue::lane::{Claim, Guest, Host, Hub};

const RING: usize = 4096;

fn again(mapping: &Mapping) -> Mapping {
    Mapping::attach(mapping.fd().try_clone_to_owned().unwrap()).unwrap()
}

/// As the worker does it, in whatever process.
fn attach(host: &Host, hub: &Hub) -> Guest {
    let hub = Hub::attach(again(hub.mapping())).unwrap();
    Guest::attach(again(host.mapping()), hub).unwrap()
}

fn lane() -> (Host, Hub) {
    (
        Host::create(RING, RING).unwrap(),
        Hub::create(1 << 20).unwrap(),
    )
}

#[test]
fn frames_arrive_in_order_however_often_the_ring_wraps() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (mut host, hub) = lane();
    let mut guest = attach(&host, &hub);
    let mut frame = Vec::new();
    for n in 0..2000_u32 {
        let bytes = vec![n as u8; (n % 700) as usize];
        let place = host.write(&[&n.to_le_bytes(), &bytes]).unwrap();
        assert_eq!(
            guest.claim(&mut frame).unwrap(),
            Claim::Empty,
            "not published"
        );
        host.publish();
        assert_eq!(guest.claim(&mut frame).unwrap(), Claim::Frame);
        assert_eq!(
            (&frame[..4], &frame[4..]),
            (&n.to_le_bytes()[..], &bytes[..])
        );
        frame.clear();
        host.retire(place.end);
    }
    host.close();
    assert_eq!(guest.claim(&mut frame).unwrap(), Claim::Closed);
}

#[test]
fn there_is_room_again_once_frames_are_retired() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (mut host, _hub) = lane();
    let mut places = Vec::new();
    while let Some(place) = host.write(&[&[7; 100]]) {
        places.push(place);
    }
    assert_eq!(places.len(), RING / 104);
    host.publish();
    assert!(!host.has_room(100));
    host.retire(places[0].end);
    assert!(host.has_room(100) && host.write(&[&[8; 100]]).is_some());
}

#[test]
fn what_was_taken_back_is_never_seen() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (mut host, hub) = lane();
    let mut guest = attach(&host, &hub);
    let places: Vec<_> = (0..5_u8)
        .map(|n| host.write(&[&[n; 10]]).unwrap())
        .collect();
    host.publish();
    let mut frame = Vec::new();
    assert_eq!(guest.claim(&mut frame).unwrap(), Claim::Frame);
    assert_eq!((host.claimed(), host.unclaimed()), (1, 4));
    assert_eq!(host.withdraw(3), 3);
    let mut bytes = Vec::new();
    host.read(&places[4], &mut bytes);
    assert_eq!(bytes, [4; 10], "it can be given to somebody else");
    host.rewind(places[2].start);
    host.write(&[&[9; 20]]).unwrap();
    host.publish();
    for expected in [&[1; 10][..], &[9; 20]] {
        frame.clear();
        assert_eq!(guest.claim(&mut frame).unwrap(), Claim::Frame);
        assert_eq!(frame, expected);
    }
    assert_eq!(host.withdraw(usize::MAX), 0, "all are claimed");
}

#[test]
fn a_guest_with_many_results_waits_for_the_host_alone() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (mut host, hub) = lane();
    let mut guest = attach(&host, &hub);
    const RECORDS: u64 = 2000;
    let worker = thread::spawn(move || {
        for n in 0..RECORDS {
            guest.commit([&n.to_le_bytes(), &[n as u8; 92]], 1);
        }
    });
    let mut bytes = Vec::new();
    while bytes.len() < RECORDS as usize * 100 {
        host.take_results(&mut bytes).unwrap();
    }
    worker.join().unwrap();
    for (n, record) in (0..RECORDS).zip(bytes.chunks(100)) {
        assert_eq!((&record[..8], record[99]), (&n.to_le_bytes()[..], n as u8));
    }
}

#[test]
fn a_stopped_lane_begins_no_further_item() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (host, hub) = lane();
    let mut guest = attach(&host, &hub);
    assert!(guest.begin_timed(5));
    assert_eq!((host.begun(), host.begun_at()), (1, 5));
    host.stop(true);
    assert!(!guest.begin_timed(6));
    assert_eq!(host.begun(), 1);
    host.stop(false);
    assert!(guest.begin_timed(7));
    assert_eq!((host.begun(), host.begun_at()), (2, 7));
}

#[test]
fn a_guest_knows_whether_it_runs_where_it_was_woken_from() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (host, hub) = lane();
    let guest = attach(&host, &hub);
    assert!(!guest.was_woken_here(), "nobody has");
    let mut cpus = cpus().into_iter();
    stay_on(cpus.next().unwrap());
    host.nudge().wake();
    assert!(guest.was_woken_here());
    if let Some(other) = cpus.next() {
        stay_on(other);
        assert!(!guest.was_woken_here());
    }
}

#[test]
fn memory_that_is_no_lane_is_refused() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (host, hub) = lane();
    assert!(Hub::attach(again(host.mapping())).is_err());
    let as_hub = Hub::attach(again(hub.mapping())).unwrap();
    assert!(Guest::attach(again(hub.mapping()), as_hub).is_err());
    let tiny = Mapping::create("mp-test", 100, 100).unwrap();
    assert!(Hub::attach(tiny).is_err());
    assert!(hub.read(1 << 20, 1, &mut Vec::new()).is_err());
    assert!(hub.read(usize::MAX, 2, &mut Vec::new()).is_err());
}

/// Killed after each single instruction of claiming, beginning and committing: the host always knows
/// whether the frame was taken, whether its item had begun, and whether its result is there.
#[test]
fn a_guest_may_die_at_every_instruction() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(300));
    if !stepper::is_available() {
        return mp_core::testing::skip("a_guest_may_die_at_every_instruction", "ptrace");
    }
    let swept = stepper::for_every_instruction(
        Sweep::default(),
        || {
            let (mut host, hub) = lane();
            let places = [1_u8, 2].map(|n| host.write(&[&[n; 50]]).unwrap());
            host.publish();
            host.wake_at(1);
            let guest = attach(&host, &hub);
            (host, hub, places, std::cell::RefCell::new(guest))
        },
        |(_, _, _, guest), mark| {
            let mut guest = guest.borrow_mut();
            let mut frame = Vec::with_capacity(100);
            mark.call(|| {
                guest.claim(&mut frame).unwrap();
                guest.begin();
                guest.commit([b"head", b"body"], 1);
            });
        },
        |(mut host, _hub, places, _guest), outcome| {
            let mut results = Vec::new();
            host.take_results(&mut results).unwrap();
            let done = match results.as_slice() {
                b"" => 0,
                b"headbody" => 1,
                torn => panic!("a torn result: {torn:?}"),
            };
            let (begun, claimed) = (host.begun(), u64::from(host.claimed()));
            assert!(
                done <= begun && begun <= claimed && claimed <= 1,
                "{done} {begun} {claimed}"
            );
            if matches!(outcome, Outcome::Finished { .. }) {
                assert_eq!(done, 1);
            }
            // What it had not claimed can be taken back; what it had not done is still there to read.
            assert_eq!(host.withdraw(usize::MAX) as u64, 2 - claimed);
            for (n, place) in (1_u8..).zip(&places) {
                let mut bytes = Vec::new();
                host.read(place, &mut bytes);
                assert_eq!(bytes, [n; 50]);
            }
        },
    );
    eprintln!("killed after each of {} instructions", swept.instructions);
    assert!(swept.kills > 50, "{swept:?}");
}
