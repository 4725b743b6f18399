//! Locks, conditions and shared values that survive their holders.
