//! When a thread of the server should leave its CPU to the client that it serves.

use std::time::{Duration, Instant};

/// So many requests in a row from the CPU that they are answered on, and their server moves: two
/// that take turns on one CPU are slower than two side by side.
const CROWDED: u32 = 64;
/// How long it stays where it has moved to.
const SETTLED: Duration = Duration::from_millis(10);

/// How often a client was met on this thread's own CPU.
#[derive(Debug)]
pub(crate) struct Crowd {
    moved: Instant,
    in_a_row: u32,
}

impl Crowd {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            moved: now,
            in_a_row: 0,
        }
    }

    /// Told of each meeting: whether the thread should move now. Looks at the clock only if it may.
    pub(crate) fn is_time_to_move(
        &mut self,
        on_this_cpu: bool,
        clock: impl FnOnce() -> Instant,
    ) -> bool {
        self.in_a_row = if on_this_cpu {
            self.in_a_row.saturating_add(1)
        } else {
            0
        };
        if self.in_a_row < CROWDED {
            return false;
        }
        let now = clock();
        let moves = now - self.moved >= SETTLED;
        if moves {
            *self = Self::new(now);
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_moves_after_many_meetings_in_a_row_and_then_settles() {
        let start = Instant::now();
        let mut crowd = Crowd::new(start);
        let mut moves = |meetings: &[(bool, u32)], after: Duration| {
            let here = meetings
                .iter()
                .flat_map(|(here, times)| (0..*times).map(|_| *here));
            here.filter(|here| crowd.is_time_to_move(*here, || start + after))
                .count()
        };
        assert_eq!(
            moves(&[(true, 2 * CROWDED)], SETTLED / 2),
            0,
            "it has just begun"
        );
        assert_eq!(moves(&[(true, CROWDED)], SETTLED), 1);
        assert_eq!(
            moves(&[(true, 2 * CROWDED)], SETTLED),
            0,
            "it has just moved"
        );
        let apart = [
            (false, 1),
            (true, CROWDED - 1),
            (false, 1),
            (true, CROWDED - 1),
        ];
        assert_eq!(moves(&apart, 2 * SETTLED), 0, "not in a row");
        assert_eq!(moves(&[(true, 1)], 2 * SETTLED), 1);
    }
}
