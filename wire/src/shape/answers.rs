//! The fields of the answers that the command line's client reads, in their order on the wire, from the same
//! message definitions as the requests' (`table.rs`). The tests hold them against the generated encoders and
//! decoders, version by version.

use super::table::Kind::{Array, Blob, Struct, Text};
use super::table::{BOOL, Field, INT8, INT16, INT32, INT32_ARRAY, INT64, UUID, field};
use crate::api;

/// Fields of an answer; none for those that nobody here reads.
pub(super) fn answer(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        api::PRODUCE => PRODUCE,
        api::FETCH => FETCH,
        api::LIST_OFFSETS => LIST_OFFSETS,
        api::METADATA => METADATA,
        api::API_VERSIONS => API_VERSIONS,
        api::CREATE_TOPICS => CREATE_TOPICS,
        api::DELETE_TOPICS => DELETE_TOPICS,
        api::INIT_PRODUCER_ID => INIT_PRODUCER_ID,
        api::DESCRIBE_CONFIGS => DESCRIBE_CONFIGS,
        api::CREATE_PARTITIONS => CREATE_PARTITIONS,
        api::INCREMENTAL_ALTER_CONFIGS => INCREMENTAL_ALTER_CONFIGS,
        _ => return super::group_answers::answer(api_key),
    })
}

const NODE_ENDPOINTS: Field = field(
    "node_endpoints",
    Array(&[
        field("node_id", INT32),
        field("host", Text),
        field("port", INT32),
        field("rack", Text).nullable(),
    ]),
);
const CURRENT_LEADER: Field =
    field("current_leader", Struct(&[field("leader_id", INT32), field("leader_epoch", INT32)]));

const PRODUCE: &[Field] = &[
    field(
        "responses",
        Array(&[
            field("name", Text).until(12),
            field("topic_id", UUID).since(13),
            field(
                "partition_responses",
                Array(&[
                    field("index", INT32),
                    field("error_code", INT16),
                    field("base_offset", INT64),
                    field("log_append_time_ms", INT64),
                    field("log_start_offset", INT64).since(5),
                    field(
                        "record_errors",
                        Array(&[
                            field("batch_index", INT32),
                            field("batch_index_error_message", Text).nullable(),
                        ]),
                    )
                    .since(8),
                    field("error_message", Text).since(8).nullable(),
                    CURRENT_LEADER.since(10).tagged(0),
                ]),
            ),
        ]),
    ),
    field("throttle_time_ms", INT32),
    NODE_ENDPOINTS.since(10).tagged(0),
];

const FETCH: &[Field] = &[
    field("throttle_time_ms", INT32),
    field("error_code", INT16).since(7),
    field("session_id", INT32).since(7),
    field(
        "responses",
        Array(&[
            field("topic", Text).until(12),
            field("topic_id", UUID).since(13),
            field("partitions", Array(FETCH_PARTITION)),
        ]),
    ),
    NODE_ENDPOINTS.since(16).tagged(0),
];

const FETCH_PARTITION: &[Field] = &[
    field("partition_index", INT32),
    field("error_code", INT16),
    field("high_watermark", INT64),
    field("last_stable_offset", INT64),
    field("log_start_offset", INT64).since(5),
    field("aborted_transactions", Array(&[field("producer_id", INT64), field("first_offset", INT64)]))
        .nullable(),
    field("preferred_read_replica", INT32).since(11),
    field("records", Blob).nullable(),
    field("diverging_epoch", Struct(&[field("epoch", INT32), field("end_offset", INT64)]))
        .since(12)
        .tagged(0),
    CURRENT_LEADER.since(12).tagged(1),
    field("snapshot_id", Struct(&[field("end_offset", INT64), field("epoch", INT32)])).since(12).tagged(2),
];

const LIST_OFFSETS: &[Field] = &[
    field("throttle_time_ms", INT32).since(2),
    field(
        "topics",
        Array(&[
            field("name", Text),
            field(
                "partitions",
                Array(&[
                    field("partition_index", INT32),
                    field("error_code", INT16),
                    field("timestamp", INT64),
                    field("offset", INT64),
                    field("leader_epoch", INT32).since(4),
                ]),
            ),
        ]),
    ),
];

