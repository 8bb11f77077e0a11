//! Records of shards as batches of the log.

use bytes::Bytes;
use highwater_model::ProducerId;
use highwater_wire::batch::BatchError;
use highwater_wire::{AcceptedBatch, BatchBuilder, BatchHeader, Codec, HEADER_BYTES, TimestampType};

/// A record's key and value; none deletes the key.
pub type KeyValue = (Bytes, Option<Bytes>);

/// Records that stand and fall together as one batch, of a producer's transaction if it is one.
///
/// # Errors
/// A batch that cannot be read back: a defect.
pub fn encode(
    records: impl ExactSizeIterator<Item = KeyValue>,
    transaction: Option<(ProducerId, i16)>,
    now_ms: i64,
) -> Result<AcceptedBatch, BatchError> {
    assert!(records.len() > 0, "a step that writes nothing appends nothing");
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some((producer_id, epoch)) = transaction {
        builder = builder.producer(producer_id, epoch, -1).attributes(TimestampType::CreateTime, true, false);
    }
    for (key, value) in records {
        builder.push(now_ms, Some(&key), value.as_deref(), &[]);
    }
    accepted(&builder)
}

/// Records that need not be in one batch, in batches of about `bytes_max`, more where one record takes more.
///
/// # Errors
/// As [`encode`].
pub fn encode_all(
    records: impl Iterator<Item = KeyValue>,
    bytes_max: usize,
    now_ms: i64,
) -> Result<Vec<AcceptedBatch>, BatchError> {
    let mut batches = Vec::new();
    let (mut builder, mut bytes) = (BatchBuilder::new(Codec::None), 0);
    for (key, value) in records {
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

/// The head that a batch without sequences of a producer's transaction will have.
///
/// # Errors
/// As [`encode`].
pub fn header_of(producer_id: ProducerId, epoch: i16) -> Result<BatchHeader, BatchError> {
    let builder = BatchBuilder::new(Codec::None).producer(producer_id, epoch, -1);
    let mut builder = builder.attributes(TimestampType::CreateTime, true, false);
    builder.push(0, None, None, &[]);
    BatchHeader::parse(&builder.build())
}

fn accepted(builder: &BatchBuilder) -> Result<AcceptedBatch, BatchError> {
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes)?;
    let records_bytes = bytes.len() - HEADER_BYTES;
    Ok(AcceptedBatch { header, bytes, offset_delta_of_max_timestamp: 0, records_bytes })
}
