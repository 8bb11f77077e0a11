//! What is rewritten or given up of a partition's log: retention now, compaction with the issues to come.
//!
//! Decides; the broker's workers carry out, manifest first (invariant 10).

pub mod core;
