//! Golden transcripts of the session protocol, then its limits, then a comparison with plain full fetches.

use std::fmt::Write;

use proptest::prelude::*;

use super::*;

fn key(text: &str) -> PartitionKey {
    let (topic, partition) = text.split_once('-').expect("topic-partition");
    PartitionKey { topic: TopicKey::Name(topic.into()), partition: partition.parse().expect("number") }
}

fn want(offset: i64) -> Want {
    Want { fetch_offset: offset, bytes_max: 1_000, current_leader_epoch: -1, last_fetched_epoch: -1 }
}

fn ask(id: i32, epoch: i32, added: &[(&str, i64)], forgotten: &[&str]) -> Ask {
    Ask {
        session_id: id,
        session_epoch: epoch,
        uses_ids: false,
        added: added.iter().map(|(k, o)| (key(k), want(*o))).collect(),
        forgotten: forgotten.iter().map(|k| key(k)).collect(),
    }
}

fn seen(records: bool, high_watermark: i64) -> Seen {
    Seen { has_records: records, is_remarkable: false, has_error: false, high_watermark, log_start: 0 }
}

fn name(key: &PartitionKey) -> String {
    match &key.topic {
        TopicKey::Name(topic) => format!("{topic}-{}", key.partition),
        TopicKey::Id(id) => format!("{id}-{}", key.partition),
    }
}

/// Runs a script; ids are written `S` once known. Lines: `fetch EPOCH [+t-p@offset].. [-t-p]..` with the
/// findings after `:` as `t-p=hw[r|e]`.
fn transcript(script: &str) -> String {
    let mut sessions = FetchSessions::seeded(0);
    let mut id = 0;
    let mut out = String::new();
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (request, findings) = line.split_once(':').unwrap_or((line, ""));
        let mut words = request.split_whitespace();
        let epoch: i32 = words.next().expect("epoch").parse().expect("epoch");
        let (mut added, mut forgotten) = (Vec::new(), Vec::new());
        for word in words {
            match word.split_at(1) {
                ("+", rest) => {
                    let (k, o) = rest.split_once('@').expect("offset");
                    added.push((k, o.parse().expect("offset")));
                }
                (_, rest) => forgotten.push(rest),
            }
        }
        match sessions.begin(0, ask(id, epoch, &added, &forgotten)) {
            Err(refusal) => writeln!(out, "{request}-> {refusal:?}").expect("string"),
            Ok(context) => {
                if context.session_id != NO_SESSION {
                    id = context.session_id;
                }
                let found = |k: &str| {
                    let word = findings.split_whitespace().find_map(|w| w.strip_prefix(&format!("{k}=")));
                    let word = word.unwrap_or("0");
                    let hw = word.trim_end_matches(['r', 'e']).parse().expect("high watermark");
                    Seen { has_error: word.ends_with('e'), ..seen(word.ends_with('r'), hw) }
                };
                let all: Vec<Seen> = context.targets.iter().map(|(k, _)| found(&name(k))).collect();
                let told = sessions.finish(&context, &all);
                let kind = match (context.session_id, context.is_incremental) {
                    (NO_SESSION, _) => "none",
                    (_, false) => "new",
                    (_, true) => "incremental",
                };
                write!(out, "{kind} reads").expect("string");
                for (k, w) in &context.targets {
                    write!(out, " {}@{}", name(k), w.fetch_offset).expect("string");
                }
                write!(out, " tells").expect("string");
                for ((k, _), _) in context.targets.iter().zip(told).filter(|(_, told)| *told) {
                    write!(out, " {}", name(k)).expect("string");
                }
                out.push('\n');
            }
        }
    }
    out
}

