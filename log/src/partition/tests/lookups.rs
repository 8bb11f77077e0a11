//! Timestamp lookups against a walk over all records.

use highwater_wire::batch::TimestampType;
use proptest::prelude::*;

use super::*;

/// Batches of record timestamps, with the codec and whose clock.
type Sent = Vec<(Vec<i64>, usize, bool)>;

fn sent() -> impl Strategy<Value = Sent> {
    let timestamps = prop::collection::vec(-1i64..2_000, 1..12);
    prop::collection::vec((timestamps, 0usize..5, prop::bool::weighted(0.2)), 1..40)
}

fn fill(log: &mut PartitionLog, sent: &Sent) -> Vec<(i64, i64)> {
    let mut all = Vec::new();
    for (timestamps, codec, log_append) in sent {
        let mut builder = BatchBuilder::new(Codec::ALL[*codec]);
        if *log_append {
            builder = builder.attributes(TimestampType::LogAppendTime, false, false);
        }
        for timestamp in timestamps {
            builder.push(*timestamp, None, Some(&[7; 150]), &[]);
        }
        let base = put(log, &builder.build()).base_offset;
        let newest = timestamps.iter().copied().max().expect("one at least");
        for (n, timestamp) in timestamps.iter().enumerate() {
            all.push((base + n as i64, if *log_append { newest } else { *timestamp }));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn lookups_match_a_walk(
        sent in sent(), start in 0i64..60, bound in 0usize..60, restart in any::<bool>(),
    ) {
        let disk = SimDisk::new();
        let settings = LogSettings { segment_bytes: 6_000, index_interval_bytes: 1_024, ..small() };
        let mut log = PartitionLog::open_on(Arc::new(disk.clone()), settings, NOW).expect("opens").0;
        let all = fill(&mut log, &sent);
        log.raise_log_start(start.min(log.log_end())).expect("raises");
        if restart {
            log = PartitionLog::open_on(Arc::new(disk.kill()), settings, NOW).expect("opens").0;
        }
        // Bounds are high watermarks or last stable offsets: batch boundaries, but any offset must hold.
        let bound = (bound as i64 * 3).min(log.log_end());
        let readable: Vec<_> = all.iter().filter(|(o, _)| *o >= log.log_start() && *o < bound).collect();
        for timestamp in (-2..2_001).step_by(97) {
            let expected = readable.iter().find(|(_, t)| *t >= timestamp).map(|r| (r.0, r.1));
            let found = log.offset_for_timestamp(timestamp, bound).expect("reads");
            prop_assert_eq!(found.map(|f| (f.offset, f.timestamp)), expected, "timestamp {}", timestamp);
        }
        let newest = readable.iter().map(|r| r.1).max().filter(|t| *t >= 0);
        let expected = newest.and_then(|t| readable.iter().find(|r| r.1 == t)).map(|r| (r.0, r.1));
        let found = log.max_timestamp_offset(bound).expect("reads");
        prop_assert_eq!(found.map(|f| (f.offset, f.timestamp)), expected);
    }
}

#[test]
fn the_epoch_comes_with_the_offset() {
    let (mut log, _) = open(&SimDisk::new());
    try_put(&mut log, &batch(5, 10, 100), 3).expect("appends");
    try_put(&mut log, &batch(5, 10, 200), 8).expect("appends");
    let found = log.offset_for_timestamp(150, 10).expect("reads").expect("found");
    assert_eq!((found.offset, found.timestamp, found.leader_epoch), (5, 200, 8));
    let found = log.max_timestamp_offset(10).expect("reads").expect("found");
    assert_eq!((found.offset, found.timestamp, found.leader_epoch), (9, 204, 8));
    assert_eq!(log.offset_for_timestamp(205, 10).expect("reads"), None);
}

#[test]
fn segments_that_cannot_hold_the_time_are_not_opened() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for n in 0..60 {
        put(&mut log, &batch(1, 1_000, NOW + n * 1_000));
    }
    flush(&mut log);
    let (log, _) = {
        drop(log);
        open(&disk)
    };
    assert!(log.sealed().len() >= 10);
    let found = log.max_timestamp_offset(60).expect("reads").expect("found");
    assert_eq!((found.offset, log.cache.open_count()), (59, 0), "only the active one");
    let within = log.sealed()[5];
    let found = log.offset_for_timestamp(within.max_timestamp, 60).expect("reads").expect("found");
    assert_eq!((found.offset, log.cache.open_count()), (within.end - 1, 1));
    let bound = log.sealed()[7].end;
    let found = log.max_timestamp_offset(bound).expect("reads").expect("found");
    assert_eq!((found.offset, log.cache.open_count()), (bound - 1, 2));
}
