//! The end where records come out.

use mp_core::primitive::Ordering;

use super::{
    Corrupt, GetFailure, Patience, Ring, Waited, claims, marked_len,
    number::Number,
    record_units,
    signal::Committed,
    turn::Turn,
    word::{UNIT, Word},
};

/// A record between head and tail.
struct Found {
    at: usize,
    len: usize,
    /// The head once it is taken.
    next: Word,
}

/// What a get could not do under the lock.
enum Obstacle {
    /// The ring was empty at this tail.
    Empty(Word),
    /// The buffer has to hold this many bytes more.
    Buffer(usize),
}

/// The first bytes of a record that [`Ring::get_without`] shows.
pub(crate) const SHOWN: usize = 16;

/// Trims nothing off.
fn whole(_: &mut Found, _: &Ring) {}

impl Ring {
    /// Takes the next record: appends it to `out`; its number.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    #[inline]
    pub fn get(&self, out: &mut Vec<u8>, patience: Patience) -> Result<u64, GetFailure> {
        self.get_with(out, patience, whole, |_| true)
    }

    /// As [`get`](Self::get), without the first bytes of the record: `skip` is shown up to
    /// [`SHOWN`] of them and tells how many.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub(crate) fn get_without(
        &self,
        out: &mut Vec<u8>,
        patience: Patience,
        skip: impl Fn(&[u8]) -> usize,
    ) -> Result<u64, GetFailure> {
        let skip = |found: &mut Found, ring: &Self| {
            let mut first = [0; SHOWN];
            let first = &mut first[..found.len.min(SHOWN)];
            ring.memory.peek(found.at, first);
            let skipped = skip(first).min(found.len);
            found.at += skipped;
            found.len -= skipped;
        };
        self.get_with(out, patience, skip, |_| true)
    }

    /// As [`get`](Self::get); just before the record is taken `note` is told its number, so that
    /// it can be named should this process die. If `note` cannot do that the record stays.
    ///
    /// # Errors
    ///
    /// Nothing was taken. [`GetFailure::Unclaimable`] if `note` was `false`.
    pub(super) fn get_noting(
        &self,
        out: &mut Vec<u8>,
        patience: Patience,
        note: impl FnMut(u64) -> bool,
    ) -> Result<u64, GetFailure> {
        self.get_with(out, patience, whole, note)
    }

    /// `trim` and `note` run under the lock: they neither wait nor allocate.
    #[inline]
    fn get_with(
        &self,
        out: &mut Vec<u8>,
        patience: Patience,
        trim: impl Fn(&mut Found, &Self),
        note: impl FnMut(u64) -> bool,
    ) -> Result<u64, GetFailure> {
        let copy = |head, out: &mut Vec<u8>| self.copy_next(head, out, &trim);
        let (number, _) = self.take_with(out, patience, copy, note)?;
        Ok(number)
    }

    /// Takes up to `most` records under one lock with one commit: appends them to `out`, and to
    /// `ends` where each ends in it. Waits for the first only. How many.
    ///
    /// Takes no more than fit into the capacity of both, but at least one.
    ///
    /// # Errors
    ///
    /// Nothing was taken.
    pub fn get_batch(
        &self,
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
        most: usize,
        patience: Patience,
    ) -> Result<usize, GetFailure> {
        if most == 0 {
            return Ok(0);
        }
        ends.reserve(1);
        let most = most.min(ends.capacity() - ends.len());
        let copy = |head, out: &mut Vec<u8>| self.copy_several(head, out, ends, most);
        let (_, count) = self.take_with(out, patience, copy, |_| true)?;
        Ok(count as usize)
    }

    /// Takes what `copy` copies from the head on: one commit, one wake-up. The number of the first
    /// record, and how many they are.
    ///
    /// `copy` and `note` run under the lock. `copy` gives the head behind what it copied; `note` is
    /// told the number, and leaves everything where it is if it says `false`.
    #[inline]
    fn take_with(
        &self,
        out: &mut Vec<u8>,
        patience: Patience,
        mut copy: impl FnMut(Word, &mut Vec<u8>) -> Result<Result<Word, Obstacle>, Corrupt>,
        mut note: impl FnMut(u64) -> bool,
    ) -> Result<(u64, u32), GetFailure> {
        let mut turn = self.turn_to_get(patience);
        let mut woken = false;
        loop {
            let obstacle = {
                let held = self.lock_get(&mut turn)?.ok_or(GetFailure::Empty)?;
                let head = self.memory.room().load();
                match copy(head, out)? {
                    Ok(next) => {
                        let (number, count) = (self.number(head), next.items_since(head));
                        if !note(number) {
                            return Err(claims::too_many());
                        }
                        let committed = self.commit_get(number.wrapping_add(count.into()), next);
                        drop(held);
                        self.after_get(committed, next, count, woken);
                        return Ok((number, count));
                    }
                    Err(obstacle) => obstacle,
                }
            };
            woken |= self.overcome(obstacle, out, &mut turn)?;
        }
    }

    /// Copies up to `most` records from `head` on; the head behind them, or what kept it from the
    /// first.
    fn copy_several(
        &self,
        start: Word,
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
        most: usize,
    ) -> Result<Result<Word, Obstacle>, Corrupt> {
        let mut head = start;
        while (head.items_since(start) as usize) < most {
            match self.copy_next(head, out, whole) {
                Ok(Ok(next)) => {
                    ends.push(out.len());
                    head = next;
                }
                stopped if head == start => return stopped,
                _ => break, // what came before is taken; the next call meets this one first
            }
        }
        Ok(Ok(head))
    }

    /// Copies what `trim` leaves of the record at `head`; the head behind it.
    #[inline]
    fn copy_next(
        &self,
        head: Word,
        out: &mut Vec<u8>,
        trim: impl Fn(&mut Found, &Self),
    ) -> Result<Result<Word, Obstacle>, Corrupt> {
        let mut found = match self.find(head)? {
            Ok(found) => found,
            Err(tail) => return Ok(Err(Obstacle::Empty(tail))),
        };
        trim(&mut found, self);
        if out.capacity() - out.len() < found.len {
            return Ok(Err(Obstacle::Buffer(found.len)));
        }
        self.memory.read(found.at, found.len, out);
        Ok(Ok(found.next))
    }

    /// The record at `head`, or the tail if there is none.
    #[inline]
    fn find(&self, head: Word) -> Result<Result<Found, Word>, Corrupt> {
        let side = &self.memory.header().get;
        // Relaxed: under the lock; whoever stored it had loaded it with Acquire.
        let mut tail = Word(side.seen.load(Ordering::Relaxed));
        if tail.items_since(head) == 0 {
            tail = self.memory.items().load();
            side.seen.store(tail.0, Ordering::Relaxed);
            if tail.items_since(head) == 0 {
                return Ok(Err(tail));
            }
        }
        self.find_before(tail, head).map(Ok)
    }

    /// Everything read here may have been damaged: nothing is used before it was checked.
    #[inline]
    fn find_before(&self, tail: Word, head: Word) -> Result<Found, Corrupt> {
        let chunk = self.memory.geometry().chunk_units();
        let mut index = self.stretch_of(head.position());
        let mut offset = head.position() as u32 & (chunk - 1);
        let mut stretch = self.memory.stretch(index)?;
        if offset != 0 && offset == stretch.len {
            // The stream goes on in another chunk.
            (index, offset) = (index + 1, 0);
            stretch = self.memory.stretch(index)?;
        }
        let at = self.address(stretch.chunk, offset);
        let len = marked_len(self.memory.read_mark(at), head)?;
        let units = record_units(len);
        let fits = units * UNIT as u64 <= (self.memory.geometry().area_bytes() - at) as u64;
        if !fits || units > tail.units_since(head) {
            return Err(Corrupt("a record is longer than what was put"));
        }
        let end = index * u64::from(chunk) + u64::from(offset) + units;
        Ok(Found {
            at: at + UNIT,
            len,
            next: head.next(end),
        })
    }

    #[inline]
    fn number(&self, head: Word) -> u64 {
        Number(&self.memory.header().get.number).of(head)
    }

    /// The commit; `number` is that of the next item.
    #[inline]
    fn commit_get(&self, number: u64, next: Word) -> Committed {
        let committed = self.memory.room().commit(next);
        Number(&self.memory.header().get.number).note(number);
        committed
    }

    #[inline]
    fn after_get(&self, committed: Committed, next: Word, count: u32, woken: bool) {
        self.memory.room().notify(committed, count);
        let items = self.memory.items();
        // This wake-up may have been for several items: pass it on, unless this was the last. Who
        // puts more after this look wakes for it.
        if woken && items.load().items_since(next) != 0 {
            items.pass_on();
        }
    }

    /// Whether somebody may have been woken for this thread's sake.
    fn overcome(
        &self,
        obstacle: Obstacle,
        out: &mut Vec<u8>,
        turn: &mut Turn<'_>,
    ) -> Result<bool, GetFailure> {
        let tail = match obstacle {
            Obstacle::Buffer(len) => {
                let reserved = out.try_reserve(len);
                return reserved
                    .map(|()| false)
                    .map_err(|_| GetFailure::OutOfMemory { len });
            }
            Obstacle::Empty(tail) => tail,
        };
        if tail.is_closed() {
            return Err(GetFailure::Closed);
        }
        // Empty: as many were taken as were put.
        match self.wait(&self.memory.items(), tail, tail.items(), turn) {
            Waited::Over => {
                self.trim()?;
                Err(GetFailure::Empty)
            }
            Waited::Slice => self.trim().map(|()| false).map_err(GetFailure::from),
            waited => Ok(waited == Waited::Slept),
        }
    }
}
