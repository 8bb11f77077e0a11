//! The table of what is served: API keys and versions, as Apache Kafka 4.1 serves them to clients, ends
//! included.
//!
//! ApiVersions answers, the dispatcher and the shape check all read this one table, so that nothing is
//! advertised that is not decoded, and nothing decoded that is not served.

pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;
pub const LIST_OFFSETS: i16 = 2;
pub const METADATA: i16 = 3;
pub const OFFSET_COMMIT: i16 = 8;
pub const OFFSET_FETCH: i16 = 9;
pub const FIND_COORDINATOR: i16 = 10;
pub const JOIN_GROUP: i16 = 11;
pub const HEARTBEAT: i16 = 12;
pub const LEAVE_GROUP: i16 = 13;
pub const SYNC_GROUP: i16 = 14;
pub const DESCRIBE_GROUPS: i16 = 15;
pub const LIST_GROUPS: i16 = 16;
pub const API_VERSIONS: i16 = 18;
pub const CREATE_TOPICS: i16 = 19;
pub const DELETE_TOPICS: i16 = 20;
pub const DELETE_RECORDS: i16 = 21;
pub const INIT_PRODUCER_ID: i16 = 22;
pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
pub const ADD_OFFSETS_TO_TXN: i16 = 25;
pub const END_TXN: i16 = 26;
pub const WRITE_TXN_MARKERS: i16 = 27;
pub const TXN_OFFSET_COMMIT: i16 = 28;
pub const DESCRIBE_CONFIGS: i16 = 32;
pub const ALTER_CONFIGS: i16 = 33;
pub const DESCRIBE_LOG_DIRS: i16 = 35;
pub const CREATE_PARTITIONS: i16 = 37;
pub const DELETE_GROUPS: i16 = 42;
pub const ELECT_LEADERS: i16 = 43;
pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
pub const ALTER_PARTITION_REASSIGNMENTS: i16 = 45;
pub const LIST_PARTITION_REASSIGNMENTS: i16 = 46;
pub const OFFSET_DELETE: i16 = 47;
pub const DESCRIBE_CLUSTER: i16 = 60;
pub const DESCRIBE_PRODUCERS: i16 = 61;
pub const DESCRIBE_TRANSACTIONS: i16 = 65;
pub const LIST_TRANSACTIONS: i16 = 66;
pub const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
pub const CONSUMER_GROUP_DESCRIBE: i16 = 69;
pub const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;

/// The versions of one API, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    pub key: i16,
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
    /// What ApiVersions says the oldest is. Lower than `min` for Produce alone: librdkafka up to 2.x turns
    /// compression off towards a broker that does not list Produce 0, and never sends it (KAFKA-18659).
    pub advertised_min: i16,
    /// First version with compact lengths and tagged fields (KIP-482).
    pub flexible_since: i16,
}

impl ApiRange {
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_since
    }
}

const fn api(key: i16, name: &'static str, versions: [i16; 2], flexible_since: i16) -> ApiRange {
    let [min, max] = versions;
    assert!(min <= max, "a range has at least one version");
    let advertised_min = if key == PRODUCE { 0 } else { min };
    ApiRange { key, name, min, max, advertised_min, flexible_since }
}

