//! The healing phase: faults are over, and everything must come to rest in the state that was promised.

use highwater_log::PartitionLog;
use highwater_model::Offset;
use highwater_model::topic_config::Replication;
use highwater_wire::Batches;

use super::World;
use crate::broker::Broker;
use crate::checker::Anomaly;
use crate::client::{Client, Consumer, Goal};
use crate::exactly::{INPUTS, OFFSETS, OUTPUTS};
use crate::history::{CommittedRead, HeldBatch, Listed, Manifest, OffsetEvent, Replica};
use crate::network::{DELAYED_MAX, MILLI, Micros, SECOND};
use crate::params::Params;

/// Within which a reader must have read its partition.
const READ_MAX: Micros = 60 * SECOND;
const READER_CLIENTS: u32 = 1_000;

impl World {
    pub(super) fn heal(&mut self) {
        self.context.note(format_args!("HEAL"));
        self.context.is_healing = true;
        self.with_faults(|faults, world| faults.end_all(world));
        for member in self.control.members().collect::<Vec<_>>() {
            self.control.bring_up(&mut self.context, member);
        }
        for broker in self.brokers.values_mut() {
            broker.heal(&mut self.context);
        }
        for client in self.clients.values_mut() {
            if let Client::Producer(producer) = client {
                producer.wind_down();
            }
        }
        let within = self.context.params.heal_max;
        // What the network still holds back may be appended when it comes.
        let quiet = self.context.now + DELAYED_MAX;
        let rests = |world: &World| world.context.now >= quiet && world.unsettled().is_none();
        if !self.advance_until(within, rests) {
            return self.stuck_on("does not converge");
        }
        self.record_replicas();
        if !self.read_everything(false) {
            return self.stuck_on("cannot be read to its end");
        }
        if self.context.params.workers > 0 {
            return self.record_exactly();
        }
        for broker in self.brokers.values_mut() {
            broker.tier_all();
        }
        if !self.advance_until(within, World::is_all_tiered) {
            return self.stuck_on("is not tiered and evicted to its end");
        }
        if !self.read_everything(true) {
            return self.stuck_on("cannot be read to its end after eviction");
        }
        self.record_manifests();
    }

    fn stuck_on(&mut self, what: &str) {
        if self.context.findings.is_empty() {
            let why = self.unsettled().unwrap_or_default();
            self.context.find(Anomaly::Stuck, format!("{what}: {why}"));
        }
    }

    /// Why the world is not at rest; none if it is.
    fn unsettled(&self) -> Option<String> {
        if let Some(why) = self.clients.values().find_map(Client::unfinished) {
            return Some(why);
        }
        let state = self.control.newest().state;
        if let Some(broker) = state.brokers.values().find(|b| !b.is_active()) {
            return Some(format!("broker {} is fenced", broker.node_id));
        }
        let topic = state.topic(self.context.params.topic_id).expect("created");
        for (number, partition) in topic.partitions.iter().enumerate() {
            let mut isr = partition.isr.clone();
            let mut replicas = partition.replicas.clone();
            isr.sort_unstable();
            replicas.sort_unstable();
            if partition.raft.is_some() != (topic.config.replication == Replication::Raft) {
                return Some(format!(
                    "partition {number} is on its way to another replication: {partition:?}"
                ));
            }
            let is_moving = !partition.adding.is_empty() || !partition.removing.is_empty();
            if partition.leader.is_none() || isr != replicas || is_moving {
                return Some(format!("partition {number}: {partition:?}"));
            }
            let ends: Vec<_> =
                replicas.iter().map(|node| (*node, self.brokers[node].ends(number as u32))).collect();
            let first = ends[0].1;
            let is_even = |e: &Option<(i64, i64)>| *e == first && e.is_some_and(|(hw, end)| hw == end);
            if !ends.iter().all(|(_, e)| is_even(e)) {
                return Some(format!("partition {number}: high watermarks and ends {ends:?}, {partition:?}"));
            }
        }
        self.undecided()
    }

    fn leader_of(&self, partition: u32) -> Option<&Broker> {
        let state = self.control.newest().state;
        let leader = state.partition(self.context.params.tp(partition))?.leader?;
        self.brokers.get(&leader)
    }

    /// Why the group is not done with its inputs.
    fn undecided(&self) -> Option<String> {
        if self.context.params.workers == 0 {
            return None;
        }
        for partition in OUTPUTS.into_iter().chain([OFFSETS]) {
            if !self.leader_of(partition).is_some_and(|broker| broker.is_decided(partition)) {
                return Some(format!("partition {partition} has a transaction that is not decided"));
            }
        }
        let ends = INPUTS.map(|partition| self.leader_of(partition).and_then(|b| b.ends(partition)));
        let ends: Vec<Offset> = ends.into_iter().flatten().map(|(_, end)| end).collect();
        let committed = self.leader_of(OFFSETS).and_then(Broker::committed_offsets);
        (committed.as_ref() != Some(&ends))
            .then(|| format!("the group has committed {committed:?}, its inputs end at {ends:?}"))
    }

