//! What the tests of all crates stand on (feature `test-util`): children, watchdog, census, single-stepper.
//!
//! * [`Watchdog`]: a test that hangs prints where each of its processes stands, and ends.
//! * [`Census`]: descriptors, mappings, threads, processes, segments and temporary files before and
//!   after a test; what is left over is named, and fails it.
//! * [`Child`] and [`Case`]: the test binary once more as another process; [`fork_child`]: a copy of this one.
//! * [`stepper`]: kills a process after every single instruction of a call; [`faults`]: at every
//!   system call of it, or lets that fail.
//! * [`SignalStorm`]: interrupts every system call that can be.
//! * [`Rng`], [`kill_at_random`], [`eventually`], [`with_rlimit`], [`tool`], [`skip`] and a few figures.
//!
//! ```
//! use mp_core::testing::{Census, Watchdog};
//!
//! let _census = Census::take(); // first: dropped last
//! let _dog = Watchdog::secs(10);
//! // … the test …
//! ```
//!
//! # Environment
//!
//! | variable | meaning |
//! |---|---|
//! | `MP_WATCHDOG_FACTOR` | multiplies every deadline of this module (slow machines, valgrind) |
//! | `MP_TEST_SEED` | seed of [`Rng::from_env`], as printed by a test that failed |
//! | `MP_STEP_STRIDE` | the [`stepper`] kills after every n-th instruction only |

mod census;
mod child;
pub mod faults;
mod fork;
mod gate;
mod helpers;
mod procfs;
mod rng;
mod route;
pub mod stepper;
mod storm;
mod victim;
mod watchdog;

pub use self::{
    census::{Census, Leak, LeakKind, Serial, serial},
    child::{Case, Child, ChildCommand},
    fork::{Forked, fork_child, with_rlimit},
    gate::Gate,
    helpers::{
        cpus, eventually, has_sources_of_std, memory_rss, patience, skip, stay_on, tool,
        usable_cpus,
    },
    rng::{Rng, kill_at_random},
    storm::SignalStorm,
    watchdog::Watchdog,
};
