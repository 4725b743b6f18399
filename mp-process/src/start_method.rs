//! How children are made.

/// How a child process is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StartMethod {
    /// This executable is executed once more. Nothing is shared but what is passed: the safe one.
    #[default]
    Spawn,
}
