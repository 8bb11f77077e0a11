//! The shard held by transcripts (`tests/golden/*.txt`: requests and time in, records and answers out), by
//! random events against the invariants, and by reloading: a shard read back from what it wrote is the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use highwater_model::{ProducerId, TopicId};
use uuid::Uuid;

use super::answer::{Answer, Effect};
use super::machine::{Group, Groups};
use super::protocol::{decode_assignment, encode_assignment};
use super::records::{ClassicProtocol, Record};
use super::request::*;
use super::settings::{Migration, Settings};
use super::types::{Millis, Name, Partitions, Topics, insert};

mod assignors;
mod figures;
mod foreign;
mod hostile;
mod random;
mod rewrite;
mod show;

/// What stands in the log of the shard.
#[derive(Clone, Debug)]
pub(crate) enum Logged {
    Record(Option<ProducerId>, Bytes, Option<Bytes>),
    Marker(ProducerId, bool),
}

/// A shard with its log and its clock.
pub(crate) struct Notebook {
    pub groups: Groups,
    pub settings: Settings,
    pub log: Vec<Logged>,
    pub now: Millis,
    pub topics: Arc<Topics>,
    pub version: i64,
    pub ticket: Ticket,
    /// Where in the log the pass began that writes the state once more.
    pub pass: Option<usize>,
}

/// The id of the topic with this name in transcripts.
pub(crate) fn topic_id(name: &str) -> TopicId {
    let number = name.bytes().fold(0u128, |n, byte| n * 256 + u128::from(byte));
    TopicId(Uuid::from_u128(number))
}

pub(crate) fn topics(text: &str) -> Topics {
    Topics::new(text.split_whitespace().map(|word| {
        let (name, partitions) = word.split_once('=').expect("name=partitions");
        (Name::from(name), topic_id(name), partitions.parse().expect("a number"))
    }))
}

impl Notebook {
    pub fn new(settings: Settings) -> Self {
        let topics = Arc::new(topics("a=2 b=2"));
        let mut groups = Groups::new(settings.clone(), topics.clone(), 1);
        groups.loaded(0, &mut Vec::new());
        Notebook { groups, settings, log: Vec::new(), now: 0, topics, version: 1, ticket: 0, pass: None }
    }

    /// One event; the records are in the log, everything is checked.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        if let Event::TransactionEnded { producer_id, is_commit } = &event {
            self.log.push(Logged::Marker(*producer_id, *is_commit));
        }
        let mut effects = Vec::new();
        self.groups.step(self.now, event, &mut effects);
        self.keep(&effects);
        self.groups.check();
        effects
    }

    fn keep(&mut self, effects: &[Effect]) {
        for (at, effect) in effects.iter().enumerate() {
            if let Effect::Append { records, transaction } = effect {
                assert_eq!(at, 0, "records come first");
                for record in records {
                    let (key, value) = record.encode();
                    self.log.push(Logged::Record(transaction.map(|(id, _)| id), key, value));
                }
            }
        }
    }

    pub fn request(&mut self, client: &str, request: Request) -> Vec<Effect> {
        self.ticket += 1;
        let fresh = Uuid::from_u128(u128::from(self.ticket));
        let client = Client { id: client.into(), host: "/h".into(), fresh };
        self.step(Event::Request { ticket: self.ticket, client, request })
    }

    /// Moves the clock on and lets every timer fire at its time.
    pub fn advance(&mut self, millis: Millis) -> Vec<(Millis, Effect)> {
        let (end, mut seen) = (self.now + millis, Vec::new());
        while let Some(due) = self.groups.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            seen.extend(self.step(Event::Tick).into_iter().map(|effect| (due, effect)));
        }
        self.now = end;
        seen
    }

    /// The next part of a pass that writes the state once more; the log before it goes with the last one.
    /// True if it has gone.
    pub fn rewrite(&mut self, bytes_max: usize) -> bool {
        if self.pass.is_none() {
            self.groups.begin_rewrite();
            self.pass = Some(self.log.len());
        }
        let part = self.groups.rewrite(bytes_max);
        for record in &part.records {
            let (key, value) = record.encode();
            self.log.push(Logged::Record(None, key, value));
        }
        self.groups.check();
        if part.is_last {
            self.log.drain(..self.pass.take().expect("begun"));
        }
        part.is_last
    }

    /// A shard that has read the log.
    pub fn reloaded(&self) -> Groups {
        let mut groups = Groups::new(self.settings.clone(), self.topics.clone(), self.version);
        for logged in &self.log {
            match logged {
                Logged::Record(producer, key, value) => {
                    groups.load_bytes(key, value.as_deref(), *producer).expect("whole");
                }
                Logged::Marker(producer, is_commit) => groups.load_marker(*producer, *is_commit),
            }
        }
        groups
    }

    /// Goes on with a shard that has read the log, as another broker would.
    pub fn reload(&mut self) -> Vec<Effect> {
        let (mut effects, mut parked) = (Vec::new(), Vec::new());
        let read = self.reloaded();
        self.pass = None;
        let old = std::mem::replace(&mut self.groups, read);
        old.unload(self.now, &mut parked);
        self.groups.loaded(self.now, &mut effects);
        self.keep(&effects);
        self.groups.check();
        parked.extend(effects);
        parked
    }
}

