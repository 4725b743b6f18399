//! Functions in child processes, and the whole life of a child.
