//! Placement and balance held by what they are for: shares, racks, rest.

use super::*;

fn cluster(brokers: &[(NodeId, Option<&str>)]) -> Notebook {
    let mut notebook = Notebook::default();
    notebook.line("form balance");
    for (node, rack) in brokers {
        let rack = rack.map_or(String::new(), |rack| format!(" rack={rack}"));
        assert!(!notebook.line(&format!("register {node} {node}{rack}")).starts_with("refused"));
    }
    notebook
}

fn run(notebook: &mut Notebook, line: &str) {
    let answer = notebook.line(line);
    assert!(!answer.starts_with("refused"), "{line}: {answer}");
}

/// Plans until nothing is left to do, with replicas that catch up at once; counts the moves.
fn settle(notebook: &mut Notebook, loads: &Loads) -> usize {
    let mut moved = 0;
    for _ in 0..500 {
        notebook.clock_ms += 10_000;
        let commands = plan_moves(&notebook.state, loads, &SETTINGS, notebook.clock_ms);
        if commands.is_empty() {
            return moved;
        }
        let in_flight =
            |state: &ClusterState| state.partitions().filter(|(_, p)| !p.adding.is_empty()).count();
        for command in commands {
            notebook.apply(command).expect("a plan holds");
        }
        assert!(in_flight(&notebook.state) <= SETTINGS.moves_max, "bounded");
        let moving: Vec<_> = notebook
            .state
            .partitions()
            .filter(|(_, p)| !p.adding.is_empty() && p.leader.is_some())
            .map(|(tp, p)| (tp, p.clone()))
            .collect();
        moved += moving.len();
        for (tp, partition) in moving {
            let is_active = |node: &NodeId| notebook.state.brokers[node].is_active();
            let nodes: Vec<String> =
                partition.replicas.iter().filter(|n| is_active(n)).map(NodeId::to_string).collect();
            let name = notebook.state.topic(tp.topic_id).expect("there").name.clone();
            run(notebook, &format!("isr {name} {} {}", tp.partition, nodes.join(",")));
        }
    }
    panic!("the plan does not come to rest");
}

fn counts(state: &ClusterState, is: impl Fn(&Partition, NodeId) -> bool) -> Vec<usize> {
    let count = |node: &NodeId| state.partitions().filter(|(_, p)| is(p, *node)).count();
    state.brokers.keys().map(count).collect()
}

fn replicas(state: &ClusterState) -> Vec<usize> {
    counts(state, |p, node| p.replicas.contains(&node))
}

fn leaders(state: &ClusterState) -> Vec<usize> {
    counts(state, |p, node| p.leader == Some(node))
}

fn assert_even(counts: &[usize], tolerated: usize) {
    let (least, most) = (counts.iter().min().expect("some"), counts.iter().max().expect("some"));
    assert!(most - least <= tolerated, "{counts:?}");
}

#[test]
fn new_topics_are_spread_over_brokers_racks_and_leaders() {
    let racks = [Some("a"), Some("a"), Some("b"), Some("b"), Some("c"), Some("c")];
    let brokers: Vec<_> = (1..).zip(racks).collect();
    let mut notebook = cluster(&brokers);
    for topic in ["t", "u", "v"] {
        run(&mut notebook, &format!("create {topic} partitions=30 replicas=3"));
    }
    run(&mut notebook, "create one partitions=1 replicas=1");
    for (_, partition) in notebook.state.partitions().filter(|(_, p)| p.replicas.len() == 3) {
        let mut racks: Vec<_> = partition.replicas.iter().map(|n| &notebook.state.brokers[n].rack).collect();
        racks.sort();
        racks.dedup();
        assert_eq!(racks.len(), 3, "{partition:?}");
    }
    assert_even(&replicas(&notebook.state), 1);
    assert_even(&leaders(&notebook.state), 2);
    assert_eq!(settle(&mut notebook, &Loads::default()), 0, "as placed, nothing is left to do");
}

#[test]
fn placement_is_stable_when_a_broker_joins() {
    let mut few = cluster(&[(1, None), (2, None), (3, None), (4, None)]);
    let mut more = cluster(&[(1, None), (2, None), (3, None), (4, None), (5, None)]);
    for notebook in [&mut few, &mut more] {
        run(notebook, "create t partitions=1000 replicas=1");
    }
    let pairs = few.state.partitions().zip(more.state.partitions());
    let moved = pairs.filter(|((_, a), (_, b))| a.replicas != b.replicas).count();
    // A fifth belongs to the new one; bounded shares displace some more.
    assert!((200..450).contains(&moved), "{moved} of 1000 are elsewhere");
    assert_even(&replicas(&more.state), 1);
}

#[test]
fn a_broker_that_joins_takes_its_share_and_no_more_is_moved() {
    let mut notebook = cluster(&[(1, None), (2, None), (3, None)]);
    run(&mut notebook, "create t partitions=40 replicas=2");
    run(&mut notebook, "register 4 4");
    let moved = settle(&mut notebook, &Loads::default());
    assert_even(&replicas(&notebook.state), 2);
    assert_even(&leaders(&notebook.state), 2);
    assert!(moved <= 20, "a quarter of 80 replicas, {moved} moved");
}

