//! The promise about deaths, for every object: a kill after every instruction of what it does.
//!
//! Each test prints its figures (`--nocapture`). A number of kills keeps them short, above all those
//! in which a death is noticed at the end of a slice; `MP_STEP_STRIDE=1`, as in `ci/sweep-sync.sh`,
//! kills after each instruction.

use std::{
    fs,
    time::{Duration, Instant},
};

use mp_core::testing::{
    Forked, fork_child,
    stepper::{self, Mark, Outcome, Sweep, Swept},
};

macro_rules! needs_ptrace {
    ($name:literal) => {
        if !mp_core::testing::stepper::is_available() {
            return mp_core::testing::skip($name, "ptrace");
        }
        let _census = mp_core::testing::Census::take();
        let _dog = mp_core::testing::Watchdog::secs(1200);
    };
}

mod locks;
mod named;
mod permits;
mod waiting;

/// No survivor waits longer, whatever the machine does; the promises are far shorter and reported.
const LIMIT: Duration = Duration::from_secs(20);

/// The longest of what was measured, for the report.
#[derive(Default)]
struct Worst(Duration);

impl Worst {
    fn measure<R>(&mut self, f: impl FnOnce() -> R) -> R {
        let begun = Instant::now();
        let result = f();
        self.0 = self.0.max(begun.elapsed());
        result
    }

    fn report(&self, what: &str, swept: &Swept) {
        let (kills, worst) = (swept.kills, self.0.as_secs_f64() * 1e3);
        eprintln!("death of a {what}: {kills} kills, survivors go on after at most {worst:.1} ms");
    }
}

/// As [`stepper::for_every_instruction`], with about `kills` of them, evenly spread.
fn sweep<S>(
    kills: u64,
    mut setup: impl FnMut() -> S,
    mut victim: impl FnMut(&S, &Mark),
    mut check: impl FnMut(S, Outcome),
) -> Swept {
    let mut sweep = Sweep::default();
    if std::env::var_os("MP_STEP_STRIDE").is_none() {
        let none = Sweep {
            first: 1,
            limit: 0,
            ..sweep
        };
        let counted =
            stepper::for_every_instruction(none, &mut setup, &mut victim, &mut check).instructions;
        sweep.stride = Some((counted / kills).max(1));
    }
    stepper::for_every_instruction(sweep, setup, victim, check)
}

fn is_asleep(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") S ")
}

/// A process that ends normally: its handles are dropped, or its exit hooks run.
fn survivor(body: impl FnOnce()) -> Forked {
    fork_child(|| {
        body();
        mp_core::hooks::run_exit_hooks();
    })
}
