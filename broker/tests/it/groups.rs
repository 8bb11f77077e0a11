//! Consumer groups over the wire: members by hand, offsets that survive, both protocols.

use std::time::Duration;

use bytes::Bytes;
use highwater_wire::api;
use highwater_wire::kafka::messages::join_group_request::JoinGroupRequestProtocol;
use highwater_wire::kafka::messages::leave_group_request::MemberIdentity;
use highwater_wire::kafka::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use highwater_wire::kafka::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use highwater_wire::kafka::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use highwater_wire::kafka::messages::sync_group_request::SyncGroupRequestAssignment;
use highwater_wire::kafka::messages::*;
use highwater_wire::kafka::protocol::StrBytes;

use crate::it::harness::*;

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

async fn harness() -> Harness {
    let harness = Harness::start_with(|settings| {
        settings.offsets_topic_num_partitions = 3;
        settings.group_initial_rebalance_delay_ms = 0;
        // Nobody's session may lapse because the machine is slow.
        settings.group_consumer_session_timeout_ms = 10 * PATIENCE_MS;
    })
    .await;
    harness.create_topic("t", 4, &[]).await;
    harness
}

/// Asks for the coordinator until every shard is loaded.
pub async fn coordinator(client: &mut Client, id: &str) {
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(id)]);
    let found: FindCoordinatorResponse = client.call(api::FIND_COORDINATOR, 6, &request).await;
    let one = &found.coordinators[0];
    assert_eq!((one.error_code, one.node_id.0, one.host.as_str()), (0, 1, "127.0.0.1"));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // With three partitions each of these letters has a shard of its own.
    for id in [id, "a", "b", "c"] {
        while fetch_offset(client, 8, id).await.0 == 14 {
            assert!(tokio::time::Instant::now() < deadline, "never loaded");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub fn join_request(id: &str, member: &str, metadata: &'static [u8]) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(metadata));
    JoinGroupRequest::default()
        .with_group_id(group(id))
        .with_session_timeout_ms(2 * PATIENCE_MS)
        .with_rebalance_timeout_ms(2 * PATIENCE_MS)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// A member id from the coordinator (KIP-394).
pub async fn member_id(client: &mut Client, id: &str) -> String {
    let joined: JoinGroupResponse = client.call(api::JOIN_GROUP, 9, &join_request(id, "", b"m")).await;
    assert_eq!(joined.error_code, 79, "{joined:?}");
    joined.member_id.to_string()
}

pub async fn sync(
    client: &mut Client,
    id: &str,
    generation: i32,
    member: &str,
    assignments: &[(&str, &'static [u8])],
) -> SyncGroupResponse {
    let assignment = |(member, bytes): &(&str, &'static [u8])| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from_static(bytes))
    };
    let request = SyncGroupRequest::default()
        .with_group_id(group(id))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments.iter().map(assignment).collect());
    client.call(api::SYNC_GROUP, 5, &request).await
}

pub async fn heartbeat(client: &mut Client, id: &str, generation: i32, member: &str) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(group(id))
        .with_generation_id(generation)
        .with_member_id(text(member));
    let answer: HeartbeatResponse = client.call(api::HEARTBEAT, 4, &request).await;
    answer.error_code
}

/// Commits an offset for `partition` of `topic`; the partition's code.
pub async fn commit(
    client: &mut Client,
    version: i16,
    id: &str,
    (generation, member): (i32, &str),
    (topic, partition, offset): (&str, i32, i64),
) -> i16 {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group(id))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member))
        .with_topics(vec![topic]);
    let answer: OffsetCommitResponse = client.call(api::OFFSET_COMMIT, version, &request).await;
    answer.topics[0].partitions[0].error_code
}

