//! Records of groups as a batch of the log.

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
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes)?;
    let records_bytes = bytes.len() - HEADER_BYTES;
    Ok(AcceptedBatch { header, bytes, offset_delta_of_max_timestamp: 0, records_bytes })
}
