//! Transactions of a partition: against a naive reading of all its batches, through rolls, crashes, eviction,
//! truncation and new replicas.

use highwater_wire::TimestampType;
use highwater_wire::control::{EndMarker, marker_batch};
use proptest::prelude::*;

use super::*;
use crate::core::producers::{ProducerInfo, SequenceRefusal};
use crate::core::transactions::AbortedTxn;

#[derive(Clone, Debug)]
enum Step {
    Data {
        producer: i64,
        records: usize,
        transactional: bool,
    },
    Marker {
        producer: i64,
        commit: bool,
    },
    Watermark {
        percent: i64,
    },
    Roll,
    Flush,
    Evict {
        percent: i64,
    },
    Truncate {
        percent: i64,
    },
    Close,
    Kill,
    Crash {
        seed: u64,
    },
    /// The producers at a segment's border are lost, as if they could never be stored.
    LoseSnapshots,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0i64..4, 1usize..20, prop::bool::weighted(0.8))
            .prop_map(|(producer, records, transactional)| Step::Data { producer, records, transactional }),
        8 => (0i64..4, any::<bool>()).prop_map(|(producer, commit)| Step::Marker { producer, commit }),
        5 => (0i64..=100).prop_map(|percent| Step::Watermark { percent }),
        2 => Just(Step::Roll),
        2 => Just(Step::Flush),
        1 => (0i64..100).prop_map(|percent| Step::Evict { percent }),
        1 => (0i64..110).prop_map(|percent| Step::Truncate { percent }),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::LoseSnapshots),
    ]
}

/// A batch that was appended: `commit` is what it says if it is a marker.
#[derive(Clone, Copy, Debug)]
struct Known {
    producer: i64,
    base: i64,
    next: i64,
    transactional: bool,
    commit: Option<bool>,
}

/// Producer, first offset, and the marker's offset with what it says.
type Txn = (i64, i64, Option<(i64, bool)>);

struct Model {
    disk: SimDisk,
    log: PartitionLog,
    batches: Vec<Known>,
    high_watermark: i64,
    flushed: i64,
    sequences: [i32; 4],
    /// A segment that comes back after it was evicted needs the snapshot at its start.
    lost_snapshots: bool,
}

fn data(producer: i64, sequence: i32, records: usize, transactional: bool) -> Bytes {
    let builder = BatchBuilder::new(Codec::None).producer(producer, 0, sequence);
    let mut builder = builder.attributes(TimestampType::CreateTime, transactional, false);
    for _ in 0..records {
        builder.push(NOW, None, Some(&[7; 40]), &[]);
    }
    builder.build()
}

impl Model {
    fn new() -> Model {
        let disk = SimDisk::new();
        let log = open(&disk).0;
        let (batches, sequences) = (Vec::new(), [0; 4]);
        Model { disk, log, batches, high_watermark: 0, flushed: 0, sequences, lost_snapshots: false }
    }

    fn transactions(&self) -> Vec<Txn> {
        let mut found: Vec<Txn> = Vec::new();
        for batch in &self.batches {
            let open = found.iter_mut().find(|t| t.0 == batch.producer && t.2.is_none());
            match (open, batch.commit) {
                (Some(txn), Some(commit)) => txn.2 = Some((batch.base, commit)),
                (None, None) if batch.transactional => found.push((batch.producer, batch.base, None)),
                _ => {}
            }
        }
        found
    }

    fn append(&mut self, bytes: &Bytes, transactional: bool, commit: Option<bool>) {
        let header = BatchHeader::parse(bytes).expect("whole");
        if commit.is_none() {
            match self.log.producers().check(&header) {
                Ok(judged) => assert_eq!(judged, Sequenced::New),
                Err(SequenceRefusal::NotTransactional(_)) if !transactional => return,
                Err(refusal) => panic!("{refusal}"),
            }
        }
        let appended = self.log.append(&header, bytes, 0, NOW).expect("appends");
        let (base, next) = (appended.base_offset, appended.next_offset);
        let producer = header.producer_id;
        self.batches.push(Known { producer, base, next, transactional, commit });
        if commit.is_none() {
            self.sequences[producer as usize] += header.record_count;
        }
    }

    fn restart(&mut self, disk: SimDisk, at_least: i64) {
        let (log, report) = open(&disk);
        assert_eq!(report.corrupt_below_flushed, None, "{report:?}");
        assert!(log.log_end() >= at_least);
        (self.disk, self.log) = (disk, log);
        self.cut_to_log();
    }

    fn cut_to_log(&mut self) {
        let end = self.log.log_end();
        self.batches.retain(|b| b.next <= end);
        self.high_watermark = self.high_watermark.min(end);
        self.flushed = self.flushed.min(end);
        for (producer, sequence) in self.sequences.iter_mut().enumerate() {
            let of = self.batches.iter().filter(|b| b.producer == producer as i64 && b.commit.is_none());
            *sequence = of.map(|b| (b.next - b.base) as i32).sum();
        }
    }