/// Error and committed offset of partition 0 of `t`.
pub async fn fetch_offset(client: &mut Client, version: i16, id: &str) -> (i16, i64) {
    let request = OffsetFetchRequest::default();
    if version >= 8 {
        let topic = OffsetFetchRequestTopics::default().with_name(name("t")).with_partition_indexes(vec![0]);
        let of_group = OffsetFetchRequestGroup::default()
            .with_group_id(group(id))
            .with_member_epoch(-1)
            .with_topics(Some(vec![topic]));
        let request = request.with_groups(vec![of_group]);
        let answer: OffsetFetchResponse = client.call(api::OFFSET_FETCH, version, &request).await;
        let answer = &answer.groups[0];
        return match answer.error_code {
            0 => (0, answer.topics[0].partitions[0].committed_offset),
            code => (code, -1),
        };
    }
    let topic = OffsetFetchRequestTopic::default().with_name(name("t")).with_partition_indexes(vec![0]);
    let request = request.with_group_id(group(id)).with_topics(Some(vec![topic]));
    let answer: OffsetFetchResponse = client.call(api::OFFSET_FETCH, version, &request).await;
    match answer.error_code {
        0 => {
            let partition = &answer.topics[0].partitions[0];
            (partition.error_code, partition.committed_offset)
        }
        code => (code, -1),
    }
}

async fn describe(client: &mut Client, version: i16, id: &str) -> describe_groups_response::DescribedGroup {
    let request = DescribeGroupsRequest::default().with_groups(vec![group(id)]);
    let answer: DescribeGroupsResponse = client.call(api::DESCRIBE_GROUPS, version, &request).await;
    answer.groups[0].clone()
}

#[tokio::test]
async fn two_members_share_commit_and_find_their_offsets_after_a_restart() {
    let harness = harness().await;
    let (mut one, mut two) = (harness.client().await, harness.client().await);
    coordinator(&mut one, "g").await;
    let first = member_id(&mut one, "g").await;
    let joined: JoinGroupResponse = one.call(api::JOIN_GROUP, 9, &join_request("g", &first, b"1")).await;
    assert_eq!((joined.error_code, joined.generation_id, joined.leader.as_str()), (0, 1, first.as_str()));
    assert_eq!(joined.members.len(), 1);
    let synced = sync(&mut one, "g", 1, &first, &[(&first, b"all")]).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    assert_eq!(heartbeat(&mut one, "g", 1, &first).await, 0);
    assert_eq!(heartbeat(&mut one, "g", 1, "stranger").await, 25);

    // A second member makes the first one join again.
    let second = member_id(&mut two, "g").await;
    two.send(api::JOIN_GROUP, 9, &join_request("g", &second, b"2")).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while heartbeat(&mut one, "g", 1, &first).await != 27 {
        assert!(tokio::time::Instant::now() < deadline, "the first member never heard of the rebalance");
    }
    let joined: JoinGroupResponse = one.call(api::JOIN_GROUP, 9, &join_request("g", &first, b"1")).await;
    assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 2, 2));
    let other: JoinGroupResponse = decode(api::JOIN_GROUP, 9, two.receive().await.1);
    assert_eq!((other.error_code, other.generation_id, other.members.len()), (0, 2, 0));
    assert_eq!(commit(&mut one, 8, "g", (2, &first), ("t", 0, 1)).await, 27, "not synced yet");
    let synced = sync(&mut one, "g", 2, &first, &[(&first, b"a"), (&second, b"b")]).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"a"[..]));
    let synced = sync(&mut two, "g", 2, &second, &[]).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"b"[..]));

    for version in 2..=9 {
        let offset = i64::from(version) * 10;
        let code = commit(&mut one, version, "g", (2, &first), ("t", 0, offset)).await;
        assert_eq!(code, 0, "v{version}");
        assert_eq!(fetch_offset(&mut two, version, "g").await, (0, offset), "v{version}");
    }
    assert_eq!(fetch_offset(&mut two, 1, "g").await, (0, 90));
    assert_eq!(commit(&mut one, 9, "g", (1, &first), ("t", 0, 7)).await, 22, "a dead generation");
    assert_eq!(commit(&mut one, 9, "g", (2, "stranger"), ("t", 0, 7)).await, 25);
    assert_eq!(commit(&mut one, 9, "g", (2, &first), ("nothing", 0, 7)).await, 3);
    assert_eq!(commit(&mut one, 9, "g", (2, &first), ("t", 4, 7)).await, 3);
    let missing = describe(&mut one, 6, "nobody").await;
    assert_eq!((missing.error_code, missing.group_state.as_str()), (69, "Dead"));
    assert_eq!(missing.error_message.as_deref(), Some("Group nobody not found."));
    let seen = describe(&mut one, 6, "g").await;
    assert_eq!((seen.error_code, seen.group_state.as_str(), seen.members.len()), (0, "Stable", 2));
    assert!(
        seen.members.iter().all(|m| m.client_id.as_str() == "test" && m.client_host.as_str() == "/127.0.0.1")
    );

    let harness = harness.stop().await.start().await;
    let (mut one, mut two) = (harness.client().await, harness.client().await);
    coordinator(&mut one, "g").await;
    assert_eq!(fetch_offset(&mut one, 9, "g").await, (0, 90), "the newest commit survived");
    assert_eq!(heartbeat(&mut one, "g", 2, &first).await, 0, "the members survived");
    assert_eq!(heartbeat(&mut two, "g", 2, &second).await, 0);
    assert_eq!(commit(&mut two, 9, "g", (2, &second), ("t", 0, 91)).await, 0);
    assert_eq!(fetch_offset(&mut one, 2, "g").await, (0, 91));
    harness.stop().await;
}

