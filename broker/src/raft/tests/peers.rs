//! Messages as protobuf, and three nodes over real gRPC on loopback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use highwater_log::disk::{Disk, SimDisk};
use highwater_model::NodeId;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::cluster::{LOOKS, Records, partition};
use super::kit::{Home, batch, batch_of};
use crate::core::raft_election::{Ask, Greeting};
use crate::core::raft_side::{EntryId, Members, SetMembers, StoredVote};
use crate::raft::message::{
    Answer, Append, AppendAnswer, PreVote, Request, Resigned, Route, SnapshotSend, VoteAsk,
};
use crate::raft::types::{Body, Stored};
use crate::raft::wire::{answer_in, answer_out, proto::RaftFrame, request_in, request_out};
use crate::raft::{
    Beginning, GrpcTransport, PeerAddresses, RaftGroup, RaftHost, RaftService, Role, SyncQueue, Transport,
};

fn id(index: u64) -> Option<EntryId> {
    Some(EntryId { term: 7, leader: (9 << 32) | 2, index })
}

fn requests() -> Vec<Request> {
    let route = Route { tp: partition(), from: 2, to: (9 << 32) | 3 };
    let vote = StoredVote { term: 7, replica: 2, is_committed: true };
    let members = Arc::new(Members::of_voters([(1, 1), (2, 2)].into()));
    let (header, bytes) = batch("text", 3);
    let header = highwater_wire::batch::BatchHeader { base_offset: 40, leader_epoch: 7, ..header };
    let entries = vec![
        Stored { id: id(5).expect("some"), offset: 0, body: Body::Blank },
        Stored { id: id(6).expect("some"), offset: 0, body: Body::Members(members.clone()) },
        Stored { id: id(7).expect("some"), offset: 40, body: Body::Batch { header, bytes } },
    ];
    let ask = Ask { candidate: 2, last: id(8) };
    vec![
        Request::Greeting(Greeting { boot: u64::MAX, unheard: [2, u64::MAX].into() }),
        Request::Resigned(Resigned { route, term: 7 }),
        Request::Replicas(vec![(partition(), 5), (partition(), 0)]),
        Request::Append(Append { route, vote, previous: id(4), committed: None, entries }),
        Request::Append(Append { route, vote, previous: None, committed: id(4), entries: Vec::new() }),
        Request::Vote(VoteAsk { route, vote, last: id(9) }),
        Request::PreVotes(vec![PreVote { tp: partition(), to: 3, ask }; 2]),
        Request::Snapshot(SnapshotSend {
            route,
            vote,
            at: id(3).expect("some"),
            members: SetMembers { at: id(1), members },
            bytes: vec![1, 2, 3],
        }),
    ]
}

#[test]
fn messages_come_back_as_they_were() {
    for request in requests() {
        let frame = RaftFrame { call: 1, from: 2, body: Some(request_out(request.clone())) };
        let back = RaftFrame::decode(&*frame.encode_to_vec()).expect("own bytes");
        let back = request_in(back.body.expect("a body")).expect("own message");
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
    }
    let vote = StoredVote { term: 7, replica: 2, is_committed: false };
    for answer in [
        Answer::Greeting(Greeting { boot: 3, unheard: [1].into() }),
        Answer::Append(AppendAnswer::Success),
        Answer::Append(AppendAnswer::Partial(None)),
        Answer::Append(AppendAnswer::Partial(id(9))),
        Answer::Append(AppendAnswer::HigherVote(vote)),
        Answer::Append(AppendAnswer::Conflict),
        Answer::Vote { vote, is_granted: true, last: None },
        Answer::PreVotes(vec![true, false]),
        Answer::Snapshot { vote },
        Answer::Replicas(vec![Some(0), None, Some(7 << 32 | 2)]),
        Answer::Refused("why".to_owned()),
    ] {
        assert_eq!(answer_in(answer_out(answer.clone())).expect("own message"), answer);
    }
}

#[test]
fn bytes_of_others_are_refused_and_never_a_panic() {
    for request in requests() {
        let frame = RaftFrame { call: 1, from: 2, body: Some(request_out(request)) }.encode_to_vec();
        for at in 0..frame.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut bad = frame.clone();
                bad[at] ^= change;
                if let Ok(RaftFrame { body: Some(body), .. }) = RaftFrame::decode(&*bad) {
                    let _ = (request_in(body.clone()).is_ok(), answer_in(body).is_ok());
                }
            }
        }
    }
}

#[test]
fn a_greeting_names_no_more_nodes_than_a_cluster_has() {
    let naming =
        |nodes: u64| request_out(Request::Greeting(Greeting { boot: 1, unheard: (0..nodes).collect() }));
    let most = highwater_model::limits::BROKERS_MAX as u64;
    assert!(request_in(naming(most)).is_ok() && answer_in(naming(most)).is_ok());
    assert!(request_in(naming(most + 1)).is_err() && answer_in(naming(most + 1)).is_err());
}

#[derive(Default)]
pub struct Addresses(Mutex<BTreeMap<NodeId, String>>);

impl PeerAddresses for Addresses {
    fn address(&self, node: NodeId) -> Option<String> {
        self.0.lock().expect("addresses").get(&node).cloned()
    }
}

