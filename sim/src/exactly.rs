//! Consume-transform-produce in one simulated topic: which of its partitions plays which part, and what
//! clients, group coordinators and transaction coordinators say to each other.
//!
//! Partition 0 stands for `__consumer_offsets`, 1 for `__transaction_state`; workers read two others and
//! write the last two. All are replicated alike, by the product's own replicas.

use bytes::Bytes;
use highwater_groups::core::answer::{Beat, FetchedOffset};
use highwater_groups::core::error::GroupError;
use highwater_groups::core::request::{CommitTransactionOffsets, ConsumerHeartbeat, FetchOffsets};
use highwater_groups::core::txn::{
    AddPartitions, EndTxn, InitProducerId, MarkerAnswer, Markers, Producer, TxnError, TxnPartition,
};
use highwater_groups::core::types::Name;
use highwater_model::{Offset, TopicId};

use crate::history::{Tag, Value};
use crate::message::ClientError;

/// Holds the records of the group.
pub const OFFSETS: u32 = 0;
/// Holds the records of transactions.
pub const TRANSACTIONS: u32 = 1;
/// What workers read.
pub const INPUTS: [u32; 2] = [2, 3];
/// What they write.
pub const OUTPUTS: [u32; 2] = [4, 5];
/// All of them.
pub const PARTITIONS: u32 = 6;

pub const GROUP: &str = "workers";
/// The topic of the inputs, as the group knows it.
pub const INPUT_TOPIC: &str = "in";
const OUTPUT_TOPIC: &str = "out";
const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The id of the topic of the inputs.
pub fn input_topic_id() -> TopicId {
    TopicId(uuid::Uuid::from_u128(0x1000))
}

/// The partition as a transaction names it.
pub fn name_of(partition: u32) -> TxnPartition {
    match OUTPUTS.iter().position(|output| *output == partition) {
        Some(number) => TxnPartition::new(OUTPUT_TOPIC, number as i32),
        None => TxnPartition::new(OFFSETS_TOPIC, partition as i32),
    }
}

/// The partition that a transaction names.
pub fn place_of(at: &TxnPartition) -> u32 {
    match &*at.topic == OUTPUT_TOPIC {
        true => OUTPUTS[at.partition as usize],
        false => OFFSETS,
    }
}

/// What a client asks a broker.
#[derive(Clone, Debug)]
pub enum Ask {
    Beat(ConsumerHeartbeat),
    FetchOffsets(FetchOffsets),
    CommitOffsets {
        transactional_id: Name,
        commit: CommitTransactionOffsets,
    },
    Init(InitProducerId),
    /// Answered as any other produce.
    Produce {
        transactional_id: Name,
        partition: u32,
        batch: Bytes,
    },
    End(EndTxn),
    /// What is committed, of transactions too, from an offset on.
    Read {
        partition: u32,
        offset: Offset,
    },
}

/// What a broker answers.
#[derive(Clone, Debug)]
pub enum Told {
    Beat(Result<Beat, GroupError>),
    Offsets(Result<Vec<FetchedOffset>, GroupError>),
    Committed(Result<(), GroupError>),
    Init(Result<Producer, TxnError>),
    Ended(Result<Producer, TxnError>),
    Read(Result<Committed, ClientError>),
}

/// Records that a reader of committed data gets to see.
#[derive(Clone, Debug)]
pub struct Committed {
    pub records: Vec<(Offset, Value, Tag)>,
    /// Where it goes on.
    pub next: Offset,
}

/// What brokers say to each other.
#[derive(Clone, Debug)]
pub enum Between {
    /// The leader of a partition has the coordinator add it to a transaction.
    Add {
        id: u64,
        asked: AddPartitions,
    },
    Added {
        id: u64,
        outcome: Result<(), TxnError>,
    },
    /// A marker for one partition.
    Mark(Markers),
    Marked(MarkerAnswer),
}
