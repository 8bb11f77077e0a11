//! Records of groups as batches of the log.

use highwater_groups::core::records::Record;
use highwater_model::ProducerId;
use highwater_wire::AcceptedBatch;
use highwater_wire::batch::BatchError;

use crate::shards::batch;

/// The records of one step as one batch, of a producer's transaction if it is one.
///
/// # Errors
/// A batch that cannot be read back: a defect.
pub fn encode(
    records: &[Record],
    transaction: Option<(ProducerId, i16)>,
    now_ms: i64,
) -> Result<AcceptedBatch, BatchError> {
    batch::encode(records.iter().map(Record::encode), transaction, now_ms)
}

/// How many of these records make a batch of about `bytes_max`; at least one.
pub fn fitting(records: &[Record], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let within = |record: &&Record| {
        bytes += record.about_bytes();
        bytes <= bytes_max
    };
    records.iter().take_while(within).count().max(1)
}

/// Records that need not be in one batch, in batches of about `bytes_max`, more where one record takes more.
///
/// # Errors
/// As [`encode`].
pub fn encode_all(
    records: &[Record],
    bytes_max: usize,
    now_ms: i64,
) -> Result<Vec<AcceptedBatch>, BatchError> {
    batch::encode_all(records.iter().map(Record::encode), bytes_max, now_ms)
}

#[cfg(test)]
mod tests {
    use highwater_groups::core::records::Key;

    use super::*;

    #[test]
    fn many_records_make_several_batches() {
        let tombstone = |n: u32| Record::tombstone(Key::Classic { group: format!("group-{n:04}").into() });
        let records: Vec<Record> = (0..100).map(tombstone).collect();
        let batches = encode_all(&records, 140, 5).expect("encoded");
        // A key takes 14 bytes: its kind, a length and ten letters.
        assert_eq!(batches.len(), 10);
        assert!(batches.iter().all(|batch| batch.header.record_count == 10));
        assert_eq!(encode_all(&records[..3], 1, 5).expect("encoded").len(), 3);
        assert!(encode_all(&[], 140, 5).expect("nothing").is_empty());
        // About 90 bytes each.
        assert_eq!([1, 89, 200, 100_000].map(|most| fitting(&records, most)), [1, 1, 2, 100]);
    }
}
