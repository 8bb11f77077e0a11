//! Random events: whatever comes, the invariants hold, generations and epochs only grow, nobody is given what
//! another has, and a shard read back from its log is the one that wrote it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::answer::{Answer, Effect};
use super::super::consumer::ConsumerGroup;
use super::super::error::GroupError;
use super::super::machine::{Group, Groups};
use super::super::records::ClassicProtocol;
use super::super::request::*;
use super::super::settings::Settings;
use super::super::types::{Name, Partitions, each};
use super::{Logged, Notebook, answers, durable, partitions, subscription, topics};

/// One draw: what to do, to whom, with what.
type Draw = (u8, u8, u8, u8);

fn draws(most: usize) -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec(any::<Draw>(), 1..most)
}

fn settings() -> Settings {
    Settings { group_size_max: 4, consumer_group_size_max: 5, ..Settings::default() }
}

/// The generation of a classic group or the epoch of a consumer group.
fn generation(notebook: &Notebook, group: &str) -> i32 {
    match notebook.groups.group(group) {
        None => 0,
        Some(Group::Classic(group)) => group.generation,
        Some(Group::Consumer(group)) => group.epoch,
    }
}

/// What was seen to be promised to clients of the classic protocol.
#[derive(Default)]
struct Promises {
    members: Vec<Name>,
    /// By group, generation and member.
    assignments: BTreeMap<(Name, i32, Name), Vec<u8>>,
    generations: BTreeMap<Name, i32>,
}

impl Promises {
    fn member(&self, draw: u8) -> Name {
        match usize::from(draw) % (self.members.len() + 2) {
            at if at < self.members.len() => self.members[at].clone(),
            at if at == self.members.len() => "stranger".into(),
            _ => "".into(),
        }
    }

    fn hear(&mut self, request: Option<&Request>, effects: &[Effect]) {
        for answer in answers(effects) {
            match (answer, request) {
                (Answer::Join(joined), _)
                    if !joined.member_id.is_empty()
                        && !self.members.contains(&joined.member_id)
                        && self.members.len() < 12 =>
                {
                    self.members.push(joined.member_id.clone());
                }
                // Where several are answered, those of others are among them.
                (Answer::Sync(synced), Some(Request::Sync(sync)))
                    if synced.error.is_none() && answers(effects).len() == 1 =>
                {
                    let key = (sync.group.clone(), sync.generation, sync.member_id.clone());
                    let before = self.assignments.insert(key, synced.assignment.to_vec());
                    assert!(
                        before.is_none_or(|before| before == synced.assignment),
                        "two assignments in one generation"
                    );
                }
                _ => {}
            }
        }
    }

    fn grew(&mut self, notebook: &Notebook, groups: &[Name]) {
        for group in groups {
            let now = generation(notebook, group);
            let before = self.generations.insert(group.clone(), now).unwrap_or(0);
            let is_gone = notebook.groups.group(group).is_none();
            assert!(now >= before || is_gone, "{group} fell from {before} to {now}");
            if is_gone {
                self.generations.remove(group);
                self.assignments.retain(|(name, _, _), _| name != group);
            }
        }
    }
}

