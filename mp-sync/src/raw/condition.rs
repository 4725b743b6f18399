//! A sequence word to sleep on; a notice moves it on and wakes, and knows no sleepers.

use mp_core::{
    deadline::Deadline,
    futex::{self, Told},
    primitive::{AtomicU32, AtomicU64, Ordering},
};

/// Waiting for something that another changes under a lock.
///
/// ```text
/// word  = notices:63 | WAITERS:1     its low half is slept on; a notice adds one
/// short = a value of `word`          up to here some notice found fewer sleepers than it was for
/// lost  = deaths among the users     each is a wake-up for all who waited then
/// ```
///
/// The kernel chooses whom a notice wakes. Who finds that the word has moved on without having been
/// woken was not chosen, and sleeps again, unless the notice had wake-ups left over (`short`).
///
/// # Process death
///
/// A waiter that was chosen and died took its wake-up along; a notifier may die between its two
/// steps. So who notices a death [says so](Self::lost), and everybody who waits looks again.
#[repr(C)]
#[derive(Debug)]
pub struct RawCondition {
    word: AtomicU64,
    short: AtomicU64,
    lost: AtomicU32,
}

const WAITERS: u64 = 1; // somebody may sleep: a notice has to wake
const NOTICE: u64 = 2;

/// From when somebody waits: taken while the lock is held.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    word: u64,
    lost: u32,
}

impl Default for RawCondition {
    fn default() -> Self {
        Self::new()
    }
}

impl RawCondition {
    /// Nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            short: AtomicU64::new(0),
            lost: AtomicU32::new(0),
        }
    }

    /// Begins to wait. The caller holds the lock, and releases it before [`wait`](Self::wait).
    pub fn begin(&self) -> Ticket {
        // Acquire: a death counted later is one that this waiter has to be woken for.
        let lost = self.lost.load(Ordering::Acquire);
        // Relaxed: the lock orders this before the notices that are for us.
        let word = self.word.fetch_or(WAITERS, Ordering::Relaxed) | WAITERS;
        Ticket { word, lost }
    }

    /// Waits for a notice since `ticket`; `false` if `until` came first. `look` is called after
    /// every slice, to look after the dead.
    ///
    /// May return `true` without a notice, after a death.
    pub fn wait(&self, ticket: Ticket, until: Option<Deadline>, mut look: impl FnMut()) -> bool {
        let mut seen = ticket.word;
        loop {
            let told = futex::wait_told(&self.word, seen as u32, until);
            match told {
                Told::Woken => return true,
                Told::Slice | Told::Over => look(),
                Told::Look => {}
            }
            // SeqCst: with `notify`. Either this sees its second step, or the word it goes to sleep
            // on is not yet that of the second step, which then wakes.
            let now = self.word.load(Ordering::SeqCst);
            let short = self.short.load(Ordering::SeqCst);
            if short > ticket.word || self.lost.load(Ordering::Acquire) != ticket.lost {
                return true;
            }
            if told == Told::Over {
                return false;
            }
            seen = now | WAITERS;
            if now != seen
                && self
                    .word
                    .compare_exchange(now, seen, Ordering::SeqCst, Ordering::Relaxed)
                    .is_err()
            {
                seen = now; // moved on: the kernel will say so
            }
        }
    }

    /// Wakes `count` of those who wait, or all if there are fewer.
    pub fn notify(&self, count: u32) {
        if count == 0 {
            return;
        }
        let before = self.word.fetch_add(NOTICE, Ordering::SeqCst); // meets the load in `wait`
        if before & WAITERS == 0 || futex::wake(&self.word, count) < count {
            self.notify_rest(before.wrapping_add(NOTICE));
        }
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        let before = self.word.fetch_add(NOTICE, Ordering::SeqCst); // as in `notify`
        self.notify_rest(before.wrapping_add(NOTICE));
    }

    /// Wakes whoever has waited since before the notice that made the word `notice`, also those who
    /// are between two sleeps, whose bit an earlier notice may have cleared.
    fn notify_rest(&self, notice: u64) {
        // Advances only. First, so that whoever sees the word move on sees this too.
        self.short.fetch_max(notice, Ordering::SeqCst);
        // Moves the word on, so that nobody goes to sleep on the old one; after the wake nobody
        // sleeps, and the next notice need not look.
        let moved = self
            .word
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |word| {
                Some(word.wrapping_add(NOTICE) & !WAITERS)
            });
        if moved.is_ok_and(|word| word & WAITERS != 0) {
            futex::wake_all(&self.word);
        }
    }

    /// A process that waited or notified has died: whoever waits looks again.
    pub fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Release); // meets `begin` and `wait`
        futex::wake_all(&self.word);
    }
}
