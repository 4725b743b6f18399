//! Objects in a server process, for many clients.
