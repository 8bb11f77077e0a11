//! The transaction coordinator and the logs of partitions, joined as a broker joins them: random producers,
//! delays, repeated and lost messages, crashes of the coordinator and of partitions. A reader of committed
//! data sees each transaction whole or not at all, and what it once saw never changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_groups::core::txn::{
    AddPartitions, ClientVersion, Coordinator, Effect, EndTxn, InitProducerId, Loader, MarkerAnswer,
    MarkerOutcome, Markers, Producer, Reply, TxnError, TxnPartition, TxnRecord, TxnSettings, WriteId,
};
use highwater_log::disk::SimDisk;
use highwater_log::{LogSettings, PartitionLog, SequenceRefusal, Sequenced, VerificationTicket};
use highwater_wire::batch::Batches;
use highwater_wire::control::{EndMarker, marker_batch};
use highwater_wire::{BatchBuilder, BatchHeader, Codec, Records, TimestampType};
use proptest::prelude::*;

const PARTITIONS: usize = 3;
const CLIENTS: usize = 3;
const NOW: i64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    /// As far as it goes without a hitch, but for the markers.
    Transaction {
        client: usize,
        partitions: usize,
        commit: bool,
    },
    Init {
        client: usize,
    },
    Write {
        client: usize,
        partition: usize,
        records: i32,
    },
    Land {
        nth: usize,
    },
    DropBatch {
        nth: usize,
    },
    End {
        client: usize,
        commit: bool,
    },
    Commit,
    Marker {
        nth: usize,
        again: bool,
    },
    LoseMarker {
        nth: usize,
    },
    Watermark {
        partition: usize,
        percent: i64,
    },
    Roll {
        partition: usize,
    },
    Kill {
        partition: usize,
    },
    Tick {
        ms: i64,
    },
    CrashCoordinator {
        committed: usize,
    },
    LateEnd {
        nth: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (client, partition) = (0..CLIENTS, 0..PARTITIONS);
    prop_oneof![
        8 => (client.clone(), 1usize..1 << PARTITIONS, prop::bool::weighted(0.7))
            .prop_map(|(client, partitions, commit)| Step::Transaction { client, partitions, commit }),
        4 => client.clone().prop_map(|client| Step::Init { client }),
        10 => (client.clone(), partition.clone(), 1i32..4)
            .prop_map(|(client, partition, records)| Step::Write { client, partition, records }),
        10 => (0usize..4).prop_map(|nth| Step::Land { nth }),
        1 => (0usize..4).prop_map(|nth| Step::DropBatch { nth }),
        6 => (client, prop::bool::weighted(0.7)).prop_map(|(client, commit)| Step::End { client, commit }),
        18 => Just(Step::Commit),
        12 => (0usize..4, any::<bool>()).prop_map(|(nth, again)| Step::Marker { nth, again }),
        1 => (0usize..4).prop_map(|nth| Step::LoseMarker { nth }),
        5 => (partition.clone(), 0i64..=100)
            .prop_map(|(partition, percent)| Step::Watermark { partition, percent }),
        1 => partition.clone().prop_map(|partition| Step::Roll { partition }),
        1 => partition.prop_map(|partition| Step::Kill { partition }),
        1 => (1i64..40_000).prop_map(|ms| Step::Tick { ms }),
        1 => (0usize..4).prop_map(|committed| Step::CrashCoordinator { committed }),
        2 => (0usize..20).prop_map(|nth| Step::LateEnd { nth }),
    ]
}

type Tag = usize;

#[derive(Clone, Debug, Default)]
struct Fate {
    asked_to_commit: bool,
    told_committed: bool,
    /// A batch of it was lost: a client aborts then.
    is_doomed: bool,
    /// Records in logs.
    landed: usize,
}

#[derive(Clone, Debug, Default)]
struct Client {
    producer: Option<Producer>,
    sequences: [i32; PARTITIONS],
    tag: Option<Tag>,
    ending: Option<bool>,
}

#[derive(Clone, Debug)]
struct Batch {
    client: usize,
    producer: Producer,
    partition: usize,
    tag: Tag,
    bytes: bytes::Bytes,
    ticket: Option<VerificationTicket>,
    /// The leader has asked what it has to ask.
    is_verified: bool,
}

enum Asked {
    Init(usize),
    Write(Batch),
    End(usize, Tag, bool),
}

struct Partition {
    disk: SimDisk,
    log: PartitionLog,
    high_watermark: i64,
    /// What a reader of committed data has seen: offsets with the tags of their transactions.
    seen: Vec<(i64, Tag)>,
    seen_below: i64,
}

