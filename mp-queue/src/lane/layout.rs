//! The words that both sides agree on: the first page of a lane, and of a hub.

use mp_core::primitive::{AtomicU32, AtomicU64, Line};

#[repr(C)]
pub(super) struct LaneHeader {
    pub(super) magic: AtomicU64,
    pub(super) task_len: AtomicU64,
    pub(super) result_len: AtomicU64,
    pub(super) board: Line<AtomicU64>,
    pub(super) guest: Line<GuestWords>,
    pub(super) host: Line<HostWords>,
}

#[repr(C)]
pub(super) struct GuestWords {
    pub(super) tail: AtomicU64,
    pub(super) begun: AtomicU64,
    pub(super) begun_at: AtomicU64,
    pub(super) state: AtomicU32,
    /// Where the guest sleeps, or slept last; a hint.
    pub(super) cpu: AtomicU32,
    /// Not zero: the guest sleeps until `head` moves.
    pub(super) wants_room: AtomicU32,
}

#[repr(C)]
pub(super) struct HostWords {
    pub(super) head: AtomicU64,
    pub(super) wake_at: AtomicU64,
    pub(super) stop: AtomicU32,
    /// Where the guest was woken from last; a hint.
    pub(super) cpu: AtomicU32,
}

#[repr(C)]
pub(super) struct HubHeader {
    pub(super) magic: AtomicU64,
    pub(super) area: AtomicU64,
    /// Which bell the guests ring.
    pub(super) rung: Line<AtomicU32>,
    pub(super) bells: [Line<AtomicU32>; 2],
}

pub(super) const LANE_MAGIC: u64 = u64::from_le_bytes(*b"mp-lane1");
pub(super) const HUB_MAGIC: u64 = u64::from_le_bytes(*b"mp-hub-1");
pub(super) const PAGE: usize = 4096;
pub(super) const NO_CPU: u32 = u32::MAX;
/// Length field before each frame.
pub(super) const FRAME_HEADER: usize = 4;

// The board: claimed:30 in the high half; asleep:1, closed:1, published:30 in the low half, which
// is the futex word.
pub(super) const COUNT: u64 = (1 << 30) - 1;
pub(super) const CLOSED: u64 = 1 << 30;
pub(super) const ASLEEP: u64 = 1 << 31;
pub(super) const CLAIMED_UNIT: u64 = 1 << 32;

pub(super) const fn published(board: u64) -> u64 {
    board & COUNT
}

pub(super) const fn claimed(board: u64) -> u64 {
    (board >> 32) & COUNT
}

/// Frames published and not claimed.
pub(super) const fn unclaimed(board: u64) -> u64 {
    published(board).wrapping_sub(claimed(board)) & COUNT
}

pub(super) const fn with_published(board: u64, count: u64) -> u64 {
    (board & !COUNT) | (count & COUNT)
}