#[test]
fn a_drained_broker_is_empty_and_can_be_removed() {
    let racks = [Some("a"), Some("b"), Some("a"), Some("b")];
    let brokers: Vec<_> = (1..).zip(racks).collect();
    let mut notebook = cluster(&brokers);
    run(&mut notebook, "create t partitions=20 replicas=2");
    run(&mut notebook, "drain 2");
    settle(&mut notebook, &Loads::default());
    assert_eq!(replicas(&notebook.state)[1], 0);
    for (_, p) in notebook.state.partitions() {
        assert!(p.replicas.contains(&4), "the other one of its rack: {p:?}");
    }
    run(&mut notebook, "create v partitions=10 replicas=2");
    assert_eq!(replicas(&notebook.state)[1], 0, "it gets no new ones");
    run(&mut notebook, "stop 2");
    run(&mut notebook, "remove 2");
    run(&mut notebook, "register 2 77");
    assert_eq!(notebook.state.brokers[&2].epoch, 2, "epochs go on");
}

#[test]
fn a_dead_broker_gives_its_replicas_away_in_time() {
    let mut notebook = cluster(&[(1, None), (2, None), (3, None), (4, None)]);
    run(&mut notebook, "create t partitions=12 replicas=3 min.insync.replicas=2");
    run(&mut notebook, "fence 3");
    let (loads, now) = (Loads::default(), notebook.clock_ms + 50_000);
    assert_eq!(plan_moves(&notebook.state, &loads, &SETTINGS, now), vec![], "it may come back");
    notebook.clock_ms = now + 20_000;
    settle(&mut notebook, &loads);
    assert_eq!(replicas(&notebook.state)[2], 0);
    assert_even(&leaders(&notebook.state).into_iter().filter(|count| *count > 0).collect::<Vec<_>>(), 1);
}

#[test]
fn three_brokers_with_three_replicas_have_nowhere_to_move() {
    let mut notebook = cluster(&[(1, None), (2, None), (3, None)]);
    run(&mut notebook, "create t partitions=9 replicas=3");
    run(&mut notebook, "fence 3");
    notebook.clock_ms += 1_000_000;
    let moved = settle(&mut notebook, &Loads::default());
    assert_eq!(moved, 0);
    run(&mut notebook, "register 3 33");
    for number in 0..9 {
        run(&mut notebook, &format!("isr t {number} 1,2,3"));
    }
    settle(&mut notebook, &Loads::default());
    assert_eq!(leaders(&notebook.state), vec![3, 3, 3], "leaders return");
}

#[test]
fn busy_partitions_are_kept_apart() {
    let mut notebook = cluster(&[(1, None), (2, None), (3, None), (4, None)]);
    run(&mut notebook, "create t partitions=16 replicas=1");
    let together = notebook.state.partitions().filter(|(_, p)| p.replicas == [1]);
    let busy: Vec<TopicPartition> = together.map(|(tp, _)| tp).collect();
    assert_eq!(busy.len(), 4);
    let report = |tp: &TopicPartition| PartitionReport {
        tp: *tp,
        log_end: 1,
        local_bytes: 1 << 30,
        bytes_per_s: 9_999,
    };
    let report = BrokerReport { partitions: busy.iter().map(report).collect(), ..BrokerReport::default() };
    let loads = Loads::from_reports([&report]);
    settle(&mut notebook, &loads);
    let home = |tp: &TopicPartition| notebook.state.partition(*tp).expect("there").replicas[0];
    let mut homes: Vec<NodeId> = busy.iter().map(home).collect();
    homes.sort_unstable();
    assert_eq!(homes, vec![1, 2, 3, 4]);
    for share in shares(&notebook.state, &loads, &SETTINGS, notebook.clock_ms) {
        assert!((900..1_100).contains(&share.load_permille), "{share:?}");
    }
}

#[test]
fn a_move_to_a_broker_that_died_is_taken_back_and_made_elsewhere() {
    let mut notebook = cluster(&[(1, None), (2, None), (3, None), (4, None)]);
    run(&mut notebook, "create t assign=1,2;2,1 min.insync.replicas=1");
    run(&mut notebook, "reassign t 0 2,3");
    run(&mut notebook, "fence 3");
    notebook.clock_ms += 100_000;
    let plan = plan_moves(&notebook.state, &Loads::default(), &SETTINGS, notebook.clock_ms);
    let tp = TopicPartition::new(notebook.id("t"), 0);
    assert_eq!(plan.first(), Some(&Command::MovePartition { tp, replicas: None }));
    settle(&mut notebook, &Loads::default());
    assert!(notebook.state.partitions().all(|(_, p)| !p.replicas.contains(&3)));
}

#[test]
fn what_was_placed_by_hand_stays_until_its_broker_goes() {
    let mut notebook = cluster(&[(1, None), (2, None), (3, None)]);
    run(&mut notebook, "create t assign=1,2;1,2;1,2;1,2;1,2;1,2");
    let before = notebook.state.clone();
    assert_eq!(settle(&mut notebook, &Loads::default()), 0);
    assert_eq!(notebook.state, before, "neither moved nor led otherwise");
    run(&mut notebook, "create u partitions=6 replicas=1");
    run(&mut notebook, "reassign u 0 2");
    run(&mut notebook, "drain 1");
    settle(&mut notebook, &Loads::default());
    assert_eq!(replicas(&notebook.state)[0], 0, "it has to go");
}
