//! Random producers, delays, crashes and markers: no transaction is torn, nothing late joins another one.
//!
//! The partitions are naive: they keep an open transaction per producer id, refuse older epochs, and let a
//! batch begin a transaction only if no marker came since its verification began, as the log does.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::core::txn::transaction::CLIENT_EPOCH_MAX;

const PARTITIONS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Init {
        client: usize,
    },
    Write {
        client: usize,
        partition: usize,
    },
    /// A batch that the coordinator has let pass reaches its partition.
    Land {
        nth: usize,
    },
    End {
        client: usize,
        commit: bool,
    },
    Commit,
    Fail,
    Marker {
        nth: usize,
        again: bool,
        fails: bool,
    },
    LoseMarker {
        nth: usize,
    },
    Tick {
        ms: i64,
    },
    Crash {
        committed: usize,
    },
    /// An EndTxn or AddPartitions that was sent before comes once more.
    LateEnd {
        nth: usize,
    },
    LateAdd {
        nth: usize,
    },
    /// The next part of the pass that writes the state once more.
    Rewrite {
        bytes: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3).prop_map(|client| Step::Init { client }),
        8 => (0usize..3, 0usize..PARTITIONS)
            .prop_map(|(client, partition)| Step::Write { client, partition }),
        8 => (0usize..4).prop_map(|nth| Step::Land { nth }),
        6 => (0usize..3, any::<bool>()).prop_map(|(client, commit)| Step::End { client, commit }),
        16 => Just(Step::Commit),
        1 => Just(Step::Fail),
        10 => (0usize..4, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(nth, again, fails)| Step::Marker { nth, again, fails }),
        2 => (0usize..4).prop_map(|nth| Step::LoseMarker { nth }),
        2 => (1i64..40_000).prop_map(|ms| Step::Tick { ms }),
        1 => (0usize..4).prop_map(|committed| Step::Crash { committed }),
        3 => (0usize..20).prop_map(|nth| Step::LateEnd { nth }),
        3 => (0usize..20).prop_map(|nth| Step::LateAdd { nth }),
        6 => (1usize..200).prop_map(|bytes| Step::Rewrite { bytes }),
    ]
}

/// A transaction as its client sees it.
type Tag = usize;

#[derive(Clone, Debug, Default)]
struct Fate {
    asked_to_commit: bool,
    told_committed: bool,
    /// By what the partitions' markers say.
    outcome: Option<bool>,
    landed: usize,
    decided: usize,
}

#[derive(Clone, Debug, Default)]
struct At {
    epoch: i16,
    coordinator_epoch: i32,
    open: Vec<Tag>,
    /// Markers so far; a verification that began before the last one is void.
    markers: usize,
}

#[derive(Clone, Debug)]
struct Batch {
    producer: Producer,
    partition: usize,
    tag: Tag,
    markers: usize,
}

#[derive(Clone, Debug, Default)]
struct Client {
    producer: Option<Producer>,
    tag: Option<Tag>,
    /// An EndTxn is asked and not answered; asked again as it was.
    ending: Option<bool>,
}

enum Asked {
    Init(usize),
    Write(Batch),
    End(usize, Tag, bool),
}

/// Ids that were never used.
fn fresh(next: &mut i64) -> Box<dyn FnMut() -> Option<i64> + '_> {
    Box::new(|| {
        *next += 1;
        Some(*next)
    })
}

/// A pass that writes the state once more, as the shell drives it.
#[derive(Clone, Copy, Debug, Default)]
struct UnderWay {
    /// Committed records that stand before it, and appends from before it that are not settled.
    before: usize,
    ahead: usize,
    /// Its own that are not settled.
    unsettled: usize,
    is_all_out: bool,
}

/// The number of the appends of a pass.
const OF_PASS: WriteId = 0;

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
    partitions: Vec<BTreeMap<i64, At>>,
    fates: Vec<Fate>,
    ready: Vec<Batch>,
    markers: Vec<Markers>,
    ends: Vec<EndTxn>,
    adds: Vec<AddPartitions>,
    pass: Option<UnderWay>,
    passes: usize,
}

fn id_of(client: usize) -> Name {
    // Two instances share one transactional id.
    if client < 2 { "a".into() } else { "b".into() }
}

