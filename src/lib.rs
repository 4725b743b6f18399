//! Functions in other processes, as easy as threads.
