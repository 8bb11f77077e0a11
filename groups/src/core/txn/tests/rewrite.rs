//! Passes that write the state once more: what is written, what waits, and what is left out.

use super::*;

fn stored(ids: &[&str]) -> Coordinator {
    let mut loader = Loader::default();
    for (n, id) in ids.iter().enumerate() {
        let txn = Transaction::created(10 + n as i64, 60_000, 5);
        let value = encode_value(&Transaction { epoch: 3, ..txn });
        loader.take(&encode_key(id), Some(&value)).expect("loads");
    }
    loader.finish(TxnSettings::default(), 1, 10, &mut Vec::new())
}

fn names(part: &RewritePart) -> Vec<String> {
    let name = |record: &TxnRecord| decode_key(&record.key).expect("a key").to_string();
    part.records.iter().map(name).collect()
}

/// Adds a partition to the transaction of the nth stored id; the write that it asks for.
fn add(coordinator: &mut Coordinator, n: i64, id: &str) -> (WriteId, TxnRecord) {
    let asked = AddPartitions {
        transactional_id: id.into(),
        producer: Producer { id: 10 + n, epoch: 3 },
        partitions: vec![TxnPartition::new("t", 0)],
        version: ClientVersion::V2,
    };
    let mut effects = Vec::new();
    coordinator.add_partitions(20, 1, &asked, &mut effects);
    match effects.pop() {
        Some(Effect::Append { write, record }) => (write, record),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_id_is_written_as_it_is_committed() {
    let mut coordinator = stored(&["a", "b"]);
    let (write, record) = add(&mut coordinator, 1, "b");
    coordinator.appended(21, write, Ok(()), &mut Vec::new());
    coordinator.begin_rewrite();
    let part = coordinator.rewrite(1_000_000);
    assert!(part.is_last);
    assert_eq!(names(&part), ["a", "b"]);
    assert_eq!(part.records[1], record, "an open transaction");
    let bytes = |record: &TxnRecord| record.key.len() + record.value.as_ref().map_or(0, Bytes::len);
    let written = part.records.iter().map(bytes).sum::<usize>() as u64;
    let estimate = coordinator.live_bytes();
    assert!(written <= 2 * estimate && estimate <= 4 * written, "{estimate} for {written}");
}

#[test]
fn parts_are_of_about_the_size_asked_for() {
    let ids: Vec<String> = (0..100).map(|n| format!("id-{n:03}")).collect();
    let mut coordinator = stored(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    coordinator.begin_rewrite();
    let (mut seen, mut parts) = (Vec::new(), 0);
    loop {
        let part = coordinator.rewrite(860);
        assert!(part.records.len() <= 10, "{}", part.records.len());
        seen.extend(names(&part));
        parts += 1;
        if part.is_last {
            break;
        }
    }
    assert_eq!(seen, ids);
    assert!((10..=12).contains(&parts), "{parts}");
}

#[test]
fn a_change_from_before_the_pass_is_awaited() {
    for outcome in [Ok(()), Err(AppendFailure::Unavailable)] {
        let mut coordinator = stored(&["a", "b"]);
        let before = encode_value(coordinator.transaction("a").expect("stored"));
        let (write, record) = add(&mut coordinator, 0, "a");
        coordinator.begin_rewrite();
        let part = coordinator.rewrite(1_000_000);
        assert_eq!((names(&part), part.is_last), (vec!["b".to_owned()], false));
        let part = coordinator.rewrite(1_000_000);
        assert_eq!((part.records.len(), part.is_last), (0, false), "not yet");
        coordinator.appended(21, write, outcome, &mut Vec::new());
        let part = coordinator.rewrite(1_000_000);
        assert_eq!((names(&part), part.is_last), (vec!["a".to_owned()], true));
        let expected = if outcome.is_ok() { record.value } else { Some(before) };
        assert_eq!(part.records[0].value, expected, "{outcome:?}");
    }
}

#[test]
fn a_change_since_the_pass_began_is_not_written_twice() {
    let mut coordinator = stored(&["a", "b"]);
    coordinator.begin_rewrite();
    let (write, _) = add(&mut coordinator, 0, "a");
    let part = coordinator.rewrite(1_000_000);
    assert_eq!((names(&part), part.is_last), (vec!["b".to_owned()], false), "it may fail");
    coordinator.appended(21, write, Ok(()), &mut Vec::new());
    let part = coordinator.rewrite(1_000_000);
    assert_eq!((part.records.len(), part.is_last), (0, true));
}

#[test]
fn an_id_that_is_gone_is_not_written() {
    let mut coordinator = stored(&["a", "b"]);
    let mut effects = Vec::new();
    coordinator.tick(i64::MAX, &mut effects);
    coordinator.begin_rewrite();
    assert!(!coordinator.rewrite(1_000_000).is_last, "the tombstones are on their way");
    for effect in std::mem::take(&mut effects) {
        let Effect::Append { write, record } = effect else { panic!("{effect:?}") };
        assert_eq!(record.value, None);
        coordinator.appended(i64::MAX, write, Ok(()), &mut effects);
    }
    let part = coordinator.rewrite(1_000_000);
    assert_eq!((part.records.len(), part.is_last, coordinator.live_bytes()), (0, true, 0));
}
