//! The fields of every served request, in their order on the wire. Taken from the message definitions of
//! Apache Kafka 4.1 (clients/src/main/resources/common/message); the tests hold it against the generated
//! decoders, version by version. Only the versions in `api::SERVED` are described.

use crate::api;

/// What a field's bytes look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// So many bytes: numbers, booleans, UUIDs.
    Fixed(usize),
    Text,
    /// Bytes with a 32-bit length: records.
    Blob,
    /// Elements of so many bytes each.
    FixedArray(usize),
    TextArray,
    Array(&'static [Field]),
    Struct(&'static [Field]),
    /// A structure after one byte that says whether it is there.
    OptionalStruct(&'static [Field]),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    /// First and last version that have it.
    pub versions: (i16, i16),
    /// First version in which it may be null.
    pub nullable_since: i16,
    /// In the tagged section under this number instead of in its place.
    pub tag: Option<u32>,
}

impl Field {
    pub(super) fn exists_in(&self, version: i16) -> bool {
        self.versions.0 <= version && version <= self.versions.1
    }

    pub(super) const fn since(mut self, version: i16) -> Field {
        self.versions.0 = version;
        self
    }

    pub(super) const fn until(mut self, version: i16) -> Field {
        self.versions.1 = version;
        self
    }

    pub(super) const fn nullable(self) -> Field {
        self.nullable_since(0)
    }

    pub(super) const fn nullable_since(mut self, version: i16) -> Field {
        self.nullable_since = version;
        self
    }

    pub(super) const fn tagged(mut self, tag: u32) -> Field {
        self.tag = Some(tag);
        self
    }
}

pub(super) const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, versions: (0, i16::MAX), nullable_since: i16::MAX, tag: None }
}

pub(super) const BOOL: Kind = Kind::Fixed(1);
pub(super) const INT8: Kind = Kind::Fixed(1);
pub(super) const INT16: Kind = Kind::Fixed(2);
pub(super) const INT32: Kind = Kind::Fixed(4);
pub(super) const INT64: Kind = Kind::Fixed(8);
pub(super) const UUID: Kind = Kind::Fixed(16);
pub(super) const INT32_ARRAY: Kind = Kind::FixedArray(4);
use Kind::{Array, Blob, OptionalStruct, Struct, Text, TextArray};

/// Fields of a request.
pub(super) fn request(api_key: i16) -> Option<&'static [Field]> {
    Some(match api_key {
        api::PRODUCE => PRODUCE,
        api::FETCH => FETCH,
        api::LIST_OFFSETS => LIST_OFFSETS,
        api::METADATA => METADATA,
        api::FIND_COORDINATOR => FIND_COORDINATOR,
        api::API_VERSIONS => API_VERSIONS,
        api::CREATE_TOPICS => CREATE_TOPICS,
        api::DELETE_TOPICS => DELETE_TOPICS,
        api::DELETE_RECORDS => DELETE_RECORDS,
        api::INIT_PRODUCER_ID => INIT_PRODUCER_ID,
        api::OFFSET_FOR_LEADER_EPOCH => OFFSET_FOR_LEADER_EPOCH,
        api::DESCRIBE_CONFIGS => DESCRIBE_CONFIGS,
        api::ALTER_CONFIGS => ALTER_CONFIGS,
        api::DESCRIBE_LOG_DIRS => DESCRIBE_LOG_DIRS,
        api::CREATE_PARTITIONS => CREATE_PARTITIONS,
        api::ELECT_LEADERS => ELECT_LEADERS,
        api::ALTER_PARTITION_REASSIGNMENTS => ALTER_PARTITION_REASSIGNMENTS,
        api::LIST_PARTITION_REASSIGNMENTS => LIST_PARTITION_REASSIGNMENTS,
        api::INCREMENTAL_ALTER_CONFIGS => INCREMENTAL_ALTER_CONFIGS,
        api::DESCRIBE_CLUSTER => DESCRIBE_CLUSTER,
        api::DESCRIBE_TOPIC_PARTITIONS => DESCRIBE_TOPIC_PARTITIONS,
        _ => return super::groups::request(api_key),
    })
}

const PRODUCE: &[Field] = &[
    field("transactional_id", Text).nullable(),
    field("acks", INT16),
    field("timeout_ms", INT32),
    field(
        "topic_data",
        Array(&[
            field("name", Text).until(12),
            field("topic_id", UUID).since(13),
            field("partition_data", Array(&[field("index", INT32), field("records", Blob).nullable()])),
        ]),
    ),
];

const FETCH: &[Field] = &[
    field("cluster_id", Text).since(12).nullable().tagged(0),
    field("replica_id", INT32).until(14),
    field("replica_state", Struct(&[field("replica_id", INT32), field("replica_epoch", INT64)]))
        .since(15)
        .tagged(1),
    field("max_wait_ms", INT32),
    field("min_bytes", INT32),
    field("max_bytes", INT32),
    field("isolation_level", INT8),
    field("session_id", INT32).since(7),
    field("session_epoch", INT32).since(7),
    field(
        "topics",
        Array(&[
            field("topic", Text).until(12),
            field("topic_id", UUID).since(13),
            field("partitions", Array(FETCH_PARTITION)),
        ]),
    ),
    field(
        "forgotten_topics_data",
        Array(&[
            field("topic", Text).until(12),
            field("topic_id", UUID).since(13),
            field("partitions", INT32_ARRAY),
        ]),
    )
    .since(7),
    field("rack_id", Text).since(11),
];