struct World {
    version: ClientVersion,
    coordinator: Coordinator,
    epoch: i32,
    now: i64,
    next_producer_id: i64,
    next_request: u64,
    waiting: Vec<(WriteId, TxnRecord)>,
    committed: Vec<TxnRecord>,
    asked: BTreeMap<u64, Asked>,
    clients: Vec<Client>,
    partitions: Vec<Partition>,
    fates: Vec<Fate>,
    ready: Vec<Batch>,
    markers: Vec<Markers>,
    ends: Vec<EndTxn>,
}

fn settings() -> LogSettings {
    LogSettings { segment_bytes: 2_000, ..LogSettings::default() }
}

fn open(disk: &SimDisk) -> PartitionLog {
    PartitionLog::open_on(Arc::new(disk.clone()), settings(), NOW).expect("opens").0
}

fn fresh(next: &mut i64) -> Box<dyn FnMut() -> Option<i64> + '_> {
    Box::new(|| {
        *next += 1;
        Some(*next)
    })
}

fn batch_of(producer: Producer, sequence: i32, tag: Tag, records: i32) -> bytes::Bytes {
    let builder = BatchBuilder::new(Codec::None).producer(producer.id, producer.epoch, sequence);
    let mut builder = builder.attributes(TimestampType::CreateTime, true, false);
    for _ in 0..records {
        builder.push(NOW, None, Some(&tag.to_be_bytes()), &[]);
    }
    builder.build()
}

fn tags(header: &BatchHeader, batch: &[u8]) -> Vec<(i64, Tag)> {
    let mut records = Records::new(&batch[highwater_wire::HEADER_BYTES..], header.record_count);
    let mut found = Vec::new();
    while let Some(record) = records.next().expect("whole") {
        let value = record.value.expect("a tag").try_into().expect("a tag's bytes");
        found.push((header.base_offset + i64::from(record.offset_delta), Tag::from_be_bytes(value)));
    }
    found
}

impl Partition {
    fn new() -> Partition {
        let disk = SimDisk::new();
        let log = open(&disk);
        Partition { disk, log, high_watermark: 0, seen: Vec::new(), seen_below: 0 }
    }

    /// As a fetch of committed data: bytes up to the last stable offset, and the transactions to leave out.
    fn read_committed(&self) -> (i64, Vec<(i64, Tag)>) {
        let end = self.log.last_stable(self.high_watermark);
        let aborted = self.log.aborted_in(0, end).expect("reads");
        let (mut found, mut next) = (Vec::new(), 0);
        while next < end {
            let slices = self.log.read(next, 1 << 20, end, true).expect("reads").slices;
            assert!(!slices.is_empty(), "the last stable offset is where a batch begins");
            for slice in slices {
                let bytes = slice.read().expect("reads");
                for item in Batches::new(&bytes) {
                    let (header, batch) = item.expect("whole");
                    next = header.next_offset();
                    let offset = header.base_offset;
                    let is_aborted = aborted.iter().any(|txn| {
                        txn.producer_id == header.producer_id && txn.first <= offset && offset < txn.marker
                    });
                    if !header.is_control() && !is_aborted {
                        found.extend(tags(&header, batch));
                    }
                }
            }
        }
        (end, found)
    }

    /// What is seen now begins with what was seen before.
    fn look(&mut self) {
        let (end, found) = self.read_committed();
        assert!(end >= self.seen_below, "the last stable offset went back");
        let before: Vec<_> = found.iter().filter(|(offset, _)| *offset < self.seen_below).copied().collect();
        assert_eq!(before, self.seen, "what was read has changed");
        (self.seen_below, self.seen) = (end, found);
    }
}

impl World {
    fn new(version: ClientVersion) -> World {
        World {
            version,
            coordinator: Coordinator::new(TxnSettings::default(), 0),
            epoch: 0,
            now: NOW,
            next_producer_id: 100,
            next_request: 0,
            waiting: Vec::new(),
            committed: Vec::new(),
            asked: BTreeMap::new(),
            clients: vec![Client::default(); CLIENTS],
            partitions: (0..PARTITIONS).map(|_| Partition::new()).collect(),
            fates: Vec::new(),
            ready: Vec::new(),
            markers: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn id_of(client: usize) -> Arc<str> {
        // Two instances share one transactional id.
        if client < 2 { "a".into() } else { "b".into() }
    }

    fn request(&mut self, asked: Asked) -> u64 {
        self.next_request += 1;
        self.asked.insert(self.next_request, asked);
        self.next_request
    }

    fn absorb(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { write, record } => self.waiting.push((write, record)),
                Effect::Mark(markers) => {
                    if !self.version.bumps_epoch() {
                        // What is asked again goes over another connection; the old one is closed.
                        self.markers.retain(|m| m.transactional_id != markers.transactional_id);
                    }
                    self.markers.push(markers);
                }
                Effect::Reply { request, reply } => {
                    if let Some(asked) = self.asked.remove(&request) {
                        self.answered(asked, reply);
                    }
                }
            }
        }
    }

