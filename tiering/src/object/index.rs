//! Finding an object's index in the last bytes of its file.
//!
//! Owns the way from a tail to `ObjectIndex`: length, Parquet's footer (walked, not decoded: see `thrift`),
//! our key-values (see `core::layout_footer`). Must not allocate by a claimed length beyond the bytes handed
//! in.

use highwater_model::limits::OBJECT_FOOTER_BYTES_MAX;

use super::thrift::read_footer;
use super::{ObjectError, ObjectIndex};
use crate::core::layout_footer::from_key_values;

const MAGIC: &[u8; 4] = b"PAR1";
/// Length of the footer and magic, at the end of every Parquet file.
const END_BYTES: usize = 8;

impl ObjectIndex {
    /// Reads the index from `tail`, the last bytes of an object that has `object_bytes` in all.
    ///
    /// # Errors
    /// `TailTooShort` says how many bytes to fetch instead (never more than `OBJECT_FOOTER_BYTES_MAX` and the
    /// end); anything else means that the bytes are no object of ours, or damaged.
    pub fn parse(tail: &[u8], object_bytes: u64) -> Result<ObjectIndex, ObjectError> {
        let broken = ObjectError::NotParquet;
        if tail.len() as u64 > object_bytes || object_bytes < (MAGIC.len() + END_BYTES) as u64 {
            return Err(broken("shorter than a file"));
        }
        let Some((rest, end)) = tail.split_last_chunk::<END_BYTES>() else {
            return Err(ObjectError::TailTooShort { needed: object_bytes.min(super::TAIL_BYTES as u64) });
        };
        let (length, magic) = end.split_first_chunk::<4>().expect("eight bytes");
        if magic != MAGIC {
            return Err(broken("no magic at the end"));
        }
        let length = u32::from_le_bytes(*length) as usize;
        if length > OBJECT_FOOTER_BYTES_MAX || (length + END_BYTES + MAGIC.len()) as u64 > object_bytes {
            return Err(broken("footer longer than allowed"));
        }
        let Some(start) = rest.len().checked_sub(length) else {
            return Err(ObjectError::TailTooShort { needed: (length + END_BYTES) as u64 });
        };
        let footer = read_footer(&rest[start..]).ok_or(broken("footer is malformed"))?;
        Ok(from_key_values(&footer.key_values, footer.rows, object_bytes)?)
    }
}