fn classic_request(notebook: &Notebook, promises: &Promises, group: Name, draw: Draw) -> Request {
    let (what, who, how, much) = draw;
    let member_id = promises.member(who);
    let instance_id = (how % 5 == 0).then(|| Name::from(format!("i{}", who % 2)));
    let known = generation(notebook, &group);
    let generation = if much % 7 == 0 { known - 1 } else { known };
    let offset = CommitOffset {
        topic: "a".into(),
        topic_id: None,
        partition: i32::from(much % 3),
        offset: i64::from(how),
        leader_epoch: -1,
        metadata: "".into(),
    };
    match what % 12 {
        0..=3 => Request::Join(Join {
            group,
            member_id,
            instance_id,
            protocol_type: "consumer".into(),
            protocols: [["range", "sticky"], ["sticky", "range"], ["range", "range2"]][usize::from(much % 3)]
                .iter()
                .map(|name| ClassicProtocol { name: (*name).into(), metadata: subscription("a") })
                .collect(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 20_000,
            requires_member_id: how % 2 == 0,
            can_skip_assignment: how % 3 == 0,
        }),
        4..=6 => Request::Sync(Sync {
            group,
            generation,
            member_id,
            instance_id,
            protocol_type: None,
            protocol: None,
            assignments: promises.members.iter().map(|m| (m.clone(), vec![much].into())).collect(),
        }),
        7 => Request::Heartbeat(Heartbeat { group, generation, member_id, instance_id }),
        8 => {
            let members = vec![LeavingMember { member_id, instance_id }];
            Request::Leave(Leave { group, members })
        }
        9 => Request::CommitOffsets(CommitOffsets {
            group,
            member_id: if how % 2 == 0 { member_id } else { "".into() },
            instance_id: None,
            generation: if how % 2 == 0 { generation } else { -1 },
            retention_ms: (much % 4 == 0).then_some(5_000),
            knows_epochs: true,
            offsets: vec![offset],
        }),
        10 => Request::CommitTransactionOffsets(CommitTransactionOffsets {
            group,
            producer_id: i64::from(who % 3),
            producer_epoch: 0,
            member_id: "".into(),
            instance_id: None,
            generation: -1,
            offsets: vec![offset],
        }),
        _ if much % 4 == 0 => Request::DeleteGroup { group },
        _ => Request::DeleteOffsets(DeleteOffsets { group, partitions: vec![("a".into(), 0)] }),
    }
}

/// Reads the log back and compares what must survive; the same once compaction has been over it.
fn compare(notebook: &Notebook) {
    compare_with(notebook, notebook.reloaded());
    for keeps_tombstones in [true, false] {
        compare_with(notebook, compacted(notebook, keeps_tombstones));
    }
}

/// A part of a pass over the state; at its end the log behind it says the same.
fn rewrite(notebook: &mut Notebook, bytes_max: usize) {
    if notebook.rewrite(bytes_max) {
        compare(notebook);
    }
}

/// A shard that has read a log without what a later record of the same key replaces. What transactions wrote
/// stays, unless a tombstone follows.
fn compacted(notebook: &Notebook, keeps_tombstones: bool) -> Groups {
    let (mut last, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for (place, logged) in notebook.log.iter().enumerate() {
        if let Logged::Record(None, key, value) = logged {
            last.insert(key, place);
            if value.is_none() {
                ends.insert(key, place);
            }
        }
    }
    let mut groups = Groups::new(notebook.settings.clone(), notebook.topics.clone(), notebook.version);
    for (place, logged) in notebook.log.iter().enumerate() {
        match logged {
            Logged::Marker(producer, is_commit) => groups.load_marker(*producer, *is_commit),
            Logged::Record(producer, key, value) => {
                let is_kept = match producer {
                    Some(_) => ends.get(key).is_none_or(|end| *end < place),
                    None => last[key] == place && (keeps_tombstones || value.is_some()),
                };
                if is_kept {
                    groups.load_bytes(key, value.as_deref(), *producer).expect("whole");
                }
            }
        }
    }
    groups
}

fn compare_with(notebook: &Notebook, mut read: Groups) {
    read.loaded(notebook.now, &mut Vec::new());
    read.check();
    let (was, is) = (durable(&notebook.groups), durable(&read));
    for (key, value) in &was {
        match (value.as_str(), is.get(key).map(String::as_str)) {
            // Such a group may have no record of its own.
            ("rebalancing" | "simple", _) => {}
            (_, found) => assert_eq!(found, Some(value.as_str()), "{key} is read back otherwise"),
        }
    }
    for key in is.keys().filter(|key| key.starts_with("offset")) {
        assert!(was.contains_key(key), "{key} came from nowhere");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn classic_groups_hold_whatever_comes(draws in draws(160)) {
        let mut notebook = Notebook::new(settings());
        let mut promises = Promises::default();
        let groups: [Name; 2] = ["g".into(), "h".into()];
        for draw in draws {
            match draw.0 % 27 {
                0..=18 => {
                    let group = groups[usize::from(draw.2 / 128)].clone();
                    let request = classic_request(&notebook, &promises, group, draw);
                    let effects = notebook.request("c", request.clone());
                    promises.hear(Some(&request), &effects);
                }
                19 | 20 => {
                    let effects: Vec<Effect> =
                        notebook.advance(i64::from(draw.1) * 100).into_iter().map(|(_, e)| e).collect();
                    promises.hear(None, &effects);
                }
                21 => {
                    let is_commit = draw.2 % 2 == 0;
                    let producer_id = i64::from(draw.1 % 3);
                    notebook.step(Event::TransactionEnded { producer_id, is_commit });
                }
                22 => compare(&notebook),
                24..=26 => rewrite(&mut notebook, usize::from(draw.1) * 4),
                _ => {
                    let effects = notebook.reload();
                    promises.hear(None, &effects);
                    // A generation that was never finished is forgotten, and with it the proof that it was.
                    promises.generations.clear();
                }
            }
            promises.grew(&notebook, &groups);
        }
        compare(&notebook);
    }
}

/// An honest client of the consumer protocol.
#[derive(Clone, Debug, Default)]
struct Consumer {
    id: Name2,
    epoch: i32,
    owned: Partitions,
    topics: &'static str,
    regex: bool,
    instance: Option<&'static str>,
    /// An answer did not come: the next heartbeat says everything, as real clients do.
    has_lost: bool,
}

type Name2 = String;

const SUBSCRIPTIONS: [&str; 4] = ["a", "a,b", "b", "a,b,c"];

impl Consumer {
    fn beat(&self, group: &str, is_full: bool) -> Request {
        let is_full = is_full || self.has_lost || self.epoch == 0;
        let names = self.topics.split(',').map(Name::from).collect();
        Request::ConsumerHeartbeat(ConsumerHeartbeat {
            group: group.into(),
            member_id: self.id.as_str().into(),
            epoch: self.epoch,
            instance_id: self.instance.map(Name::from),
            rack_id: None,
            rebalance_timeout_ms: is_full.then_some(30_000),
            topic_names: is_full.then_some(if self.regex { Default::default() } else { names }),
            topic_regex: is_full.then(|| Name::from(if self.regex { "a|b" } else { "" })),
            server_assignor: None,
            owned: Some(self.owned.clone()),
        })
    }

    fn hear(&mut self, effects: &[Effect]) {
        self.has_lost = false;
        for answer in answers(effects) {
            match answer {
                Answer::ConsumerHeartbeat(Ok(beat)) => {
                    self.epoch = beat.epoch;
                    if let Some(assignment) = &beat.assignment {
                        self.owned = assignment.clone();
                    }
                }
                Answer::ConsumerHeartbeat(Err(error)) => {
                    let must_rejoin = matches!(
                        error,
                        GroupError::FencedMemberEpoch
                            | GroupError::UnknownMemberId
                            | GroupError::GroupIdNotFound
                    );
                    if must_rejoin {
                        self.epoch = 0;
                        self.owned.clear();
                    }
                }
                _ => {}
            }
        }
    }
}

/// Clients that the group still counts on have disjoint partitions.
fn disjoint(group: &ConsumerGroup, clients: &[Consumer]) {
    let mut owners = BTreeMap::new();
    for client in clients {
        let is_live = group
            .members
            .get(client.id.as_str())
            .is_some_and(|m| client.epoch > 0 && [m.at.epoch, m.at.previous_epoch].contains(&client.epoch));
        if !is_live {
            continue;
        }
        for partition in each(&client.owned) {
            let before = owners.insert(partition, &client.id);
            assert!(before.is_none(), "{partition:?} is with {before:?} and {}", client.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn consumer_groups_hold_whatever_comes(draws in draws(200), at_once in 1usize..8) {
        // Above so many members targets wait.
        let mut notebook =
            Notebook::new(Settings { assign_at_once_members_max: at_once, ..settings() });
        let mut clients: Vec<Consumer> = (0..6)
            .map(|n| Consumer {
                id: format!("m{n}"),
                topics: SUBSCRIPTIONS[n % 4],
                instance: [None, None, Some("i")][n % 3],
                ..Consumer::default()
            })
            .collect();
        let mut epoch = 0;
        for (what, who, how, much) in draws {
            let at = usize::from(who) % clients.len();
            match what % 18 {
                16 | 17 => rewrite(&mut notebook, usize::from(much) * 8),
                0..=8 => {
                    let effects = notebook.request("c", clients[at].beat("g", how % 4 == 0));
                    if how % 9 != 0 {
                        clients[at].hear(&effects);
                    } else {
                        clients[at].has_lost = true;
                    }
                }
                9 => {
                    clients[at].topics = SUBSCRIPTIONS[usize::from(how % 4)];
                    clients[at].regex = how % 8 == 0;
                    let effects = notebook.request("c", clients[at].beat("g", true));
                    clients[at].hear(&effects);
                }
                10 => {
                    let mut leaving = clients[at].clone();
                    leaving.epoch = if leaving.instance.is_some() && how % 2 == 0 { -2 } else { -1 };
                    notebook.request("c", leaving.beat("g", false));
                    clients[at].epoch = 0;
                    clients[at].owned.clear();
                }
                11 | 12 => drop(notebook.advance(i64::from(much) * 200)),
                13 => {
                    let text = ["a=2 b=2", "a=5 b=1 c=3", "b=7", "a=1 b=2 c=2"][usize::from(how % 4)];
                    notebook.version += 1;
                    notebook.topics = std::sync::Arc::new(topics(text));
                    let event = Event::Topics { version: notebook.version, topics: notebook.topics.clone() };
                    notebook.step(event);
                }
                14 => drop(notebook.reload()),
                _ => {
                    // Someone with an old epoch and partitions that are not its.
                    let mut liar = clients[at].clone();
                    liar.epoch = i32::from(much % 8);
                    liar.owned = partitions("a0.b1");
                    notebook.request("c", liar.beat("g", false));
                    clients[at].epoch = 0;
                    clients[at].owned.clear();
                }
            }
            if notebook.groups.group("g").is_none() {
                epoch = 0; // it was empty for so long that it went
            }
            if let Some(Group::Consumer(group)) = notebook.groups.group("g") {
                assert!(group.epoch >= epoch, "the epoch fell from {epoch} to {}", group.epoch);
                epoch = group.epoch;
                disjoint(group, &clients);
            }
        }
        compare(&notebook);
        settle(&mut notebook, &mut clients);
    }
}

/// Left alone, honest clients come to rest, and every partition that somebody wants is with somebody.
fn settle(notebook: &mut Notebook, clients: &mut [Consumer]) {
    for _ in 0..60 {
        drop(notebook.advance(3_000));
        for client in clients.iter_mut() {
            let effects = notebook.request("c", client.beat("g", false));
            client.hear(&effects);
        }
    }
    let Some(Group::Consumer(group)) = notebook.groups.group("g") else { panic!("the group is gone") };
    disjoint(group, clients);
    assert_eq!(group.state(), "Stable", "{group:?} with {clients:?}");
    for client in clients.iter() {
        if let Some(member) = group.members.get(client.id.as_str()) {
            assert_eq!(client.owned, group.target_of(&member.id), "{} is not where it should be", client.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Members of both protocols in one group, which goes from one to the other and back.
    #[test]
    fn mixed_groups_hold_whatever_comes(draws in draws(200)) {
        let mut notebook = Notebook::new(settings());
        let mut promises = Promises::default();
        let group: [Name; 1] = ["g".into()];
        let mut clients: Vec<Consumer> = (0..3)
            .map(|n| Consumer {
                id: format!("m{n}"),
                topics: "a",
                instance: [None, Some("i0"), None][n],
                ..Consumer::default()
            })
            .collect();
        let mut seen = [0; 2];
        for draw in draws {
            let (what, who, how, much) = draw;
            let at = usize::from(who) % clients.len();
            match what % 19 {
                16..=18 => rewrite(&mut notebook, usize::from(much) * 8),
                0..=3 => {
                    let effects = notebook.request("c", clients[at].beat("g", how % 4 == 0));
                    clients[at].hear(&effects);
                }
                4 => {
                    let mut leaving = clients[at].clone();
                    leaving.epoch = -1;
                    notebook.request("c", leaving.beat("g", false));
                    clients[at].epoch = 0;
                    clients[at].owned.clear();
                }
                5 => drop(notebook.advance(i64::from(much) * 100)),
                6 => {
                    notebook.reload();
                    promises.generations.clear();
                }
                7 => compare(&notebook),
                _ => {
                    let draw = (what / 16, who, how, much);
                    let request = classic_request(&notebook, &promises, group[0].clone(), draw);
                    let effects = notebook.request("c", request);
                    promises.hear(None, &effects);
                }
            }
            promises.grew(&notebook, &group);
            match notebook.groups.group("g") {
                Some(Group::Consumer(group)) => {
                    disjoint(group, &clients);
                    seen[0] += 1;
                }
                Some(Group::Classic(_)) => seen[1] += 1,
                None => {}
            }
        }
        compare(&notebook);
        prop_assert!(seen[0] + seen[1] > 0 || notebook.log.is_empty());
    }
}
