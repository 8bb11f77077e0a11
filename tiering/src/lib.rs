//! The tier: sealed segments as Parquet objects in a bucket, the manifest that lists them, and reading them back.

pub mod core;
pub mod port;
