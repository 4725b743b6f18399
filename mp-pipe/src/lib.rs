//! Connections between processes, listeners, and waiting on many.
