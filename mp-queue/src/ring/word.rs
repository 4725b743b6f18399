//! The commit word: position, item count and the closed flag in one atomic.

/// One end of the ring as it was at one commit.
///
/// ```text
/// bit 63            28 27             1   0
///     position : 36    items : 27         closed
/// ```
///
/// The position counts [`UNIT`]s and the items count commits; both only grow, modulo their width.
/// What lies between two words is their difference, so nothing is counted twice and nothing can
/// drift. The low half holds all of the item count, so it changes with every commit: sleepers use
/// it as their futex word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

/// What positions count, in bytes.
pub const UNIT: usize = 8;
/// Most items a ring can hold.
pub const MAX_ITEMS: u32 = (1 << ITEM_BITS) - 1;
/// Positions are equal modulo this; a ring is far smaller.
const POSITIONS: u64 = 1 << 36;

const CLOSED: u64 = 1;
const ITEM_BITS: u32 = 27;
const ITEM_SHIFT: u32 = 1;
const POSITION_SHIFT: u32 = ITEM_SHIFT + ITEM_BITS;

impl Word {
    /// Where the end stands in the stream, in units.
    #[inline]
    #[must_use]
    pub fn position(self) -> u64 {
        self.0 >> POSITION_SHIFT
    }

    /// Items ever committed at this end, modulo 2^27.
    #[inline]
    #[must_use]
    pub fn items(self) -> u32 {
        (self.0 >> ITEM_SHIFT) as u32 & MAX_ITEMS
    }

    /// Whether nothing is put any more.
    #[inline]
    #[must_use]
    pub fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    /// This word with the closed flag.
    #[must_use]
    pub fn closed(self) -> Self {
        Self(self.0 | CLOSED)
    }

    /// The half that sleepers compare.
    #[must_use]
    pub fn low(self) -> u32 {
        self.0 as u32
    }

    /// This word after one more item that ends at `position`.
    #[inline]
    #[must_use]
    pub fn next(self, position: u64) -> Self {
        let items = u64::from((self.items() + 1) & MAX_ITEMS);
        let position = position & (POSITIONS - 1);
        Self((position << POSITION_SHIFT) | (items << ITEM_SHIFT) | (self.0 & CLOSED))
    }

    /// This word at another position, with the same items.
    #[must_use]
    pub fn moved(self, position: u64) -> Self {
        let rest = self.0 & ((1 << POSITION_SHIFT) - 1);
        Self(((position & (POSITIONS - 1)) << POSITION_SHIFT) | rest)
    }

    /// Items committed here beyond `earlier`.
    #[inline]
    #[must_use]
    pub fn items_since(self, earlier: Self) -> u32 {
        self.items().wrapping_sub(earlier.items()) & MAX_ITEMS
    }

    /// Units between the positions.
    #[inline]
    #[must_use]
    pub fn units_since(self, earlier: Self) -> u64 {
        distance(earlier.position(), self.position())
    }
}

/// From one position forward to another.
#[inline]
#[must_use]
pub fn distance(from: u64, to: u64) -> u64 {
    to.wrapping_sub(from) & (POSITIONS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_the_wrap_of_both_counters() {
        let last = Word(u64::MAX - 1); // both counters at their end, open
        let next = last.next(last.position() + 5);
        assert_eq!((next.position(), next.items()), (4, 0));
        assert_eq!((next.units_since(last), next.items_since(last)), (5, 1));
        assert!(!next.is_closed() && next.closed().next(9).is_closed());
    }

    #[test]
    fn every_item_and_the_close_change_the_half_that_sleepers_compare() {
        let word = Word(0);
        assert_ne!(word.low(), word.next(0).low());
        assert_ne!(word.low(), word.closed().low());
    }
}