    /// What stands in the end of what workers made.
    fn record_exactly(&mut self) {
        for partition in OUTPUTS {
            let leader = self.leader_of(partition).expect("at rest");
            let end = leader.ends(partition).expect("at rest").0;
            let (mut records, mut next) = (Vec::new(), 0);
            while next < end {
                let read = leader.read_committed(partition, next).expect("at rest");
                assert!(read.next > next, "what is decided can be read");
                next = read.next;
                records.extend(read.records);
            }
            let read = CommittedRead { partition, is_final: true, records };
            self.context.history.committed_reads.push(read);
        }
        let committed = self.leader_of(OFFSETS).and_then(Broker::committed_offsets).expect("at rest");
        for (partition, offset) in (0..).zip(committed) {
            self.context.history.offset_events.push(OffsetEvent::Final { partition, offset });
        }
        let Params { seed, .. } = *self.context.params;
        self.context.note(format_args!("seed {seed} is at rest after {} ms", self.context.now / MILLI));
    }

    fn is_all_tiered(world: &World) -> bool {
        let state = world.control.newest().state;
        let topic = state.topic(world.context.params.topic_id).expect("created");
        let is_tiered = |(number, partition): (usize, &std::sync::Arc<_>)| {
            let partition: &highwater_coordinator::core::Partition = partition;
            let end = partition.manifest.tiered_end;
            partition.replicas.iter().all(|node| {
                let broker = &world.brokers[node];
                broker.ends(number as u32) == Some((end, end))
                    && broker.local_start(number as u32) == Some(end)
            })
        };
        topic.partitions.iter().enumerate().all(is_tiered)
    }

    /// A fresh reader for each partition.
    fn read_everything(&mut self, is_after_eviction: bool) -> bool {
        for partition in self.context.params.plain_partitions() {
            let state = self.control.newest().state;
            let leader = state.partition(self.context.params.tp(partition)).and_then(|p| p.leader);
            let ends = leader.and_then(|leader| self.brokers[&leader].ends(partition));
            let until = ends.expect("at rest").0;
            let client = READER_CLIENTS + partition * 2 + u32::from(is_after_eviction);
            let goal = Goal { partition, until, is_after_eviction };
            let reader = Consumer::reader(&mut self.context, client, goal);
            self.clients.insert(client, Client::Consumer(reader));
        }
        self.advance_until(READ_MAX, |world| world.clients.values().all(|c| c.unfinished().is_none()))
    }

    fn record_replicas(&mut self) {
        let state = self.control.newest().state;
        let topic = state.topic(self.context.params.topic_id).expect("created");
        for (number, partition) in topic.partitions.iter().enumerate() {
            for node in &partition.replicas {
                let log = self.brokers[node].log(number as u32).expect("at rest");
                let batches = batches(log, log.local_start(), log.log_end());
                let replica = Replica { partition: number as u32, node: *node, batches };
                self.context.history.replicas.push(replica);
            }
        }
    }

    pub(super) fn record_log_starts(&mut self) {
        let state = self.control.newest().state;
        for (tp, partition) in state.partitions() {
            self.context.history.log_starts.insert(tp.partition as u32, partition.manifest.log_start);
        }
    }

    fn record_manifests(&mut self) {
        let state = self.control.newest().state;
        let topic = state.topic(self.context.params.topic_id).expect("created");
        let names = crate::broker::names();
        let topic_ref = crate::broker::topic_ref(&self.context.params);
        for (number, partition) in topic.partitions.iter().enumerate() {
            let manifest = &partition.manifest;
            assert!(manifest.pages.is_empty(), "runs are too short to spill");
            let listed = |entry: &highwater_tiering::core::manifest::ObjectEntry| Listed {
                start: entry.start,
                end: entry.end,
                key: names.object(&topic_ref, number as i32, entry),
            };
            self.context.history.manifests.push(Manifest {
                partition: number as u32,
                log_start: manifest.log_start,
                tiered_end: manifest.tiered_end,
                objects: manifest.entries.iter().map(listed).collect(),
            });
        }
        self.context.history.objects = self.bucket.keys();
        let Params { seed, .. } = *self.context.params;
        self.context.note(format_args!("seed {seed} is at rest after {} ms", self.context.now / MILLI));
    }
}

/// The batches of a log that lie wholly in `from..end`.
pub fn batches(log: &PartitionLog, from: Offset, end: Offset) -> Vec<HeldBatch> {
    let mut found = Vec::new();
    let mut next = from;
    while next < end {
        let read = log.read(next, 1 << 20, end, true).expect("what is local can be read");
        let before = next;
        for slice in read.slices {
            let bytes = slice.read().expect("memory files can be read");
            for batch in Batches::new(&bytes) {
                let (header, _) = batch.expect("whole batches");
                next = header.next_offset();
                if header.base_offset >= from {
                    found.push(HeldBatch {
                        base_offset: header.base_offset,
                        next_offset: header.next_offset(),
                        epoch: header.leader_epoch,
                        crc: header.crc,
                    });
                }
            }
        }
        // A high watermark may lie inside a batch for a moment: the rest is looked at later.
        if next == before {
            break;
        }
    }
    found
}