#[tokio::test]
async fn groups_are_listed_emptied_and_deleted() {
    let harness = harness().await;
    let mut client = harness.client().await;
    coordinator(&mut client, "g").await;
    assert_eq!(fetch_offset(&mut client, 9, "nobody").await, (0, -1));
    for id in ["a", "b", "c", "d"] {
        assert_eq!(commit(&mut client, 9, id, (-1, ""), ("t", 0, 3)).await, 0, "without a member");
    }
    let member = member_id(&mut client, "g").await;
    let _: JoinGroupResponse = client.call(api::JOIN_GROUP, 9, &join_request("g", &member, b"1")).await;
    sync(&mut client, "g", 1, &member, &[(&member, b"x")]).await;
    for version in 0..=5 {
        let listed: ListGroupsResponse =
            client.call(api::LIST_GROUPS, version, &ListGroupsRequest::default()).await;
        let mut ids: Vec<String> = listed.groups.iter().map(|g| g.group_id.to_string()).collect();
        ids.sort();
        assert_eq!(
            (listed.error_code, ids),
            (0, ["a", "b", "c", "d", "g"].map(String::from).to_vec()),
            "v{version}"
        );
    }
    let stable = ListGroupsRequest::default().with_states_filter(vec![text("Stable")]);
    let listed: ListGroupsResponse = client.call(api::LIST_GROUPS, 5, &stable).await;
    assert_eq!(listed.groups.len(), 1);
    assert_eq!(listed.groups[0].group_type.as_str(), "classic");

    for version in 0..=6 {
        assert_eq!(describe(&mut client, version, "a").await.group_state.as_str(), "Empty", "v{version}");
    }
    let delete = |ids: &[&str]| {
        DeleteGroupsRequest::default().with_groups_names(ids.iter().map(|id| group(id)).collect())
    };
    let deleted: DeleteGroupsResponse =
        client.call(api::DELETE_GROUPS, 2, &delete(&["g", "a", "nobody"])).await;
    let codes: Vec<i16> = deleted.results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [68, 0, 69]);
    let forget = |topic: &str| {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
        let topic =
            OffsetDeleteRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        OffsetDeleteRequest::default().with_group_id(group("b")).with_topics(vec![topic])
    };
    let forgotten: OffsetDeleteResponse = client.call(api::OFFSET_DELETE, 0, &forget("t")).await;
    assert_eq!((forgotten.error_code, forgotten.topics[0].partitions[0].error_code), (0, 0));
    assert_eq!(fetch_offset(&mut client, 9, "b").await, (0, -1));
    let unknown: OffsetDeleteResponse = client.call(api::OFFSET_DELETE, 0, &forget("nothing")).await;
    assert_eq!(unknown.topics[0].partitions[0].error_code, 3);

    let leaving = MemberIdentity::default().with_member_id(text(&member));
    let leave = LeaveGroupRequest::default().with_group_id(group("g")).with_members(vec![leaving]);
    let left: LeaveGroupResponse = client.call(api::LEAVE_GROUP, 5, &leave).await;
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
    let deleted: DeleteGroupsResponse = client.call(api::DELETE_GROUPS, 0, &delete(&["g"])).await;
    assert_eq!(deleted.results[0].error_code, 0);
    assert_eq!(describe(&mut client, 5, "g").await.group_state.as_str(), "Dead");

    // The topics' offsets go with the topic.
    let request =
        DeleteTopicsRequest::default().with_topic_names(vec![name("t")]).with_timeout_ms(PATIENCE_MS);
    let _: DeleteTopicsResponse = client.call(api::DELETE_TOPICS, 5, &request).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while fetch_offset(&mut client, 9, "c").await != (0, -1) {
        assert!(tokio::time::Instant::now() < deadline, "offsets of a topic that is gone");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    harness.stop().await;
}

