//! Queues shared between processes.
