//! What older releases stored is still judged and read as they did.

use std::path::Path;

use serde_json::Value;

use super::*;

/// Entries of rules 1 with the answers that release 0.1 gave, and the state that it came to
/// (`tests/fixtures/rules-1/*.jsonl`). Read again, the entries give the same: a replica that replays its log
/// with this release must not differ from one that applied it with that.
#[test]
fn entries_of_rules_1_are_judged_as_they_were() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rules-1");
    let mut found = 0;
    for entry in std::fs::read_dir(&dir).expect("fixtures") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let mut state = ClusterState::default();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            let mut fields: BTreeMap<String, Value> = serde_json::from_str(line).expect("JSON");
            let mut take = |name: &str| fields.remove(name);
            if let Some(stored) = take("state") {
                let stored: ClusterState = serde_json::from_value(stored).expect("format 1 loads");
                assert_eq!(state, stored, "{place}");
                found += 1;
                continue;
            }
            let batch: Batch = serde_json::from_value(take("batch").expect("a batch")).expect("an entry");
            assert_eq!(batch.rules, 1, "{place}");
            let answer = match state.apply_batch(&batch).pop().expect("one answer") {
                Ok(reply) => format!("{reply:?}"),
                Err(refusal) => refusal.to_string(),
            };
            assert_eq!(Some(answer.as_str()), take("answer").as_ref().and_then(Value::as_str), "{place}");
            state.check().expect("whole");
        }
    }
    assert!(found >= 5, "the fixtures were not found");
}

/// `tests/fixtures/state-v2.json` has every field of format 2; it is written anew by `UPDATE_GOLDEN=1`.
#[test]
fn the_state_of_format_2_loads_and_is_stored_alike() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-v2.json");
    let mut notebook = Notebook::default();
    let members = [(1, Uuid::from_u128(101)), (2, Uuid::from_u128(102)), (3, Uuid::from_u128(103))].into();
    let form = Command::FormCluster { cluster_id: "three".into(), members };
    notebook.apply(form).expect("formed");
    for line in [
        "register 1 11 rack=a storage=1",
        "register 2 21 rack=b storage=2",
        "register 3 31 rack=c storage=3",
        "register 4 41 rack=a storage=4",
        "create t assign=1,2,3;2,3,1 min.insync.replicas=2",
        "create gone partitions=1 replicas=1",
        "delete gone",
        "reassign t 1 2,3,4",
        "stop 4",
        "drain 3",
        "fence 3",
        "fence 2",
        "fence 1",
        "publish t 0 1 0 0 10",
        "ids 1000",
        "register 5 51",
        "stop 5",
        "remove 5",
    ] {
        let answer = notebook.line(line);
        assert!(!answer.starts_with("refused"), "{line}: {answer}");
    }
    let mut raft = notebook.state.topic_by_name("t").expect("there").as_ref().clone();
    let partition = std::sync::Arc::make_mut(&mut raft.partitions[1]);
    (partition.isr, partition.elr, partition.last_known_leader) = (partition.replicas.clone(), vec![], None);
    partition.raft = Some(RaftGroup { since_epoch: 1, start_offset: 7, voters: vec![2, 3] });
    notebook.state.topics.insert(raft.id, raft.into());
    notebook.state.check().expect("whole");
    let stored = serde_json::to_string_pretty(&notebook.state).expect("stored") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &stored).expect("written");
    }
    let text = std::fs::read_to_string(&path).expect("the fixture");
    let loaded: ClusterState = serde_json::from_str(&text).expect("loads");
    assert_eq!(loaded, notebook.state);
    assert_eq!(text, stored, "stored alike");
    for field in ["members", "elr", "last_known_leader", "adding", "removing", "raft", "removed_epochs_end"] {
        assert!(text.contains(&format!("\"{field}\"")), "{field}");
    }
}
