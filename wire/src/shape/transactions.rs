//! The fields of the requests of transactions, from the same message definitions as the others (`table.rs`)
//! and held against the generated decoders by the same tests.

use super::table::Kind::{Array, FixedArray, Text, TextArray};
use super::table::{BOOL, Field, INT16, INT32, INT32_ARRAY, INT64, field};
use crate::api;

/// Fields of a request.
pub(super) fn request(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        api::ADD_PARTITIONS_TO_TXN => ADD_PARTITIONS_TO_TXN,
        api::ADD_OFFSETS_TO_TXN => ADD_OFFSETS_TO_TXN,
        api::END_TXN => END_TXN,
        api::WRITE_TXN_MARKERS => WRITE_TXN_MARKERS,
        api::TXN_OFFSET_COMMIT => TXN_OFFSET_COMMIT,
        api::DESCRIBE_PRODUCERS => DESCRIBE_PRODUCERS,
        api::DESCRIBE_TRANSACTIONS => DESCRIBE_TRANSACTIONS,
        api::LIST_TRANSACTIONS => LIST_TRANSACTIONS,
        _ => return None,
    })
}

const TOPICS: &[Field] = &[field("name", Text), field("partitions", INT32_ARRAY)];

const ADD_PARTITIONS_TO_TXN: &[Field] = &[
    field(
        "transactions",
        Array(&[
            field("transactional_id", Text),
            field("producer_id", INT64),
            field("producer_epoch", INT16),
            field("verify_only", BOOL),
            field("topics", Array(TOPICS)),
        ]),
    )
    .since(4),
    field("transactional_id", Text).until(3),
    field("producer_id", INT64).until(3),
    field("producer_epoch", INT16).until(3),
    field("topics", Array(TOPICS)).until(3),
];

const ADD_OFFSETS_TO_TXN: &[Field] = &[
    field("transactional_id", Text),
    field("producer_id", INT64),
    field("producer_epoch", INT16),
    field("group_id", Text),
];

const END_TXN: &[Field] = &[
    field("transactional_id", Text),
    field("producer_id", INT64),
    field("producer_epoch", INT16),
    field("committed", BOOL),
];

const WRITE_TXN_MARKERS: &[Field] = &[field(
    "markers",
    Array(&[
        field("producer_id", INT64),
        field("producer_epoch", INT16),
        field("transaction_result", BOOL),
        field("topics", Array(&[field("name", Text), field("partition_indexes", INT32_ARRAY)])),
        field("coordinator_epoch", INT32),
    ]),
)];

const TXN_OFFSET_COMMIT: &[Field] = &[
    field("transactional_id", Text),
    field("group_id", Text),
    field("producer_id", INT64),
    field("producer_epoch", INT16),
    field("generation_id", INT32).since(3),
    field("member_id", Text).since(3),
    field("group_instance_id", Text).since(3).nullable(),
    field(
        "topics",
        Array(&[
            field("name", Text),
            field(
                "partitions",
                Array(&[
                    field("partition_index", INT32),
                    field("committed_offset", INT64),
                    field("committed_leader_epoch", INT32).since(2),
                    field("committed_metadata", Text).nullable(),
                ]),
            ),
        ]),
    ),
];

const DESCRIBE_PRODUCERS: &[Field] =
    &[field("topics", Array(&[field("name", Text), field("partition_indexes", INT32_ARRAY)]))];

const DESCRIBE_TRANSACTIONS: &[Field] = &[field("transactional_ids", TextArray)];

const LIST_TRANSACTIONS: &[Field] = &[
    field("state_filters", TextArray),
    field("producer_id_filters", FixedArray(8)),
    field("duration_filter", INT64).since(1),
    field("transactional_id_pattern", Text).since(2).nullable_since(2),
];
