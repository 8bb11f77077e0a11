//! Transcripts of the coordinator (`tests/*.txt`), its records, and what must hold whatever happens.

use std::fmt::Write;

use bytes::Bytes;

use super::*;
use crate::core::types::Name;

mod properties;
mod records;
mod rewrite;

/// Plays scripts: a line is a command, the indented lines after it are what came of it.
struct Notebook {
    coordinator: Option<Coordinator>,
    now: i64,
    next_id: i64,
    next_request: u64,
    epoch: i32,
    /// Appended and not yet committed, oldest first.
    waiting: Vec<(WriteId, TxnRecord)>,
    committed: Vec<TxnRecord>,
    /// All that were sent, oldest first.
    markers: Vec<Markers>,
    out: String,
}

fn partition(word: &str) -> TxnPartition {
    let (topic, number) = word.split_at(1);
    TxnPartition::new(topic, number.parse().expect("a topic of one letter and a number"))
}

fn producer(word: &str) -> Producer {
    let (id, epoch) = word.split_once('/').expect("id/epoch");
    Producer { id: id.parse().expect("id"), epoch: epoch.parse().expect("epoch") }
}

fn shown(producer: Producer) -> String {
    format!("{}/{}", producer.id, producer.epoch)
}

fn state(txn: &Transaction) -> String {
    let mut text = format!("{} {}", txn.state.name(), shown(txn.producer()));
    let ids = [("was", txn.previous_producer_id), ("next", txn.next_producer_id)];
    for (name, id) in ids.into_iter().filter(|(_, id)| *id >= 0 && *id != txn.producer_id) {
        write!(text, " {name} {id}").expect("writes");
    }
    if txn.state == TxnState::Empty {
        write!(text, " timeout {}", txn.timeout_ms).expect("writes");
    }
    if !txn.partitions.is_empty() {
        let partitions: Vec<_> =
            txn.partitions.iter().map(|at| format!("{}{}", at.topic, at.partition)).collect();
        write!(text, " [{}]", partitions.join(" ")).expect("writes");
    }
    if txn.started_ms >= 0 {
        write!(text, " since {}", txn.started_ms).expect("writes");
    }
    text
}

fn said<T>(answer: &Result<T, TxnError>, ok: impl Fn(&T) -> String) -> String {
    match answer {
        Ok(value) => ok(value),
        Err(error) => format!("{error:?}"),
    }
}

impl Notebook {
    fn new() -> Notebook {
        Notebook {
            coordinator: Some(Coordinator::new(TxnSettings::default(), 0)),
            now: 0,
            next_id: 1_000,
            next_request: 0,
            epoch: 0,
            waiting: Vec::new(),
            committed: Vec::new(),
            markers: Vec::new(),
            out: String::new(),
        }
    }

