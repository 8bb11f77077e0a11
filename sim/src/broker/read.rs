//! Reading records for consumers: batches to values, objects to batches. The product's own codecs, indexes
//! and rebuilder, without its caches.

use bytes::Bytes;
use highwater_model::Offset;
use highwater_tiering::object::{ObjectIndex, Rebuilder, TAIL_BYTES};
use highwater_wire::codec::decompress_into;
use highwater_wire::{Batches, HEADER_BYTES, Records};

use crate::history::Value;

const RECORDS_BYTES_MAX: usize = 1 << 20;

/// Offset and value of every record in `batches`.
///
/// # Panics
/// On bytes that are no batches: what a log or an object holds was checked when it came in.
pub fn values(batches: &[u8]) -> Vec<(Offset, Value)> {
    let mut found = Vec::new();
    let mut plain = Vec::new();
    for batch in Batches::new(batches) {
        let (header, bytes) = batch.expect("whole batches");
        plain.clear();
        let codec = header.codec().expect("a known codec");
        decompress_into(codec, &bytes[HEADER_BYTES..], RECORDS_BYTES_MAX, &mut plain).expect("sound records");
        let mut records = Records::new(&plain, header.record_count);
        while let Some(record) = records.next().expect("sound records") {
            let value: [u8; 8] = record.value.expect("a value")[..8].try_into().expect("eight bytes");
            found.push((header.base_offset + i64::from(record.offset_delta), Value::from_be_bytes(value)));
        }
    }
    found
}

/// The records of an object from `offset` on; none if the bytes are no such object.
pub fn object_values(
    rebuilder: &mut Rebuilder,
    object: &Bytes,
    offset: Offset,
    bytes_max: usize,
) -> Option<Vec<(Offset, Value)>> {
    let tail = &object[object.len().saturating_sub(TAIL_BYTES)..];
    let index = ObjectIndex::parse(tail, object.len() as u64).ok()?;
    let at = index.row_group_for_offset(offset)?;
    let group = &index.row_groups[at];
    let raw = object.get(group.position as usize..(group.position + group.length) as usize)?;
    let mut out = Vec::new();
    rebuilder.rebuild(&index, at, raw, offset, bytes_max, &mut out).ok()?;
    Some(values(&out))
}
