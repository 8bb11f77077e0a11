//! The tier: sealed segments as Parquet objects in a bucket, the manifest that lists them, and reading them back.

pub mod bucket;
pub mod core;
pub mod lane;
pub mod metrics;
pub mod object;
pub mod port;
pub mod probe;
pub mod schema;
pub mod store;
