//! The Kafka front door: sockets in, frames to [`crate::dispatch`], answers out.
//!
//! Owns connections, their buffers and the order of their answers. Must not know what a request means.
//! Invariants 13 and 16: bytes from outside end in an answer or a closed connection with one log line.

pub mod budget;
pub mod connection;
pub mod frame;
pub mod listener;
pub mod refusal_log;
pub mod reply;
pub mod writer;
