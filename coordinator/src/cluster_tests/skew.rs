//! Releases that follow each other can be mixed (docs/format.md, "Versions of the protocols"); others are
//! told what to do.

use prost::Message;

use super::*;
use crate::core::{Command, ConfigOp, ConfigOpKind, Refusal};
use crate::handle::Seat;
use crate::rpc::proto::coordination_client::CoordinationClient;
use crate::rpc::{PROTOCOL, list_message, uuid_bytes};

/// A greeting of node 2 in another release.
fn greeting(cluster: &Cluster, protocol: u32, protocol_min: u32) -> proto::HelloRequest {
    proto::HelloRequest {
        protocol,
        protocol_min,
        from: 2,
        from_storage: uuid_bytes(Uuid::from_u128(2)),
        process: uuid_bytes(Uuid::from_u128(22)),
        coordinators: list_message(&cluster.list),
        ..proto::HelloRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_of_neighbouring_releases_greet_and_others_are_refused() {
    let cluster = Cluster::new(3);
    let door = ControlDoor::default();
    let server = Server1::start(cluster.listener(1).await, &door);
    let settings = CoordinatorSettings { door, ..cluster.settings(1) };
    let waiting = tokio::spawn(Coordinator::start(settings));
    let channel = crate::rpc::endpoint(&cluster.list[&1]).expect("an address").connect_lazy();
    let mut client = CoordinationClient::new(channel);
    let deadline = Instant::now() + LONG;
    while client.hello(greeting(&cluster, PROTOCOL, PROTOCOL)).await.is_err() {
        assert!(Instant::now() < deadline, "the node opens its door");
        sleep(Duration::from_millis(20)).await;
    }
    for (protocol, oldest, is_welcome) in [
        (PROTOCOL, PROTOCOL, true),
        (PROTOCOL + 1, PROTOCOL, true),
        (PROTOCOL + 2, PROTOCOL + 1, false),
        (0, 0, true),
    ] {
        let answer = client.hello(greeting(&cluster, protocol, oldest)).await.expect("answers").into_inner();
        assert_eq!(answer.refusal.is_empty(), is_welcome, "{oldest} to {protocol}: {}", answer.refusal);
        assert!(is_welcome || answer.refusal.contains("upgrade this node"), "{}", answer.refusal);
        assert_eq!((answer.protocol, answer.is_formed), (PROTOCOL, false), "it says what it speaks itself");
    }
    waiting.abort();
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_of_neighbouring_releases_are_served_and_others_are_refused() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let mut client = ControlClient::connect(format!("http://{}", cluster.list[&1])).await.expect("connects");
    for (protocol, is_served) in [(PROTOCOL, true), (PROTOCOL + 1, true), (PROTOCOL + 2, false), (0, true)] {
        let read = proto::ReadIndexRequest { protocol, from: 9, ..Default::default() };
        let answer = client.read_index(read).await;
        assert_eq!(answer.is_ok(), is_served, "{protocol}: {answer:?}");
        let command = serde_json::to_vec(&Command::AllocateProducerIds { count: 1 }).expect("JSON").into();
        let wait_ms = 10_000;
        let propose = proto::ProposeRequest { protocol, from: 9, command, wait_ms, ..Default::default() };
        assert_eq!(client.propose(propose).await.is_ok(), is_served, "{protocol}");
        let watch = proto::WatchMetadataRequest { protocol, from: 9, ..Default::default() };
        assert_eq!(client.watch_metadata(watch).await.is_ok(), is_served, "{protocol}");
        let report = proto::SessionReport { node_id: 9, protocol, sequence: 1, ..Default::default() };
        let session = client.session(futures::stream::iter([report])).await;
        let refusal = session.err().map(|status| status.message().to_owned()).unwrap_or_default();
        assert_eq!(refusal.contains("protocol"), !is_served, "{protocol}: {refusal:?}");
    }
    // A command of a later release has not been done, and the sender is told why.
    let command = br#"{"fly_to_the_moon":{"by":9}}"#.as_slice().into();
    let propose = proto::ProposeRequest { protocol: PROTOCOL + 1, command, ..Default::default() };
    let refused = client.propose(propose).await.expect_err("not known here");
    assert!(refused.message().contains("upgrade this node"), "{refused}");
    node.kill().await;
}

/// What the oldest member does not know is not written into the log that it has to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_a_member_does_not_know_is_not_proposed() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_all().await;
    let led = leader(&nodes).await;
    let coordinator = &nodes[&led].coordinator;
    register(coordinator, 1).await;
    let throttle = || {
        let op = ConfigOpKind::Set("1000".into());
        let ops = vec![ConfigOp { name: "leader.replication.throttled.rate".into(), op }];
        crate::ConfigChange::Broker { node_id: None, ops }
    };
    let Seat::Member { node, .. } = coordinator.seat() else { panic!("a member") };
    let other = nodes.keys().copied().find(|id| *id != led).expect("three");
    node.group().expect("of three").note_rules(other, 2);
    let refused = coordinator.alter_configs(vec![throttle()], false).await.pop().expect("one answer");
    let Err(WriteError::Refused(Refusal::RequestInvalid(reason))) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("upgrade all coordinators"), "{reason}");
    decided(coordinator, "known").await;
    node.group().expect("of three").note_rules(other, 3);
    coordinator.alter_configs(vec![throttle()], false).await.pop().expect("one answer").expect("all know it");
    assert_eq!(coordinator.state().broker_configs.all.len(), 1);
    close_all(nodes).await;
}

#[test]
fn unknown_fields_are_passed_over() {
    // Field 1000, a varint, as a later release may send it.
    let later = [0xc0, 0x3e, 0x07];
    let report = proto::SessionReport { node_id: 7, sequence: 3, ..Default::default() };
    let bytes = [report.encode_to_vec().as_slice(), &later].concat();
    assert_eq!(proto::SessionReport::decode(bytes.as_slice()).expect("read"), report);
    let json = r#"{"partitions":[],"disk_bytes":5,"later":{"x":[1]}}"#;
    let report: crate::core::BrokerReport = serde_json::from_str(json).expect("read");
    assert_eq!(report.disk_bytes, 5);
    let command = r#"{"stop_broker":{"node_id":1,"broker_epoch":2,"later":true}}"#;
    let command: Command = serde_json::from_str(command).expect("read");
    assert_eq!(command, Command::StopBroker { node_id: 1, broker_epoch: 2 });
    let whole = serde_json::to_string(&ClusterState::default().delta_since(&ClusterState::default()));
    let whole = whole.expect("JSON").replacen('{', r#"{"later":1,"#, 1);
    serde_json::from_str::<crate::core::StateDelta>(&whole).expect("read");
}