    fn answered(&mut self, asked: Asked, reply: Reply) {
        match (asked, reply) {
            (Asked::Init(client), Reply::InitProducerId(Ok(producer))) => {
                self.clients[client] = Client { producer: Some(producer), ..Client::default() };
            }
            (Asked::Write(batch), Reply::AddPartitions(Ok(()))) => self.ready.push(batch),
            (Asked::Write(batch), _) => self.fates[batch.tag].is_doomed = true,
            (Asked::End(client, tag, commit), Reply::EndTxn(answer))
                if self.clients[client].tag == Some(tag) =>
            {
                match answer {
                    Ok(producer) if self.version.bumps_epoch() => {
                        self.fates[tag].told_committed |= commit;
                        self.clients[client] = Client { producer: Some(producer), ..Client::default() };
                    }
                    // Under the old rules sequences go on; after an abort the client begins anew.
                    Ok(_) if commit => {
                        self.fates[tag].told_committed = true;
                        (self.clients[client].tag, self.clients[client].ending) = (None, None);
                    }
                    Ok(_) => self.clients[client] = Client::default(),
                    Err(TxnError::ConcurrentTransactions) => {}
                    Err(_) => self.clients[client] = Client::default(),
                }
            }
            _ => {}
        }
    }

    fn init(&mut self, client: usize) {
        let expected = self.clients[client].producer.filter(|_| self.next_request.is_multiple_of(2));
        let asked = InitProducerId { transactional_id: World::id_of(client), timeout_ms: 60_000, expected };
        let request = self.request(Asked::Init(client));
        let (mut effects, ids) = (Vec::new(), &mut self.next_producer_id);
        self.coordinator.init_producer_id(self.now, request, &asked, &mut *fresh(ids), &mut effects);
        self.absorb(effects);
    }

    /// Under version 2 the leader draws a ticket, has the coordinator add the partition, and appends when it
    /// has. Before it the client adds the partition, and the leader has it verified.
    fn write(&mut self, client: usize, partition: usize, records: i32) {
        let Client { producer: Some(producer), tag, ending: None, sequences } = self.clients[client].clone()
        else {
            return;
        };
        let under_way = |batch: &Batch| batch.client == client && batch.partition == partition;
        let is_asked =
            self.asked.values().any(|asked| matches!(asked, Asked::Write(batch) if under_way(batch)));
        if is_asked || self.ready.iter().any(under_way) {
            return;
        }
        let tag = tag.unwrap_or_else(|| {
            self.fates.push(Fate::default());
            self.fates.len() - 1
        });
        self.clients[client].tag = Some(tag);
        let bytes = batch_of(producer, sequences[partition], tag, records);
        let header = BatchHeader::parse(&bytes).expect("whole");
        let is_verified = self.version.bumps_epoch();
        let mut batch = Batch { client, producer, partition, tag, bytes, ticket: None, is_verified };
        if is_verified {
            let log = &mut self.partitions[partition].log;
            batch.ticket = log.verification_ticket(&header, true, self.now);
            if batch.ticket.is_none() {
                self.ready.push(batch);
                return;
            }
        }
        let asked = self.add_of(&batch);
        let request = self.request(Asked::Write(batch));
        let mut effects = Vec::new();
        self.coordinator.add_partitions(self.now, request, &asked, &mut effects);
        self.absorb(effects);
    }

    fn add_of(&self, batch: &Batch) -> AddPartitions {
        AddPartitions {
            transactional_id: World::id_of(batch.client),
            producer: batch.producer,
            partitions: vec![TxnPartition::new("p", batch.partition as i32)],
            version: self.version,
        }
    }

