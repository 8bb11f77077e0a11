//! One partition's local log.
pub mod core;
pub mod crash;
pub mod disk;
mod error;
mod map;
