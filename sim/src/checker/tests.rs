//! A planted history for each class: the checker finds it, and finds nothing in the sound one.

use super::*;
use crate::history::{HeldBatch, Listed, Manifest, Replica, Send};

fn send(value: Value, sent: Sent) -> Send {
    Send { partition: 0, session: 1, value, is_idempotent: true, is_committed_when_acked: true, sent }
}

fn batch(base_offset: Offset, next_offset: Offset, crc: u32) -> HeldBatch {
    HeldBatch { base_offset, next_offset, epoch: 0, crc }
}

fn object(start: Offset, end: Offset) -> Listed {
    Listed { start, end, key: format!("{start}-{end}") }
}

/// Four values acknowledged at 0..4, a refused and an unknown one, all read, replicated and tiered to 3.
fn sound() -> History {
    let records: Vec<(Offset, Value)> = (0..4).map(|o| (o, 100 + o as Value)).collect();
    let mut sends: Vec<Send> = records.iter().map(|(o, v)| send(*v, Sent::Acked(*o))).collect();
    sends.push(send(200, Sent::Refused));
    sends.push(send(201, Sent::Unknown));
    let last = |is_after_eviction| FinalRead { partition: 0, is_after_eviction, records: records.clone() };
    let replica =
        |node| Replica { partition: 0, node, batches: vec![batch(0, 2, 7), batch(2, 3, 8), batch(3, 4, 9)] };
    let objects = vec![object(0, 2), object(2, 3)];
    History {
        sends,
        polls: vec![
            Poll { partition: 0, consumer: 1, from: 0, records: records[..2].to_vec() },
            Poll { partition: 0, consumer: 1, from: 2, records: vec![] },
            Poll { partition: 0, consumer: 1, from: 2, records: records[2..].to_vec() },
        ],
        finals: vec![last(false), last(true)],
        replicas: vec![replica(1), replica(2)],
        objects: objects.iter().map(|o| o.key.clone()).collect(),
        log_starts: BTreeMap::new(),
        manifests: vec![Manifest { partition: 0, log_start: 0, tiered_end: 3, objects }],
        ..History::default()
    }
}