    fn take(&mut self, step: Step) {
        let (start, end) = (self.log.local_start(), self.log.log_end());
        match step {
            Step::Data { producer, records, transactional } => {
                let bytes = data(producer, self.sequences[producer as usize], records, transactional);
                self.append(&bytes, transactional, None);
            }
            Step::Marker { producer, commit } => {
                let bytes = marker_batch(producer, 0, EndMarker { commit, coordinator_epoch: 3 }, NOW);
                self.append(&bytes, true, Some(commit));
            }
            Step::Watermark { percent } => {
                self.high_watermark = self.high_watermark.max(end * percent / 100);
                self.log.high_watermark_is(self.high_watermark);
            }
            Step::Roll => drop(self.log.roll(NOW).expect("rolls")),
            Step::Flush => {
                flush(&mut self.log);
                self.flushed = end;
            }
            Step::Evict { .. } if self.lost_snapshots => {}
            Step::Evict { percent } => {
                let to = (start + (end - start) * percent / 100).min(self.flushed).min(self.high_watermark);
                drop(self.log.evict_below(to).expect("evicts"));
            }
            Step::Truncate { percent } => {
                let to = (end * percent / 100).max(self.high_watermark).max(start);
                self.log.truncate_to(to, NOW).expect("truncates");
                self.cut_to_log();
            }
            Step::Close => {
                self.log.close().expect("closes");
                let disk = self.disk.clone();
                self.restart(disk, end);
                self.flushed = end;
            }
            Step::Kill => {
                let disk = self.disk.kill();
                self.restart(disk, end);
            }
            Step::Crash { seed } => {
                let (disk, flushed) = (self.disk.crash(seed).expect("crashes"), self.flushed);
                self.restart(disk, flushed);
            }
            Step::LoseSnapshots if start == 0 => {
                self.lost_snapshots = true;
                for entry in self.disk.list().expect("lists") {
                    if entry.name.ends_with(".producers") {
                        self.disk.remove(&entry.name).expect("removes");
                    }
                }
                let disk = self.disk.kill();
                self.restart(disk, end);
            }
            Step::LoseSnapshots => {}
        }
    }

    fn check(&self) {
        let (hw, transactions) = (self.high_watermark, self.transactions());
        let unstable = transactions.iter().filter(|t| t.2.is_none_or(|m| m.0 >= hw)).map(|t| t.1);
        let last_stable = unstable.min().unwrap_or(i64::MAX).min(hw);
        assert_eq!(self.log.last_stable(hw), last_stable, "under high watermark {hw}");
        let (start, end) = (self.log.local_start(), self.log.log_end());
        for (from, to) in [(start, end), (start, last_stable), ((start + end) / 2, end), (start, start + 1)] {
            let mut expected: Vec<_> = transactions
                .iter()
                .filter_map(|t| t.2.map(|m| (t.0, t.1, m)))
                .filter(|(_, first, (marker, commit))| !commit && *first < to && *marker >= from && from < to)
                .map(|(producer_id, first, (marker, _))| AbortedTxn { producer_id, first, marker })
                .collect();
            expected.sort_unstable_by_key(|txn| txn.marker);
            assert_eq!(self.log.aborted_in(from, to).expect("reads"), expected, "{from}..{to}");
        }
        let open: Vec<_> =
            self.log.producers().iter().filter_map(|p| Some((p.producer_id, p.txn_first?))).collect();
        let mut expected: Vec<_> =
            transactions.iter().filter(|t| t.2.is_none()).map(|t| (t.0, t.1)).collect();
        expected.sort_unstable();
        assert_eq!(open, expected);
    }

