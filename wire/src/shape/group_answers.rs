//! The fields of the answers about consumer groups that the command line's client reads; see `answers.rs`.

use super::table::Kind::{Array, Blob, Struct, Text, TextArray};
use super::table::{Field, INT8, INT16, INT32, INT32_ARRAY, INT64, UUID, field};
use crate::api;

/// Fields of an answer; none for those that nobody here reads.
pub(super) fn answer(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        api::FIND_COORDINATOR => FIND_COORDINATOR,
        api::LIST_GROUPS => LIST_GROUPS,
        api::DESCRIBE_GROUPS => DESCRIBE_GROUPS,
        api::DELETE_GROUPS => DELETE_GROUPS,
        api::OFFSET_FETCH => OFFSET_FETCH,
        api::OFFSET_COMMIT => OFFSET_COMMIT,
        api::CONSUMER_GROUP_DESCRIBE => CONSUMER_GROUP_DESCRIBE,
        _ => return None,
    })
}

const FIND_COORDINATOR: &[Field] = &[
    field("throttle_time_ms", INT32).since(1),
    field("error_code", INT16).until(3),
    field("error_message", Text).since(1).until(3).nullable(),
    field("node_id", INT32).until(3),
    field("host", Text).until(3),
    field("port", INT32).until(3),
    field(
        "coordinators",
        Array(&[
            field("key", Text),
            field("node_id", INT32),
            field("host", Text),
            field("port", INT32),
            field("error_code", INT16),
            field("error_message", Text).nullable(),
        ]),
    )
    .since(4),
];

const LIST_GROUPS: &[Field] = &[
    field("throttle_time_ms", INT32).since(1),
    field("error_code", INT16),
    field(
        "groups",
        Array(&[
            field("group_id", Text),
            field("protocol_type", Text),
            field("group_state", Text).since(4),
            field("group_type", Text).since(5),
        ]),
    ),
];

const DESCRIBE_GROUPS: &[Field] = &[
    field("throttle_time_ms", INT32).since(1),
    field(
        "groups",
        Array(&[
            field("error_code", INT16),
            field("error_message", Text).since(6).nullable(),
            field("group_id", Text),
            field("group_state", Text),
            field("protocol_type", Text),
            field("protocol_data", Text),
            field(
                "members",
                Array(&[
                    field("member_id", Text),
                    field("group_instance_id", Text).since(4).nullable(),
                    field("client_id", Text),
                    field("client_host", Text),
                    field("member_metadata", Blob),
                    field("member_assignment", Blob),
                ]),
            ),
            field("authorized_operations", INT32).since(3),
        ]),
    ),
];

const DELETE_GROUPS: &[Field] = &[
    field("throttle_time_ms", INT32),
    field("results", Array(&[field("group_id", Text), field("error_code", INT16)])),
];

const OFFSET_FETCH: &[Field] = &[
    field("throttle_time_ms", INT32).since(3),
    field("topics", Array(&[field("name", Text), field("partitions", Array(FETCHED_OFFSET))])).until(7),
    field("error_code", INT16).since(2).until(7),
    field(
        "groups",
        Array(&[
            field("group_id", Text),
            field("topics", Array(&[field("name", Text), field("partitions", Array(FETCHED_OFFSET))])),
            field("error_code", INT16),
        ]),
    )
    .since(8),
];

const FETCHED_OFFSET: &[Field] = &[
    field("partition_index", INT32),
    field("committed_offset", INT64),
    field("committed_leader_epoch", INT32).since(5),
    field("metadata", Text).nullable(),
    field("error_code", INT16),
];

const OFFSET_COMMIT: &[Field] = &[
    field("throttle_time_ms", INT32).since(3),
    field(
        "topics",
        Array(&[
            field("name", Text),
            field("partitions", Array(&[field("partition_index", INT32), field("error_code", INT16)])),
        ]),
    ),
];

const ASSIGNMENT: &[Field] = &[field(
    "topic_partitions",
    Array(&[field("topic_id", UUID), field("topic_name", Text), field("partitions", INT32_ARRAY)]),
)];

const CONSUMER_GROUP_DESCRIBE: &[Field] = &[
    field("throttle_time_ms", INT32),
    field(
        "groups",
        Array(&[
            field("error_code", INT16),
            field("error_message", Text).nullable(),
            field("group_id", Text),
            field("group_state", Text),
            field("group_epoch", INT32),
            field("assignment_epoch", INT32),
            field("assignor_name", Text),
            field(
                "members",
                Array(&[
                    field("member_id", Text),
                    field("instance_id", Text).nullable(),
                    field("rack_id", Text).nullable(),
                    field("member_epoch", INT32),
                    field("client_id", Text),
                    field("client_host", Text),
                    field("subscribed_topic_names", TextArray),
                    field("subscribed_topic_regex", Text).nullable(),
                    field("assignment", Struct(ASSIGNMENT)),
                    field("target_assignment", Struct(ASSIGNMENT)),
                    field("member_type", INT8).since(1),
                ]),
            ),
            field("authorized_operations", INT32),
        ]),
    ),
];
