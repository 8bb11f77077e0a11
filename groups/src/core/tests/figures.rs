//! How fast the core is by itself: `cargo test --release -p highwater-groups figures -- --ignored
//! --nocapture`. Not checked against the clock; for `bench/` and for whoever changes a data structure.

use std::time::Instant;

use super::super::records::ClassicProtocol;
use super::*;

fn commit(group: &str, partition: i32, offset: i64) -> Request {
    Request::CommitOffsets(CommitOffsets {
        group: group.into(),
        member_id: "".into(),
        instance_id: None,
        generation: -1,
        retention_ms: None,
        knows_epochs: true,
        offsets: vec![CommitOffset {
            topic: "orders".into(),
            topic_id: Some(topic_id("orders")),
            partition,
            offset,
            leader_epoch: 3,
            metadata: "".into(),
        }],
    })
}

fn join(client: usize, topics: &str) -> Request {
    Request::Join(Join {
        group: "g".into(),
        member_id: "".into(),
        instance_id: Some(format!("i{client}").into()),
        protocol_type: "consumer".into(),
        protocols: vec![ClassicProtocol { name: "range".into(), metadata: subscription(topics) }],
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 60_000,
        requires_member_id: false,
        can_skip_assignment: true,
    })
}

/// Without the notebook's checks and its log.
fn shard(topics: &str) -> Groups {
    let mut groups = Groups::new(Settings::default(), Arc::new(super::topics(topics)), 1);
    groups.loaded(0, &mut Vec::new());
    groups
}

fn ask(groups: &mut Groups, now: Millis, ticket: Ticket, request: Request) -> Vec<Effect> {
    let client = Client { id: "c".into(), host: "/h".into(), fresh: Uuid::from_u128(u128::from(ticket)) };
    let mut effects = Vec::new();
    groups.step(now, Event::Request { ticket, client, request }, &mut effects);
    effects
}

fn commits_and_reload(count: u64) {
    let mut groups = shard("orders=1000");
    let started = Instant::now();
    let mut log = Vec::new();
    for n in 0..count {
        let group = format!("group-{}", n / 100);
        for effect in ask(&mut groups, n as Millis, n, commit(&group, (n % 100) as i32, n as i64)) {
            if let Effect::Append { records, .. } = effect {
                log.extend(records.iter().map(Record::encode));
            }
        }
    }
    println!("{count} commits with encoding: {:?}", started.elapsed());
    let started = Instant::now();
    let mut read = Groups::new(Settings::default(), Arc::new(super::topics("orders=1000")), 1);
    for (key, value) in &log {
        read.load(&Record::decode(key, value.as_deref()).expect("whole").expect("ours"), None);
    }
    read.loaded(0, &mut Vec::new());
    println!("{count} offsets read back: {:?}", started.elapsed());
    assert_eq!(read.offsets().committed_count() as u64, count);
}

fn classic(members: usize) {
    let mut groups = shard("t=1000");
    let started = Instant::now();
    for n in 0..members {
        ask(&mut groups, 0, n as u64, join(n, "t"));
    }
    let mut effects = Vec::new();
    groups.step(3_000, Event::Tick, &mut effects);
    groups.step(6_000, Event::Tick, &mut effects);
    println!("{members} classic members join: {:?}, {} answers", started.elapsed(), effects.len());
    assert_eq!(effects.len(), members);
}

fn consumer(members: usize) {
    let mut groups = shard("t=1000");
    let beat = |n: usize, epoch: i32, owned: Option<Partitions>| {
        Request::ConsumerHeartbeat(ConsumerHeartbeat {
            group: "g".into(),
            member_id: format!("m{n}").into(),
            epoch,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: (epoch == 0).then_some(60_000),
            topic_names: (epoch == 0).then(|| ["t".into()].into()),
            topic_regex: None,
            server_assignor: None,
            owned,
        })
    };
    let mut clients = vec![(0, Partitions::new()); members];
    let (started, mut ticket, mut rounds) = (Instant::now(), 0, 0);
    loop {
        let mut is_settled = true;
        for (n, client) in clients.iter_mut().enumerate() {
            ticket += 1;
            let request = beat(n, client.0, Some(client.1.clone()));
            let effects = ask(&mut groups, rounds * 5_000, ticket, request);
            is_settled &= effects.len() == 1;
            for answer in answers(&effects) {
                let Answer::ConsumerHeartbeat(Ok(beat)) = answer else { panic!("{answer:?}") };
                client.0 = beat.epoch;
                client.1 = beat.assignment.clone().unwrap_or_else(|| client.1.clone());
            }
        }
        rounds += 1;
        if is_settled {
            break;
        }
        println!("{members} consumer members, round {rounds}: {:?}", started.elapsed());
    }
    println!("{members} consumer members at rest after {rounds} rounds: {:?}", started.elapsed());
    let started = Instant::now();
    for (n, client) in clients.iter().enumerate() {
        ticket += 1;
        ask(&mut groups, rounds * 5_000, ticket, beat(n, client.0, None));
    }
    println!("{members} heartbeats at rest: {:?}", started.elapsed());
}

#[test]
#[ignore = "figures for people, takes a while"]
fn figures() {
    commits_and_reload(1_000_000);
    [10, 100, 1_000, 10_000].into_iter().for_each(classic);
    [10, 100, 1_000, 10_000].into_iter().for_each(consumer);
}