/// The words after the first of a command: `key=value`, or a bare word under its place (`1`, `2`, ...).
pub(crate) struct Words<'a>(BTreeMap<String, &'a str>);

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let mut words = BTreeMap::new();
        for (place, word) in line.split_whitespace().enumerate() {
            match word.split_once('=') {
                Some((key, value)) => words.insert(key.to_string(), value),
                None => words.insert(place.to_string(), word),
            };
        }
        Words(words)
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }

    fn name(&self, key: &str) -> Option<Name> {
        self.get(key).map(|word| Name::from(expand(word)))
    }

    fn name_or_empty(&self, key: &str) -> Name {
        self.name(key).unwrap_or_else(|| Name::from(""))
    }

    fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> T {
        self.get(key).map_or(default, |word| word.parse().ok().expect("a number"))
    }
}

const FRESH: &str = "00000000-0000-0000-0000-00000000";

/// Member ids stand short in transcripts: `c~1` is client `c` with the id made at request 1, `@1` that id
/// alone.
pub(crate) fn expand(text: &str) -> String {
    let fresh = |number: &str| format!("{FRESH}{:04x}", number.parse::<u32>().expect("a number"));
    match (text.split_once('~'), text.strip_prefix('@')) {
        (Some((client, number)), _) => format!("{client}-{}", fresh(number)),
        (None, Some(number)) => fresh(number),
        (None, None) => text.to_string(),
    }
}

pub(crate) fn shorten(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(FRESH) {
        let end = at + FRESH.len() + 4;
        let number = u32::from_str_radix(&rest[at + FRESH.len()..end], 16).expect("hex");
        match rest[..at].strip_suffix('-') {
            Some(before) => write!(out, "{before}~{number}").expect("text"),
            None => write!(out, "{}@{number}", &rest[..at]).expect("text"),
        }
        rest = &rest[end..];
    }
    out + rest
}

/// `a0.a1.b0` as partitions.
pub(crate) fn partitions(text: &str) -> Partitions {
    let mut made = Partitions::new();
    for word in text.split('.').filter(|word| !word.is_empty()) {
        let at = word.find(|c: char| c.is_ascii_digit()).expect("a partition");
        insert(&mut made, topic_id(&word[..at]), word[at..].parse().expect("a number"));
    }
    made
}

/// A subscription of version 1: `a,b` or with what is owned `a,b/a0.a1`.
pub(crate) fn subscription(text: &str) -> Bytes {
    let (names, owned) = text.split_once('/').unwrap_or((text, ""));
    let mut writer = super::codec::Writer::new(1);
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    writer.count(names.len());
    for name in names {
        writer.string(name);
    }
    writer.int32(-1);
    let owned = partitions(owned);
    writer.count(owned.len());
    for (id, numbers) in owned {
        let name: String = id.0.as_bytes().iter().filter(|b| **b != 0).map(|b| *b as char).collect();
        writer.string(&name);
        writer.count(numbers.len());
        numbers.iter().for_each(|number| writer.int32(*number));
    }
    writer.into_bytes()
}

/// `range:a,b|coop:a` as protocols.
fn protocols(text: &str) -> Vec<ClassicProtocol> {
    let one = |word: &str| {
        let (name, topics) = word.split_once(':').unwrap_or((word, ""));
        ClassicProtocol { name: name.into(), metadata: subscription(topics) }
    };
    text.split('|').filter(|word| !word.is_empty()).map(one).collect()
}

