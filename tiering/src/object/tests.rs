//! Seal and rebuild against a naive reference, against damage, and through the `parquet` crate's own Arrow
//! reader.

mod damage;
mod fixture;
mod golden;
mod parquet;
mod property;
mod ranges;
pub mod support;