const FETCH_PARTITION: &[Field] = &[
    field("partition", INT32),
    field("current_leader_epoch", INT32).since(9),
    field("fetch_offset", INT64),
    field("last_fetched_epoch", INT32).since(12),
    field("log_start_offset", INT64).since(5),
    field("partition_max_bytes", INT32),
    field("replica_directory_id", UUID).since(17).tagged(0),
    field("high_watermark", INT64).since(18).tagged(1),
];

const LIST_OFFSETS: &[Field] = &[
    field("replica_id", INT32),
    field("isolation_level", INT8).since(2),
    field(
        "topics",
        Array(&[
            field("name", Text),
            field(
                "partitions",
                Array(&[
                    field("partition_index", INT32),
                    field("current_leader_epoch", INT32).since(4),
                    field("timestamp", INT64),
                ]),
            ),
        ]),
    ),
    field("timeout_ms", INT32).since(10),
];

const METADATA: &[Field] = &[
    field("topics", Array(&[field("topic_id", UUID).since(10), field("name", Text).nullable_since(10)]))
        .nullable_since(1),
    field("allow_auto_topic_creation", BOOL).since(4),
    field("include_cluster_authorized_operations", BOOL).since(8).until(10),
    field("include_topic_authorized_operations", BOOL).since(8),
];

const FIND_COORDINATOR: &[Field] = &[
    field("key", Text).until(3),
    field("key_type", INT8).since(1),
    field("coordinator_keys", TextArray).since(4),
];

const API_VERSIONS: &[Field] =
    &[field("client_software_name", Text).since(3), field("client_software_version", Text).since(3)];

const CREATE_TOPICS: &[Field] = &[
    field(
        "topics",
        Array(&[
            field("name", Text),
            field("num_partitions", INT32),
            field("replication_factor", INT16),
            field("assignments", Array(&[field("partition_index", INT32), field("broker_ids", INT32_ARRAY)])),
            field("configs", Array(&[field("name", Text), field("value", Text).nullable()])),
        ]),
    ),
    field("timeout_ms", INT32),
    field("validate_only", BOOL),
];

const DELETE_TOPICS: &[Field] = &[
    field("topics", Array(&[field("name", Text).nullable(), field("topic_id", UUID)])).since(6),
    field("topic_names", TextArray).until(5),
    field("timeout_ms", INT32),
];

const DELETE_RECORDS: &[Field] = &[
    field(
        "topics",
        Array(&[
            field("name", Text),
            field("partitions", Array(&[field("partition_index", INT32), field("offset", INT64)])),
        ]),
    ),
    field("timeout_ms", INT32),
];

const INIT_PRODUCER_ID: &[Field] = &[
    field("transactional_id", Text).nullable(),
    field("transaction_timeout_ms", INT32),
    field("producer_id", INT64).since(3),
    field("producer_epoch", INT16).since(3),
];

const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    field("replica_id", INT32).since(3),
    field(
        "topics",
        Array(&[
            field("topic", Text),
            field(
                "partitions",
                Array(&[
                    field("partition", INT32),
                    field("current_leader_epoch", INT32),
                    field("leader_epoch", INT32),
                ]),
            ),
        ]),
    ),
];

const DESCRIBE_CONFIGS: &[Field] = &[
    field(
        "resources",
        Array(&[
            field("resource_type", INT8),
            field("resource_name", Text),
            field("configuration_keys", TextArray).nullable(),
        ]),
    ),
    field("include_synonyms", BOOL),
    field("include_documentation", BOOL).since(3),
];

const ALTER_CONFIGS: &[Field] = &[
    field(
        "resources",
        Array(&[
            field("resource_type", INT8),
            field("resource_name", Text),
            field("configs", Array(&[field("name", Text), field("value", Text).nullable()])),
        ]),
    ),
    field("validate_only", BOOL),
];

const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    field(
        "resources",
        Array(&[
            field("resource_type", INT8),
            field("resource_name", Text),
            field(
                "configs",
                Array(&[
                    field("name", Text),
                    field("config_operation", INT8),
                    field("value", Text).nullable(),
                ]),
            ),
        ]),
    ),
    field("validate_only", BOOL),
];

const DESCRIBE_LOG_DIRS: &[Field] =
    &[field("topics", Array(&[field("topic", Text), field("partitions", INT32_ARRAY)])).nullable()];

const CREATE_PARTITIONS: &[Field] = &[
    field(
        "topics",
        Array(&[
            field("name", Text),
            field("count", INT32),
            field("assignments", Array(&[field("broker_ids", INT32_ARRAY)])).nullable(),
        ]),
    ),
    field("timeout_ms", INT32),
    field("validate_only", BOOL),
];

const ELECT_LEADERS: &[Field] = &[
    field("election_type", INT8).since(1),
    field("topic_partitions", Array(&[field("topic", Text), field("partitions", INT32_ARRAY)])).nullable(),
    field("timeout_ms", INT32),
];

const ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    field("timeout_ms", INT32),
    field("allow_replication_factor_change", BOOL).since(1),
    field(
        "topics",
        Array(&[
            field("name", Text),
            field(
                "partitions",
                Array(&[field("partition_index", INT32), field("replicas", INT32_ARRAY).nullable()]),
            ),
        ]),
    ),
];

const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[
    field("timeout_ms", INT32),
    field("topics", Array(&[field("name", Text), field("partition_indexes", INT32_ARRAY)])).nullable(),
];

const DESCRIBE_CLUSTER: &[Field] = &[
    field("include_cluster_authorized_operations", BOOL),
    field("endpoint_type", INT8).since(1),
    field("include_fenced_brokers", BOOL).since(2),
];

const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    field("topics", Array(&[field("name", Text)])),
    field("response_partition_limit", INT32),
    field("cursor", OptionalStruct(&[field("topic_name", Text), field("partition_index", INT32)])).nullable(),
];
