//! How transcripts show what came of a line.

use std::fmt::Write as _;

use super::super::answer::{Answer, Effect, Joined};
use super::super::consumer::ConsumerGroup;
use super::super::error::GroupError;
use super::super::machine::Group;
use super::super::records::{Key, Record, Value};
use super::super::request::FetchOffsets;
use super::super::types::{Name, Partitions, each};
use super::{Notebook, Words, assignment};

fn text(name: &Option<Name>) -> &str {
    name.as_deref().unwrap_or("-")
}

fn outcome(result: &Result<(), GroupError>) -> String {
    result.as_ref().err().map_or("ok".to_string(), |error| format!("{error:?}"))
}

impl Notebook {
    pub(super) fn partitions(&self, partitions: &Partitions) -> String {
        let name = |id| self.topics.name_of(id).map_or("?".to_string(), |name| name.to_string());
        let words: Vec<String> = each(partitions).map(|(topic, p)| format!("{}{p}", name(topic))).collect();
        format!("[{}]", words.join("."))
    }

    fn assignment(&self, bytes: &[u8]) -> String {
        match assignment(bytes, &self.topics) {
            Ok(partitions) => self.partitions(&partitions),
            Err(length) => format!("{length} bytes"),
        }
    }

    pub(super) fn show(&self, out: &mut String, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Append { records, transaction } => {
                    let kind = match transaction {
                        Some((producer, _)) => format!("append of producer {producer}"),
                        None => "append".to_string(),
                    };
                    for record in records {
                        writeln!(out, "{kind} {}", self.record(record)).expect("text");
                    }
                }
                Effect::Answer { ticket, answer } => {
                    writeln!(out, "#{ticket} {}", self.answer(answer)).expect("text");
                }
            }
        }
    }

    fn record(&self, record: &Record) -> String {
        let key = match &record.key {
            Key::Offset { group, topic, partition } => format!("offset {group} {topic}{partition}"),
            Key::Classic { group } => format!("classic {group}"),
            Key::Group { group } => format!("group {group}"),
            Key::GroupTopics { group } => format!("topics {group}"),
            Key::Member { group, member } => format!("member {group} {member}"),
            Key::Target { group } => format!("target {group}"),
            Key::TargetMember { group, member } => format!("target {group} {member}"),
            Key::Current { group, member } => format!("current {group} {member}"),
            Key::Regex { group, regex } => format!("regex {group} {regex}"),
        };
        let value = match &record.value {
            None => "gone".to_string(),
            Some(Value::Offset(v)) => format!("{} expires {:?}", v.offset, v.expires_ms),
            Some(Value::Classic(v)) => {
                let member = |m: &super::super::records::ClassicMemberValue| {
                    format!("{} {} {}", m.member_id, text(&m.instance_id), self.assignment(&m.assignment))
                };
                let members: Vec<String> = v.members.iter().map(member).collect();
                let (protocol, leader) = (text(&v.protocol), text(&v.leader));
                format!("generation {} {protocol} leader {leader} {members:?}", v.generation)
            }
            Some(Value::Group(v)) => format!("epoch {}", v.epoch),
            Some(Value::GroupTopics) => "summary".to_string(),
            Some(Value::Member(v)) => {
                let names: Vec<&str> = v.topic_names.iter().map(|n| &**n).collect();
                let protocol = if v.classic.is_some() { "classic" } else { "consumer" };
                let (instance, regex) = (text(&v.instance_id), text(&v.topic_regex));
                format!("{protocol} {instance} topics {} regex {regex}", names.join(","))
            }
            Some(Value::Target(epoch)) => format!("epoch {epoch}"),
            Some(Value::TargetMember(partitions)) => self.partitions(partitions),
            Some(Value::Current(v)) => {
                let (assigned, pending) =
                    (self.partitions(&v.assigned), self.partitions(&v.pending_revocation));
                format!(
                    "{} (before {}) {:?} {assigned} revokes {pending}",
                    v.epoch, v.previous_epoch, v.state
                )
            }
            Some(Value::Regex(v)) => format!("{:?}", v.topics),
        };
        format!("{key}: {value}")
    }

    fn joined(&self, joined: &Joined) -> String {
        if let Some(error) = joined.error {
            return format!("join {error:?} member {}", joined.member_id);
        }
        let members: Vec<String> = joined
            .members
            .iter()
            .map(|m| match &m.instance_id {
                Some(instance) => format!("{}/{instance}", m.member_id),
                None => m.member_id.to_string(),
            })
            .collect();
        format!(
            "join generation {} {} leader {} member {} skips {} sees {members:?}",
            joined.generation,
            text(&joined.protocol),
            text(&joined.leader),
            joined.member_id,
            joined.is_assignment_skipped,
        )
    }

    fn answer(&self, answer: &Answer) -> String {
        match answer {
            Answer::Join(joined) => self.joined(joined),
            Answer::Sync(synced) => match synced.error {
                Some(error) => format!("sync {error:?}"),
                None => format!("sync {} {}", text(&synced.protocol), self.assignment(&synced.assignment)),
            },
            Answer::Heartbeat(result) => format!("heartbeat {}", outcome(result)),
            Answer::Leave(Err(error)) => format!("leave {error:?}"),
            Answer::Leave(Ok(left)) => {
                let one = |l: &super::super::answer::Left| {
                    let error = l.error.map_or("ok".to_string(), |error| format!("{error:?}"));
                    format!("{}/{} {error}", l.member_id, text(&l.instance_id))
                };
                format!("leave {:?}", left.iter().map(one).collect::<Vec<_>>())
            }
            Answer::ConsumerHeartbeat(Err(error)) => format!("beat {error:?}"),
            Answer::ConsumerHeartbeat(Ok(beat)) => {
                let assignment =
                    beat.assignment.as_ref().map_or("as before".to_string(), |a| self.partitions(a));
                format!("beat {} epoch {} {assignment}", beat.member_id, beat.epoch)
            }
            Answer::CommitOffsets(Err(error)) => format!("commit {error:?}"),
            Answer::CommitOffsets(Ok(each)) => {
                format!("commit {}", each.iter().map(outcome).collect::<Vec<_>>().join(" "))
            }
            Answer::DeleteOffsets(Err(error)) => format!("delete {error:?}"),
            Answer::DeleteOffsets(Ok(each)) => {
                format!("delete {}", each.iter().map(outcome).collect::<Vec<_>>().join(" "))
            }
            Answer::DeleteGroup(result) => format!("delete-group {}", outcome(result)),
        }
    }

    /// The questions that change nothing.
    pub(super) fn ask(&self, words: &Words<'_>) -> String {
        let group = words.name_or_empty("1");
        let mut out = String::new();
        match words.get("0") {
            Some("list") => {
                let all = |key| words.name(key).into_iter().collect::<Vec<_>>();
                for g in self.groups.list(&all("state"), &all("kind")) {
                    writeln!(out, "{} {:?} {} {}", g.group, g.protocol_type, g.state, g.kind).expect("text");
                }
            }
            Some("describe") => {
                writeln!(out, "classic {:?}", self.groups.describe_classic(&group)).expect("text");
                writeln!(out, "consumer {:?}", self.groups.describe_consumer(&group)).expect("text");
            }
            Some("fetch") => self.fetch(&mut out, words, group),
            _ => match self.groups.group(&group) {
                None => out.push_str("no such group\n"),
                Some(Group::Classic(g)) => {
                    let members: Vec<&str> = g.members.keys().map(|id| &**id).collect();
                    let (state, generation) = (g.state.name(), g.generation);
                    writeln!(out, "classic {state} generation {generation} {members:?}").expect("text");
                }
                Some(Group::Consumer(g)) => self.state(&mut out, g),
            },
        }
        out
    }

    fn state(&self, out: &mut String, group: &ConsumerGroup) {
        let (epoch, target) = (group.epoch, group.target_epoch);
        writeln!(out, "consumer {} epoch {epoch} target {target}", group.state()).expect("text");
        for (id, member) in &group.members {
            let at = &member.at;
            writeln!(
                out,
                "  {id} at {} {:?} {} revokes {} target {}",
                at.epoch,
                at.state,
                self.partitions(&at.assigned),
                self.partitions(&at.pending_revocation),
                self.partitions(&group.target_of(id)),
            )
            .expect("text");
        }
    }

    fn fetch(&self, out: &mut String, words: &Words<'_>, group: Name) {
        let fetch = FetchOffsets {
            group,
            member_id: words.name("member"),
            epoch: words.number("epoch", -1),
            partitions: words.get("partitions").map(|text| {
                let split = |word: &str| {
                    let at = word.find(|c: char| c.is_ascii_digit()).expect("a partition");
                    (Name::from(&word[..at]), word[at..].parse().expect("a number"))
                };
                text.split(',').map(split).collect()
            }),
            is_stable_required: words.get("stable").is_some(),
        };
        match self.groups.fetch_offsets(&fetch) {
            Err(error) => writeln!(out, "fetch {error:?}").expect("text"),
            Ok(found) => {
                for o in found {
                    let error = o.error.map_or(String::new(), |error| format!(" {error:?}"));
                    writeln!(out, "{}{}: {} {:?}{error}", o.topic, o.partition, o.offset, o.metadata)
                        .expect("text");
                }
            }
        }
    }
}
