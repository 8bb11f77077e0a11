//! Deltas: small, checked, and refused as a whole.

use super::*;

fn notebook() -> Notebook {
    let mut notebook = Notebook::default();
    for line in ["form d", "register 1 11", "register 2 21", "create a partitions=3 replicas=2", "create b"] {
        assert!(!notebook.line(line).starts_with("refused"), "{line}");
    }
    notebook
}

#[test]
fn a_delta_holds_what_changed_and_no_more() {
    let mut notebook = notebook();
    let before = notebook.state.clone();
    assert!(!notebook.line("publish a 1 0 0 0 10").starts_with("refused"));
    let delta = notebook.state.delta_since(&before);
    let text = serde_json::to_string(&delta).expect("stored");
    assert!(text.contains("\"manifest\"") && !text.contains("\"replicas\""), "{text}");
    let before = notebook.state.clone();
    assert!(!notebook.line("fence 1").starts_with("refused"));
    let delta = notebook.state.delta_since(&before);
    let text = serde_json::to_string(&delta).expect("stored");
    assert!(!text.contains("\"manifest\""), "leaders move without the manifests: {text}");
    let mut follower = before.clone();
    follower.apply_delta(&delta).expect("applied");
    assert_eq!(follower, notebook.state);
    assert!(matches!(follower.apply_delta(&delta), Err(DeltaError::Version { .. })), "once");
}

#[test]
fn a_delta_that_breaks_a_rule_changes_nothing() {
    let mut notebook = notebook();
    let before = notebook.state.clone();
    for line in ["create c partitions=1 replicas=1", "fence 2", "replace a retention.ms=5"] {
        assert!(!notebook.line(line).starts_with("refused"), "{line}");
    }
    let good = serde_json::to_string(&notebook.state.delta_since(&before)).expect("stored");
    for (from, to) in [
        ("\"name\":\"c\"", "\"name\":\"b\""),
        ("\"isr\":[1]", "\"isr\":[7]"),
        ("\"retention.ms\":\"5\"", "\"retention.ms\":\"-9\""),
        ("\"partition\":2", "\"partition\":9"),
        ("\"from\":5", "\"from\":4"),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        let bad: StateDelta = serde_json::from_str(&good.replace(from, to)).expect("a delta");
        let mut follower = before.clone();
        assert!(follower.apply_delta(&bad).is_err(), "{to}");
        assert_eq!(follower, before, "{to}");
    }
}
