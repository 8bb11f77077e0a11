//! The fields of the requests of consumer groups and their offsets, from the same message definitions as the
//! others (`table.rs`) and held against the generated decoders by the same tests.

use super::table::Kind::{Array, Blob, Text, TextArray};
use super::table::{BOOL, Field, INT32, INT32_ARRAY, INT64, UUID, field};
use crate::api;

/// Fields of a request.
pub(super) fn request(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        api::OFFSET_COMMIT => OFFSET_COMMIT,
        api::OFFSET_FETCH => OFFSET_FETCH,
        api::JOIN_GROUP => JOIN_GROUP,
        api::HEARTBEAT => HEARTBEAT,
        api::LEAVE_GROUP => LEAVE_GROUP,
        api::SYNC_GROUP => SYNC_GROUP,
        api::DESCRIBE_GROUPS => DESCRIBE_GROUPS,
        api::LIST_GROUPS => LIST_GROUPS,
        api::DELETE_GROUPS => DELETE_GROUPS,
        api::OFFSET_DELETE => OFFSET_DELETE,
        api::CONSUMER_GROUP_HEARTBEAT => CONSUMER_GROUP_HEARTBEAT,
        api::CONSUMER_GROUP_DESCRIBE => CONSUMER_GROUP_DESCRIBE,
        _ => return super::transactions::request(api_key),
    })
}

const OFFSET_COMMIT: &[Field] = &[
    field("group_id", Text),
    field("generation_id_or_member_epoch", INT32),
    field("member_id", Text),
    field("group_instance_id", Text).since(7).nullable(),
    field("retention_time_ms", INT64).until(4),
    field(
        "topics",
        Array(&[
            field("name", Text),
            field(
                "partitions",
                Array(&[
                    field("partition_index", INT32),
                    field("committed_offset", INT64),
                    field("committed_leader_epoch", INT32).since(6),
                    field("committed_metadata", Text).nullable(),
                ]),
            ),
        ]),
    ),
];

const OFFSET_FETCH: &[Field] = &[
    field("group_id", Text).until(7),
    field("topics", Array(&[field("name", Text), field("partition_indexes", INT32_ARRAY)]))
        .until(7)
        .nullable_since(2),
    field(
        "groups",
        Array(&[
            field("group_id", Text),
            field("member_id", Text).since(9).nullable(),
            field("member_epoch", INT32).since(9),
            field("topics", Array(&[field("name", Text), field("partition_indexes", INT32_ARRAY)]))
                .nullable(),
        ]),
    )
    .since(8),
    field("require_stable", BOOL).since(7),
];

const JOIN_GROUP: &[Field] = &[
    field("group_id", Text),
    field("session_timeout_ms", INT32),
    field("rebalance_timeout_ms", INT32).since(1),
    field("member_id", Text),
    field("group_instance_id", Text).since(5).nullable(),
    field("protocol_type", Text),
    field("protocols", Array(&[field("name", Text), field("metadata", Blob)])),
    field("reason", Text).since(8).nullable(),
];

const HEARTBEAT: &[Field] = &[
    field("group_id", Text),
    field("generation_id", INT32),
    field("member_id", Text),
    field("group_instance_id", Text).since(3).nullable(),
];

const LEAVE_GROUP: &[Field] = &[
    field("group_id", Text),
    field("member_id", Text).until(2),
    field(
        "members",
        Array(&[
            field("member_id", Text),
            field("group_instance_id", Text).nullable(),
            field("reason", Text).since(5).nullable(),
        ]),
    )
    .since(3),
];

const SYNC_GROUP: &[Field] = &[
    field("group_id", Text),
    field("generation_id", INT32),
    field("member_id", Text),
    field("group_instance_id", Text).since(3).nullable(),
    field("protocol_type", Text).since(5).nullable(),
    field("protocol_name", Text).since(5).nullable(),
    field("assignments", Array(&[field("member_id", Text), field("assignment", Blob)])),
];

const DESCRIBE_GROUPS: &[Field] =
    &[field("groups", TextArray), field("include_authorized_operations", BOOL).since(3)];

const LIST_GROUPS: &[Field] =
    &[field("states_filter", TextArray).since(4), field("types_filter", TextArray).since(5)];

const DELETE_GROUPS: &[Field] = &[field("groups_names", TextArray)];

const OFFSET_DELETE: &[Field] = &[
    field("group_id", Text),
    field(
        "topics",
        Array(&[field("name", Text), field("partitions", Array(&[field("partition_index", INT32)]))]),
    ),
];

const CONSUMER_GROUP_HEARTBEAT: &[Field] = &[
    field("group_id", Text),
    field("member_id", Text),
    field("member_epoch", INT32),
    field("instance_id", Text).nullable(),
    field("rack_id", Text).nullable(),
    field("rebalance_timeout_ms", INT32),
    field("subscribed_topic_names", TextArray).nullable(),
    field("subscribed_topic_regex", Text).since(1).nullable(),
    field("server_assignor", Text).nullable(),
    field("topic_partitions", Array(&[field("topic_id", UUID), field("partitions", INT32_ARRAY)])).nullable(),
];

const CONSUMER_GROUP_DESCRIBE: &[Field] =
    &[field("group_ids", TextArray), field("include_authorized_operations", BOOL)];