    fn note(&mut self, line: &str) {
        writeln!(self.out, "    {line}").expect("writes");
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let line = match effect {
                Effect::Append { write, record } => {
                    let id = decode_key(&record.key).expect("just written");
                    let shown = record.value.as_ref().map(|value| {
                        let txn = decode_value(value).expect("just written");
                        state(&txn)
                    });
                    self.waiting.push((write, record));
                    format!("append {id}: {}", shown.as_deref().unwrap_or("gone"))
                }
                Effect::Reply { request, reply } => {
                    let text = match &reply {
                        Reply::InitProducerId(answer) | Reply::EndTxn(answer) => said(answer, |p| shown(*p)),
                        Reply::AddPartitions(answer) | Reply::AddOffsets(answer) => {
                            said(answer, |()| "ok".to_owned())
                        }
                    };
                    format!("reply {request}: {text}")
                }
                Effect::Mark(markers) => {
                    let partitions: Vec<_> =
                        markers.partitions.iter().map(|at| format!("{}{}", at.topic, at.partition)).collect();
                    let what = if markers.commit { "commit" } else { "abort" };
                    let line = format!(
                        "mark {} {} {what} epoch {}: {}",
                        markers.transactional_id,
                        shown(markers.producer),
                        markers.coordinator_epoch,
                        partitions.join(" ")
                    );
                    self.markers.push(markers);
                    line
                }
            };
            self.note(&line);
        }
    }

    fn command(&mut self, line: &str) {
        writeln!(self.out, "{line}").expect("writes");
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut effects = Vec::new();
        match words[..] {
            ["now", ms] => self.now = ms.parse().expect("ms"),
            ["crash"] => {
                self.coordinator = None;
                self.waiting.clear();
                self.load();
            }
            ["elected", epoch] => {
                self.epoch = epoch.parse().expect("epoch");
                self.load();
            }
            ["resign"] => {
                self.coordinator.take().expect("one is there").resign(&mut effects);
                self.waiting.clear();
                self.take(effects);
            }
            ["stored", id, state, who] => {
                let (state, producer) = (TxnState::from_name(state).expect("state"), producer(who));
                let txn = Transaction::created(producer.id, 60_000, self.now);
                let txn = Transaction { state, epoch: producer.epoch, ..txn };
                let value = Some(encode_value(&txn));
                self.committed.push(TxnRecord { key: encode_key(id), value });
                self.load();
            }
            ["give", id] => self.next_id = id.parse().expect("id"),
            ["state", id] => {
                let text = self.coordinator().transaction(id).map_or("unknown".to_owned(), state);
                self.note(&text);
            }
            ["due"] => {
                let text = format!("{:?}", self.coordinator().next_due());
                self.note(&text);
            }
            ["ok"] | ["fail", _] => self.settle(words[0] == "ok", words.get(1).copied()),
            _ => self.request(&words),
        }
    }

    fn coordinator(&mut self) -> &mut Coordinator {
        self.coordinator.as_mut().expect("one is there")
    }

    fn load(&mut self) {
        let mut loader = Loader::default();
        for record in &self.committed {
            loader.take(&record.key, record.value.as_deref()).expect("what was written loads");
        }
        let mut effects = Vec::new();
        let loaded = loader.finish(TxnSettings::default(), self.epoch, self.now, &mut effects);
        self.coordinator = Some(loaded);
        self.take(effects);
    }

    /// The oldest append is committed, or was not made.
    fn settle(&mut self, is_ok: bool, why: Option<&str>) {
        let (write, record) = self.waiting.remove(0);
        let outcome = match why {
            None => Ok(()),
            Some("unavailable") => Err(AppendFailure::Unavailable),
            Some("not-leader") => Err(AppendFailure::NotLeader),
            Some(_) => Err(AppendFailure::Refused),
        };
        if is_ok {
            self.committed.push(record);
        }
        let (mut effects, now) = (Vec::new(), self.now);
        self.coordinator().appended(now, write, outcome, &mut effects);
        self.take(effects);
    }

    fn request(&mut self, words: &[&str]) {
        let (mut effects, now) = (Vec::new(), self.now);
        self.next_request += 1;
        let request = self.next_request;
        let id: Name = words.get(1).copied().unwrap_or_default().into();
        let version = if words.last() == Some(&"v2") { ClientVersion::V2 } else { ClientVersion::V0 };
        let next_id = &mut self.next_id;
        let mut fresh = || {
            *next_id += 1;
            (*next_id > 0).then_some(*next_id - 1)
        };
        let coordinator = self.coordinator.as_mut().expect("one is there");
        match words[0] {
            "init" => {
                let value = |name: &str| words.iter().find_map(|w| w.strip_prefix(name));
                let timeout_ms = value("timeout=").map_or(60_000, |ms| ms.parse().expect("ms"));
                let expected = value("as=").map(producer);
                let asked = InitProducerId { transactional_id: id, timeout_ms, expected };
                coordinator.init_producer_id(now, request, &asked, &mut fresh, &mut effects);
            }
            "end" => {
                let (producer, commit) = (producer(words[2]), words[3] == "commit");
                let asked = EndTxn { transactional_id: id, producer, commit, version };
                coordinator.end_txn(now, request, &asked, &mut fresh, &mut effects);
            }
            "tick" => coordinator.tick(now, &mut effects),
            "mark" | "mark-the-first" => {
                let mut sent = self.markers.iter().filter(|m| m.transactional_id == id);
                let markers = if words[0] == "mark" { sent.next_back() } else { sent.next() };
                let markers = markers.expect("sent");
                let outcomes = words[2..].iter().map(|word| {
                    let (at, outcome) = word.split_once('=').expect("partition=outcome");
                    let outcome = match outcome {
                        "ok" => MarkerOutcome::Written,
                        "gone" => MarkerOutcome::PartitionGone,
                        "stale" => MarkerOutcome::StaleEpoch,
                        "fenced" => MarkerOutcome::CoordinatorFenced,
                        "retry" => MarkerOutcome::Retry,
                        other => panic!("{other}"),
                    };
                    (partition(at), outcome)
                });
                let answer = MarkerAnswer {
                    round: markers.round,
                    coordinator_epoch: markers.coordinator_epoch,
                    transactional_id: id,
                    outcomes: outcomes.collect(),
                };
                coordinator.marked(now, &answer, &mut effects);
            }
            "describe" => {
                let described = coordinator.describe(&id);
                let text = said(&described, |d| {
                    let at: Vec<_> =
                        d.partitions.iter().map(|p| format!("{}{}", p.topic, p.partition)).collect();
                    let (state, producer) = (d.state.name(), shown(d.producer));
                    format!(
                        "{state} {producer} timeout {} since {} [{}]",
                        d.timeout_ms,
                        d.started_ms,
                        at.join(" ")
                    )
                });
                self.note(&text);
            }
            "list" => {
                let mut asked = Listing { running_ms_min: -1, ..Listing::default() };
                for word in &words[1..] {
                    match word.split_once('=').expect("filter=value") {
                        ("state", name) => asked.states.push(name.to_owned()),
                        ("producer", id) => asked.producer_ids.push(id.parse().expect("id")),
                        ("longer", ms) => asked.running_ms_min = ms.parse().expect("ms"),
                        (_, pattern) => asked.pattern = Some(pattern.to_owned()),
                    }
                }
                let text = said(&coordinator.list(now, &asked), |listed| {
                    let lines = listed.transactions.iter();
                    let lines: Vec<_> = lines
                        .map(|l| format!("{} {} {}", l.transactional_id, l.producer_id, l.state.name()))
                        .collect();
                    format!("[{}] unknown {:?}", lines.join(", "), listed.unknown_states)
                });
                self.note(&text);
            }
            what => {
                let partitions = words[3..].iter().filter(|w| **w != "v2").map(|w| partition(w)).collect();
                let asked =
                    AddPartitions { transactional_id: id, producer: producer(words[2]), partitions, version };
                match what {
                    "add" => coordinator.add_partitions(now, request, &asked, &mut effects),
                    "offsets" => coordinator.add_offsets(now, request, &asked, &mut effects),
                    "verify" => {
                        let text = said(&coordinator.verify(&asked), |all| {
                            let all: Vec<_> = all.iter().map(|one| said(one, |()| "ok".to_owned())).collect();
                            all.join(" ")
                        });
                        self.note(&text);
                    }
                    other => panic!("no such command: {other}"),
                }
            }
        }
        self.take(effects);
    }
}

