//! Random histories of a shard, its targets and their producers: answers and releases are lost and repeated,
//! asks come again long after their producer has gone on, leaders of the shard are replaced at any moment and
//! go on as if they were not, and the journal is written anew in between. Whatever happens: each delayed
//! record of a batch is in its target once, none before its time, in due order, and memory is what the
//! journal says.

use std::collections::BTreeMap;

use highwater_model::{ProducerId, TopicPartition};
use proptest::prelude::*;

use super::super::*;
use super::{kept, target, value_of};

const LIMITS: Limits = Limits { records_max: 1_000, bytes_max: 1_000_000 };

/// A target's log: what it has of each shard's producer and of the client's, and the values in it.
#[derive(Default)]
struct TargetLog {
    next: BTreeMap<ProducerId, i32>,
    batches: Vec<(ProducerId, i32)>,
    values: Vec<(u64, Millis)>,
}

impl TargetLog {
    /// Kafka's rules for sequences, as the log has them. False: it was there.
    fn append(&mut self, identity: Identity, records: &[u64], now_ms: Millis) -> bool {
        let Identity { producer_id, sequence } = identity;
        if self.batches.contains(&(producer_id, sequence)) {
            return false;
        }
        let next = self.next.entry(producer_id).or_insert(sequence);
        assert_eq!(*next, sequence, "out of order: a release that comes before the one before it");
        *next += i32::try_from(records.len()).expect("few");
        self.batches.push((producer_id, sequence));
        self.values.extend(records.iter().map(|value| (*value, now_ms)));
        true
    }
}

/// As whom a target's log knows a client in this epoch: epochs have sequences of their own.
fn in_log(epoch: i16) -> ProducerId {
    -1 - ProducerId::from(epoch)
}

/// A leader of the shard, or one that believes so.
#[derive(Default)]
struct Leader {
    shard: Shard,
    /// What of a pass is to be written, and where it begins in the journal.
    pass: Option<(Option<Pass>, usize)>,
    /// Committed and sent, answers not heard.
    sent: Vec<Release>,
}

/// A client's batch of one or two records, sent again until it is acknowledged.
#[derive(Clone)]
struct Sent {
    target: TopicPartition,
    epoch: i16,
    first: i32,
    due: Vec<Millis>,
    values: Vec<u64>,
    is_acknowledged: bool,
}

#[derive(Default)]
struct World {
    now_ms: Millis,
    journal: Vec<Entry>,
    committed: usize,
    /// Where the journal begins.
    start: usize,
    leader: Leader,
    zombies: Vec<Leader>,
    targets: BTreeMap<TopicPartition, TargetLog>,
    clients: BTreeMap<TopicPartition, Vec<Sent>>,
    epochs: BTreeMap<TopicPartition, i16>,
    /// What was asked, by leaders of targets that may be none any more: it may come once more, at any time.
    late: Vec<Ask>,
    fresh: ProducerId,
    values: u64,
    due: BTreeMap<u64, Millis>,
}

impl World {
    fn enter(&mut self, entry: Entry) {
        let entry = decode(&encode(&entry)).expect("reads back");
        self.leader.shard.apply(&entry);
        self.journal.push(entry);
    }

    fn commit(&mut self, some: u16) {
        let open = self.journal.len() - self.committed;
        self.committed += usize::from(some) % (open + 1);
        self.has_committed();
    }

    fn commit_all(&mut self) {
        self.committed = self.journal.len();
        self.has_committed();
    }

    fn has_committed(&mut self) {
        // A pass that is written and committed is where the journal begins.
        if self.committed == self.journal.len()
            && let Some((_, begun)) = self.leader.pass.take_if(|(pass, _)| pass.is_none())
        {
            self.start = begun;
        }
    }

    fn reload(&self, end: usize) -> Shard {
        let mut shard = Shard::default();
        self.journal[self.start..end].iter().for_each(|entry| shard.apply(entry));
        shard
    }