    /// A new replica that begins at a segment's start, and one that copies everything, have the same state.
    fn check_replicas(&self) {
        let starts = self.log.sealed().iter().map(|s| s.start).chain([self.log.active_start()]);
        for start in starts {
            let disk = SimDisk::new();
            let mut copy = open(&disk).0;
            copy.begin_at(&self.log.beginning_at(start).expect("a segment starts there")).expect("begins");
            while copy.log_end() < self.log.log_end() {
                let read = self.log.read_for_replica(copy.log_end(), 1 << 20).expect("reads");
                for slice in read.slices {
                    let bytes = Bytes::from(slice.read().expect("reads"));
                    for item in highwater_wire::batch::Batches::new(&bytes) {
                        let (header, batch) = item.expect("whole");
                        copy.append_replicated(&header, &bytes.slice_ref(batch), NOW).expect("follows");
                    }
                }
            }
            let hw = self.high_watermark.max(start);
            // When is not told by the log: what had to be rebuilt is dated anew.
            let described = |log: &PartitionLog| -> Vec<ProducerInfo> {
                log.producers().iter().map(|p| ProducerInfo { last_append_ms: 0, ..p }).collect()
            };
            assert_eq!(described(&copy), described(&self.log));
            assert_eq!(copy.last_stable(hw), self.log.last_stable(hw).max(start));
            let end = self.log.log_end();
            assert_eq!(
                copy.aborted_in(start, end).expect("reads"),
                self.log.aborted_in(start, end).expect("reads")
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn as_a_naive_reading_says_through_crashes_and_cuts(steps in prop::collection::vec(step(), 1..70)) {
        let mut model = Model::new();
        for step in steps {
            model.take(step);
            model.check();
        }
        model.check_replicas();
    }
}

#[test]
fn a_list_of_a_sealed_segment_is_read_again_and_rebuilt() {
    let mut model = Model::new();
    for n in 0..4 {
        model.take(Step::Data { producer: n, records: 3, transactional: true });
        model.take(Step::Marker { producer: n, commit: n == 2 });
        model.take(Step::Roll);
    }
    let found = |log: &PartitionLog| log.aborted_in(0, 16).expect("reads").len();
    assert_eq!(found(&model.log), 3);
    let mut closed = PartitionLog::open_on(Arc::new(model.disk.clone()), small(), NOW).expect("opens").0;
    closed.close().expect("closes");
    let (reopened, report) = open(&model.disk);
    assert!(report.clean, "nothing was scanned: {report:?}");
    assert_eq!(found(&reopened), 3, "read from where they are stored");
    for entry in model.disk.list().expect("lists") {
        if entry.name.ends_with(".producers") {
            model.disk.remove(&entry.name).expect("removes");
        }
    }
    assert_eq!(found(&open(&model.disk).0), 3, "rebuilt from headers and markers");
}

#[test]
fn a_control_batch_that_says_nothing_is_refused() {
    let (mut log, _) = open(&SimDisk::new());
    let builder = BatchBuilder::new(Codec::None).producer(7, 0, -1);
    let mut builder = builder.attributes(TimestampType::CreateTime, true, true);
    builder.push(NOW, Some(&[0]), None, &[]);
    assert!(matches!(try_put(&mut log, &builder.build(), 0), Err(LogError::Batch(_))));
    assert_eq!(log.log_end(), 0);
}

#[test]
fn produce_is_judged_with_a_ticket() {
    let (mut log, _) = open(&SimDisk::new());
    let first = data(2, 0, 1, true);
    let header = BatchHeader::parse(&first).expect("whole");
    assert_eq!(log.check_produce(&header, None), Err(SequenceRefusal::Unverified(2)));
    let ticket = log.verification_ticket(&header, false, NOW);
    assert_eq!(log.check_produce(&header, ticket), Ok(Sequenced::New));
    put(&mut log, &marker_batch(2, 0, EndMarker { commit: false, coordinator_epoch: 0 }, NOW));
    assert_eq!(log.check_produce(&header, ticket), Err(SequenceRefusal::Unverified(2)), "it came too late");
    let ticket = log.verification_ticket(&header, false, NOW);
    assert_eq!(log.check_produce(&header, ticket), Ok(Sequenced::New));
    put(&mut log, &first);
    let duplicate = log.check_produce(&header, None);
    assert!(matches!(duplicate, Ok(Sequenced::Duplicate { base_offset: 1, .. })), "{duplicate:?}");
    assert_eq!(log.verification_ticket(&header, false, NOW), None, "nothing to ask for a duplicate");
    let plain = BatchHeader::parse(&data(2, 1, 1, false)).expect("whole");
    assert_eq!(log.check_produce(&plain, None), Err(SequenceRefusal::NotTransactional(2)));
    log.roll_if_due(NOW + i64::from(i32::MAX)).expect("rolls");
    assert_eq!(log.last_stable(2), 1, "an open transaction does not expire");
}

#[test]
fn batches_that_were_sent_together_wait_together() {
    let (mut log, _) = open(&SimDisk::new());
    let before = data(2, 0, 1, true);
    put(&mut log, &before);
    put(&mut log, &marker_batch(2, 0, EndMarker { commit: true, coordinator_epoch: 0 }, NOW));
    let sent: Vec<Bytes> = (1..4).map(|sequence| data(2, sequence, 1, true)).collect();
    let headers: Vec<_> = sent.iter().map(|bytes| BatchHeader::parse(bytes).expect("whole")).collect();
    let tickets: Vec<_> = headers.iter().map(|h| log.verification_ticket(h, false, NOW)).collect();
    assert!(tickets[0].is_some() && tickets.iter().all(|ticket| *ticket == tickets[0]), "one question");
    assert!(matches!(log.check_produce(&headers[1], tickets[1]), Err(SequenceRefusal::OutOfOrder { .. })));
    for ((bytes, header), ticket) in sent.iter().zip(&headers).zip(tickets) {
        assert_eq!(log.check_produce(header, ticket), Ok(Sequenced::New));
        put(&mut log, bytes);
    }
    let late = BatchHeader::parse(&before).expect("whole");
    assert_eq!(log.verification_ticket(&late, false, NOW), None, "it is there already");
}

#[test]
fn a_deleted_beginning_holds_nothing_up() {
    let mut model = Model::new();
    model.take(Step::Data { producer: 1, records: 3, transactional: true });
    model.take(Step::Data { producer: 2, records: 3, transactional: false });
    assert_eq!(model.log.last_stable(6), 0);
    model.log.raise_log_start(5).expect("raises");
    assert_eq!((model.log.last_stable(6), model.log.last_stable(4)), (5, 4));
}
