//! Two streams of bytes in shared memory, one each way, beside a socket between the same two.
//!
//! The memory carries the bytes; the socket tells of death. A side sleeps in memory for a [`NAP`],
//! because a futex wakes in half the time, and after it on the socket, where it hears of the
//! peer's death. Whoever moves bytes [wakes](Duplex::wake) the peer that sleeps until that happens:
//! by the futex, or by one byte over the socket, the *bell*. Both mean "look again" and nothing
//! else: one too many costs a look.
//!
//! ```text
//! who moves bytes                         who is about to sleep
//!   copy                                    asleep = what for, and where
//!   written or read = position  (commit)    fence
//!   fence                                   look at the peer's position once more
//!   peer's asleep == that? wake             nothing new: sleep
//! ```
//!
//! One of the two fences comes first, so that either the sleeper is woken or the second look
//! finds what was moved.
//!
//! # Process death
//!
//! A side that dies before its commit has sent nothing, after it all of the piece. The kernel then
//! closes the socket, which wakes a sleeping peer also if the bell was not rung, or once its nap is
//! over; what lies in the memory can still be read.
//!
//! # Hostile peers
//!
//! Each side keeps its own positions in memory of its own and writes them to the shared one for the
//! peer alone. The peer's positions are checked with every look, and bytes are copied out before
//! anybody looks at them.
#![allow(unsafe_code)] // raw memory that another process maps and may write at any time

use std::time::Duration;

use crate::primitive::{AtomicU32, AtomicU64, Line, Ordering, fence};

#[cfg(not(mp_loom))]
pub use memory::{CAPACITY, Corrupt, Duplex};

/// What a sleeper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Bytes to read.
    Bytes,
    /// Room to write.
    Room,
}

/// Where somebody sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bed {
    /// On the word that says so.
    Futex,
    /// On the socket.
    Socket,
}

/// How long a side sleeps where it does not hear of the peer's death.
pub const NAP: Duration = Duration::from_millis(10);

const AWAKE: u32 = 0;
const WANTS_BYTES: u32 = 1; // sleeps until the peer has written
const WANTS_ROOM: u32 = 2; // sleeps until the peer has read
const ON_SOCKET: u32 = 4; // beside one of them; else it sleeps on this word

fn asleep(want: Want, bed: Bed) -> u32 {
    let want = match want {
        Want::Bytes => WANTS_BYTES,
        Want::Room => WANTS_ROOM,
    };
    match bed {
        Bed::Futex => want,
        Bed::Socket => want | ON_SOCKET,
    }
}

#[repr(C)]
#[derive(Debug, Default)]
struct Written {
    /// Bytes that this side has written, ever. The commit of a write.
    bytes: AtomicU64,
    /// Where it did so last: the number of the CPU and 1. A hint.
    cpu: AtomicU32,
}

/// What one side tells the other. Each line is written by its side, `asleep` by the waker as well.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Side {
    written: Line<Written>,
    /// Bytes that it has read, ever. The commit of a read.
    read: Line<AtomicU64>,
    /// [`AWAKE`], or what [`asleep`] says.
    asleep: Line<AtomicU32>,
}

impl Side {
    fn position(&self, want: Want) -> &AtomicU64 {
        match want {
            Want::Bytes => &self.written.0.bytes,
            Want::Room => &self.read.0,
        }
    }

    /// Tells the peer, who may want this, how far this side has come.
    pub fn commit(&self, moved: Want, position: u64) {
        // Meets the Acquire of `look`: the bytes, or the end of their use, come before.
        self.position(moved).store(position, Ordering::Release);
    }

    /// How far this side has come.
    pub fn look(&self, moved: Want) -> u64 {
        self.position(moved).load(Ordering::Acquire) // meets the Release of `commit`
    }

    /// Says that this side sleeps; it has to look once more before it does.
    pub fn fall_asleep(&self, want: Want, bed: Bed) {
        self.asleep.0.store(asleep(want, bed), Ordering::Relaxed); // ordered by the fence
        fence(Ordering::SeqCst); // the table above
    }

    /// Says that it does not, after all.
    pub fn stay_awake(&self) {
        self.asleep.0.store(AWAKE, Ordering::Relaxed); // a bell that comes late costs a look
    }

