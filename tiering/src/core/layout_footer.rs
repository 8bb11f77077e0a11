//! What an object says of itself, as the text key-values of its Parquet footer, and back.
//!
//! Owns the keys (a contract: `docs/format.md`, "Tier object") and the checksum over them. Values are
//! readable where a person would look (identity, epochs, timestamp types) and base64 where only this program
//! does (row-group table, producer snapshot). Nothing is used before the checksum matches (invariant 19) and
//! `ObjectIndex::check` agrees.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use highwater_log::EpochStart;
use highwater_model::{Offset, TopicId};
use uuid::Uuid;

use super::layout::{Compression, LayoutError, ObjectIdentity, ObjectIndex, TimestampTypeRun, ValueFormat};
use super::layout_codec::{TableError, decode_table, encode_table};

/// Version of the whole object format; a reader refuses one that it does not know (invariant 18).
pub const FORMAT_VERSION: &str = "1";
/// Every key of ours begins so.
pub const PREFIX: &str = "highwater.";

const FORMAT: &str = "highwater.format";
const CLUSTER: &str = "highwater.cluster";
const TOPIC: &str = "highwater.topic";
const TOPIC_ID: &str = "highwater.topic_id";
const PARTITION: &str = "highwater.partition";
const START: &str = "highwater.start_offset";
const END: &str = "highwater.end_offset";
const LEADER_EPOCH: &str = "highwater.leader_epoch";
const UPLOAD_ID: &str = "highwater.upload_id";
const COMPRESSION: &str = "highwater.compression";
const VALUE_FORMAT: &str = "highwater.value_format";
const COMPACTED: &str = "highwater.compacted";
const EPOCHS: &str = "highwater.leader_epochs";
const TIMESTAMP_TYPES: &str = "highwater.timestamp_types";
const PRODUCERS: &str = "highwater.producers";
const ROW_GROUPS: &str = "highwater.row_groups";
const CHECKSUM: &str = "highwater.checksum";

/// Keys in the file's order, the checksum after them.
const KEYS: [&str; 16] = [
    FORMAT,
    CLUSTER,
    TOPIC,
    TOPIC_ID,
    PARTITION,
    START,
    END,
    LEADER_EPOCH,
    UPLOAD_ID,
    COMPRESSION,
    VALUE_FORMAT,
    COMPACTED,
    EPOCHS,
    TIMESTAMP_TYPES,
    PRODUCERS,
    ROW_GROUPS,
];

/// Why a footer does not describe an object of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FooterError {
    #[error("not a Highwater object: {0} is missing")]
    Missing(&'static str),
    #[error("object format {0:?} is unknown")]
    Version(String),
    #[error("footer checksum {stored} does not match {computed}")]
    Checksum { stored: String, computed: String },
    #[error("footer value of {0} is malformed")]
    Value(&'static str),
    #[error("footer and table disagree on the number of rows")]
    Rows,
    #[error(transparent)]
    Table(#[from] TableError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The key-values of `index`, checksum last.
pub fn to_key_values(index: &ObjectIndex) -> Vec<(&'static str, String)> {
    let identity = &index.identity;
    let epochs: Vec<(i32, Offset)> = index.epochs.iter().map(|e| (e.epoch, e.start_offset)).collect();
    let kinds: Vec<(Offset, &str)> =
        index.timestamp_types.iter().map(|r| (r.start, kind_name(r.log_append))).collect();
    let json =
        |value: &dyn Fn() -> serde_json::Result<String>| value().expect("numbers and names are valid JSON");
    let mut pairs = Vec::with_capacity(KEYS.len() + 1);
    for key in KEYS {
        let value = match key {
            FORMAT => FORMAT_VERSION.to_string(),
            CLUSTER => identity.cluster_id.clone(),
            TOPIC => identity.topic.clone(),
            TOPIC_ID => identity.topic_id.to_string(),
            PARTITION => identity.partition.to_string(),
            START => identity.start.to_string(),
            END => identity.end.to_string(),
            LEADER_EPOCH => identity.leader_epoch.to_string(),
            UPLOAD_ID => identity.upload_id.to_string(),
            COMPRESSION => index.compression.name().to_string(),
            VALUE_FORMAT => index.value_format.name().to_string(),
            COMPACTED => index.compacted.to_string(),
            EPOCHS => json(&|| serde_json::to_string(&epochs)),
            TIMESTAMP_TYPES => json(&|| serde_json::to_string(&kinds)),
            PRODUCERS => STANDARD.encode(&index.producer_snapshot),
            _ => {
                assert_eq!(key, ROW_GROUPS, "every key has a value");
                STANDARD.encode(encode_table(&index.row_groups, identity.start))
            }
        };
        pairs.push((key, value));
    }
    let checksum = checksum(pairs.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())));
    pairs.push((CHECKSUM, checksum));
    debug_assert_eq!(pairs.len(), KEYS.len() + 1, "all keys and the checksum");
    pairs
}

/// CRC-32C over key, NUL, value, NUL of every pair in order, as 8 hexadecimal digits.
fn checksum<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let crc = pairs.fold(0, |crc, (key, value)| {
        let crc = crc32c::crc32c_append(crc, key);
        let crc = crc32c::crc32c_append(crc, &[0]);
        let crc = crc32c::crc32c_append(crc, value);
        crc32c::crc32c_append(crc, &[0])
    });
    format!("{crc:08x}")
}

