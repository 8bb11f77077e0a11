//! Batches with fewer records than offsets, down to none: what delayed delivery leaves (docs/adr/0020).

use super::*;

/// A producer's batch of `span` offsets with records at these places, stamped by place from `timestamp` on.
fn holed(sequence: i32, span: i32, places: &[i32], timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None).producer(7, 0, sequence).spanning(span - 1);
    for place in places {
        builder.push_at(*place, timestamp + i64::from(*place), None, Some(b"v"), &[]);
    }
    builder.build()
}

#[test]
fn offsets_and_sequences_go_on_over_holes() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk);
    for bytes in
        [holed(0, 4, &[1, 3], 1_000), holed(4, 3, &[], 0), holed(7, 2, &[0], 2_000), holed(9, 5, &[], 0)]
    {
        put(&mut log, &bytes);
    }
    // A log that was killed, too: what it has is found by reading it.
    for log in [&log, &open(&disk.kill()).0] {
        assert_eq!(log.log_end(), 14);
        let header = BatchHeader::parse(&holed(4, 3, &[], 0)).expect("whole");
        let known = log.producers().check(&header).expect("known");
        assert!(matches!(known, Sequenced::Duplicate { base_offset: 4, next_offset: 7, .. }));
        let next = BatchHeader::parse(&sequenced(7, 14, 1)).expect("whole");
        assert_eq!(log.producers().check(&next), Ok(Sequenced::New));
        // By time: the first record, whatever holes are before it; none of an empty batch.
        let at =
            |timestamp| log.offset_for_timestamp(timestamp, 14).expect("reads").map(|found| found.offset);
        assert_eq!((at(0), at(1_002), at(1_004), at(2_001)), (Some(1), Some(3), Some(7), None));
        let newest = log.max_timestamp_offset(14).expect("reads").expect("one");
        assert_eq!((newest.offset, newest.timestamp), (7, 2_000));
        // A read that begins in a hole has the batch around it.
        let read = log.read(5, 1 << 20, 14, true).expect("reads");
        let bytes = read.slices[0].read().expect("reads");
        assert_eq!(BatchHeader::parse(&bytes).expect("whole").base_offset, 4);
    }
    let mut lies = BatchHeader::parse(&holed(14, 4, &[1], 0)).expect("whole");
    lies.record_count = 5;
    assert!(matches!(log.append(&lies, &holed(14, 4, &[1], 0), 6, NOW), Err(LogError::Batch(_))));
}