const METADATA: &[Field] = &[
    field("throttle_time_ms", INT32).since(3),
    field(
        "brokers",
        Array(&[
            field("node_id", INT32),
            field("host", Text),
            field("port", INT32),
            field("rack", Text).since(1).nullable(),
        ]),
    ),
    field("cluster_id", Text).since(2).nullable(),
    field("controller_id", INT32).since(1),
    field(
        "topics",
        Array(&[
            field("error_code", INT16),
            field("name", Text).nullable_since(12),
            field("topic_id", UUID).since(10),
            field("is_internal", BOOL).since(1),
            field(
                "partitions",
                Array(&[
                    field("error_code", INT16),
                    field("partition_index", INT32),
                    field("leader_id", INT32),
                    field("leader_epoch", INT32).since(7),
                    field("replica_nodes", INT32_ARRAY),
                    field("isr_nodes", INT32_ARRAY),
                    field("offline_replicas", INT32_ARRAY).since(5),
                ]),
            ),
            field("topic_authorized_operations", INT32).since(8),
        ]),
    ),
    field("cluster_authorized_operations", INT32).since(8).until(10),
    field("error_code", INT16).since(13),
];

const API_VERSIONS: &[Field] = &[
    field("error_code", INT16),
    field(
        "api_keys",
        Array(&[field("api_key", INT16), field("min_version", INT16), field("max_version", INT16)]),
    ),
    field("throttle_time_ms", INT32).since(1),
    field(
        "supported_features",
        Array(&[field("name", Text), field("min_version", INT16), field("max_version", INT16)]),
    )
    .since(3)
    .tagged(0),
    field("finalized_features_epoch", INT64).since(3).tagged(1),
    field(
        "finalized_features",
        Array(&[field("name", Text), field("max_version_level", INT16), field("min_version_level", INT16)]),
    )
    .since(3)
    .tagged(2),
    field("zk_migration_ready", BOOL).since(3).tagged(3),
];

const CREATE_TOPICS: &[Field] = &[
    field("throttle_time_ms", INT32),
    field(
        "topics",
        Array(&[
            field("name", Text),
            field("topic_id", UUID).since(7),
            field("error_code", INT16),
            field("error_message", Text).nullable(),
            field("num_partitions", INT32).since(5),
            field("replication_factor", INT16).since(5),
            field(
                "configs",
                Array(&[
                    field("name", Text),
                    field("value", Text).nullable(),
                    field("read_only", BOOL),
                    field("config_source", INT8),
                    field("is_sensitive", BOOL),
                ]),
            )
            .since(5)
            .nullable(),
            field("topic_config_error_code", INT16).since(5).tagged(0),
        ]),
    ),
];

const DELETE_TOPICS: &[Field] = &[
    field("throttle_time_ms", INT32),
    field(
        "responses",
        Array(&[
            field("name", Text).nullable_since(6),
            field("topic_id", UUID).since(6),
            field("error_code", INT16),
            field("error_message", Text).since(5).nullable(),
        ]),
    ),
];

const INIT_PRODUCER_ID: &[Field] = &[
    field("throttle_time_ms", INT32),
    field("error_code", INT16),
    field("producer_id", INT64),
    field("producer_epoch", INT16),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    field("throttle_time_ms", INT32),
    field(
        "results",
        Array(&[
            field("error_code", INT16),
            field("error_message", Text).nullable(),
            field("resource_type", INT8),
            field("resource_name", Text),
            field("configs", Array(DESCRIBED_CONFIG)),
        ]),
    ),
];

const DESCRIBED_CONFIG: &[Field] = &[
    field("name", Text),
    field("value", Text).nullable(),
    field("read_only", BOOL),
    field("config_source", INT8),
    field("is_sensitive", BOOL),
    field("synonyms", Array(&[field("name", Text), field("value", Text).nullable(), field("source", INT8)])),
    field("config_type", INT8).since(3),
    field("documentation", Text).since(3).nullable(),
];

const CREATE_PARTITIONS: &[Field] = &[
    field("throttle_time_ms", INT32),
    field(
        "results",
        Array(&[field("name", Text), field("error_code", INT16), field("error_message", Text).nullable()]),
    ),
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    field("throttle_time_ms", INT32),
    field(
        "responses",
        Array(&[
            field("error_code", INT16),
            field("error_message", Text).nullable(),
            field("resource_type", INT8),
            field("resource_name", Text),
        ]),
    ),
];