/// A node without groups behind a gRPC door.
pub struct Served {
    pub node: NodeId,
    pub host: Arc<RaftHost>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Served {
    pub async fn start(node: NodeId, addresses: &Arc<Addresses>) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        addresses.0.lock().expect("addresses").insert(node, address);
        let transport = GrpcTransport::new(node, "c1".to_owned(), addresses.clone());
        let syncs = Arc::new(SyncQueue::start().expect("threads"));
        let host = RaftHost::new(node, 100 + node, transport, Arc::<Records>::default(), syncs);
        let service = RaftService::server(host.clone(), "c1".to_owned());
        let incoming = futures::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        let tasks = vec![
            tokio::spawn(async move { server.await.expect("serves") }),
            tokio::spawn(host.clone().run()),
        ];
        Served { node, host, tasks }
    }

    /// As `kill -9`: nothing is said any more, and what is heard is not answered.
    pub fn kill(&self) {
        self.tasks.iter().for_each(|task| task.abort());
        self.host.kill();
    }
}

struct Node {
    home: Arc<Home>,
    group: Arc<RaftGroup>,
    served: Served,
}

impl Node {
    async fn start(node: NodeId, addresses: &Arc<Addresses>) -> Node {
        let served = Served::start(node, addresses).await;
        let disk = SimDisk::new();
        let home = Home::open(&disk);
        let raw: Arc<dyn Disk> = Arc::new(disk);
        let members = [(1, 1), (2, 2), (3, 3)].into();
        let beginning = Beginning::Group { replica: node, term: 0, offset: 0, members };
        let group =
            served.host.open_group(partition(), raw, home.clone(), beginning, false).await.expect("opens");
        Node { home, group, served }
    }
}

async fn leader(nodes: &[Node]) -> usize {
    for _ in 0..LOOKS {
        let leads = |node: &Node| matches!(node.group.role(), Role::Leader { takes_writes: true, .. });
        if let Some(at) = nodes.iter().position(leads) {
            return at;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_over_grpc_replicate_and_fail_over() {
    let addresses = Arc::new(Addresses::default());
    let mut nodes = Vec::new();
    for node in [1, 2, 3] {
        nodes.push(Node::start(node, &addresses).await);
    }
    let first = leader(&nodes).await;
    let group = nodes[first].group.clone();
    let began = Instant::now();
    for sequence in 0..200 {
        let (header, bytes) = batch_of(&"y".repeat(1_000), 1, 5, sequence);
        let appended = group.propose(&header, bytes).await.expect("appended");
        group.committed(&appended).await.expect("committed");
    }
    println!("200 commits one after another over gRPC in {:?}", began.elapsed());
    let gone = nodes.remove(first);
    gone.served.kill();
    let killed = Instant::now();
    let next = leader(&nodes).await;
    println!("failover over gRPC in {:?}", killed.elapsed());
    let group = nodes[next].group.clone();
    let (header, bytes) = batch_of("after", 1, 5, 200);
    let appended = group.propose(&header, bytes).await.expect("appended");
    group.committed(&appended).await.expect("committed");
    assert_eq!(appended.base_offset, 200);
    assert_eq!(nodes[next].home.log_end(), 201);
    for node in nodes {
        node.served.host.stop().await;
        node.served.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused() {
    let addresses = Arc::new(Addresses::default());
    let node = Node::start(1, &addresses).await;
    let stranger = GrpcTransport::new(2, "c2".to_owned(), addresses.clone());
    let refused = stranger
        .call(1, Request::Greeting(Greeting { boot: 1, ..Greeting::default() }), Duration::from_secs(5))
        .await;
    assert!(refused.is_err_and(|e| e.why.contains("of cluster c1")));
    let nobody = stranger
        .call(9, Request::Greeting(Greeting { boot: 1, ..Greeting::default() }), Duration::from_secs(5))
        .await;
    assert!(nobody.is_err());
    node.served.kill();
}

/// A way to `to` and what cuts it: from then on nothing gets through on the first connection, and nobody is
/// told. Later connections are whole.
async fn way(to: String) -> (String, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let cut = Arc::new(Notify::new());
    let mut cuts = Some(cut.clone());
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (to, cut) = (to.clone(), cuts.take());
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.expect("the node listens");
                let carried = tokio::io::copy_bidirectional(&mut near, &mut far);
                match cut {
                    None => drop(carried.await),
                    Some(cut) => tokio::select! {
                        _ = carried => {}
                        () = cut.notified() => std::future::pending().await,
                    },
                }
            });
        }
    });
    (address, cut)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_nothing_arrives_any_more_is_replaced() {
    let addresses = Arc::new(Addresses::default());
    let served = Served::start(1, &addresses).await;
    let (address, cut) = way(addresses.address(1).expect("it serves")).await;
    addresses.0.lock().expect("addresses").insert(1, address);
    let transport = GrpcTransport::new(2, "c1".to_owned(), addresses.clone());
    let deadline = Instant::now() + Duration::from_secs(120);
    let until_heard = async |is_heard: bool| {
        loop {
            let greeting = Request::Greeting(Greeting { boot: 1, ..Greeting::default() });
            if transport.call(1, greeting, Duration::from_millis(500)).await.is_ok() == is_heard {
                return;
            }
            assert!(Instant::now() < deadline, "heard: not {is_heard}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until_heard(true).await;
    cut.notify_one();
    until_heard(false).await;
    until_heard(true).await;
    served.kill();
}