#[test]
fn an_incremental_fetch_tells_only_what_changed() {
    let out = transcript(
        "0 +a-0@0 +a-1@0 +b-0@5 : a-0=3r
         1 +a-0@3 : a-0=3
         2 : a-1=7r a-0=3
         3 +a-1@7 : a-0=4r a-1=7
         4 -b-0 : a-0=4e a-1=7
         5 : a-0=4 a-1=7
         6 : a-0=4 a-1=7
         -1 +a-0@9 : a-0=9r",
    );
    assert_eq!(
        out,
        "new reads a-0@0 a-1@0 b-0@5 tells a-0 a-1 b-0\n\
         incremental reads a-0@3 a-1@0 b-0@5 tells\n\
         incremental reads a-0@3 a-1@0 b-0@5 tells a-1\n\
         incremental reads a-0@3 b-0@5 a-1@7 tells a-0\n\
         incremental reads a-1@7 a-0@3 tells a-0\n\
         incremental reads a-1@7 a-0@3 tells a-0\n\
         incremental reads a-1@7 a-0@3 tells\n\
         none reads a-0@9 tells a-0\n"
    );
}

#[test]
fn wrong_epochs_and_gone_sessions_are_refused() {
    let out = transcript(
        "5
         0 +a-0@0
         2
         1
         1
         2 -a-0
         3",
    );
    assert_eq!(
        out,
        "5-> NotFound\n\
         new reads a-0@0 tells a-0\n\
         2-> InvalidEpoch\n\
         incremental reads a-0@0 tells\n\
         1-> InvalidEpoch\n\
         none reads tells\n\
         3-> NotFound\n"
    );
}

#[test]
fn topic_ids_and_names_do_not_mix_and_epochs_wrap() {
    let mut sessions = FetchSessions::seeded(0);
    let id = sessions.begin(0, ask(0, 0, &[("a-0", 0)], &[])).expect("new").session_id;
    let mixed = Ask { uses_ids: true, ..ask(id, 1, &[], &[]) };
    assert_eq!(sessions.begin(0, mixed).expect_err("mixed"), SessionRefusal::TopicIds);
    sessions.sessions.get_mut(&id).expect("session").epoch = i32::MAX;
    sessions.begin(0, ask(id, i32::MAX, &[], &[])).expect("last epoch");
    sessions.begin(0, ask(id, 1, &[], &[])).expect("after the wrap");
}

#[test]
fn slots_are_bounded_and_idle_sessions_give_way() {
    let mut sessions = FetchSessions::new(1, 2, 100);
    let first = sessions.begin(0, ask(0, 0, &[("a-0", 0)], &[])).expect("one").session_id;
    let second = sessions.begin(10, ask(0, 0, &[("b-0", 0)], &[])).expect("two").session_id;
    assert_eq!(sessions.begin(20, ask(0, 0, &[("c-0", 0)], &[])).expect("full").session_id, NO_SESSION);
    let late = FETCH_SESSION_EVICTION_MS + 5;
    let third = sessions.begin(late, ask(0, 0, &[("c-0", 0)], &[])).expect("evicts").session_id;
    assert!(third != NO_SESSION && sessions.len() == 2);
    assert_eq!(sessions.begin(late, ask(first, 1, &[], &[])).expect_err("gone"), SessionRefusal::NotFound);
    // All in use: a larger newcomer replaces an old, smaller one; an equal one does not.
    sessions.begin(late, ask(second, 1, &[], &[])).expect("in use");
    let late = 2 * FETCH_SESSION_EVICTION_MS;
    sessions.begin(late, ask(second, 2, &[], &[])).expect("in use");
    sessions.begin(late, ask(third, 1, &[], &[])).expect("in use");
    assert_eq!(sessions.begin(late, ask(0, 0, &[("d-0", 0)], &[])).expect("full").session_id, NO_SESSION);
    let larger = sessions.begin(late, ask(0, 0, &[("d-0", 0), ("d-1", 0)], &[])).expect("evicts");
    assert_ne!(larger.session_id, NO_SESSION);
    assert_eq!(sessions.begin(late, ask(second, 3, &[], &[])).expect_err("gone"), SessionRefusal::NotFound);
}

#[test]
fn partitions_are_bounded_over_all_sessions() {
    let mut sessions = FetchSessions::new(1, 10, 3);
    let id = sessions.begin(0, ask(0, 0, &[("a-0", 0), ("a-1", 0)], &[])).expect("fits").session_id;
    let more = sessions.begin(0, ask(0, 0, &[("b-0", 0), ("b-1", 0)], &[])).expect("answered");
    assert_eq!(more.session_id, NO_SESSION);
    let grown = sessions.begin(0, ask(id, 1, &[("a-2", 0), ("a-3", 0)], &[])).expect("answered");
    assert_eq!((grown.session_id, grown.targets.len()), (NO_SESSION, 4));
    assert!(sessions.is_empty() && sessions.partitions == 0);
}

