//! The pure decisions: no I/O, no clock, no tasks.

pub mod retention;
