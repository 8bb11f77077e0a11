//! What clients, replicas and the bucket have seen: the checker's only input.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::{LeaderEpoch, NodeId, Offset};

/// Every record has a value of its own.
pub type Value = u64;

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Acknowledged at this offset.
    Acked(Offset),
    /// Refused at every attempt: nothing of it may ever be read.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One record that a producer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    pub partition: u32,
    /// A producer under one producer id; its sends are in the order it made them.
    pub session: u64,
    pub value: Value,
    /// At most once in the log, and in order.
    pub is_idempotent: bool,
    /// Acknowledged only when committed (acks=all).
    pub is_committed_when_acked: bool,
    pub sent: Sent,
}

/// One answer that a consumer got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    pub partition: u32,
    pub consumer: u32,
    /// The offset it asked for.
    pub from: Offset,
    pub records: Vec<(Offset, Value)>,
}

/// The whole of a partition as a fresh consumer read it after everything has healed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalRead {
    pub partition: u32,
    /// Local copies of what is tiered were dropped before.
    pub is_after_eviction: bool,
    pub records: Vec<(Offset, Value)>,
}

/// One batch in a replica's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBatch {
    pub base_offset: Offset,
    pub next_offset: Offset,
    pub epoch: LeaderEpoch,
    pub crc: u32,
}

/// What one replica holds below the high watermark, after everything has healed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub partition: u32,
    pub node: NodeId,
    pub batches: Vec<HeldBatch>,
}

/// One object as a manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub start: Offset,
    pub end: Offset,
    pub key: String,
}

/// A manifest after everything has healed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub partition: u32,
    pub log_start: Offset,
    pub tiered_end: Offset,
    pub objects: Vec<Listed>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub sends: Vec<Send>,
    pub polls: Vec<Poll>,
    pub finals: Vec<FinalRead>,
    pub replicas: Vec<Replica>,
    pub manifests: Vec<Manifest>,
    /// Where each partition's log starts in the end; what lies below was deleted.
    pub log_starts: BTreeMap<u32, Offset>,
    /// Keys in the bucket at the end.
    pub objects: BTreeSet<String>,
}