    /// The leader asks the coordinator; the batch waits for the answer.
    fn verify(&mut self, mut batch: Batch) {
        let header = BatchHeader::parse(&batch.bytes).expect("whole");
        batch.is_verified = true;
        batch.ticket = self.partitions[batch.partition].log.verification_ticket(&header, false, self.now);
        let verified = self.coordinator.verify(&self.add_of(&batch));
        match batch.ticket.is_none() || verified == Ok(vec![Ok(())]) {
            true => self.ready.push(batch),
            false => self.fates[batch.tag].is_doomed = true,
        }
    }

    fn land(&mut self, nth: usize) {
        if self.ready.is_empty() {
            return;
        }
        let batch = self.ready.remove(nth.min(self.ready.len() - 1));
        if !batch.is_verified {
            return self.verify(batch);
        }
        let header = BatchHeader::parse(&batch.bytes).expect("whole");
        let log = &mut self.partitions[batch.partition].log;
        match log.check_produce(&header, batch.ticket) {
            Ok(Sequenced::New) => {
                log.append(&header, &batch.bytes, 0, self.now).expect("appends");
                self.fates[batch.tag].landed += header.record_count as usize;
                let client = &mut self.clients[batch.client];
                if client.producer == Some(batch.producer) {
                    client.sequences[batch.partition] += header.record_count;
                }
            }
            Ok(Sequenced::Duplicate { .. }) => panic!("nothing was sent twice"),
            Err(SequenceRefusal::CoordinatorFenced { .. } | SequenceRefusal::TooManyOpen(_)) => {
                panic!("no batch is refused so here")
            }
            Err(_) => self.fates[batch.tag].is_doomed = true,
        }
    }

    fn end(&mut self, client: usize, commit: bool) {
        let Client { producer: Some(producer), tag: Some(tag), ending, .. } = self.clients[client] else {
            return;
        };
        // A client commits when all its batches are acknowledged; else it can only abort.
        let under_way = self.ready.iter().any(|batch| batch.tag == tag)
            || self.asked.values().any(|asked| matches!(asked, Asked::Write(batch) if batch.tag == tag));
        let commit = ending.unwrap_or(commit && !under_way && !self.fates[tag].is_doomed);
        self.clients[client].ending = Some(commit);
        self.fates[tag].asked_to_commit |= commit;
        let request = self.request(Asked::End(client, tag, commit));
        let version = self.version;
        let asked = EndTxn { transactional_id: World::id_of(client), producer, commit, version };
        self.ends.push(asked.clone());
        self.ask_end(request, &asked);
    }

    fn ask_end(&mut self, request: u64, asked: &EndTxn) {
        let (mut effects, ids) = (Vec::new(), &mut self.next_producer_id);
        self.coordinator.end_txn(self.now, request, asked, &mut *fresh(ids), &mut effects);
        self.absorb(effects);
    }

    fn commit(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (write, record) = self.waiting.remove(0);
        self.committed.push(record);
        let mut effects = Vec::new();
        self.coordinator.appended(self.now, write, Ok(()), &mut effects);
        self.absorb(effects);
    }

    fn marker(&mut self, nth: usize, again: bool) {
        if self.markers.is_empty() {
            return;
        }
        let nth = nth % self.markers.len();
        let again = again && self.version.bumps_epoch();
        let markers = if again { self.markers[nth].clone() } else { self.markers.remove(nth) };
        let Markers { producer, commit, coordinator_epoch, bumps_epoch, .. } = markers;
        let mut outcomes = Vec::new();
        for at in &markers.partitions {
            let log = &mut self.partitions[at.partition as usize].log;
            let marker = EndMarker { commit, coordinator_epoch };
            let outcome = match log.producers().check_marker(producer.id, producer.epoch, marker, bumps_epoch)
            {
                Ok(()) => {
                    let bytes = marker_batch(producer.id, producer.epoch, marker, self.now);
                    let header = BatchHeader::parse(&bytes).expect("whole");
                    log.append(&header, &bytes, 0, self.now).expect("appends");
                    MarkerOutcome::Written
                }
                Err(SequenceRefusal::CoordinatorFenced { .. }) => MarkerOutcome::CoordinatorFenced,
                Err(SequenceRefusal::StaleEpoch { .. }) => MarkerOutcome::StaleEpoch,
                Err(other) => panic!("{other}"),
            };
            outcomes.push((at.clone(), outcome));
        }
        let Markers { round, transactional_id, .. } = markers;
        let answer = MarkerAnswer { round, coordinator_epoch, transactional_id, outcomes };
        let mut effects = Vec::new();
        self.coordinator.marked(self.now, &answer, &mut effects);
        self.absorb(effects);
    }

