//! The machines; no I/O.

