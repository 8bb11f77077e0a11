//! Records of groups as batches of the log.

use bytes::Bytes;
use highwater_groups::core::records::Record;
use highwater_model::ProducerId;
use highwater_wire::batch::BatchError;
use highwater_wire::{AcceptedBatch, BatchBuilder, BatchHeader, Codec, HEADER_BYTES, TimestampType};

/// The records of one step as one batch, of a producer's transaction if it is one.
///
/// # Errors
/// A batch that cannot be read back: a defect.
pub fn encode(
    records: &[Record],
    transaction: Option<(ProducerId, i16)>,
    now_ms: i64,
) -> Result<AcceptedBatch, BatchError> {
    assert!(!records.is_empty(), "a step that writes nothing appends nothing");
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some((producer_id, epoch)) = transaction {
        builder = builder.producer(producer_id, epoch, -1).attributes(TimestampType::CreateTime, true, false);
    }
    for record in records {
        let (key, value): (Bytes, Option<Bytes>) = record.encode();
        builder.push(now_ms, Some(&key), value.as_deref(), &[]);
    }
    accepted(&builder)
}

/// The head of a batch of a producer's transaction, as far as it is judged by who writes it.
///
/// # Errors
/// As [`encode`].
pub fn header_of(producer_id: ProducerId, epoch: i16) -> Result<BatchHeader, BatchError> {
    let builder = BatchBuilder::new(Codec::None).producer(producer_id, epoch, -1);
    let mut builder = builder.attributes(TimestampType::CreateTime, true, false);
    builder.push(0, None, None, &[]);
    BatchHeader::parse(&builder.build())
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
    let mut batches = Vec::new();
    let (mut builder, mut bytes) = (BatchBuilder::new(Codec::None), 0);
    for record in records {
        let (key, value): (Bytes, Option<Bytes>) = record.encode();
        let more = key.len() + value.as_ref().map_or(0, Bytes::len);
        if bytes > 0 && bytes + more > bytes_max {
            batches.push(accepted(&std::mem::replace(&mut builder, BatchBuilder::new(Codec::None)))?);
            bytes = 0;
        }
        builder.push(now_ms, Some(&key), value.as_deref(), &[]);
        bytes += more;
    }
    if bytes > 0 {
        batches.push(accepted(&builder)?);
    }
    Ok(batches)
}

fn accepted(builder: &BatchBuilder) -> Result<AcceptedBatch, BatchError> {
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes)?;
    let records_bytes = bytes.len() - HEADER_BYTES;
    Ok(AcceptedBatch { header, bytes, offset_delta_of_max_timestamp: 0, records_bytes })
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
    }
}