    fn crash_coordinator(&mut self, committed: usize) {
        let waiting = std::mem::take(&mut self.waiting);
        self.committed.extend(waiting.into_iter().take(committed).map(|(_, record)| record));
        for asked in std::mem::take(&mut self.asked).into_values() {
            if let Asked::Write(batch) = asked {
                self.fates[batch.tag].is_doomed = true;
            }
        }
        self.epoch += 1;
        let mut loader = Loader::default();
        for record in &self.committed {
            loader.take(&record.key, record.value.as_deref()).expect("loads");
        }
        let mut effects = Vec::new();
        self.coordinator = loader.finish(TxnSettings::default(), self.epoch, self.now, &mut effects);
        self.absorb(effects);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Transaction { client, partitions, commit } => {
                if self.clients[client].producer.is_none() {
                    self.init(client);
                    self.commit();
                }
                for partition in (0..PARTITIONS).filter(|n| partitions & (1 << n) != 0) {
                    self.write(client, partition, 1);
                    self.commit();
                    self.land(usize::MAX);
                }
                self.end(client, commit);
                self.commit();
            }
            Step::Init { client } => self.init(client),
            Step::Write { client, partition, records } => self.write(client, partition, records),
            Step::Land { nth } => self.land(nth),
            Step::DropBatch { nth } if !self.ready.is_empty() => {
                let batch = self.ready.remove(nth % self.ready.len());
                self.fates[batch.tag].is_doomed = true;
            }
            Step::DropBatch { .. } => {}
            Step::End { client, commit } => self.end(client, commit),
            Step::Commit => self.commit(),
            Step::Marker { nth, again } => self.marker(nth, again),
            Step::LoseMarker { nth } => {
                let nth = nth % self.markers.len().max(1);
                drop((nth < self.markers.len()).then(|| self.markers.remove(nth)));
            }
            Step::Watermark { partition, percent } => {
                let at = &mut self.partitions[partition];
                at.high_watermark = at.high_watermark.max(at.log.log_end() * percent / 100);
                at.log.high_watermark_is(at.high_watermark);
                at.look();
            }
            Step::Roll { partition } => drop(self.partitions[partition].log.roll(self.now).expect("rolls")),
            Step::Kill { partition } => {
                // A new leader without tickets; what was appended is there.
                let at = &mut self.partitions[partition];
                at.disk = at.disk.kill();
                at.log = open(&at.disk);
                at.look();
            }
            Step::Tick { ms } => {
                self.now += ms;
                let mut effects = Vec::new();
                self.coordinator.tick(self.now, &mut effects);
                self.absorb(effects);
            }
            Step::CrashCoordinator { committed } => self.crash_coordinator(committed),
            Step::LateEnd { nth } if !self.ends.is_empty() && self.version.bumps_epoch() => {
                let asked = self.ends[nth % self.ends.len()].clone();
                self.next_request += 1;
                self.ask_end(self.next_request, &asked);
            }
            Step::LateEnd { .. } => {}
        }
    }

    /// With time and without faults every transaction ends, and every reader sees the same of it.
    fn drain(&mut self) {
        for _ in 0..8 {
            while !self.waiting.is_empty() {
                self.commit();
            }
            while !self.markers.is_empty() {
                self.marker(0, false);
            }
            self.take(Step::Tick { ms: 31_000 });
        }
        let mut visible = vec![0; self.fates.len()];
        for at in &mut self.partitions {
            at.high_watermark = at.log.log_end();
            at.look();
            assert_eq!(at.seen_below, at.log.log_end(), "nothing is left open");
            at.seen.iter().for_each(|(_, tag)| visible[*tag] += 1);
        }
        for (tag, fate) in self.fates.iter().enumerate() {
            let all_or_nothing = visible[tag] == 0 || visible[tag] == fate.landed;
            assert!(all_or_nothing, "{tag} is torn: {} of {fate:?} are visible", visible[tag]);
            assert!(visible[tag] == 0 || fate.asked_to_commit, "{tag} is visible: {fate:?}");
            assert!(!fate.told_committed || visible[tag] == fate.landed, "{tag} is lost: {fate:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn readers_of_committed_data_see_transactions_whole_or_not_at_all(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(ClientVersion::V2);
        for step in steps {
            world.take(step);
        }
        world.drain();
    }

    #[test]
    fn under_the_old_rules_too(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new(ClientVersion::V0);
        for step in steps {
            world.take(step);
        }
        world.drain();
    }
}
