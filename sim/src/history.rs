//! What clients, replicas and the bucket have seen: the checker's only input.

use std::collections::{BTreeMap, BTreeSet};

use highwater_model::{LeaderEpoch, NodeId, Offset};

/// Every record has a value of its own; what a worker writes has that of the record it was made of.
pub type Value = u64;
/// Names a transaction: its place in the history.
pub type Tag = u64;

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

/// A transaction of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The worker has asked for it to be committed, be it in vain.
    pub asked_to_commit: bool,
    /// What it was told of its end: committed or aborted.
    pub told: Option<bool>,
    /// What it writes: partition and value.
    pub records: Vec<(u32, Value)>,
}

/// What one reader of committed data got of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommittedRead {
    pub partition: u32,
    /// The whole of it, after everything has healed.
    pub is_final: bool,
    pub records: Vec<(Offset, Value, Tag)>,
}

/// What workers did with the group's offsets, in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetEvent {
    /// A worker was told that the transaction with this offset is committed.
    Committed { partition: i32, offset: Offset },
    /// A worker asks for the offset.
    Asked { id: u64, partition: i32 },
    /// And is answered.
    Read { id: u64, partition: i32, offset: Offset },
    /// What the group has in the end, after everything has healed.
    Final { partition: i32, offset: Offset },
}

/// A member was told that a partition is its own in this generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub partition: i32,
    pub generation: i32,
    pub member: String,
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
    pub txns: Vec<Txn>,
    pub committed_reads: Vec<CommittedRead>,
    pub offset_events: Vec<OffsetEvent>,
    pub owners: Vec<Owner>,
}
