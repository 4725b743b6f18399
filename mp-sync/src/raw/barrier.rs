//! One word: the phase, who has arrived in it, and how the last phases ended.

use mp_core::{
    deadline::Deadline,
    futex::{self, Told},
    primitive::{AtomicU64, Ordering},
};

/// Everybody waits until all have come.
///
/// ```text
/// word = ended:8 | LOST:1 | phase:39 | arrived:15 | BROKEN:1     the low half is slept on
/// ```
///
/// `ended` tells of the last eight phases whether they were completed (1) or given up (0): a waiter
/// that wakes late still learns how its own phase ended.
///
/// # Process death
///
/// A dead party neither arrives nor leaves. Who notices [says so](Self::lost), which breaks it.
#[repr(C)]
#[derive(Debug)]
pub struct RawBarrier {
    word: AtomicU64,
}

const BROKEN: u64 = 1;
const ARRIVED_MASK: u64 = (1 << 15) - 1;
const ARRIVED_SHIFT: u32 = 1;
const PHASE_MASK: u64 = (1 << 39) - 1;
const PHASE_SHIFT: u32 = 16;
const LOST: u64 = 1 << 55; // broken because a party died
const ENDED_SHIFT: u32 = 56;

/// The most parties that can be told apart.
pub(crate) const MAX_PARTIES: u32 = ARRIVED_MASK as u32;

/// The word, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    ended: u8,
    phase: u64,
    arrived: u32,
    broken: Option<Cause>,
}

/// What broke it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Aborted,
    PartyDied,
}

impl State {
    fn unpack(word: u64) -> Self {
        Self {
            ended: (word >> ENDED_SHIFT) as u8,
            phase: word >> PHASE_SHIFT & PHASE_MASK,
            arrived: (word >> ARRIVED_SHIFT & ARRIVED_MASK) as u32,
            broken: match word & (BROKEN | LOST) {
                0 | LOST => None,
                BROKEN => Some(Cause::Aborted),
                _ => Some(Cause::PartyDied),
            },
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.ended) << ENDED_SHIFT
            | self.phase << PHASE_SHIFT
            | u64::from(self.arrived) << ARRIVED_SHIFT
            | match self.broken {
                None => 0,
                Some(Cause::Aborted) => BROKEN,
                Some(Cause::PartyDied) => BROKEN | LOST,
            }
    }

    fn next(self, completed: bool) -> Self {
        Self {
            ended: self.ended << 1 | u8::from(completed),
            phase: (self.phase + 1) & PHASE_MASK,
            arrived: 0,
            broken: None,
        }
    }

    /// How `phase` ended, if it has.
    fn outcome(self, phase: u64) -> Option<Result<(), Broken>> {
        match self.phase.wrapping_sub(phase) & PHASE_MASK {
            0 => self.broken.map(|cause| Err(cause.into())),
            age @ 1..=8 if self.ended >> (age - 1) & 1 != 0 => Some(Ok(())),
            _ => Some(Err(Broken::Aborted)), // forgotten: never say that it was passed
        }
    }
}

/// Why a wait did not end with all at the barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Somebody broke or reset it.
    Aborted,
    /// A party died.
    PartyDied,
    /// The deadline passed, which has broken it.
    TimedOut,
}

impl From<Cause> for Broken {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Aborted => Self::Aborted,
            Cause::PartyDied => Self::PartyDied,
        }
    }
}

impl Default for RawBarrier {
    fn default() -> Self {
        Self::new()
    }
}