impl Notebook {
    fn parse(&self, line: &str) -> Request {
        let words = Words::new(line);
        let group = words.name_or_empty("1");
        let member_id = words.name_or_empty("member");
        let instance_id = words.name("instance");
        let generation = words.number("gen", -1);
        match words.get("0").expect("a command") {
            "join" => Request::Join(Join {
                group,
                member_id,
                instance_id,
                protocol_type: words.name("type").unwrap_or_else(|| "consumer".into()),
                protocols: protocols(words.get("protocols").unwrap_or("range:a")),
                session_timeout_ms: words.number("session", 10_000),
                rebalance_timeout_ms: words.number("rebalance", 60_000),
                requires_member_id: words.number("v", 9) >= 4,
                can_skip_assignment: words.number("v", 9) >= 9,
            }),
            "sync" => Request::Sync(Sync {
                group,
                generation,
                member_id,
                instance_id,
                protocol_type: words.name("type"),
                protocol: words.name("protocol"),
                assignments: self.parse_assignments(words.get("assign").unwrap_or("")),
            }),
            "heartbeat" => Request::Heartbeat(Heartbeat { group, generation, member_id, instance_id }),
            "leave" => Request::Leave(Leave { group, members: leaving(words.get("members").unwrap_or("")) }),
            "beat" => Request::ConsumerHeartbeat(ConsumerHeartbeat {
                group,
                member_id,
                epoch: words.number("epoch", 0),
                instance_id,
                rack_id: words.name("rack"),
                rebalance_timeout_ms: words.get("rebalance").map(|word| word.parse().expect("a number")),
                topic_names: words
                    .get("topics")
                    .map(|word| word.split(',').filter(|name| !name.is_empty()).map(Name::from).collect()),
                topic_regex: words.name("regex"),
                server_assignor: words.name("assignor"),
                owned: words.get("owned").map(partitions),
            }),
            "delete-group" => Request::DeleteGroup { group },
            _ => self.parse_offsets(&words, group, member_id, instance_id, generation),
        }
    }

    fn parse_offsets(
        &self,
        words: &Words<'_>,
        group: Name,
        member_id: Name,
        instance_id: Option<Name>,
        generation: i32,
    ) -> Request {
        let one = |word: &str| {
            let (place, rest) = word.split_once(':').unwrap_or((word, "0"));
            let (offset, metadata) = rest.split_once('/').unwrap_or((rest, ""));
            let at = place.find(|c: char| c.is_ascii_digit()).expect("a partition");
            CommitOffset {
                topic: place[..at].into(),
                topic_id: Some(topic_id(&place[..at])),
                partition: place[at..].parse().expect("a number"),
                offset: offset.parse().expect("a number"),
                leader_epoch: 7,
                metadata: if metadata == "long" { "x".repeat(5_000).into() } else { metadata.into() },
            }
        };
        let offsets: Vec<CommitOffset> =
            words.get("offsets").unwrap_or("").split(',').filter(|w| !w.is_empty()).map(one).collect();
        match words.get("0").expect("a command") {
            "commit" => Request::CommitOffsets(CommitOffsets {
                group,
                member_id,
                instance_id,
                generation,
                retention_ms: words.get("retention").map(|word| word.parse().expect("a number")),
                knows_epochs: words.number("v", 9) >= 9,
                offsets,
            }),
            "commit-txn" => Request::CommitTransactionOffsets(CommitTransactionOffsets {
                group,
                producer_id: words.number("producer", 1),
                producer_epoch: 0,
                member_id,
                instance_id,
                generation,
                offsets,
            }),
            "delete-offsets" => Request::DeleteOffsets(DeleteOffsets {
                group,
                partitions: offsets.into_iter().map(|o| (o.topic, o.partition)).collect(),
            }),
            other => panic!("no command {other}"),
        }
    }

    fn parse_assignments(&self, text: &str) -> Vec<(Name, Bytes)> {
        let one = |word: &str| {
            let (member, what) = word.split_once(':').expect("member:partitions");
            let bytes = match what {
                "huge" => Bytes::from(vec![0; 1024]),
                what => encode_assignment(1, &partitions(what), &self.topics),
            };
            (Name::from(expand(member)), bytes)
        };
        text.split(',').filter(|word| !word.is_empty()).map(one).collect()
    }