    /// A client sends its oldest batch without an acknowledgement, or a new one.
    fn produce(&mut self, some: u16) {
        let at = target(1 + (some & 1) as u8);
        let epoch = *self.epochs.entry(at).or_default();
        let sent = self.clients.entry(at).or_default();
        let open = sent.iter().position(|batch| !batch.is_acknowledged);
        let index = open.unwrap_or_else(|| {
            let last = sent.last().filter(|last| last.epoch == epoch);
            let first = last.map_or(0, |last| last.first + last.due.len() as i32);
            let due: Vec<_> = (0..1 + some / 2 % 2)
                .map(|n| self.now_ms + i64::from(some / 4 % 40) - 10 * i64::from(n))
                .collect();
            let values = due.iter().map(|due_ms| {
                self.values += 1;
                self.due.insert(self.values, *due_ms);
                self.values
            });
            let values = values.collect();
            sent.push(Sent { target: at, epoch, first, due, values, is_acknowledged: false });
            sent.len() - 1
        });
        let batch = sent[index].clone();
        // The target's leader looks first whether it has the batch.
        let client = Identity { producer_id: in_log(batch.epoch), sequence: batch.first };
        let there = (client.producer_id, client.sequence);
        let is_there = self.targets.entry(at).or_default().batches.contains(&there);
        if !is_there {
            let Some(deltas) = self.ask(&batch, some) else { return };
            let rest: Vec<u64> = (0..batch.values.len())
                .filter(|n| !deltas.contains(&(*n as u32)))
                .map(|n| batch.values[n])
                .collect();
            let last = batch.first + batch.values.len() as i32;
            let log = self.targets.get_mut(&at).expect("just made");
            log.append(client, &rest, self.now_ms);
            log.next.insert(client.producer_id, last);
        }
        // The answer may be lost.
        if some & 64 == 0 {
            self.clients.get_mut(&at).expect("it sent")[index].is_acknowledged = true;
        }
    }

    /// What the shard keeps of a batch, if its answer comes.
    fn ask(&mut self, batch: &Sent, some: u16) -> Option<Vec<u32>> {
        let last = batch.first + batch.due.len() as i32 - 1;
        let source = Some(Source { producer_id: 1, epoch: batch.epoch, first: batch.first, last });
        let records = batch.due.iter().zip(&batch.values).enumerate().map(|(n, (due_ms, value))| AskRecord {
            delta: n as u32,
            due_ms: *due_ms,
            is_due: *due_ms <= self.now_ms,
            record: kept(*value),
        });
        let ask = Ask { target: batch.target, source, records: records.collect() };
        self.late.push(ask.clone());
        let deltas = self.take(&ask).expect("its producer has sent nothing after it, and there is room");
        // The answer waits for the commit, or is lost.
        if some & 128 != 0 {
            return None;
        }
        self.commit_all();
        (self.committed == self.journal.len()).then_some(deltas)
    }

    fn take(&mut self, ask: &Ask) -> Result<Vec<u32>, TakeRefusal> {
        Ok(match self.leader.shard.decide_take(self.now_ms, ask, LIMITS)? {
            Take::Known(deltas) => deltas,
            Take::Nothing => Vec::new(),
            Take::New(entry) => {
                let Entry::Taken { records, .. } = &entry else { panic!("{entry:?}") };
                let deltas = records.iter().map(|one| one.delta).collect();
                self.enter(entry);
                deltas
            }
        })
    }