    /// Where this side sleeps, if it does so for what was just committed: it is to be woken there
    /// by who asks.
    pub fn is_to_be_woken(&self, moved: Want) -> Option<Bed> {
        fence(Ordering::SeqCst); // the table above
        // Relaxed: waking goes through the kernel, and the sleeper looks again by Acquire.
        let found = self.asleep.0.load(Ordering::Relaxed);
        let bed = [Bed::Futex, Bed::Socket]
            .into_iter()
            .find(|bed| found == asleep(moved, *bed))?;
        self.asleep
            .0
            .compare_exchange(found, AWAKE, Ordering::Relaxed, Ordering::Relaxed)
            .ok()
            .map(|_| bed)
    }
}

#[cfg(not(mp_loom))]
mod memory {
    use std::{io, os::fd::OwnedFd, ptr};

    use memmap2::MmapRaw;

    use super::{Bed, NAP, Side, Want, asleep};
    use crate::{
        deadline::Deadline,
        futex,
        primitive::{Ordering, current_cpu},
        shm::{Mapping, ShmSafe},
    };

    /// Bytes that one direction holds.
    pub const CAPACITY: usize = 64 << 10;
    /// Both sides' words, in front of the two rings.
    const FRONT: usize = 4096;
    const LEN: usize = FRONT + 2 * CAPACITY;

    const _: () = assert!(2 * size_of::<Side>() <= FRONT && CAPACITY.is_power_of_two());

    // SAFETY: `repr(C)`, atomics, every bit pattern valid.
    unsafe impl ShmSafe for Side {}

    /// The peer has written what no peer of ours writes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
    #[error("the shared memory of this connection is damaged")]
    pub struct Corrupt;

    /// One side of both streams. For one thread at a time.
    #[derive(Debug)]
    pub struct Duplex {
        map: MmapRaw,
        /// Which of the two this is, 0 or 1: it writes the ring of its own number.
        side: usize,
        /// This side's positions; the shared ones are for the peer.
        written: u64,
        read: u64,
        /// How far the peer had read when this side looked last.
        peer_read: u64,
    }

    impl Duplex {
        /// Makes the memory; what the peer needs to [`attach`](Self::attach).
        ///
        /// # Errors
        ///
        /// Out of memory or descriptors.
        pub fn create() -> io::Result<(Self, OwnedFd)> {
            let mapping = Mapping::create("mp-duplex", LEN, LEN)?;
            let fd = mapping.fd().try_clone_to_owned()?;
            Ok((Self::new(mapping, 0), fd))
        }