async fn beat(
    client: &mut Client,
    member: &str,
    epoch: i32,
    is_full: bool,
    owned: Option<Vec<consumer_group_heartbeat_request::TopicPartitions>>,
) -> ConsumerGroupHeartbeatResponse {
    let mut request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group("k"))
        .with_member_id(text(member))
        .with_member_epoch(epoch)
        .with_rebalance_timeout_ms(-1)
        .with_subscribed_topic_names(None)
        .with_topic_partitions(owned);
    if is_full {
        request = request
            .with_rebalance_timeout_ms(2 * PATIENCE_MS)
            .with_subscribed_topic_names(Some(vec![name("t")]))
            .with_topic_partitions(Some(Vec::new()));
    }
    client.call(api::CONSUMER_GROUP_HEARTBEAT, 1, &request).await
}

/// A member of a consumer group, as far as the test plays it.
struct Member {
    id: &'static str,
    epoch: i32,
    owned: Vec<consumer_group_heartbeat_request::TopicPartitions>,
}

impl Member {
    /// One heartbeat; takes over what it is told at once.
    async fn beat(&mut self, client: &mut Client) {
        let answer = match self.epoch {
            0 => beat(client, self.id, 0, true, None).await,
            epoch => beat(client, self.id, epoch, false, Some(self.owned.clone())).await,
        };
        assert_eq!(answer.error_code, 0, "{answer:?}");
        self.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            let owned = assignment.topic_partitions.into_iter().map(|topic| {
                consumer_group_heartbeat_request::TopicPartitions::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(topic.partitions)
            });
            self.owned = owned.collect();
        }
    }

    fn partitions(&self) -> Vec<i32> {
        self.owned.iter().flat_map(|topic| topic.partitions.clone()).collect()
    }
}