/// Plays the commands of a transcript and gives it back with what came of them.
fn replayed(transcript: &str) -> String {
    let mut notebook = Notebook::new();
    for line in transcript.lines() {
        match line {
            _ if line.starts_with("    ") => {}
            _ if line.is_empty() || line.starts_with('#') => {
                // A heading begins a notebook of its own.
                let out = std::mem::take(&mut notebook.out);
                if line.starts_with("# ") {
                    notebook = Notebook::new();
                }
                notebook.out = out + line + "\n";
            }
            command => notebook.command(command),
        }
    }
    notebook.out
}

/// With `HIGHWATER_TRANSCRIPTS` set to the directory of the transcripts they are written anew.
fn check(name: &str, transcript: &str) {
    let found = replayed(transcript);
    if let Ok(dir) = std::env::var("HIGHWATER_TRANSCRIPTS") {
        std::fs::write(format!("{dir}/{name}.txt"), &found).expect("writes");
        return;
    }
    for (n, (found, expected)) in found.lines().zip(transcript.lines()).enumerate() {
        assert_eq!(found, expected, "{name}.txt, line {}", n + 1);
    }
    assert_eq!(found.lines().count(), transcript.lines().count(), "{name}.txt");
}

#[test]
fn the_producers_of_a_transactional_id() {
    check("producers", include_str!("tests/producers.txt"));
}

