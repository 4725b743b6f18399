//! A bar that shows how far the tasks of one call are.
//!
//! Drawing may take a while, so it is done by who waits, and never while a lock is held.

#[cfg(feature = "progress")]
use indicatif::ProgressBar;

/// Without the feature `progress` there is none.
#[derive(Clone)]
#[cfg_attr(not(feature = "progress"), allow(clippy::empty_enums))] // so that `Option<Progress>` is `None`
pub(crate) enum Progress {
    #[cfg(feature = "progress")]
    Bar(ProgressBar),
}

impl Progress {
    /// So many tasks have an outcome.
    #[cfg_attr(not(feature = "progress"), allow(unused_variables))] // there is nothing to show
    pub(crate) fn show(&self, done: u64) {
        match *self {
            #[cfg(feature = "progress")]
            Self::Bar(ref bar) => bar.set_position(done),
        }
    }
}
