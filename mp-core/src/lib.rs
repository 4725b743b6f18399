//! Internal base of the mp crates.
