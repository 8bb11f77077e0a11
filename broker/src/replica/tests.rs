//! Leader and followers by hand (`cases.rs`), and three replicas under random leaders, losses and power
//! failures against a naive model (`model.rs`).

use std::sync::Arc;

use bytes::Bytes;
use highwater_log::disk::SimDisk;
use highwater_log::{LogSettings, PartitionLog};
use highwater_model::{NodeId, Offset};
use highwater_wire::build::BatchBuilder;
use highwater_wire::{BatchHeader, Codec};

use super::*;
use crate::core::replica::Member;

mod cases;
mod control;
mod model;

const NOW: i64 = 1_700_000_000_000;
const LAG_MS: i64 = 10_000;

/// Small segments, so that a few batches roll.
fn settings() -> LogSettings {
    LogSettings { segment_bytes: 1_500, ..LogSettings::default() }
}

fn open(disk: &SimDisk) -> PartitionLog {
    PartitionLog::open_on(Arc::new(disk.clone()), settings(), NOW).expect("opens").0
}

fn batch(producer: i64, sequence: i32, records: usize) -> (BatchHeader, Bytes) {
    let mut builder = BatchBuilder::new(Codec::None).producer(producer, 0, sequence);
    for n in 0..records {
        let value = format!("{producer}-{}", sequence + n as i32);
        builder.push(NOW, None, Some(value.as_bytes()), &[]);
    }
    let bytes = builder.build();
    (BatchHeader::parse(&bytes).expect("built whole"), bytes)
}

fn assignment(leader: NodeId, leader_epoch: i32, isr: &[NodeId]) -> Assignment {
    let member = |node_id| Member { node_id, broker_epoch: 1, may_join: true };
    Assignment {
        leader: Some(leader),
        leader_epoch,
        partition_epoch: leader_epoch,
        replicas: [1, 2, 3].map(member).to_vec(),
        isr: isr.to_vec(),
        min_isr: 2,
        flush_before_ack: false,
        lag_ms_max: LAG_MS,
    }
}

/// Every local batch, as bytes with offset and epoch.
fn stored(log: &PartitionLog) -> Vec<(BatchHeader, Bytes)> {
    let mut found = Vec::new();
    let mut next = log.segment_start_of(log.local_start()).expect("local");
    while next < log.log_end() {
        for slice in log.read_for_replica(next, 1 << 20).expect("reads").slices {
            let bytes = Bytes::from(slice.read().expect("reads"));
            for item in highwater_wire::batch::Batches::new(&bytes) {
                let (header, batch) = item.expect("whole batches only");
                assert_eq!(header.base_offset, next, "dense");
                next = header.next_offset();
                found.push((header, Bytes::copy_from_slice(batch)));
            }
        }
    }
    found
}

/// One exchange between a follower and its leader.
fn exchange(leader: &mut ReplicaLog, follower: &mut ReplicaLog, tiered_end: Offset) -> Taken {
    let fetch = follower.next_fetch(1).expect("follows");
    let served = leader.serve_fetch(NOW, &fetch, tiered_end, 400);
    let answer = served.into_answer().expect("reads");
    follower.take_answer(NOW, &answer).expect("takes")
}

/// Until there is nothing more to tell.
fn catch_up(leader: &mut ReplicaLog, follower: &mut ReplicaLog, tiered_end: Offset) {
    for _ in 0..200 {
        let fetch = follower.next_fetch(1).expect("follows");
        exchange(leader, follower, tiered_end);
        let is_told = follower.next_fetch(1) == Some(fetch);
        if is_told && !leader.has_news_for(&fetch) {
            return;
        }
    }
    panic!("no end of news");
}

fn flush(replica: &mut ReplicaLog) -> Moves {
    let done = replica.log().flush_ticket().run().expect("syncs");
    replica.flushed(NOW, done)
}
