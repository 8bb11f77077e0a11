//! Random commands against naive references: what a reader must find, what a data plane below would have.

use proptest::prelude::*;

use super::*;

/// Nodes, each once.
fn nodes() -> impl Strategy<Value = String> {
    prop::sample::subsequence(vec![1u64, 2, 3, 4], 1..=4)
        .prop_shuffle()
        .prop_map(|nodes| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(","))
}

/// A process that comes, comes back, or comes with another directory.
fn register() -> impl Strategy<Value = String> {
    (0..5u32, 0..6u32, 0..4u32, 1..9u32).prop_map(|(node, incarnation, how, epoch)| match how {
        0 => format!("register {node} {incarnation}"),
        1 => format!("register {node} {incarnation} storage={node} clean={epoch}"),
        2 => format!("register {node} {incarnation} storage={node}"),
        _ => format!("register {node} {incarnation} storage={}", 10 * (node + 1) + incarnation % 2),
    })
}

fn command() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b.c", "b_c", "d", "e", "..", "f/g"]);
    let config = prop::sample::select(vec![
        "retention.ms=1000",
        "retention.ms=-2",
        "cleanup.policy=compact",
        "local.retention.ms=5000",
        "min.insync.replicas=2",
        "min.insync.replicas=3",
        "unclean.leader.election.enable=true",
        "nope=1",
    ]);
    prop_oneof![
        6 => register(),
        4 => (1..5u32).prop_map(|node| format!("fence {node}")),
        1 => (1..5u32, 0..9u32).prop_map(|(node, epoch)| format!("fence {node} {epoch}")),
        1 => (1..5u32).prop_map(|node| format!("stop {node}")),
        1 => (1..5u32, any::<bool>())
            .prop_map(|(node, on)| format!("drain {node} {}", if on { "on" } else { "off" })),
        1 => (1..5u32).prop_map(|node| format!("remove {node}")),
        12 => (name.clone(), 0..3i32, nodes()).prop_map(|(name, p, nodes)| format!("isr {name} {p} {nodes}")),
        1 => (name.clone(), 0..3i32, nodes(), 1..5u32, 0..4i32, 0..4i32).prop_map(
            |(name, p, nodes, by, l, e)|
                format!("isr {name} {p} {nodes} by={by} leader-epoch={l} epoch={e}")),
        2 => (name.clone(), 0..3i32, prop::sample::select(vec!["preferred", "unclean"]))
            .prop_map(|(name, p, kind)| format!("elect {name} {p} {kind}")),
        1 => (name.clone(), 0..3i32).prop_map(|(name, p)| format!("damaged {name} {p}")),
        1 => (name.clone(), 0..3i32).prop_map(|(name, p)| format!("resign {name} {p}")),
        1 => (name.clone(), 0..3i32, 1..5u32).prop_map(|(name, p, by)| format!("damaged {name} {p} by={by}")),
        1 => (0..5u32, 0..9u32).prop_map(|(node, rate)| {
            let who = if node == 0 { "all".into() } else { node.to_string() };
            format!("throttle {who} set leader.replication.throttled.rate={rate}")
        }),
        4 => (name.clone(), 0..3i32, nodes()).prop_map(|(name, p, nodes)| format!("reassign {name} {p} {nodes}")),
        2 => (name.clone(), 0..3i32, nodes()).prop_map(|(name, p, nodes)| format!("move {name} {p} {nodes}")),
        1 => (name.clone(), 0..3i32).prop_map(|(name, p)| format!("reassign {name} {p} cancel")),
        4 => (name.clone(), -1..4i32, 0..4i32, config.clone())
            .prop_map(|(name, p, r, c)| format!("create {name} partitions={p} replicas={r} {c}")),
        1 => (name.clone(), "[1-4](,[1-4]){0,2}(;[1-4](,[1-4]){0,2}){0,2}")
            .prop_map(|(name, text)| format!("create {name} assign={text}")),
        2 => (name.clone(), 0..6i32).prop_map(|(name, count)| format!("partitions {name} {count}")),
        2 => (name.clone(), config.clone()).prop_map(|(name, c)| format!("replace {name} {c}")),
        2 => (name.clone(), prop::sample::select(vec!["set", "delete", "append", "subtract"]), config)
            .prop_map(|(name, verb, c)| format!("alter {name} {verb} {c}")),
        1 => name.clone().prop_map(|name| format!("delete {name}")),
        1 => name.clone().prop_map(|name| format!("swept {name}")),
        1 => (0..2000u32).prop_map(|count| format!("ids {count}")),
        6 => (name.clone(), 0..3i32, 0..3i32, 0..4u64, 0..3i64, 1..5i64).prop_map(
            |(name, partition, epoch, version, start, length)| format!(
                "publish {name} {partition} {epoch} {version} {start} {}", start + length)),
        2 => (name, 0..3i32, 0..3i32, 0..4u64, 0..9i64).prop_map(
            |(name, partition, epoch, version, at)| format!("prune {name} {partition} {epoch} {version} {at}")),
    ]
}