fn kind_name(log_append: bool) -> &'static str {
    if log_append { "LogAppendTime" } else { "CreateTime" }
}

/// Reads and checks an object's index from its footer's key-values; `rows` is what Parquet says of the file.
///
/// # Errors
/// What is missing, unknown or contradictory.
pub fn from_key_values(
    pairs: &[(&[u8], &[u8])],
    rows: i64,
    object_bytes: u64,
) -> Result<ObjectIndex, FooterError> {
    let get = |key: &'static str| {
        let found = pairs.iter().find(|(k, _)| *k == key.as_bytes());
        let value = found.ok_or(FooterError::Missing(key))?.1;
        std::str::from_utf8(value).map_err(|_| FooterError::Value(key))
    };
    let version = get(FORMAT)?;
    if version != FORMAT_VERSION {
        return Err(FooterError::Version(version.chars().take(32).collect()));
    }
    let stored = get(CHECKSUM)?;
    let ours = pairs.iter().filter(|(k, _)| k.starts_with(PREFIX.as_bytes()) && *k != CHECKSUM.as_bytes());
    let computed = checksum(ours.copied());
    if stored != computed {
        return Err(FooterError::Checksum { stored: stored.chars().take(32).collect(), computed });
    }
    let identity = ObjectIdentity {
        cluster_id: get(CLUSTER)?.to_string(),
        topic: get(TOPIC)?.to_string(),
        topic_id: TopicId(parse::<Uuid>(TOPIC_ID, get(TOPIC_ID)?)?),
        partition: parse(PARTITION, get(PARTITION)?)?,
        start: parse(START, get(START)?)?,
        end: parse(END, get(END)?)?,
        leader_epoch: parse(LEADER_EPOCH, get(LEADER_EPOCH)?)?,
        upload_id: parse(UPLOAD_ID, get(UPLOAD_ID)?)?,
    };
    if identity.start < 0 {
        return Err(FooterError::Value(START));
    }
    let base64 = |key| STANDARD.decode(get(key)?).map_err(|_| FooterError::Value(key));
    let row_groups = decode_table(&base64(ROW_GROUPS)?, identity.start)?;
    let index = ObjectIndex {
        compression: Compression::from_name(get(COMPRESSION)?).ok_or(FooterError::Value(COMPRESSION))?,
        value_format: ValueFormat::from_name(get(VALUE_FORMAT)?).ok_or(FooterError::Value(VALUE_FORMAT))?,
        compacted: parse(COMPACTED, get(COMPACTED)?)?,
        epochs: parse_epochs(get(EPOCHS)?)?,
        timestamp_types: parse_kinds(get(TIMESTAMP_TYPES)?)?,
        producer_snapshot: base64(PRODUCERS)?,
        identity,
        row_groups,
        object_bytes,
    };
    index.check()?;
    if u64::try_from(rows).ok() != Some(index.records()) {
        return Err(FooterError::Rows);
    }
    debug_assert!(index.identity.start <= index.identity.end, "checked");
    Ok(index)
}

fn parse<T: std::str::FromStr>(key: &'static str, value: &str) -> Result<T, FooterError> {
    debug_assert!(key.starts_with(PREFIX), "a key of ours");
    value.parse().map_err(|_| FooterError::Value(key))
}

fn parse_epochs(value: &str) -> Result<Vec<EpochStart>, FooterError> {
    let pairs: Vec<(i32, Offset)> = serde_json::from_str(value).map_err(|_| FooterError::Value(EPOCHS))?;
    Ok(pairs.into_iter().map(|(epoch, start_offset)| EpochStart { epoch, start_offset }).collect())
}

fn parse_kinds(value: &str) -> Result<Vec<TimestampTypeRun>, FooterError> {
    let pairs: Vec<(Offset, String)> =
        serde_json::from_str(value).map_err(|_| FooterError::Value(TIMESTAMP_TYPES))?;
    let run = |(start, kind): (Offset, String)| match kind.as_str() {
        "CreateTime" => Ok(TimestampTypeRun { start, log_append: false }),
        "LogAppendTime" => Ok(TimestampTypeRun { start, log_append: true }),
        _ => Err(FooterError::Value(TIMESTAMP_TYPES)),
    };
    pairs.into_iter().map(run).collect()
}
