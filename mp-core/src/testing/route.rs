//! The way of a victim through its call, and a short cut to each point of it.
//!
//! Single steps to the k-th instruction, for every k, are n²/2 steps. But victims of one sweep go the
//! same way: once it is known, a breakpoint of the processor somewhere just before the k-th
//! instruction stops the next victim there at full speed, and a few steps do the rest.

use super::victim::{Resume, Stop, Victim};

/// How many single steps a short cut may end with.
const LAST_STEPS: usize = 64;

/// The addresses of the instructions that a victim came to: the k-th after k instructions.
#[derive(Debug, Default)]
pub(super) struct Route {
    addresses: Vec<u64>,
    /// How often a breakpoint at the k-th address has stopped the victim when it gets there.
    passes: Vec<u64>,
}

/// Where to run, how often past it, and how many single steps from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ShortCut {
    address: u64,
    passes: u64,
    steps: usize,
}

impl Route {
    /// Adds where `victim` stands, if this processor tells it.
    pub(super) fn note(&mut self, victim: &Victim) {
        if let Some(address) = processor::address(victim.pid) {
            self.push(address);
        }
    }

    fn push(&mut self, address: u64) {
        // A repeated instruction (`rep movs`) stops once, however often it is stepped.
        let repeated = self.addresses.last() == Some(&address);
        let earlier = self.addresses.iter().rposition(|&before| before == address);
        let earlier = earlier.map_or(0, |index| self.passes[index]);
        self.passes.push(earlier + u64::from(!repeated));
        self.addresses.push(address);
    }

    /// Lets `victim`, which is at its mark, run to the k-th instruction; false if it went another way.
    #[track_caller]
    pub(super) fn run_to(&self, k: u64, victim: &mut Victim) -> bool {
        let Ok(k) = usize::try_from(k) else {
            return false;
        };
        if k >= self.addresses.len() {
            return false;
        }
        let short_cut = self.short_cut(k);
        if short_cut.passes > 0 && !self.run_past(short_cut, victim) {
            return false;
        }
        let sleep = super::stepper::BLOCKED_AFTER;
        (0..short_cut.steps).all(|_| victim.resume(Resume::Step, sleep) == Stop::Done)
            && processor::address(victim.pid) == Some(self.addresses[k])
    }

    #[track_caller]
    fn run_past(&self, short_cut: ShortCut, victim: &mut Victim) -> bool {
        let sleep = super::stepper::BLOCKED_AFTER;
        let pid = victim.pid;
        processor::set_breakpoint(pid, Some(short_cut.address))
            && (0..short_cut.passes).all(|_| victim.resume(Resume::Continue, sleep) == Stop::Done)
            && processor::set_breakpoint(pid, None)
    }

    /// The cheapest: a stop costs about as much as a step.
    fn short_cut(&self, k: usize) -> ShortCut {
        let from_start = ShortCut {
            address: 0,
            passes: 0,
            steps: k,
        };
        let candidates = (k.saturating_sub(LAST_STEPS)..=k)
            // Inside a repeated instruction there is no telling which repetition it is.
            .filter(|&at| at > 0 && self.addresses[at - 1] != self.addresses[at])
            .map(|at| ShortCut {
                address: self.addresses[at],
                passes: self.passes[at],
                steps: k - at,
            });
        let best = candidates.min_by_key(ShortCut::cost);
        best.filter(|best| best.cost() < from_start.cost())
            .unwrap_or(from_start)
    }
}

impl ShortCut {
    fn cost(&self) -> u64 {
        self.passes + self.steps as u64
    }
}

/// The debug registers.
#[cfg(target_arch = "x86_64")]
mod processor {
    use std::{mem::offset_of, ptr};

    use nix::{libc, sys::ptrace, unistd::Pid};

    const ADDRESS: usize = offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rip);
    const DEBUG: usize = offset_of!(libc::user, u_debugreg);
    const CONTROL: usize = DEBUG + 7 * size_of::<u64>();

    /// Stops when the first debug register's address is executed.
    const FIRST_ENABLED: i64 = 1;

    pub(super) fn address(pid: Pid) -> Option<u64> {
        let word = ptrace::read_user(pid, ptr::without_provenance_mut(ADDRESS));
        word.ok().map(i64::cast_unsigned)
    }

    /// False where debug registers cannot be had (some virtual machines).
    pub(super) fn set_breakpoint(pid: Pid, at: Option<u64>) -> bool {
        let write = |offset, word| {
            ptrace::write_user(pid, ptr::without_provenance_mut(offset), word).is_ok()
        };
        match at {
            Some(address) => write(DEBUG, address.cast_signed()) && write(CONTROL, FIRST_ENABLED),
            None => write(CONTROL, 0),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod processor {
    use nix::unistd::Pid;

    pub(super) fn address(_: Pid) -> Option<u64> {
        None // no route, and so no short cut
    }

    pub(super) fn set_breakpoint(_: Pid, _: Option<u64>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(addresses: &[u64]) -> Route {
        let mut route = Route::default();
        addresses.iter().for_each(|&address| route.push(address));
        route
    }

    #[test]
    fn straight_code_is_reached_by_one_stop() {
        let route = route(&[10, 20, 30, 40]);
        let expected = ShortCut {
            address: 40,
            passes: 1,
            steps: 0,
        };
        assert_eq!(route.short_cut(3), expected);
        assert_eq!(route.short_cut(0).cost(), 0);
    }

    #[test]
    fn in_a_loop_the_cheaper_of_passes_and_steps_is_taken() {
        let mut addresses = vec![1, 2];
        addresses.extend([3, 4, 5, 6].repeat(20));
        addresses.push(7);
        let route = route(&addresses);
        // Twice around from outside is as far as a third pass.
        let expected = ShortCut {
            address: 5,
            passes: 3,
            steps: 0,
        };
        assert_eq!(route.short_cut(12), expected);
        assert_eq!(
            (route.short_cut(82).address, route.short_cut(82).passes),
            (7, 1)
        );
    }

    #[test]
    fn a_repeated_instruction_is_stepped_from_its_first_time() {
        let route = route(&[1, 2, 3, 4, 4, 4, 4, 5]);
        let expected = ShortCut {
            address: 4,
            passes: 1,
            steps: 3,
        };
        assert_eq!(route.short_cut(6), expected);
    }
}