/// What a reader must find after each command, kept by other means.
#[derive(Default)]
struct Reference {
    partitions: BTreeMap<String, usize>,
    records: BTreeMap<TopicPartition, Partition>,
    leaders: BTreeMap<(TopicPartition, i32), NodeId>,
    producer_ids_end: i64,
}

impl Reference {
    fn follow(&mut self, line: &str, answer: &Result<Reply, Refusal>, state: &ClusterState) {
        let words: Vec<&str> = line.split(' ').collect();
        match (words[0], answer) {
            ("create", Ok(Reply::TopicCreated(created))) => {
                let before = self.partitions.insert(words[1].into(), created.partitions as usize);
                assert_eq!(before, None, "created once");
            }
            ("partitions", Ok(_)) => {
                self.partitions.insert(words[1].into(), words[2].parse().expect("a number"));
            }
            ("delete", Ok(_)) => {
                self.partitions.remove(words[1]).expect("deleted topics were there");
            }
            ("ids", Ok(Reply::ProducerIds { start, end })) => {
                assert_eq!(*start, self.producer_ids_end, "dense and never twice");
                self.producer_ids_end = *end;
            }
            _ => {}
        }
        self.follow_state(state);
    }

    fn follow_state(&mut self, state: &ClusterState) {
        let found: BTreeMap<String, usize> =
            state.topics_by_name().map(|topic| (topic.name.clone(), topic.partitions.len())).collect();
        assert_eq!(found, self.partitions);
        for topic in state.topics.values() {
            assert!(state.topic_by_name(&topic.name).is_some_and(|found| found.id == topic.id));
            for (number, p) in topic.partitions.iter().enumerate() {
                let tp = TopicPartition::new(topic.id, number as i32);
                if let Some(leader) = p.leader {
                    let first = *self.leaders.entry((tp, p.leader_epoch)).or_insert(leader);
                    assert_eq!(first, leader, "one leader for each leader epoch");
                }
                let now = p.as_ref().clone();
                let Some(before) = self.records.insert(tp, now.clone()) else { continue };
                assert!(before.leader_epoch <= now.leader_epoch, "leader epochs only grow");
                assert!(before.manifest.generation <= now.manifest.generation, "generations only grow");
                let is_same = Partition { manifest: before.manifest.clone(), ..now.clone() } == before;
                match is_same {
                    true => assert_eq!(before.partition_epoch, now.partition_epoch),
                    false => {
                        assert!(before.partition_epoch < now.partition_epoch, "each change has an epoch")
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_commands_keep_the_state_whole(
        lines in prop::collection::vec(command(), 1..60),
        pairs in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 4),
    ) {
        let mut notebook = Notebook::default();
        let mut reference = Reference::default();
        let mut versions = vec![ClusterState::default()];
        let mut replay = ClusterState::default();
        let form = ["form random", "register 1 9", "register 2 9", "register 3 9", "register 4 9"].map(String::from);
        for line in form.iter().chain(&lines) {
            let before = notebook.state.clone();
            let parsed = notebook.parse(line);
            let answer = notebook.apply(parsed.clone());
            if let Ok(Reply::TopicCreated(created)) = &answer {
                notebook.created += 1;
                notebook.ids.insert(line.split(' ').nth(1).expect("a name").into(), created.topic_id);
            }
            match &answer {
                Ok(_) => prop_assert!(notebook.state.version >= before.version),
                Err(_) => prop_assert_eq!(&notebook.state, &before, "a refusal changes nothing"),
            }
            reference.follow(line, &answer, &notebook.state);
            // The same entry gives the same answer and state on another node.
            let batch = Batch { rules: RULES_VERSION, at_ms: notebook.clock_ms, commands: vec![parsed] };
            let stored = serde_json::to_vec(&batch).expect("stored");
            let batch: Batch = serde_json::from_slice(&stored).expect("read back");
            prop_assert_eq!(replay.apply_batch(&batch), vec![answer]);
            versions.push(notebook.state.clone());
        }
        // Between any two versions, forth and back.
        for (from, to) in pairs {
            let (from, to) = (from.get(&versions), to.get(&versions));
            let stored = serde_json::to_vec(&to.delta_since(from)).expect("stored");
            let delta: StateDelta = serde_json::from_slice(&stored).expect("read back");
            let mut follower = from.clone();
            follower.apply_delta(&delta).expect("applied");
            prop_assert_eq!(&follower, to);
        }
        prop_assert_eq!(&replay, &notebook.state);
        let snapshot = serde_json::to_vec(&notebook.state).expect("stored");
        let loaded: ClusterState = serde_json::from_slice(&snapshot).expect("read back");
        prop_assert_eq!(loaded, notebook.state);
    }

    #[test]
    fn estimates_bound_what_is_stored(line in command()) {
        let command = Notebook::default().parse(&line);
        let stored = serde_json::to_vec(&command).expect("stored").len();
        prop_assert!(stored <= 2 * command.bytes_estimate(), "{} {}", stored, command.bytes_estimate());
    }
}

/// What replicas would have if a data plane lived below the state: counts of committed records, no bytes.
#[derive(Default)]
struct DataPlane {
    /// By partition and replica: its log end. Nothing uncommitted is modelled.
    ends: BTreeMap<(TopicPartition, NodeId), u64>,
    committed: BTreeMap<TopicPartition, u64>,
}

impl DataPlane {
    fn end(&self, tp: TopicPartition, node: NodeId) -> u64 {
        self.ends.get(&(tp, node)).copied().unwrap_or(0)
    }

    /// acks=all: every in-sync replica takes a record, and there are enough of them.
    fn produce(&mut self, state: &ClusterState) {
        for (tp, p) in state.partitions() {
            let topic = state.topic(tp.topic_id).expect("there");
            if p.leader.is_some() && p.isr.len() >= topic.min_isr(p) {
                let committed = self.committed.entry(tp).or_default();
                *committed += 1;
                self.ends.extend(p.isr.iter().map(|node| ((tp, *node), *committed)));
            }
        }
    }

    /// Replicas that are there fetch what the leader has, before the leader takes them into the set.
    fn catch_up(&mut self, state: &ClusterState) {
        for (tp, p) in state.partitions() {
            let Some(leader) = p.leader else { continue };
            let end = self.end(tp, leader);
            let is_there = |node: &&NodeId| state.brokers.get(node).is_some_and(Broker::is_active);
            self.ends.extend(p.replicas.iter().filter(is_there).map(|node| ((tp, *node), end)));
        }
    }

    /// A process came back without the clean-stop token: at worst it has nothing.
    fn lose(&mut self, node: NodeId) {
        for (_, end) in self.ends.iter_mut().filter(|((_, of), _)| *of == node) {
            *end = 0;
        }
    }

    /// A new leader has all that was committed, unless everybody who was known to have it has lost it, or
    /// losing it was asked for.
    fn follow(&mut self, before: &ClusterState, state: &ClusterState, line: &str) {
        for (tp, p) in state.partitions() {
            let (Some(was), Some(leader)) = (before.partition(tp), p.leader) else { continue };
            let committed = self.committed.get(&tp).copied().unwrap_or(0);
            if self.end(tp, leader) < committed {
                let topic = state.topic(tp.topic_id).expect("there");
                let is_asked = topic.config.unclean_leader_election || line.contains("unclean");
                let knew = || was.isr.iter().chain(&was.elr).filter(|node| self.end(tp, **node) == committed);
                let is_last_known = was.last_known_leader.or(was.leader) == Some(leader);
                assert!(is_asked || (is_last_known && knew().count() == 0), "{line}: {was:?} to {p:?}");
                self.committed.insert(tp, self.end(tp, leader));
            }
            // Followers cut what the leader has not.
            let end = self.end(tp, leader);
            for node in &p.replicas {
                let own = self.ends.entry((tp, *node)).or_default();
                *own = end.min(*own);
            }
            for node in &p.isr {
                assert_eq!(self.end(tp, *node), end, "{line}: in sync, {was:?} to {p:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// KIP-966: no sequence of crashes, returns, moves and changes of settings elects a leader that lacks
    /// what acks=all promised, unless everybody who had it has lost it.
    #[test]
    fn what_was_committed_is_led_by_who_has_it(
        lines in prop::collection::vec((command(), any::<bool>()), 1..80),
    ) {
        let mut notebook = Notebook::default();
        let mut plane = DataPlane::default();
        for line in [
            "form plane",
            "register 1 9 storage=1",
            "register 2 9 storage=2",
            "register 3 9 storage=3",
            "register 4 9 storage=4",
            "create x assign=1,2,3;2,3,4 min.insync.replicas=2",
            "create y assign=1,2;3,4",
        ] {
            prop_assert!(!notebook.line(line).starts_with("refused"), "{}", line);
        }
        for (line, is_producing) in lines {
            let line = line.replace(" a ", " x ").replace(" b.c ", " y ").replace(" d ", " x ");
            plane.catch_up(&notebook.state);
            let before = notebook.state.clone();
            let command = notebook.parse(&line);
            let answer = notebook.apply(command.clone());
            if let Ok(Reply::TopicCreated(created)) = &answer {
                notebook.created += 1;
                notebook.ids.insert(line.split(' ').nth(1).expect("a name").into(), created.topic_id);
            }
            if let (Command::RegisterBroker(new), Ok(_)) = (&command, &answer)
                && let Some(known) = before.brokers.get(&new.node_id)
            {
                let is_clean = new.clean_stop_of == Some(known.epoch);
                let is_moved = !known.storage.is_nil() && known.storage != new.storage;
                if known.incarnation != new.incarnation && (!is_clean || is_moved) {
                    plane.lose(new.node_id);
                }
            }
            plane.follow(&before, &notebook.state, &line);
            if is_producing {
                plane.produce(&notebook.state);
            }
        }
    }
}

/// What happens to a partition that is switched to and fro, with a group that reports as it likes.
fn switched() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => prop::sample::select(vec!["raft", "fetch"])
            .prop_map(|way| format!("replace t highwater.replication={way}")),
        3 => (0..20i64).prop_map(|offset| format!("raft-begin t 0 offset={offset}")),
        8 => (1..5u32, 0..12i32).prop_map(|(by, term)| format!("raft-leader t 0 by={by} term={term}")),
        4 => (nodes(), 1..5u32, 0..12i32)
            .prop_map(|(nodes, by, term)| format!("raft-leader t 0 {nodes} by={by} term={term}")),
        3 => (nodes(), 1..5u32, 0..12i32)
            .prop_map(|(nodes, by, term)| format!("raft-end t 0 {nodes} by={by} term={term}")),
        2 => (1..5u32).prop_map(|node| format!("fence {node}")),
        3 => (1..5u32, 0..3u32).prop_map(|(node, i)| format!("register {node} {i} storage={node}")),
        3 => nodes().prop_map(|nodes| format!("isr t 0 {nodes}")),
        2 => nodes().prop_map(|nodes| format!("reassign t 0 {nodes}")),
        1 => Just("reassign t 0 cancel".to_string()),
        1 => Just("elect t 0 unclean".to_string()),
        2 => (0..12i32, 0..4u64).prop_map(|(epoch, version)| format!("publish t 0 {epoch} {version} 0 10")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Epochs only grow and each has one leader, over any number of switches between fetch and raft.
    #[test]
    fn switches_keep_epochs_growing(lines in prop::collection::vec(switched(), 1..80)) {
        let mut notebook = Notebook::default();
        let mut reference = Reference::default();
        for node in ["form switched", "register 1 9", "register 2 9", "register 3 9", "register 4 9"] {
            notebook.line(node);
        }
        prop_assert!(!notebook.line("create t assign=1,2,3").starts_with("refused"));
        reference.partitions.insert("t".into(), 1);
        for line in lines {
            let was_raft = notebook.state.partitions().any(|(_, p)| p.raft.is_some());
            notebook.line(&line);
            notebook.state.check().expect("whole");
            reference.follow_state(&notebook.state);
            let is_raft = notebook.state.partitions().any(|(_, p)| p.raft.is_some());
            let is_switch = line.starts_with("raft-begin") || line.starts_with("raft-end");
            prop_assert!(was_raft == is_raft || is_switch, "{} does not switch", line);
        }
    }
}