impl RawBarrier {
    /// Nobody has come.
    #[must_use]
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
        }
    }

    /// Comes, and waits for the rest of `parties`; who comes as how manyth, from 0. The last runs
    /// `action` before anybody goes on. `look` is called after every slice, to look after the dead.
    ///
    /// # Errors
    ///
    /// [`Broken`]; nobody of this phase has gone on.
    pub fn wait(
        &self,
        parties: u32,
        until: Option<Deadline>,
        action: impl FnOnce(),
        mut look: impl FnMut(),
    ) -> Result<u32, Broken> {
        let state = self.arrive(parties, until, &mut look)?;
        let index = state.arrived;
        if index + 1 == parties {
            self.act(action);
            return self.complete(state.phase).map(|()| index);
        }
        self.until_ended(state.phase, until, look).map(|()| index)
    }

    /// Counts this party in; the state before.
    fn arrive(
        &self,
        parties: u32,
        until: Option<Deadline>,
        look: &mut impl FnMut(),
    ) -> Result<State, Broken> {
        // Acquire on every load: meets the Release of whoever completed or broke a phase.
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let state = State::unpack(word);
            if let Some(cause) = state.broken {
                return Err(cause.into());
            }
            if state.arrived >= parties {
                // The last one is still running its action.
                self.sleep(word, state.phase, until, look)?;
                word = self.word.load(Ordering::Acquire);
                continue;
            }
            let next = State {
                arrived: state.arrived + 1,
                ..state
            };
            // Release: what this party did before is seen by all who go on, through whoever comes
            // after it. Acquire: and the other way round.
            match self.word.compare_exchange_weak(
                word,
                next.pack(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(state),
                Err(now) => word = now,
            }
        }
    }

    /// Runs `action`; should it panic, the others are not left waiting.
    fn act(&self, action: impl FnOnce()) {
        struct Abort<'a>(&'a RawBarrier);
        impl Drop for Abort<'_> {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let abort = Abort(self);
        action();
        std::mem::forget(abort);
    }

    fn complete(&self, phase: u64) -> Result<(), Broken> {
        let completed = self.change(|state| {
            (state.phase == phase && state.broken.is_none()).then(|| state.next(true))
        });
        match completed {
            Ok(_) => {
                futex::wake_all(&self.word);
                Ok(())
            }
            Err(state) => state.outcome(phase).unwrap_or(Err(Broken::Aborted)),
        }
    }

    fn until_ended(
        &self,
        phase: u64,
        until: Option<Deadline>,
        mut look: impl FnMut(),
    ) -> Result<(), Broken> {
        loop {
            let word = self.word.load(Ordering::Acquire); // as in `arrive`
            match State::unpack(word).outcome(phase) {
                Some(outcome) => return outcome,
                None => self.sleep(word, phase, until, &mut look)?,
            }
        }
    }

    /// Sleeps while the word is `word`; breaks `phase` when time is up.
    fn sleep(
        &self,
        word: u64,
        phase: u64,
        until: Option<Deadline>,
        look: &mut impl FnMut(),
    ) -> Result<(), Broken> {
        let told = futex::wait_told(&self.word, word as u32, until);
        if told == Told::Slice || told == Told::Over {
            look();
        }
        if told == Told::Over && self.break_phase(Some(phase), Cause::Aborted) {
            return Err(Broken::TimedOut);
        }
        Ok(())
    }

    /// Breaks it for all who wait and all who come, until it is [`reset`](Self::reset).
    pub fn abort(&self) {
        self.break_phase(None, Cause::Aborted);
    }

    /// A process that took part has died: breaks it, as [`abort`](Self::abort) does.
    pub fn lost(&self) {
        self.break_phase(None, Cause::PartyDied);
    }

    /// Breaks `phase`, or whichever there is; whether it was this call that did.
    fn break_phase(&self, phase: Option<u64>, cause: Cause) -> bool {
        let broke = self.change(|state| {
            let mine = phase.is_none_or(|phase| phase == state.phase);
            (mine && state.broken.is_none()).then_some(State {
                broken: Some(cause),
                ..state
            })
        });
        if broke.is_ok() {
            futex::wake_all(&self.word);
        }
        broke.is_ok()
    }

    /// Makes it as new: who waits is told that it broke, who comes begins a new phase.
    pub fn reset(&self) {
        let changed = self.change(|state| {
            (state.broken.is_some() || state.arrived > 0).then(|| state.next(false))
        });
        if changed.is_ok() {
            futex::wake_all(&self.word);
        }
    }

    /// Every change is one exchange of the whole word; the state in which `change` found none to
    /// make, if so.
    fn change(&self, change: impl Fn(State) -> Option<State>) -> Result<(), State> {
        // AcqRel: passes on what each party did before; see `arrive`.
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                change(State::unpack(word)).map(State::pack)
            })
            .map(drop)
            .map_err(State::unpack)
    }

    /// How many have come and wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        let state = State::unpack(self.word.load(Ordering::Relaxed)); // a number, old at once
        match state.broken {
            None => state.arrived,
            Some(_) => 0,
        }
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        State::unpack(self.word.load(Ordering::Acquire))
            .broken
            .is_some() // meets `abort`
    }
}

#[cfg(all(test, not(mp_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_late_waiter_learns_how_its_own_phase_ended() {
        let mut state = State::unpack(0);
        let fates = [true, false, true, true, false, true, false, false];
        for completed in fates {
            state = state.next(completed);
        }
        for (phase, completed) in fates.into_iter().enumerate() {
            let outcome = state.outcome(phase as u64).unwrap();
            assert_eq!(outcome.is_ok(), completed);
        }
        assert_eq!(state.outcome(8), None);
        assert!(state.next(true).outcome(0).unwrap().is_err()); // forgotten
        for broken in [None, Some(Cause::Aborted), Some(Cause::PartyDied)] {
            let state = State { broken, ..state };
            assert_eq!(State::unpack(state.pack()), state);
        }
    }
}