        /// The other side of what the peer has made.
        ///
        /// # Errors
        ///
        /// The descriptor is something else, or cannot be mapped.
        pub fn attach(fd: OwnedFd) -> io::Result<Self> {
            let mapping = Mapping::attach(fd)?;
            if mapping.len() != LEN {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "shared memory of another size",
                ));
            }
            Ok(Self::new(mapping, 1))
        }

        fn new(mapping: Mapping, side: usize) -> Self {
            Self {
                map: mapping.into_map(),
                side,
                written: 0,
                read: 0,
                peer_read: 0,
            }
        }

        fn words(&self, side: usize) -> &Side {
            debug_assert!(side < 2);
            let words = self.map.as_mut_ptr().cast::<Side>().wrapping_add(side);
            // SAFETY: inside the first page, aligned, only atomics; mapped as long as `self`.
            unsafe { &*words }
        }

        fn mine(&self) -> &Side {
            self.words(self.side)
        }

        fn theirs(&self) -> &Side {
            self.words(1 - self.side)
        }

        /// The ring that `side` writes.
        fn ring(&self, side: usize) -> *mut u8 {
            self.map.as_mut_ptr().wrapping_add(FRONT + side * CAPACITY)
        }

        /// Writes as much of `bytes` as there is room for; how much that was.
        ///
        /// # Errors
        ///
        /// [`Corrupt`].
        pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Corrupt> {
            if CAPACITY - held(self.written, self.peer_read)? < bytes.len() {
                self.peer_read = self.theirs().look(Want::Room);
            }
            let room = CAPACITY - held(self.written, self.peer_read)?;
            let len = room.min(bytes.len());
            let ring = self.ring(self.side);
            let (at, first) = stretch(self.written, len);
            // SAFETY: `first` bytes from `at` lie inside the ring; the peer reads none of them
            // before the commit below, and `bytes` is not in the mapping.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), ring.wrapping_add(at), first) };
            let rest = bytes[first..len].as_ptr();
            // SAFETY: as above; the rest begins at the front of the ring, and is shorter than it.
            unsafe { ptr::copy_nonoverlapping(rest, ring, len - first) };
            if len > 0 {
                self.written += len as u64;
                let here = current_cpu().map_or(0, |cpu| cpu + 1);
                self.mine().written.0.cpu.store(here, Ordering::Relaxed); // a hint
                self.mine().commit(Want::Bytes, self.written);
            }
            Ok(len)
        }

        /// Reads as much as there is, and `buffer` takes; how much that was.
        ///
        /// # Errors
        ///
        /// [`Corrupt`].
        pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Corrupt> {
            let here = held(self.theirs().look(Want::Bytes), self.read)?;
            let len = here.min(buffer.len());
            let ring = self.ring(1 - self.side);
            let (at, first) = stretch(self.read, len);
            // SAFETY: `first` bytes from `at` lie inside the ring; the peer writes none of them
            // before the commit below (if it does, they are other bytes), `buffer` is elsewhere.
            unsafe {
                ptr::copy_nonoverlapping(ring.wrapping_add(at), buffer.as_mut_ptr(), first);
            };
            let rest = buffer[first..len].as_mut_ptr();
            // SAFETY: as above; the rest begins at the front of the ring, and is shorter than it.
            unsafe { ptr::copy_nonoverlapping(ring, rest, len - first) };
            if len > 0 {
                self.read += len as u64;
                self.mine().commit(Want::Room, self.read);
            }
            Ok(len)
        }

        /// Whether what this side wants is there. A damaged position counts: the next read or write
        /// tells of it.
        #[must_use]
        pub fn is_ready(&self, want: Want) -> bool {
            let position = self.theirs().look(want);
            match want {
                Want::Bytes => position != self.read,
                Want::Room => held(self.written, position) != Ok(CAPACITY),
            }
        }

        /// Whether the peer last wrote on the CPU that this thread runs on now. If so, it cannot go
        /// on before this thread leaves it.
        #[must_use]
        pub fn peer_was_here(&self) -> bool {
            let there = self.theirs().written.0.cpu.load(Ordering::Relaxed); // a hint
            current_cpu().is_some_and(|here| there == here + 1)
        }

        /// Wakes the peer if it sleeps until bytes have moved as they just did; `true` if it is left
        /// to the caller, by a byte over the socket.
        #[must_use]
        pub fn wake(&self, moved: Want) -> bool {
            let peer = self.theirs();
            match peer.is_to_be_woken(moved) {
                None => false,
                Some(Bed::Futex) => {
                    futex::wake(&peer.asleep.0, 1);
                    false
                }
                Some(Bed::Socket) => true,
            }
        }

        /// Sleeps until there is what is wanted, at most a [`NAP`]; whether it is there.
        #[must_use]
        pub fn nap(&self, want: Want) -> bool {
            let until = Deadline::after(NAP);
            while self.falls_asleep(want, Bed::Futex) {
                let word = &self.mine().asleep.0;
                if !futex::wait(word, asleep(want, Bed::Futex), Some(until)) {
                    return false;
                }
            }
            true
        }

        /// Before sleeping on the socket: whether it is to be done, since there is still nothing.
        #[must_use]
        pub fn may_sleep(&self, want: Want) -> bool {
            self.falls_asleep(want, Bed::Socket)
        }

        fn falls_asleep(&self, want: Want, bed: Bed) -> bool {
            self.mine().fall_asleep(want, bed);
            let ready = self.is_ready(want);
            if ready {
                self.mine().stay_awake();
            }
            !ready
        }
    }

    /// Bytes between two positions of one direction.
    fn held(written: u64, read: u64) -> Result<usize, Corrupt> {
        match usize::try_from(written.wrapping_sub(read)) {
            Ok(held) if held <= CAPACITY => Ok(held),
            _ => Err(Corrupt),
        }
    }

    /// Where in the ring `len` bytes begin, and how many of them lie before its end.
    fn stretch(position: u64, len: usize) -> (usize, usize) {
        let at = position as usize % CAPACITY;
        (at, len.min(CAPACITY - at))
    }

    #[cfg(test)]
    mod tests {
        use std::time::Instant;

        use super::*;

        fn pair() -> (Duplex, Duplex) {
            let (ours, fd) = Duplex::create().unwrap();
            (ours, Duplex::attach(fd).unwrap())
        }

        #[test]
        fn bytes_come_out_as_they_went_in_across_the_end_of_the_ring() {
            let (mut ours, mut theirs) = pair();
            let piece: Vec<u8> = (0..40_009).map(|n| (n % 251) as u8).collect();
            let mut buffer = vec![0; piece.len()];
            for _ in 0..9 {
                assert_eq!(ours.write(&piece), Ok(piece.len()));
                assert_eq!(theirs.read(&mut buffer[..9]), Ok(9));
                assert_eq!(theirs.read(&mut buffer[9..]), Ok(piece.len() - 9));
                assert_eq!(buffer, piece);
                assert_eq!(theirs.write(b"thanks"), Ok(6));
                assert_eq!(ours.read(&mut buffer), Ok(6));
                assert_eq!(&buffer[..6], b"thanks");
            }
            assert_eq!(theirs.read(&mut buffer), Ok(0));
        }

        #[test]
        fn a_full_ring_takes_what_there_is_room_for() {
            let (mut ours, mut theirs) = pair();
            assert_eq!(ours.write(&vec![1; CAPACITY + 1]), Ok(CAPACITY));
            assert!(!ours.is_ready(Want::Room) && theirs.is_ready(Want::Bytes));
            assert_eq!(ours.write(&[2]), Ok(0));
            assert_eq!(theirs.read(&mut [0; 10]), Ok(10));
            assert!(ours.is_ready(Want::Room));
            assert_eq!(ours.write(&[2; 20]), Ok(10));
        }

        #[test]
        fn only_who_sleeps_for_it_is_woken_and_once() {
            let (mut ours, mut theirs) = pair();
            assert!(theirs.may_sleep(Want::Bytes));
            assert!(!ours.wake(Want::Room));
            assert!(ours.wake(Want::Bytes));
            assert!(!ours.wake(Want::Bytes));
            ours.write(b"x").unwrap();
            assert!(!theirs.may_sleep(Want::Bytes) && theirs.nap(Want::Bytes));
            assert!(!ours.wake(Want::Bytes));
            assert_eq!(theirs.read(&mut [0; 8]), Ok(1));
        }

        #[test]
        fn a_side_knows_whether_the_other_wrote_on_this_cpu() {
            use crate::testing::{cpus, stay_on};
            let (mut ours, theirs) = pair();
            assert!(!theirs.peer_was_here(), "it has written nothing");
            let mut cpus = cpus().into_iter();
            stay_on(cpus.next().unwrap());
            ours.write(b"x").unwrap();
            assert!(theirs.peer_was_here());
            if let Some(other) = cpus.next() {
                stay_on(other);
                assert!(!theirs.peer_was_here());
            }
        }

        #[test]
        fn a_nap_ends_with_the_bytes_or_leaves_the_rest_to_the_socket() {
            let (mut ours, theirs) = pair();
            let begin = Instant::now();
            assert!(!theirs.nap(Want::Bytes));
            assert!(begin.elapsed() >= NAP);
            assert!(theirs.may_sleep(Want::Bytes));
            assert!(ours.wake(Want::Bytes), "no futex wakes it");
            std::thread::scope(|scope| {
                // Seldom a machine is so slow that it sleeps longer than a nap.
                let sleeper = scope.spawn(|| while !theirs.nap(Want::Bytes) {});
                let asleep = || theirs.mine().asleep.0.load(Ordering::Relaxed);
                while asleep() != super::super::asleep(Want::Bytes, Bed::Futex) {
                    std::thread::yield_now();
                }
                ours.write(b"x").unwrap();
                assert!(!ours.wake(Want::Bytes), "no bell is needed");
                sleeper.join().unwrap();
            });
        }

        #[test]
        fn positions_that_cannot_be_are_refused() {
            for too_much in [CAPACITY as u64 + 1, u64::MAX, 1 << 63] {
                let (mut ours, theirs) = pair();
                theirs.mine().commit(Want::Bytes, too_much);
                assert!(ours.is_ready(Want::Bytes));
                assert_eq!(ours.read(&mut [0; 8]), Err(Corrupt));
            }
            for unwritten in [1, CAPACITY as u64, 1 << 63] {
                let (mut ours, theirs) = pair();
                theirs.mine().commit(Want::Room, unwritten);
                assert!(ours.is_ready(Want::Room));
                assert_eq!(ours.write(&vec![0; CAPACITY + 1]), Err(Corrupt));
            }
        }

        #[test]
        fn other_descriptors_are_refused() {
            let file = std::fs::File::open("/proc/self/exe").unwrap();
            assert!(Duplex::attach(file.into()).is_err());
            let small = Mapping::create("mp-test", 4096, 4096).unwrap();
            assert!(Duplex::attach(small.fd().try_clone_to_owned().unwrap()).is_err());
        }
    }
}
