//! The tier: sealed segments as Parquet objects in a bucket, the manifest that lists them, and reading them
//! back.

pub mod bucket;
pub mod cache;
pub mod core;
pub mod lane;
pub mod metrics;
pub mod mirror;
pub mod object;
pub mod offload;
pub mod pages;
pub mod port;
pub mod probe;
pub mod read;
pub mod schema;
pub mod store;
pub mod worker;

#[cfg(test)]
mod test_support;