/// Every API that is served, by ascending key.
pub const SERVED: &[ApiRange] = &[
    api(PRODUCE, "Produce", [3, 13], 9),
    api(FETCH, "Fetch", [4, 18], 12),
    api(LIST_OFFSETS, "ListOffsets", [1, 10], 6),
    api(METADATA, "Metadata", [0, 13], 9),
    // Versions 10 name topics by id; the decoders do not know them yet, and no client needs them.
    api(OFFSET_COMMIT, "OffsetCommit", [2, 9], 8),
    api(OFFSET_FETCH, "OffsetFetch", [1, 9], 6),
    api(FIND_COORDINATOR, "FindCoordinator", [0, 6], 3),
    api(JOIN_GROUP, "JoinGroup", [0, 9], 6),
    api(HEARTBEAT, "Heartbeat", [0, 4], 4),
    api(LEAVE_GROUP, "LeaveGroup", [0, 5], 4),
    api(SYNC_GROUP, "SyncGroup", [0, 5], 4),
    api(DESCRIBE_GROUPS, "DescribeGroups", [0, 6], 5),
    api(LIST_GROUPS, "ListGroups", [0, 5], 3),
    api(API_VERSIONS, "ApiVersions", [0, 4], 3),
    api(CREATE_TOPICS, "CreateTopics", [2, 7], 5),
    api(DELETE_TOPICS, "DeleteTopics", [1, 6], 4),
    api(DELETE_RECORDS, "DeleteRecords", [0, 2], 2),
    api(INIT_PRODUCER_ID, "InitProducerId", [0, 5], 2),
    api(OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", [2, 4], 4),
    api(ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn", [0, 5], 3),
    api(ADD_OFFSETS_TO_TXN, "AddOffsetsToTxn", [0, 4], 3),
    api(END_TXN, "EndTxn", [0, 5], 3),
    api(WRITE_TXN_MARKERS, "WriteTxnMarkers", [1, 1], 1),
    api(TXN_OFFSET_COMMIT, "TxnOffsetCommit", [0, 5], 3),
    api(DESCRIBE_CONFIGS, "DescribeConfigs", [1, 4], 4),
    api(ALTER_CONFIGS, "AlterConfigs", [0, 2], 2),
    api(DESCRIBE_LOG_DIRS, "DescribeLogDirs", [1, 4], 2),
    api(CREATE_PARTITIONS, "CreatePartitions", [0, 3], 2),
    api(DELETE_GROUPS, "DeleteGroups", [0, 2], 2),
    api(ELECT_LEADERS, "ElectLeaders", [0, 2], 2),
    api(INCREMENTAL_ALTER_CONFIGS, "IncrementalAlterConfigs", [0, 1], 1),
    api(ALTER_PARTITION_REASSIGNMENTS, "AlterPartitionReassignments", [0, 1], 0),
    api(LIST_PARTITION_REASSIGNMENTS, "ListPartitionReassignments", [0, 0], 0),
    api(OFFSET_DELETE, "OffsetDelete", [0, 0], i16::MAX),
    api(DESCRIBE_CLUSTER, "DescribeCluster", [0, 2], 0),
    api(DESCRIBE_PRODUCERS, "DescribeProducers", [0, 0], 0),
    api(DESCRIBE_TRANSACTIONS, "DescribeTransactions", [0, 0], 0),
    api(LIST_TRANSACTIONS, "ListTransactions", [0, 2], 0),
    api(CONSUMER_GROUP_HEARTBEAT, "ConsumerGroupHeartbeat", [0, 1], 0),
    api(CONSUMER_GROUP_DESCRIBE, "ConsumerGroupDescribe", [0, 1], 0),
    api(DESCRIBE_TOPIC_PARTITIONS, "DescribeTopicPartitions", [0, 0], 0),
];

/// The range of an API, if it is served at all.
pub fn find(key: i16) -> Option<&'static ApiRange> {
    SERVED.iter().find(|range| range.key == key)
}

/// Whether requests of this key and version are served.
pub fn is_served(key: i16, version: i16) -> bool {
    find(key).is_some_and(|range| range.serves(version))
}

/// Version of the request header: 1 has a client id, 2 tagged fields too. `None` when not served.
pub fn request_header_version(key: i16, version: i16) -> Option<i16> {
    let range = find(key).filter(|range| range.serves(version))?;
    Some(if range.is_flexible(version) { 2 } else { 1 })
}

/// Version of the response header: 1 has tagged fields. ApiVersions has 0 at every version, because a client
/// that has yet to learn the broker's versions must be able to read it (KIP-511).
pub fn response_header_version(key: i16, version: i16) -> i16 {
    let is_flexible = find(key).is_some_and(|range| range.is_flexible(version));
    i16::from(is_flexible && key != API_VERSIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::messages::ApiKey;

    #[test]
    fn the_table_agrees_with_the_decoders() {
        for range in SERVED {
            let key = ApiKey::try_from(range.key).expect("a known key");
            assert_eq!(format!("{key:?}"), range.name.replace("Key", ""), "{range:?}");
            let decoded = key.valid_versions();
            assert!(decoded.min <= range.min && range.max <= decoded.max, "{range:?} {decoded:?}");
            for version in range.min..=range.max {
                let header = request_header_version(range.key, version);
                assert_eq!(header, Some(key.request_header_version(version)), "{range:?} {version}");
                let header = response_header_version(range.key, version);
                assert_eq!(header, key.response_header_version(version), "{range:?} {version}");
            }
        }
    }

    #[test]
    fn keys_ascend_and_only_produce_pretends() {
        assert!(SERVED.windows(2).all(|pair| pair[0].key < pair[1].key));
        let pretending: Vec<_> = SERVED.iter().filter(|range| range.advertised_min != range.min).collect();
        assert_eq!(pretending.len(), 1);
        assert_eq!((pretending[0].key, pretending[0].advertised_min), (PRODUCE, 0));
        assert!(
            !is_served(PRODUCE, 0) && is_served(PRODUCE, 3) && !is_served(PRODUCE, 14) && !is_served(999, 0)
        );
    }
}