#[tokio::test]
async fn members_of_the_new_protocol_share_the_partitions() {
    let harness = harness().await;
    let mut client = harness.client().await;
    coordinator(&mut client, "k").await;
    let mut one = Member { id: "member-1", epoch: 0, owned: Vec::new() };
    let mut two = Member { id: "member-2", epoch: 0, owned: Vec::new() };
    let nameless = beat(&mut client, "", 0, true, None).await;
    assert_eq!(nameless.error_code, 42, "version 1 members have an id");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while one.partitions().len() != 4 {
        assert!(tokio::time::Instant::now() < deadline, "never assigned");
        one.beat(&mut client).await;
    }
    while (one.partitions().len(), two.partitions().len()) != (2, 2) {
        assert!(tokio::time::Instant::now() < deadline, "never balanced");
        one.beat(&mut client).await;
        two.beat(&mut client).await;
    }
    one.beat(&mut client).await;
    two.beat(&mut client).await;
    let mut all = [one.partitions(), two.partitions()].concat();
    all.sort();
    assert_eq!(all, [0, 1, 2, 3]);
    assert_eq!(commit(&mut client, 9, "k", (one.epoch, one.id), ("t", 0, 5)).await, 0);
    assert_eq!(commit(&mut client, 9, "k", (one.epoch - 1, one.id), ("t", 0, 6)).await, 113);
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group("k"), group("nobody")]);
    for version in 0..=1 {
        let answer: ConsumerGroupDescribeResponse =
            client.call(api::CONSUMER_GROUP_DESCRIBE, version, &request).await;
        let described = &answer.groups[0];
        assert_eq!((described.error_code, described.group_state.as_str()), (0, "Stable"), "v{version}");
        let topics = described.members.iter().flat_map(|m| &m.assignment.topic_partitions);
        assert!(topics.clone().all(|t| t.topic_name.as_str() == "t"));
        assert_eq!(topics.map(|t| t.partitions.len()).sum::<usize>(), 4);
        let missing = &answer.groups[1];
        assert_eq!(missing.error_code, 69);
        assert_eq!(missing.error_message.as_deref(), Some("Group nobody not found."));
    }
    let left = beat(&mut client, two.id, -1, false, None).await;
    assert_eq!((left.error_code, left.member_epoch), (0, -1));
    while one.partitions().len() != 4 {
        assert!(tokio::time::Instant::now() < deadline, "nobody took over");
        one.beat(&mut client).await;
    }
    harness.stop().await;
}

#[tokio::test]
async fn the_internal_topic_is_internal() {
    let harness = harness().await;
    let mut client = harness.client().await;
    let early = heartbeat(&mut client, "g", 1, "m").await;
    assert_eq!(early, 16, "nobody has asked for a coordinator yet");
    for version in 0..=3 {
        let request = FindCoordinatorRequest::default().with_key(text("g"));
        let found: FindCoordinatorResponse = client.call(api::FIND_COORDINATOR, version, &request).await;
        assert_eq!((found.error_code, found.node_id.0), (0, 1), "v{version}");
    }
    let request = MetadataRequest::default().with_topics(None);
    let known: MetadataResponse = client.call(api::METADATA, 12, &request).await;
    let internal = known.topics.iter().find(|topic| topic.is_internal).expect("the internal topic");
    assert_eq!(internal.name.as_ref().map(|name| name.to_string()).as_deref(), Some("__consumer_offsets"));
    assert_eq!(internal.partitions.len(), 3);
    assert_eq!(client.produce(9, "__consumer_offsets", 0, batch(&[b"x"])).await.error_code, 17);
    let topic = harness.node.coordinator.with_state(|state| {
        state.topic_by_name("__consumer_offsets").map(|topic| topic.config.clone()).expect("it was created")
    });
    assert!(topic.cleanup_policy.compact && !topic.cleanup_policy.delete && !topic.tier_enabled);
    harness.stop().await;
}

#[tokio::test]
async fn a_parked_join_is_answered_when_the_broker_stops() {
    let harness = harness().await;
    let (mut one, mut two) = (harness.client().await, harness.client().await);
    coordinator(&mut one, "g").await;
    let first = member_id(&mut one, "g").await;
    let _: JoinGroupResponse = one.call(api::JOIN_GROUP, 9, &join_request("g", &first, b"1")).await;
    sync(&mut one, "g", 1, &first, &[(&first, b"x")]).await;
    let second = member_id(&mut two, "g").await;
    two.send(api::JOIN_GROUP, 9, &join_request("g", &second, b"2")).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while heartbeat(&mut one, "g", 1, &first).await != 27 {
        assert!(tokio::time::Instant::now() < deadline, "no rebalance");
    }
    // The rebalance would wait for longer than this test does.
    tokio::time::timeout(PATIENCE, harness.stop()).await.expect("the stop does not wait for the rebalance");
    let (_, body) = two.receive().await;
    let joined: JoinGroupResponse = decode(api::JOIN_GROUP, 9, body);
    assert_eq!(joined.error_code, 16, "the coordinator is elsewhere");
}