proptest! {
    /// Whatever a client adds and forgets, its session reads the same partitions as a full fetch would.
    #[test]
    fn a_session_stands_for_the_full_fetch(
        steps in prop::collection::vec((prop::collection::btree_map(0..6i32, 0..100i64, 0..4),
                                        prop::collection::btree_set(0..6i32, 0..3), any::<u8>()), 1..30),
    ) {
        let mut sessions = FetchSessions::seeded(0);
        let mut model: BTreeMap<i32, i64> = BTreeMap::new();
        let (mut id, mut epoch) = (0, 0);
        for (added, forgotten, bits) in steps {
            let names: Vec<(String, i64)> = added.iter().map(|(p, o)| (format!("t-{p}"), *o)).collect();
            let gone: Vec<String> = forgotten.iter().map(|p| format!("t-{p}")).collect();
            let names: Vec<(&str, i64)> = names.iter().map(|(n, o)| (n.as_str(), *o)).collect();
            let gone: Vec<&str> = if epoch == 0 { vec![] } else { gone.iter().map(String::as_str).collect() };
            if epoch == 0 { model.clear(); }
            model.extend(added.clone());
            for name in &gone { model.remove(&key(name).partition); }
            let context = sessions.begin(0, ask(id, epoch, &names, &gone)).expect("in step");
            let read: BTreeMap<i32, i64> =
                context.targets.iter().map(|(k, w)| (k.partition, w.fetch_offset)).collect();
            prop_assert_eq!(&read, &model);
            let all: Vec<Seen> = context.targets.iter()
                .map(|(k, _)| seen(bits >> k.partition & 1 == 1, 10)).collect();
            let told = sessions.finish(&context, &all);
            for (told, seen) in told.iter().zip(&all) { prop_assert!(*told || !seen.has_records); }
            (id, epoch) = match context.session_id {
                NO_SESSION => (0, 0),
                id => (id, if epoch == 0 { 1 } else { epoch + 1 }),
            };
        }
    }
}

#[test]
fn another_life_gives_other_ids() {
    let first_id = |seed| {
        let begun = FetchSessions::seeded(seed).begin(0, ask(0, 0, &[("t-0", 0)], &[]));
        begun.expect("a full fetch").session_id
    };
    assert_ne!(first_id(1), first_id(2));
}

#[test]
fn a_partition_named_again_is_one_target_with_the_last_wish() {
    let mut sessions = FetchSessions::seeded(0);
    let asked = [("t-0", 1), ("t-1", 2), ("t-0", 3), ("u-0", 4), ("t-0", 5)];
    for epoch in [-1, 0] {
        let context = sessions.begin(0, ask(0, epoch, &asked, &[])).expect("a full fetch");
        let found: Vec<_> = context.targets.iter().map(|(k, w)| (name(k), w.fetch_offset)).collect();
        assert_eq!(found, [("t-0".to_owned(), 5), ("t-1".to_owned(), 2), ("u-0".to_owned(), 4)], "{epoch}");
    }
}

#[test]
fn names_that_no_topic_has_are_not_kept() {
    let long = format!("{}-0", "n".repeat(TOPIC_NAME_BYTES_MAX + 1));
    let mut sessions = FetchSessions::seeded(0);
    let refused = sessions.begin(0, ask(0, 0, &[("t-0", 0), (&long, 0)], &[])).expect("answered");
    assert_eq!((refused.session_id, refused.targets.len()), (NO_SESSION, 2));
    let kept = sessions.begin(0, ask(0, 0, &[("t-0", 0)], &[])).expect("answered");
    assert_ne!(kept.session_id, NO_SESSION);
    let ended = sessions.begin(0, ask(kept.session_id, 1, &[(&long, 0)], &[])).expect("answered");
    assert_eq!((ended.session_id, ended.targets.len()), (NO_SESSION, 2));
    assert!(sessions.is_empty());
}