impl World {
    /// `epoch`: what the transactional ids have used up so far, if they are known.
    fn new(version: ClientVersion, epoch: Option<i16>) -> World {
        let stored = |(id, producer_id): (&str, i64)| {
            let txn = Transaction::created(producer_id, 60_000, 0);
            let value = Some(encode_value(&Transaction { epoch: epoch?, ..txn }));
            Some(TxnRecord { key: encode_key(id), value })
        };
        let mut world = World::empty(version);
        world.committed = [("a", 50), ("b", 60)].into_iter().filter_map(stored).collect();
        world.crash(1);
        world
    }

    fn empty(version: ClientVersion) -> World {
        World {
            version,
            coordinator: Coordinator::new(TxnSettings::default(), 0),
            epoch: 0,
            now: 0,
            next_producer_id: 100,
            next_request: 0,
            waiting: Vec::new(),
            committed: Vec::new(),
            asked: BTreeMap::new(),
            clients: vec![Client::default(); 3],
            partitions: vec![BTreeMap::new(); PARTITIONS],
            fates: Vec::new(),
            ready: Vec::new(),
            markers: Vec::new(),
            ends: Vec::new(),
            adds: Vec::new(),
            pass: None,
            passes: 0,
        }
    }

    fn request(&mut self, asked: Option<Asked>) -> u64 {
        self.next_request += 1;
        if let Some(asked) = asked {
            self.asked.insert(self.next_request, asked);
        }
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
            (Asked::Init(_), _) => {}
            (Asked::Write(batch), Reply::AddPartitions(Ok(()))) => self.ready.push(batch),
            (Asked::Write(_), _) => {}
            (Asked::End(client, tag, commit), Reply::EndTxn(answer)) => {
                if self.clients[client].tag != Some(tag) {
                    return;
                }
                match answer {
                    Ok(producer) => {
                        self.fates[tag].told_committed |= commit;
                        self.clients[client] = Client { producer: Some(producer), ..Client::default() };
                    }
                    Err(TxnError::ConcurrentTransactions | TxnError::CoordinatorNotAvailable) => {}
                    Err(_) => self.clients[client] = Client::default(),
                }
            }
            (Asked::End(..), other) => panic!("{other:?} to an EndTxn"),
        }
    }

    fn init(&mut self, client: usize) {
        let asked = InitProducerId {
            transactional_id: id_of(client),
            timeout_ms: 60_000,
            expected: self.clients[client].producer.filter(|_| self.next_request.is_multiple_of(2)),
        };
        let request = self.request(Some(Asked::Init(client)));
        let mut effects = Vec::new();
        let ids = &mut self.next_producer_id;
        self.coordinator.init_producer_id(self.now, request, &asked, &mut *fresh(ids), &mut effects);
        self.absorb(effects);
    }

    fn write(&mut self, client: usize, partition: usize) {
        let Client { producer: Some(producer), tag, ending: None } = self.clients[client].clone() else {
            return;
        };
        let tag = tag.unwrap_or_else(|| {
            self.fates.push(Fate::default());
            self.fates.len() - 1
        });
        self.clients[client].tag = Some(tag);
        let markers = self.partitions[partition].entry(producer.id).or_default().markers;
        let request = self.request(Some(Asked::Write(Batch { producer, partition, tag, markers })));
        let asked = AddPartitions {
            transactional_id: id_of(client),
            producer,
            partitions: vec![TxnPartition::new("p", partition as i32)],
            version: self.version,
        };
        self.adds.push(asked.clone());
        let mut effects = Vec::new();
        self.coordinator.add_partitions(self.now, request, &asked, &mut effects);
        self.absorb(effects);
    }

    /// As the log: no older epoch, and a transaction begins only under a verification that still holds.
    fn land(&mut self, nth: usize) {
        if self.ready.is_empty() {
            return;
        }
        let batch = self.ready.remove(nth % self.ready.len());
        let at = self.partitions[batch.partition].entry(batch.producer.id).or_default();
        let is_open = !at.open.is_empty() && at.epoch == batch.producer.epoch;
        let may = batch.producer.epoch >= at.epoch && (is_open || at.markers == batch.markers);
        if !may || (!at.open.is_empty() && !is_open) {
            return;
        }
        at.epoch = batch.producer.epoch;
        assert!(at.open.iter().all(|tag| *tag == batch.tag), "{batch:?} joins {:?}", at.open);
        at.open.push(batch.tag);
        self.fates[batch.tag].landed += 1;
    }

    fn end(&mut self, client: usize, commit: bool) {
        let Client { producer: Some(producer), tag: Some(tag), ending } = self.clients[client].clone() else {
            return;
        };
        let commit = ending.unwrap_or(commit);
        if !self.version.bumps_epoch() {
            // Under the old rules a producer ends a transaction when nothing of it is on its way any more.
            self.ready.retain(|batch| batch.tag != tag);
            self.asked.retain(|_, asked| !matches!(asked, Asked::Write(batch) if batch.tag == tag));
        }
        self.clients[client].ending = Some(commit);
        self.fates[tag].asked_to_commit |= commit;
        let request = self.request(Some(Asked::End(client, tag, commit)));
        let asked = EndTxn { transactional_id: id_of(client), producer, commit, version: self.version };
        self.ends.push(asked.clone());
        self.ask_end(request, &asked);
    }

    fn ask_end(&mut self, request: u64, asked: &EndTxn) {
        let mut effects = Vec::new();
        let ids = &mut self.next_producer_id;
        self.coordinator.end_txn(self.now, request, asked, &mut *fresh(ids), &mut effects);
        self.absorb(effects);
    }

    fn settle(&mut self, outcome: Result<(), AppendFailure>) {
        if self.waiting.is_empty() {
            return;
        }
        let (write, record) = self.waiting.remove(0);
        if outcome.is_ok() {
            self.committed.push(record);
        }
        match &mut self.pass {
            Some(pass) if pass.ahead > 0 => {
                pass.ahead -= 1;
                pass.before += usize::from(outcome.is_ok());
            }
            Some(pass) if write == OF_PASS => pass.unsettled -= 1,
            Some(_) | None => {}
        }
        if write == OF_PASS && outcome.is_err() {
            self.pass = None;
        }
        self.raise_log_start();
        let mut effects = Vec::new();
        self.coordinator.appended(self.now, write, outcome, &mut effects);
        self.absorb(effects);
    }

    fn rewrite(&mut self, bytes: usize) {
        let Some(pass) = &mut self.pass else {
            self.coordinator.begin_rewrite();
            let (before, ahead) = (self.committed.len(), self.waiting.len());
            self.pass = Some(UnderWay { before, ahead, ..UnderWay::default() });
            return;
        };
        if pass.is_all_out || pass.unsettled > 0 {
            return;
        }
        let part = self.coordinator.rewrite(bytes);
        (pass.unsettled, pass.is_all_out) = (part.records.len(), part.is_last);
        self.waiting.extend(part.records.into_iter().map(|record| (OF_PASS, record)));
        self.raise_log_start();
    }

    /// What stands before a pass goes once all of it is committed.
    fn raise_log_start(&mut self) {
        let is_done = |pass: &UnderWay| pass.is_all_out && (pass.ahead, pass.unsettled) == (0, 0);
        let Some(pass) = self.pass.filter(is_done) else { return };
        self.committed.drain(..pass.before);
        self.pass = None;
        self.passes += 1;
    }

    fn marker(&mut self, nth: usize, again: bool, fails: bool) {
        if self.markers.is_empty() {
            return;
        }
        let nth = nth % self.markers.len();
        // Under the old rules a marker that comes twice cannot be told from the next one's; there connections
        // keep the order.
        let again = again && self.version.bumps_epoch();
        let markers = if again { self.markers[nth].clone() } else { self.markers.remove(nth) };
        let outcomes = markers.partitions.iter().map(|at| {
            let outcome =
                if fails { MarkerOutcome::Retry } else { self.mark(at.partition as usize, &markers) };
            (at.clone(), outcome)
        });
        let outcomes: Vec<_> = outcomes.collect();
        let Markers { round, coordinator_epoch, transactional_id, .. } = markers;
        let answer = MarkerAnswer { round, coordinator_epoch, transactional_id, outcomes };
        let mut effects = Vec::new();
        self.coordinator.marked(self.now, &answer, &mut effects);
        self.absorb(effects);
    }

    fn mark(&mut self, partition: usize, markers: &Markers) -> MarkerOutcome {
        let at = self.partitions[partition].entry(markers.producer.id).or_default();
        if markers.coordinator_epoch < at.coordinator_epoch {
            return MarkerOutcome::CoordinatorFenced;
        }
        let is_known = at.markers > 0 || !at.open.is_empty();
        let is_old = match markers.bumps_epoch && is_known {
            true => markers.producer.epoch <= at.epoch,
            false => markers.producer.epoch < at.epoch,
        };
        if is_old {
            return MarkerOutcome::StaleEpoch;
        }
        at.epoch = markers.producer.epoch;
        at.coordinator_epoch = markers.coordinator_epoch;
        at.markers += 1;
        for tag in std::mem::take(&mut at.open) {
            let fate = &mut self.fates[tag];
            fate.decided += 1;
            assert!(fate.outcome.is_none_or(|known| known == markers.commit), "transaction {tag} is torn");
            fate.outcome = Some(markers.commit);
            assert!(!markers.commit || fate.asked_to_commit, "nobody asked to commit {tag}");
            assert!(markers.commit || !fate.told_committed, "{tag} was told committed and is aborted");
        }
        MarkerOutcome::Written
    }

    /// The coordinator dies; some of what it was writing is committed all the same.
    fn crash(&mut self, committed: usize) {
        for (_, record) in std::mem::take(&mut self.waiting).into_iter().take(committed) {
            self.committed.push(record);
        }
        self.asked.clear();
        self.pass = None;
        self.epoch += 1;
        let before = (committed == 0).then(|| self.states());
        let mut loader = Loader::default();
        for record in &self.committed {
            loader.take(&record.key, record.value.as_deref()).expect("loads");
        }
        let mut effects = Vec::new();
        self.coordinator = loader.finish(TxnSettings::default(), self.epoch, self.now, &mut effects);
        if let Some(before) = before {
            assert_eq!(self.states(), before, "memory is what the committed records say");
        }
        self.absorb(effects);
    }

    fn states(&self) -> Vec<Option<Transaction>> {
        let known = ["a", "b"].map(|id| self.coordinator.transaction(id).cloned());
        known.into_iter().map(|txn| txn.map(|txn| Transaction { last_epoch: -1, ..txn })).collect()
    }

    /// A request under an older epoch, or of a producer id that was left, asks for no record.
    fn is_ignored(&self, id: &Name, producer: Producer) -> bool {
        self.coordinator.transaction(id).is_some_and(|txn| {
            (producer.id == txn.producer_id && producer.epoch < txn.epoch) || producer.id < txn.producer_id
        })
    }

    fn late_end(&mut self, nth: usize) {
        if self.ends.is_empty() || !self.version.bumps_epoch() {
            return;
        }
        let asked = self.ends[nth % self.ends.len()].clone();
        let (ignored, writes) =
            (self.is_ignored(&asked.transactional_id, asked.producer), self.waiting.len());
        let request = self.request(None);
        self.ask_end(request, &asked);
        assert!(!ignored || self.waiting.len() == writes, "{asked:?} changed something");
    }

    fn late_add(&mut self, nth: usize) {
        if self.adds.is_empty() || !self.version.bumps_epoch() {
            return;
        }
        let asked = self.adds[nth % self.adds.len()].clone();
        let ignored = self.is_ignored(&asked.transactional_id, asked.producer);
        let request = self.request(None);
        let mut effects = Vec::new();
        self.coordinator.add_partitions(self.now, request, &asked, &mut effects);
        let writes = effects.iter().any(|effect| matches!(effect, Effect::Append { .. }));
        assert!(!(ignored && writes), "{asked:?} changed something");
        self.absorb(effects);
    }

    fn tick(&mut self, ms: i64) {
        self.now += ms;
        let mut effects = Vec::new();
        self.coordinator.tick(self.now, &mut effects);
        self.absorb(effects);
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Init { client } => self.init(client),
            Step::Write { client, partition } => self.write(client, partition),
            Step::Land { nth } => self.land(nth),
            Step::End { client, commit } => self.end(client, commit),
            Step::Commit => self.settle(Ok(())),
            Step::Fail => self.settle(Err(AppendFailure::Unavailable)),
            Step::Marker { nth, again, fails } => self.marker(nth, again, fails),
            Step::LoseMarker { nth } if !self.markers.is_empty() => {
                let nth = nth % self.markers.len();
                self.markers.remove(nth);
            }
            Step::LoseMarker { .. } => {}
            Step::Tick { ms } => self.tick(ms),
            Step::Crash { committed } => self.crash(committed),
            Step::LateEnd { nth } => self.late_end(nth),
            Step::LateAdd { nth } => self.late_add(nth),
            Step::Rewrite { bytes } => self.rewrite(bytes),
        }
    }

    /// With time and without faults everything comes to an end.
    fn drain(&mut self) {
        for _ in 0..200 {
            while !self.waiting.is_empty() {
                self.settle(Ok(()));
            }
            while !self.markers.is_empty() {
                self.marker(0, false, false);
            }
            self.rewrite(100);
            self.tick(31_000);
        }
        assert!(self.passes > 0, "no pass came to its end: {:?}", self.pass);
        while !self.waiting.is_empty() {
            self.settle(Ok(()));
        }
        self.crash(0); // compares
        for (n, partition) in self.partitions.iter().enumerate() {
            for (id, at) in partition {
                assert!(at.open.is_empty(), "partition {n}: producer {id} is still open: {at:?}");
            }
        }
        for (tag, fate) in self.fates.iter().enumerate() {
            assert_eq!(fate.landed, fate.decided, "{tag}: every batch has a marker");
            assert!(!fate.told_committed || fate.outcome != Some(false), "{tag}: {fate:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]
    #[test]
    fn no_transaction_is_torn_and_nothing_late_joins_another(
        steps in prop::collection::vec(step(), 1..150),
        epoch in prop::option::of(i16::MAX - 6..=CLIENT_EPOCH_MAX),
    ) {
        let mut world = World::new(ClientVersion::V2, epoch);
        for step in steps {
            world.take(step);
        }
        world.drain();
    }

    #[test]
    fn nor_under_the_old_rules_in_order(
        steps in prop::collection::vec(step(), 1..150),
        epoch in prop::option::of(i16::MAX - 6..=CLIENT_EPOCH_MAX),
    ) {
        let mut world = World::new(ClientVersion::V0, epoch);
        for step in steps {
            world.take(step);
        }
        world.drain();
    }
}

/// Nobody gets the last epoch; a record may have it all the same, and no marker can be newer than its
/// batches.
#[test]
fn what_is_open_under_the_last_epoch_is_ended() {
    let mut world = World::empty(ClientVersion::V2);
    let txn = Transaction {
        epoch: i16::MAX,
        state: TxnState::Ongoing,
        partitions: [TxnPartition::new("p", 0)].into(),
        started_ms: 0,
        version: ClientVersion::V2,
        ..Transaction::created(50, 60_000, 0)
    };
    world.committed.push(TxnRecord { key: encode_key("a"), value: Some(encode_value(&txn)) });
    world.crash(1);
    world.fates.push(Fate { landed: 1, ..Fate::default() });
    world.partitions[0].insert(50, At { epoch: i16::MAX, open: vec![0], ..At::default() });
    world.drain();
    assert_eq!(world.fates[0].outcome, Some(false));
}

#[derive(Clone, Debug)]
enum Any {
    Init { expected: Option<(i64, i16)>, timeout_ms: i32 },
    Add { id: i64, epoch: i16, version: i16, partition: i32 },
    Verify { id: i64, epoch: i16 },
    End { id: i64, epoch: i16, version: i16, commit: bool },
    Settle { is_ok: bool },
    Tick { ms: i64 },
    Answer { round: u64, outcome: u8 },
}

/// Whatever a client may send: mostly near what the coordinator knows, sometimes far off.
fn any_request(txn: &Transaction) -> impl Strategy<Value = Any> + use<> {
    let (id, next, epoch) = (txn.producer_id, txn.next_producer_id, txn.epoch);
    let ids = prop_oneof![6 => Just(id), 1 => Just(next), 1 => Just(1_000_001), 1 => any::<i64>()];
    let near = prop_oneof![Just(0i16), Just(-1), Just(1)];
    let epochs = prop_oneof![6 => near.prop_map(move |n| epoch.saturating_add(n)), 1 => any::<i16>()];
    let who = (ids, epochs);
    prop_oneof![
        2 => (prop::option::of(who.clone()), prop_oneof![Just(60_000), any::<i32>()])
            .prop_map(|(expected, timeout_ms)| Any::Init { expected, timeout_ms }),
        3 => (who.clone(), 0i16..3, any::<i32>())
            .prop_map(|((id, epoch), version, partition)| Any::Add { id, epoch, version, partition }),
        1 => who.clone().prop_map(|(id, epoch)| Any::Verify { id, epoch }),
        3 => (who, 0i16..3, any::<bool>())
            .prop_map(|((id, epoch), version, commit)| Any::End { id, epoch, version, commit }),
        6 => prop::bool::weighted(0.8).prop_map(|is_ok| Any::Settle { is_ok }),
        1 => prop_oneof![0i64..100_000, 0i64..1 << 62, Just(i64::MAX)].prop_map(|ms| Any::Tick { ms }),
        4 => (0u64..8, 0u8..5).prop_map(|(round, outcome)| Any::Answer { round, outcome }),
    ]
}

proptest! {
    /// From any state that a record can hold, whatever is asked in whatever order.
    #[test]
    fn every_request_is_answered_once_and_nothing_panics(
        (txn, steps) in super::records::any_transaction().prop_flat_map(|txn| {
            let steps = prop::collection::vec(any_request(&txn), 1..40);
            (Just(txn), steps)
        }),
    ) {
        let mut loader = Loader::default();
        loader.take(&encode_key("a"), Some(&encode_value(&txn))).expect("loads");
        let (mut effects, mut waiting, mut now) = (Vec::new(), Vec::new(), 0i64);
        let mut coordinator = loader.finish(TxnSettings::default(), 3, now, &mut effects);
        let (mut asked, mut answered, mut fresh) = (0u64, Vec::new(), 1_000_000i64);
        let id: Name = "a".into();
        for step in steps {
            let mut ids = || {
                fresh += 1;
                (fresh % 5 != 0).then_some(fresh)
            };
            let version = |level| ClientVersion::from_level(level).expect("0 to 2");
            let add = |id: i64, epoch: i16, level: i16, partition: i32| AddPartitions {
                transactional_id: "a".into(),
                producer: Producer { id, epoch },
                partitions: vec![TxnPartition::new("t", partition.saturating_abs())],
                version: version(level),
            };
            let is_request = matches!(step, Any::Init { .. } | Any::Add { .. } | Any::End { .. });
            asked += u64::from(is_request);
            match step {
                Any::Init { expected, timeout_ms } => {
                    let expected = expected.map(|(id, epoch)| Producer { id, epoch });
                    let ask = InitProducerId { transactional_id: id.clone(), timeout_ms, expected };
                    coordinator.init_producer_id(now, asked, &ask, &mut ids, &mut effects);
                }
                Any::Add { id, epoch, version, partition } => {
                    coordinator.add_partitions(now, asked, &add(id, epoch, version, partition), &mut effects);
                }
                Any::Verify { id, epoch } => drop(coordinator.verify(&add(id, epoch, 2, 0))),
                Any::End { id: producer_id, epoch, version: level, commit } => {
                    let producer = Producer { id: producer_id, epoch };
                    let version = version(level);
                    let ask = EndTxn { transactional_id: id.clone(), producer, commit, version };
                    coordinator.end_txn(now, asked, &ask, &mut ids, &mut effects);
                }
                Any::Settle { is_ok } => {
                    if !waiting.is_empty() {
                        let outcome = if is_ok { Ok(()) } else { Err(AppendFailure::Unavailable) };
                        coordinator.appended(now, waiting.remove(0), outcome, &mut effects);
                    }
                }
                Any::Tick { ms } => {
                    now = now.saturating_add(ms);
                    coordinator.tick(now, &mut effects);
                }
                Any::Answer { round, outcome } => {
                    let outcome = [
                        MarkerOutcome::Written,
                        MarkerOutcome::PartitionGone,
                        MarkerOutcome::StaleEpoch,
                        MarkerOutcome::Retry,
                        MarkerOutcome::CoordinatorFenced,
                    ][usize::from(outcome)];
                    let partitions = txn.partitions.iter().cloned().chain([TxnPartition::new("t", 1)]);
                    let outcomes = partitions.map(|at| (at, outcome)).collect();
                    let transactional_id = id.clone();
                    let answer = MarkerAnswer { round, coordinator_epoch: 3, transactional_id, outcomes };
                    coordinator.marked(now, &answer, &mut effects);
                }
            }
            for effect in effects.drain(..) {
                match effect {
                    Effect::Append { write, .. } => waiting.push(write),
                    Effect::Reply { request, .. } => answered.push(request),
                    Effect::Mark(markers) => prop_assert!(!markers.partitions.is_empty()),
                }
            }
            prop_assert!(waiting.len() <= 1, "one change at a time");
        }
        coordinator.resign(&mut effects);
        answered.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Reply { request, .. } => Some(*request),
            _ => None,
        }));
        answered.sort_unstable();
        prop_assert_eq!(answered, (1..=asked).collect::<Vec<_>>());
    }
}

/// A seed's worth of steps twice gives the same state: nothing depends on order of hashing or on a clock.
#[test]
fn the_same_steps_give_the_same_state() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    for _ in 0..50 {
        let steps = prop::collection::vec(step(), 100).new_tree(&mut runner).expect("steps").current();
        let play = || {
            let mut world = World::new(ClientVersion::V2, None);
            steps.iter().for_each(|step| world.take(step.clone()));
            (world.states(), world.committed, format!("{:?}", world.markers))
        };
        assert!(play() == play());
    }
}