    /// An ask comes late, or once more. Whoever asked appends nothing any more: the target is led by another.
    fn take_late(&mut self, some: u16) {
        if self.late.is_empty() {
            return;
        }
        let ask = self.late[usize::from(some) % self.late.len()].clone();
        match self.take(&ask) {
            Ok(_) | Err(TakeRefusal::Older { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    /// A client that has no batch on its way begins a new epoch.
    fn begin_epoch(&mut self, some: u16) {
        let at = target(1 + (some & 1) as u8);
        if self.clients.get(&at).is_some_and(|sent| sent.iter().all(|batch| batch.is_acknowledged)) {
            *self.epochs.entry(at).or_default() += 1;
        }
    }

    fn plan(&mut self) {
        for at in self.leader.shard.due(self.now_ms) {
            let fresh = self.fresh + 1_000;
            let planned = self.leader.shard.decide_plan(self.now_ms, at, || Some(fresh));
            self.fresh += 1;
            if let Some(entry) = planned {
                self.enter(entry);
            }
        }
    }

    /// Releases of committed plans leave.
    fn send(&mut self) {
        if self.committed < self.journal.len() {
            return;
        }
        for at in self.leader.shard.planned().collect::<Vec<_>>() {
            let release = self.leader.shard.release(at).expect("planned");
            let due: Vec<Millis> = release.records.iter().map(|(due_ms, _)| *due_ms).collect();
            assert!(
                due.is_sorted() && due.iter().all(|due_ms| *due_ms <= self.now_ms),
                "early or out of order"
            );
            if !self.leader.sent.contains(&release) {
                self.leader.sent.push(release);
            }
        }
    }

    /// A release arrives; its answer may be lost, or come late.
    fn arrive(&mut self, some: u16, is_answered: bool) {
        let is_late = some & 1 == 1 && !self.zombies.is_empty();
        let zombies = self.zombies.len();
        let from = match is_late {
            true => &mut self.zombies[usize::from(some / 2) % zombies],
            false => &mut self.leader,
        };
        if from.sent.is_empty() {
            return;
        }
        let at = usize::from(some / 8) % from.sent.len();
        let release = from.sent[at].clone();
        // A zombie's is in the past of the log, or the plan that the new leader sends too.
        let values: Vec<u64> = release.records.iter().map(|(_, record)| value_of(record)).collect();
        self.targets.entry(release.target).or_default().append(release.identity, &values, self.now_ms);
        if is_answered && !is_late {
            self.leader.sent.retain(|sent| sent.target != release.target);
            if self.leader.shard.release(release.target).is_some_and(|open| open == release) {
                self.enter(Entry::Released { target: release.target });
            }
        }
    }

    /// Another leads the shard, with everything that is committed and some of what is not.
    fn elect(&mut self, some: u16) {
        let open = self.journal.len() - self.committed;
        let end = self.committed + usize::from(some) % (open + 1);
        assert_eq!(self.reload(self.journal.len()), self.leader.shard, "memory is what the journal says");
        self.journal.truncate(end);
        self.committed = end;
        let leader = Leader { shard: self.reload(end), ..Leader::default() };
        let deposed = std::mem::replace(&mut self.leader, leader);
        self.zombies.push(deposed);
    }

    fn pass(&mut self, some: u16) {
        match self.leader.pass {
            Some((None, _)) => {}
            None => {
                let begun = self.journal.len();
                let (entries, pass) = self.leader.shard.begin_pass(self.now_ms);
                entries.into_iter().for_each(|entry| self.enter(entry));
                self.leader.pass = Some((Some(pass), begun));
            }
            Some((Some(pass), begun)) => {
                let (entries, next) = self.leader.shard.pass_part(pass, usize::from(some % 300));
                entries.into_iter().for_each(|entry| self.enter(entry));
                self.leader.pass = Some((next, begun));
            }
        }
    }

    fn step(&mut self, what: u8, some: u16) {
        match what % 20 {
            0..4 => self.produce(some),
            4 | 5 => self.now_ms += i64::from(some % 30),
            6 | 7 => self.plan(),
            8 => self.commit(some),
            9 | 10 => {
                self.commit_all();
                self.send();
            }
            11 | 12 => self.arrive(some, true),
            13 => self.arrive(some, false),
            14 => self.pass(some),
            15 | 16 => self.take_late(some),
            17 => self.begin_epoch(some),
            18 => self.produce(some & !(64 | 128)),
            _ => self.elect(some),
        }
    }

    /// Everything is acknowledged and released, and looked at.
    fn finish(&mut self) {
        for _ in 0..4 {
            for target in [0, 1] {
                self.produce(target);
            }
        }
        for late in 0..self.late.len() {
            self.take_late(late as u16);
        }
        self.now_ms += 1_000;
        for _ in 0..20 {
            self.plan();
            self.commit_all();
            self.send();
            for at in 0..8 {
                self.arrive(at * 8, true);
            }
            self.commit_all();
        }
        assert_eq!(self.leader.shard.records(), 0, "everything is released");
        assert_eq!(self.reload(self.journal.len()), self.leader.shard);
        let sent: Vec<&Sent> = self.clients.values().flatten().collect();
        for batch in sent {
            for value in &batch.values {
                let there = self.targets[&batch.target].values.iter().filter(|(there, _)| there == value);
                let times: Vec<Millis> = there.map(|(_, at_ms)| *at_ms).collect();
                assert_eq!(times.len(), 1, "record {value} once");
                assert!(times[0] >= self.due[value], "record {value} early");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn each_record_comes_once_and_never_early(steps in prop::collection::vec(any::<(u8, u16)>(), 0..200)) {
        let mut world = World { now_ms: 1_000, ..World::default() };
        for (what, some) in steps {
            world.step(what, some);
        }
        world.finish();
    }
}