/// The kinds found after `plant` has changed the sound history.
fn found(plant: impl FnOnce(&mut History)) -> Vec<Anomaly> {
    let mut history = sound();
    plant(&mut history);
    let mut kinds: Vec<Anomaly> = check(&history).into_iter().map(|f| f.anomaly).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn a_sound_history_passes() {
    assert_eq!(check(&sound()), vec![]);
    assert_eq!(check(&History::default()), vec![]);
}

#[test]
fn an_acknowledged_record_that_is_gone_is_lost() {
    let lost = found(|h| {
        h.polls.clear();
        h.finals.iter_mut().for_each(|f| {
            f.records.pop();
        });
    });
    assert_eq!(lost, [Anomaly::Lost]);
}

#[test]
fn what_was_read_once_and_is_gone_is_lost_even_if_nobody_was_told() {
    let lost = found(|h| {
        h.sends[3].sent = Sent::Unknown;
        h.finals.iter_mut().for_each(|f| {
            f.records.pop();
        });
    });
    assert_eq!(lost, [Anomaly::Lost]);
}

#[test]
fn what_eviction_takes_along_is_lost() {
    let lost = found(|h| {
        h.finals[1].records.remove(0);
    });
    assert_eq!(lost, [Anomaly::Lost]);
}

#[test]
fn what_was_deleted_may_be_gone_and_nothing_above_it() {
    let from = |log_start: Offset| {
        found(|h| {
            h.log_starts.insert(0, log_start);
            h.finals.iter_mut().for_each(|f| drop(f.records.drain(..2)));
        })
    };
    assert_eq!(from(2), []);
    assert_eq!(from(1), [Anomaly::Lost]);
}

#[test]
fn an_unknown_record_may_be_there_or_not() {
    let there = |h: &mut History| h.finals.iter_mut().for_each(|f| f.records.push((4, 201)));
    assert_eq!(found(there), []);
}

#[test]
fn one_value_at_two_offsets_is_a_duplicate_unless_its_producer_is_plain() {
    let twice = |h: &mut History| h.finals.iter_mut().for_each(|f| f.records.push((4, 103)));
    assert_eq!(found(twice), [Anomaly::Duplicate]);
    let plain = |h: &mut History| {
        twice(h);
        h.sends.iter_mut().for_each(|s| s.is_idempotent = false);
    };
    assert_eq!(found(plain), []);
}

#[test]
fn records_of_one_session_in_another_order_are_reordered() {
    let swapped = found(|h| {
        h.polls.clear();
        h.sends[1].sent = Sent::Unknown;
        h.sends[2].sent = Sent::Unknown;
        for last in &mut h.finals {
            (last.records[1].1, last.records[2].1) = (102, 101);
        }
    });
    assert_eq!(swapped, [Anomaly::Reordered]);
    let of_two_sessions = found(|h| {
        h.polls.clear();
        h.sends[2].session = 2;
        h.sends[1].sent = Sent::Unknown;
        h.sends[2].sent = Sent::Unknown;
        for last in &mut h.finals {
            (last.records[1].1, last.records[2].1) = (102, 101);
        }
    });
    assert_eq!(of_two_sessions, []);
}

#[test]
fn a_consumer_that_goes_back_sees_records_reordered() {
    let back = found(|h| {
        h.polls.push(Poll { partition: 0, consumer: 1, from: 1, records: vec![(1, 101)] });
    });
    assert_eq!(back, [Anomaly::Reordered]);
}

#[test]
fn two_values_at_one_offset_are_inconsistent() {
    let other = found(|h| h.polls[0].records[1].1 = 999);
    assert_eq!(other, [Anomaly::InconsistentOffset]);
}

#[test]
fn an_acknowledged_record_elsewhere_is_inconsistent_and_not_where_it_was_told() {
    let elsewhere = found(|h| h.sends[3].sent = Sent::Acked(2));
    assert!(elsewhere.contains(&Anomaly::InconsistentOffset), "{elsewhere:?}");
}

#[test]
fn a_refused_record_that_is_read_is_an_aborted_read() {
    let aborted = found(|h| h.finals.iter_mut().for_each(|f| f.records.push((4, 200))));
    assert_eq!(aborted, [Anomaly::AbortedRead]);
}

#[test]
fn an_answer_that_leaves_out_offsets_skips() {
    let skipped = found(|h| {
        h.polls[2].records.remove(0);
    });
    assert_eq!(skipped, [Anomaly::Skipped]);
}

#[test]
fn objects_that_do_not_meet_leave_a_gap() {
    assert_eq!(found(|h| h.manifests[0].objects[0].end = 1), [Anomaly::ManifestGap]);
    assert_eq!(found(|h| h.manifests[0].tiered_end = 4), [Anomaly::ManifestGap]);
}

#[test]
fn objects_that_share_offsets_overlap() {
    assert_eq!(found(|h| h.manifests[0].objects[1].start = 1), [Anomaly::ManifestOverlap]);
    assert_eq!(found(|h| h.manifests[0].tiered_end = 2), [Anomaly::ManifestOverlap]);
}

#[test]
fn replicas_that_differ_diverge() {
    assert_eq!(found(|h| h.replicas[1].batches[1].crc = 1), [Anomaly::Divergence]);
    assert_eq!(found(|h| h.replicas[1].batches[1].epoch = 1), [Anomaly::Divergence]);
    assert_eq!(
        found(|h| {
            h.replicas[1].batches.remove(1);
        }),
        [Anomaly::Divergence]
    );
    let cut_otherwise = |h: &mut History| {
        h.replicas[1].batches = vec![batch(0, 1, 5), batch(1, 4, 6)];
    };
    assert_eq!(found(cut_otherwise), [Anomaly::Divergence]);
}

#[test]
fn a_replica_that_starts_later_agrees() {
    assert_eq!(
        found(|h| {
            h.replicas[1].batches.remove(0);
        }),
        []
    );
}

#[test]
fn a_listed_object_that_the_bucket_lacks_is_missing() {
    let missing = found(|h| {
        let key = h.manifests[0].objects[1].key.clone();
        h.objects.remove(&key);
    });
    assert_eq!(missing, [Anomaly::ObjectMissing]);
}