#[test]
fn transactions_before_version_2() {
    check("plain", include_str!("tests/plain.txt"));
}

#[test]
fn transactions_of_version_2() {
    check("bumping", include_str!("tests/bumping.txt"));
}

#[test]
fn markers_are_repeated_until_they_are_written() {
    check("markers", include_str!("tests/markers.txt"));
}

#[test]
fn time_aborts_and_forgets() {
    check("time", include_str!("tests/time.txt"));
}

#[test]
fn a_new_coordinator_goes_on() {
    check("reload", include_str!("tests/reload.txt"));
}

#[test]
fn bad_requests_are_refused() {
    check("refusals", include_str!("tests/refusals.txt"));
}

#[test]
fn ids_and_partitions_are_bounded() {
    use highwater_model::limits::{TXN_ID_BYTES_MAX, TXN_PARTITIONS_MAX};
    let mut notebook = Notebook::new();
    let longest = "x".repeat(TXN_ID_BYTES_MAX);
    notebook.command(&format!("init {longest}"));
    assert!(notebook.out.contains("append xxx"), "the longest id is known");
    notebook.out.clear();
    notebook.command(&format!("init {longest}x"));
    assert!(notebook.out.contains("InvalidRequest"));
    notebook.command("init a");
    notebook.command("ok");
    notebook.command("ok");
    notebook.out.clear();
    let most: Vec<String> = (0..=TXN_PARTITIONS_MAX).map(|n| format!("p{n}")).collect();
    notebook.command(&format!("add a 1001/0 {}", most.join(" ")));
    assert!(notebook.out.contains("PolicyViolation"), "one too many");
    notebook.command(&format!("add a 1001/0 {}", most[1..].join(" ")));
    assert!(notebook.out.contains("append a: Ongoing"));
}

#[test]
fn long_topic_names_do_not_outgrow_a_record() {
    let mut coordinator = Coordinator::new(TxnSettings::default(), 0);
    let mut effects = Vec::new();
    let asked = InitProducerId { transactional_id: "a".into(), timeout_ms: 1_000, expected: None };
    coordinator.init_producer_id(0, 1, &asked, &mut || Some(7), &mut effects);
    coordinator.appended(0, 1, Ok(()), &mut effects);
    let topics = (0..5_000).map(|n| TxnPartition::new(format!("{n:0>249}"), 0)).collect();
    let add = AddPartitions {
        transactional_id: "a".into(),
        producer: Producer { id: 7, epoch: 0 },
        partitions: topics,
        version: ClientVersion::V0,
    };
    effects.clear();
    coordinator.add_partitions(0, 2, &add, &mut effects);
    let refused = Reply::AddPartitions(Err(TxnError::PolicyViolation));
    assert_eq!(effects, [Effect::Reply { request: 2, reply: refused }]);
}

#[test]
fn codes_are_kafkas() {
    let codes = [
        (TxnError::ConcurrentTransactions, 51),
        (TxnError::ProducerFenced, 90),
        (TxnError::InvalidProducerIdMapping, 49),
        (TxnError::InvalidTxnState, 48),
        (TxnError::TransactionAbortable, 120),
        (TxnError::TransactionalIdNotFound, 105),
        (TxnError::InvalidTransactionTimeout, 50),
        (TxnError::UnknownServerError, -1),
    ];
    for (error, code) in codes {
        assert_eq!((error.code(), error.code_for(true, true)), (code, code));
    }
    assert_eq!(TxnError::ProducerFenced.code_for(false, true), 47);
    assert_eq!(TxnError::TransactionAbortable.code_for(true, false), 48);
    assert_eq!(ClientVersion::of_add_partitions(3), ClientVersion::V0);
    assert_eq!(ClientVersion::of_add_partitions(4), ClientVersion::V2);
    assert_eq!(
        (ClientVersion::of_end_txn(4), ClientVersion::of_end_txn(5)),
        (ClientVersion::V0, ClientVersion::V2)
    );
}
