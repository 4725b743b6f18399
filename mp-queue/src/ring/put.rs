//! The end where records go in.

use mp_core::{deadline::Deadline, primitive::Ordering};

use super::{
    Corrupt, Patience, PutFailure, Ring, Waited,
    geometry::{InUse, Stretch},
    mark,
    number::Number,
    record_units,
    signal::Committed,
    turn::Turn,
    word::{UNIT, Word, distance},
};

/// Memory beyond this is given back once it has not been used for [`COLD_MILLIS`].
const WARM_BYTES: usize = 16 << 20;
const COLD_MILLIS: u64 = 1000;
/// Memory is allocated ahead in steps that double between these.
const LEAST_STEP: usize = 256 << 10;
const LARGEST_STEP: usize = 4 << 20;

/// Records laid end to end, to be put under one lock with as few commits as room allows.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    /// Appends a record: what `write` appends to the bytes.
    ///
    /// # Errors
    ///
    /// Those of `write`; then the batch is as it was.
    pub fn push<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len();
        match write(&mut self.bytes) {
            Ok(()) => self.ends.push(self.bytes.len()),
            Err(error) => {
                self.bytes.truncate(start);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Records in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it holds no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all its records.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it; keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn record(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// Where a record goes, and the position behind it.
struct Place {
    at: usize,
    end: u64,
}

impl Ring {
    /// Puts one record, the concatenation of `parts`; its number.
    ///
    /// When this returns the record is in the ring, whatever becomes of this process.
    ///
    /// # Errors
    ///
    /// Nothing was put.
    pub fn put(&self, parts: &[&[u8]], patience: Patience) -> Result<u64, PutFailure> {
        let len = parts.iter().map(|part| part.len()).sum();
        self.check_len(len)?;
        let (number, _) = self.put_with(patience, |tail| {
            Ok(self.place(tail, len)?.map(|place| {
                self.write_record(tail, &place, len, parts);
                tail.next(place.end)
            }))
        })?;
        Ok(number)
    }

    /// Puts the records of `batch` from number `from` on, as many as there is room for, with one
    /// commit and one wake-up; waits for room for the first. How many were put.
    ///
    /// # Errors
    ///
    /// Nothing was put: the first of them cannot be.
    pub fn put_batch(
        &self,
        batch: &Batch,
        from: usize,
        patience: Patience,
    ) -> Result<usize, PutFailure> {
        if from >= batch.len() {
            return Ok(0);
        }
        self.check_len(batch.record(from).len())?;
        let (_, count) = self.put_with(patience, |tail| self.write_batch(tail, batch, from))?;
        Ok(count as usize)
    }

    /// Puts what `write` writes behind the tail: one commit, one wake-up. The number of the first
    /// record, and how many there are.
    ///
    /// `write` runs under the lock; it gives the word behind what it wrote, or the head that leaves
    /// no room for it.
    #[inline]
    fn put_with(
        &self,
        patience: Patience,
        write: impl Fn(Word) -> Result<Result<Word, Word>, PutFailure>,
    ) -> Result<(u64, u32), PutFailure> {
        let mut turn = self.turn_to_put(patience);
        let mut woken = false;
        loop {
            let (tail, head) = {
                let held = self.lock_put(&mut turn)?.ok_or(PutFailure::Full)?;
                let tail = self.open_tail()?;
                match write(tail)? {
                    Ok(next) => {
                        let count = next.items_since(tail);
                        let (number, committed) = self.commit_put(tail, next);
                        drop(held);
                        self.after_put(committed, count, woken);
                        return Ok((number, count));
                    }
                    Err(head) => (tail, head),
                }
            };
            woken |= self.wait_for_room(head, tail, &mut turn)?;
        }
    }

    /// Writes what fits; the word behind it, or the head if not even one fits.
    fn write_batch(
        &self,
        start: Word,
        batch: &Batch,
        from: usize,
    ) -> Result<Result<Word, Word>, PutFailure> {
        let mut tail = start;
        for index in from..batch.len() {
            let record = batch.record(index);
            let place = self
                .check_len(record.len())
                .and_then(|()| self.place(tail, record.len()));
            match place {
                Ok(Ok(place)) => {
                    self.write_record(tail, &place, record.len(), &[record]);
                    tail = tail.next(place.end);
                }
                Ok(Err(head)) if index == from => return Ok(Err(head)),
                Err(failure) if index == from => return Err(failure),
                // What went before is put; the next call meets the obstacle first.
                _ => break,
            }
        }
        Ok(Ok(tail))
    }

    fn check_len(&self, len: usize) -> Result<(), PutFailure> {
        let limit = self.max_record();
        if len > limit {
            return Err(PutFailure::TooLarge { len, limit });
        }
        Ok(())
    }

    /// The tail, under its lock, unless the ring is closed.
    #[inline]
    fn open_tail(&self) -> Result<Word, PutFailure> {
        // Relaxed would do: this thread holds the only lock under which it is written.
        let tail = self.memory.items().load();
        if tail.is_closed() {
            return Err(PutFailure::Closed);
        }
        Ok(tail)
    }

    #[inline]
    fn write_record(&self, tail: Word, place: &Place, len: usize, parts: &[&[u8]]) {
        self.memory.write_mark(place.at, mark(len, tail));
        let mut at = place.at + UNIT;
        for part in parts {
            self.memory.write(at, part);
            at += part.len();
        }
    }

    /// The commit. The number of the first item that it publishes.
    #[inline]
    fn commit_put(&self, tail: Word, next: Word) -> (u64, Committed) {
        let committed = self.memory.items().commit(next);
        let known = Number(&self.memory.header().put.number);
        let number = known.of(tail);
        known.note(number.wrapping_add(next.items_since(tail).into()));
        (number, committed)
    }

    #[inline]
    fn after_put(&self, committed: Committed, count: u32, woken: bool) {
        self.memory.items().notify(committed, count);
        if woken {
            // This wake-up may have been for room for several: pass it on.
            self.memory.room().pass_on();
        }
    }

    /// Whether somebody may have been woken for this thread's sake.
    fn wait_for_room(
        &self,
        head: Word,
        tail: Word,
        turn: &mut Turn<'_>,
    ) -> Result<bool, PutFailure> {
        match self.wait(&self.memory.room(), head, tail.items(), turn) {
            Waited::Over => Err(PutFailure::Full),
            waited => Ok(waited == Waited::Slept),
        }
    }

    /// Where a record of `len` bytes goes behind `tail`, or the head that leaves no room for it.
    #[inline]
    fn place(&self, tail: Word, len: usize) -> Result<Result<Place, Word>, PutFailure> {
        let side = &self.memory.header().put;
        let need = record_units(len);
        // Relaxed: under the lock; whoever stored it had loaded it with Acquire.
        let head = Word(side.seen.load(Ordering::Relaxed));
        if !self.has_room(head, tail, need) {
            return self.place_slow(tail, need);
        }
        let chunk = self.memory.geometry().chunk_units();
        let offset = tail.position() as u32 & (chunk - 1);
        if offset == 0 || need > u64::from(chunk - offset) {
            return self.place_slow(tail, need);
        }
        let index = self.stretch_of(tail.position());
        let stretch = self.memory.stretch(index)?;
        if stretch.len != chunk {
            // Who died here had left the chunk for another, without a commit.
            let whole = Stretch {
                len: chunk,
                ..stretch
            };
            self.memory.set_stretch(index, whole);
        }
        Ok(Ok(Place {
            at: self.address(stretch.chunk, offset),
            end: tail.position() + need,
        }))
    }

    /// Without trust in the head as last seen, and across chunks.
    #[cold]
    #[inline(never)]
    fn place_slow(&self, tail: Word, need: u64) -> Result<Result<Place, Word>, PutFailure> {
        let head = self.memory.room().load();
        let side = &self.memory.header().put;
        side.seen.store(head.0, Ordering::Relaxed); // under the lock
        self.check_ends(head, tail)?;
        if !self.has_room(head, tail, need) {
            return Ok(Err(head));
        }
        let chunk = self.memory.geometry().chunk_units();
        let offset = tail.position() as u32 & (chunk - 1);
        if offset != 0 && need <= u64::from(chunk - offset) {
            return self.place(tail, (need as usize - 1) * UNIT); // the head was all that was old
        }
        self.place_in_new_chunks(head, tail, need)
    }

    /// Whether there can be so much between head and tail, before somebody waits until it is taken: not
    /// more items than units, nor more units than the table has room for.
    fn check_ends(&self, head: Word, tail: Word) -> Result<(), Corrupt> {
        let geometry = self.memory.geometry();
        let units = tail.units_since(head);
        let most = geometry.table_len() as u64 * u64::from(geometry.chunk_units());
        if u64::from(tail.items_since(head)) > units || units > most {
            return Err(Corrupt("head and tail do not fit each other"));
        }
        Ok(())
    }

    /// In the lowest free chunks, as a new stretch of the stream.
    fn place_in_new_chunks(
        &self,
        head: Word,
        tail: Word,
        need: u64,
    ) -> Result<Result<Place, Word>, PutFailure> {
        let chunk = self.memory.geometry().chunk_units();
        let offset = tail.position() as u32 & (chunk - 1);
        let current = self.stretch_of(tail.position());
        let first = if offset == 0 { current } else { current + 1 };
        let count = need.div_ceil(u64::from(chunk)) as usize;
        let end = first * u64::from(chunk) + need;
        if !self.has_bytes(head, tail, distance(tail.position(), end)) {
            return Ok(Err(head));
        }
        let Some(used) = self.in_use(head, tail, first, count)? else {
            return Ok(Err(head));
        };
        let Some(run) = used.lowest_run(count) else {
            return Ok(Err(head));
        };
        self.grow(run + count).map_err(PutFailure::NoSpace)?;
        if offset != 0 {
            let cut = Stretch {
                len: offset,
                ..self.memory.stretch(current)?
            };
            self.memory.set_stretch(current, cut);
        }
        for i in 0..count {
            let whole = Stretch {
                chunk: (run + i) as u32,
                len: chunk,
            };
            self.memory.set_stretch(first + i as u64, whole);
        }
        Ok(Ok(Place {
            at: self.address(run as u32, 0),
            end,
        }))
    }

    /// The chunks that the stream lies in between head and `first`, unless the table has no room
    /// for `count` stretches more.
    fn in_use(
        &self,
        head: Word,
        tail: Word,
        first: u64,
        count: usize,
    ) -> Result<Option<InUse>, Corrupt> {
        let geometry = self.memory.geometry();
        let chunk = u64::from(geometry.chunk_units());
        let mut used = InUse::none(geometry.chunks);
        let oldest = self.stretch_of(head.position());
        let stretches = distance(oldest * chunk, first * chunk) / chunk;
        if stretches as usize > geometry.table_len() {
            return Err(Corrupt("head and tail are too far apart"));
        }
        if stretches as usize + count > geometry.table_len() {
            return Ok(None);
        }
        if tail.items_since(head) != 0 {
            for i in 0..stretches {
                used.insert(self.memory.stretch(oldest + i)?.chunk);
            }
        }
        Ok(Some(used))
    }

    #[inline]
    fn has_room(&self, head: Word, tail: Word, need: u64) -> bool {
        tail.items_since(head) < self.limits.max_items && self.has_bytes(head, tail, need)
    }

    /// An empty ring takes any record that is not too large for it.
    #[inline]
    fn has_bytes(&self, head: Word, tail: Word, more: u64) -> bool {
        let units = tail.units_since(head) + more;
        units <= self.limits.max_bytes / UNIT as u64 || tail.items_since(head) == 0
    }

    #[inline]
    pub(super) fn stretch_of(&self, position: u64) -> u64 {
        position / u64::from(self.memory.geometry().chunk_units())
    }

    /// Where a place inside a chunk lies in the area.
    #[inline]
    pub(super) fn address(&self, chunk: u32, offset: u32) -> usize {
        chunk as usize * self.memory.geometry().chunk_bytes + offset as usize * UNIT
    }

    /// Makes sure that the first `chunks` chunks can be written. Under the put lock.
    fn grow(&self, chunks: usize) -> std::io::Result<()> {
        let header = self.memory.header();
        let area = self.memory.geometry().area_bytes();
        let want = chunks * self.memory.geometry().chunk_bytes;
        let have = header.put.allocated.load(Ordering::Relaxed) as usize;
        let ahead = if want > have {
            want.max(have + have.clamp(LEAST_STEP, LARGEST_STEP))
                .min(area)
        } else {
            want
        };
        if ahead > WARM_BYTES {
            // Before it is so: killed in between, somebody trims in vain.
            let last_large = &header.tail.last_large;
            last_large.store(now_millis(), Ordering::Relaxed);
        }
        if want > have {
            let to = match self.memory.allocate(have, ahead) {
                Ok(()) => ahead,
                Err(_) => self.memory.allocate(have, want).map(|()| want)?,
            };
            header.put.allocated.store(to as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives back what a long queue or a large item took, once that is a while ago.
    ///
    /// Called by who found the ring empty and does not go on looking.
    #[cold]
    pub(super) fn trim(&self) -> Result<(), Corrupt> {
        if !self.is_cold() {
            return Ok(());
        }
        let Some(_held) = self.lock_put_only(Patience::Until(Deadline::now()))? else {
            return Ok(()); // somebody puts: not idle
        };
        let (head, tail) = (self.memory.room().load(), self.memory.items().load());
        if self.is_cold() && tail.items_since(head) == 0 {
            self.leave_chunk(tail)?;
            self.punch_cold();
        }
        Ok(())
    }

    fn is_cold(&self) -> bool {
        // Relaxed: a hint; under the lock it is looked at again.
        let last = self.memory.header().tail.last_large.load(Ordering::Relaxed);
        last != 0 && now_millis().saturating_sub(last) >= COLD_MILLIS
    }

    /// Under the put lock, with no chunk in use.
    fn punch_cold(&self) {
        let header = self.memory.header();
        let area = self.memory.geometry().area_bytes();
        let warm = WARM_BYTES.min(area);
        let have = header.put.allocated.load(Ordering::Relaxed);
        let left = have.min(warm as u64);
        header.put.allocated.store(left, Ordering::Relaxed); // never more than there is
        // All that there may be, since who did this before may have been killed here.
        if self.memory.punch(warm, area).is_ok() {
            header.tail.last_large.store(0, Ordering::Relaxed);
        } // or again next time
    }

    /// Moves the tail of an empty ring to the end of its stretch, so that no chunk is in use.
    fn leave_chunk(&self, tail: Word) -> Result<(), Corrupt> {
        let chunk = self.memory.geometry().chunk_units();
        let offset = tail.position() as u32 & (chunk - 1);
        if offset != 0 {
            let current = self.stretch_of(tail.position());
            let cut = Stretch {
                len: offset,
                ..self.memory.stretch(current)?
            };
            self.memory.set_stretch(current, cut);
            let next = tail.moved((current + 1) * u64::from(chunk));
            let _ = self.memory.items().commit(next); // nothing new: nobody to be woken
        }
        Ok(())
    }
}

fn now_millis() -> u64 {
    let since = Deadline::now().as_timespec();
    since.tv_sec as u64 * 1000 + since.tv_nsec as u64 / 1_000_000
}