    /// Runs one line of a transcript; what comes of it is the text.
    fn line(&mut self, line: &str) -> String {
        let words = Words::new(line);
        let mut out = String::new();
        match words.get("0").unwrap_or("") {
            "topics" => {
                self.topics = Arc::new(topics(line.strip_prefix("topics").expect("it is")));
                self.version += 1;
                let event = Event::Topics { version: self.version, topics: self.topics.clone() };
                let effects = self.step(event);
                self.show(&mut out, &effects);
            }
            "deleted" => {
                let now = words.get("now").map(topic_id);
                let event = Event::TopicsDeleted(vec![GoneTopic { name: words.name_or_empty("1"), now }]);
                let effects = self.step(event);
                self.show(&mut out, &effects);
            }
            "marker" => {
                let is_commit = words.get("2") == Some("commit");
                let producer_id = words.get("1").expect("a producer").parse().expect("a number");
                let effects = self.step(Event::TransactionEnded { producer_id, is_commit });
                self.show(&mut out, &effects);
            }
            "reload" => {
                let effects = self.reload();
                self.show(&mut out, &effects);
            }
            "settings" => self.set(&words),
            word if word.starts_with('+') => {
                let seconds: f64 = word[1..].parse().expect("seconds");
                for (at, effect) in self.advance((seconds * 1000.0) as Millis) {
                    write!(out, "at {at} ").expect("text");
                    self.show(&mut out, &[effect]);
                }
            }
            "state" | "list" | "fetch" | "describe" => out = self.ask(&words),
            _ => {
                let request = self.parse(line);
                let effects = self.request(words.get("client").unwrap_or("c"), request);
                self.show(&mut out, &effects);
            }
        }
        shorten(&out)
    }

    fn set(&mut self, words: &Words<'_>) {
        let settings = &mut self.settings;
        settings.group_size_max = words.number("size", settings.group_size_max);
        settings.consumer_group_size_max = words.number("consumer-size", settings.consumer_group_size_max);
        settings.record_bytes_max = words.number("record", settings.record_bytes_max);
        settings.assign_at_once_members_max = words.number("at-once", settings.assign_at_once_members_max);
        settings.offsets_per_shard_max = words.number("offsets", settings.offsets_per_shard_max);
        settings.offsets_retention_ms = words.number("retention", settings.offsets_retention_ms);
        settings.migration = match words.get("migration") {
            None => settings.migration,
            Some("disabled") => Migration::Disabled,
            Some(other) => panic!("no policy {other}"),
        };
        self.groups.settings = settings.clone();
    }
}

fn leaving(text: &str) -> Vec<LeavingMember> {
    let one = |word: &str| {
        let (member, instance) = word.split_once('/').unwrap_or((word, ""));
        LeavingMember {
            member_id: expand(member).into(),
            instance_id: Some(Name::from(instance)).filter(|instance| !instance.is_empty()),
        }
    };
    text.split(',').filter(|word| !word.is_empty()).map(one).collect()
}

#[test]
fn transcripts_read_as_written() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found = 0;
    for entry in std::fs::read_dir(&dir).expect("golden transcripts") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let mut notebook = Notebook::new(Settings::default());
        let mut out = String::new();
        let given = |line: &&str| line.starts_with("> ") || line.starts_with("# ");
        for line in text.lines().filter(given) {
            writeln!(out, "{line}").expect("text");
            if let Some(command) = line.strip_prefix("> ") {
                out.push_str(&notebook.line(command));
            }
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &out).expect("written");
        } else {
            assert_eq!(text, out, "{}; UPDATE_GOLDEN=1 rewrites it", path.display());
        }
        found += 1;
    }
    assert!(found >= 9, "the transcripts were not found");
}

/// What survives a change of coordinator: classic groups as of their last finished generation, consumer
/// groups and offsets whole.
pub(crate) fn durable(groups: &Groups) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    for listed in groups.list(&[], &[]) {
        let text = match groups.group(&listed.group).expect("listed") {
            Group::Classic(group) if matches!(listed.state, "Empty" | "Stable") => {
                if group.protocol_type.is_none() {
                    "simple".to_string()
                } else {
                    format!("{:?}", group.value())
                }
            }
            Group::Classic(_) => "rebalancing".to_string(),
            Group::Consumer(group) => format!("{:?}", group.records()),
        };
        seen.insert(format!("group {}", listed.group), text);
    }
    for group in groups.offsets().groups() {
        for (topic, partition) in groups.offsets().partitions_of(&group) {
            let value = groups.offsets().get(&group, &topic, partition);
            let is_pending = groups.offsets().is_pending(&group, &topic, partition);
            seen.insert(format!("offset {group} {topic} {partition}"), format!("{value:?} {is_pending}"));
        }
    }
    seen
}

/// The answers of a step.
pub(crate) fn answers(effects: &[Effect]) -> Vec<&Answer> {
    let mut found = Vec::new();
    for effect in effects {
        if let Effect::Answer { answer, .. } = effect {
            found.push(answer);
        }
    }
    found
}

/// An assignment of the consumer's protocol, or how many bytes it has.
pub(crate) fn assignment(bytes: &[u8], topics: &Topics) -> Result<Partitions, usize> {
    decode_assignment(bytes, topics).map(|a| a.partitions).map_err(|_| bytes.len())
}
