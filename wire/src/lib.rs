//! The bytes of the Kafka protocol: frames, requests and record batches. The only crate that knows them.
//!
//! Untrusted bytes are checked here before anything allocates for them: a request's shape by `shape` before
//! the generated decoders see it, a batch by `validate` before the log does. No I/O, no clock.

pub mod api;
pub mod batch;
pub mod build;
pub mod codec;
pub mod control;
pub mod expire;
pub mod fetch_response;
pub mod frame;
pub mod records;
pub mod shape;
#[cfg(test)]
mod test_support;
pub mod validate;

/// The generated messages of the Kafka protocol; other crates reach them only through here.
pub use kafka_protocol as kafka;

pub use batch::{BatchError, BatchHeader, Batches, HEADER_BYTES, TimestampType};
pub use build::BatchBuilder;
pub use codec::{Codec, CodecError};
pub use control::{Control, EndMarker, MARKER_BYTES, marker_batch, read_control};
pub use expire::{Sieve, Sifted};
pub use records::{HeaderRef, HeadersRef, RecordRef, Records};
pub use validate::{AcceptedBatch, BatchRefusal, ProduceRules, validate_produce};
