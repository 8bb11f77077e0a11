//! Messages between peers as protobuf. What does not parse is refused, never guessed.

use std::sync::Arc;

use bytes::Bytes;
use highwater_model::limits::BROKERS_MAX;
use highwater_model::{LeaderEpoch, TopicId, TopicPartition};
use highwater_wire::batch::BatchHeader;
use uuid::Uuid;

use super::message::{
    Answer, Append, AppendAnswer, PreVote, Request, Resigned, Route, SnapshotSend, VoteAsk,
};
use super::types::{Body, Stored};
use crate::core::raft_election::{Ask, Greeting};
use crate::core::raft_side::{EntryId, Members, SetMembers, StoredVote};

pub(super) mod proto {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("highwater.v1.raft");
}

use proto::raft_append_answer::Outcome;
use proto::raft_frame::Body as FrameBody;

/// A message that is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("a message between peers lacks {0}")]
pub(super) struct Misshapen(&'static str);

fn id_out(id: EntryId) -> proto::RaftEntryId {
    proto::RaftEntryId { term: id.term, leader: id.leader, index: id.index }
}

fn id_in(id: proto::RaftEntryId) -> EntryId {
    EntryId { term: id.term, leader: id.leader, index: id.index }
}

fn vote_out(vote: StoredVote) -> Option<proto::RaftVoteState> {
    Some(proto::RaftVoteState { term: vote.term, replica: vote.replica, is_committed: vote.is_committed })
}

fn vote_in(vote: Option<proto::RaftVoteState>) -> Result<StoredVote, Misshapen> {
    let vote = vote.ok_or(Misshapen("its vote"))?;
    Ok(StoredVote { term: vote.term, replica: vote.replica, is_committed: vote.is_committed })
}

fn route_out(route: Route) -> Option<proto::RaftRoute> {
    let topic_id = Bytes::copy_from_slice(route.tp.topic_id.0.as_bytes());
    Some(proto::RaftRoute { topic_id, partition: route.tp.partition, from: route.from, to: route.to })
}

fn route_in(route: Option<proto::RaftRoute>) -> Result<Route, Misshapen> {
    let route = route.ok_or(Misshapen("its route"))?;
    let topic_id = Uuid::from_slice(&route.topic_id).map_err(|_| Misshapen("a topic id"))?;
    let tp = TopicPartition::new(TopicId(topic_id), route.partition);
    Ok(Route { tp, from: route.from, to: route.to })
}

fn members_out(members: &Members) -> proto::RaftMembers {
    let voters =
        members.voters.iter().map(|set| proto::RaftVoters { replicas: set.iter().copied().collect() });
    proto::RaftMembers {
        voters: voters.collect(),
        nodes: members.nodes.iter().map(|(replica, node)| (*replica, *node)).collect(),
    }
}

fn members_in(members: proto::RaftMembers) -> Members {
    Members {
        voters: members.voters.into_iter().map(|set| set.replicas.into_iter().collect()).collect(),
        nodes: members.nodes.into_iter().collect(),
    }
}

fn entry_out(entry: Stored) -> proto::RaftEntry {
    let (batch, members) = match entry.body {
        Body::Blank => (Bytes::new(), None),
        Body::Members(members) => (Bytes::new(), Some(members_out(&members))),
        Body::Batch { bytes, .. } => (bytes, None),
    };
    proto::RaftEntry { id: Some(id_out(entry.id)), batch, base_offset: entry.offset, members }
}

fn entry_in(entry: proto::RaftEntry) -> Result<Stored, Misshapen> {
    let id = id_in(entry.id.ok_or(Misshapen("an entry's id"))?);
    let offset = entry.base_offset;
    let body = match (entry.batch.is_empty(), entry.members) {
        (true, None) => Body::Blank,
        (true, Some(members)) => Body::Members(Arc::new(members_in(members))),
        (false, _) => {
            let header = BatchHeader::parse(&entry.batch).map_err(|_| Misshapen("a batch's header"))?;
            if header.total_bytes() != entry.batch.len() || offset < 0 {
                return Err(Misshapen("a whole batch"));
            }
            let leader_epoch = LeaderEpoch::try_from(id.term).map_err(|_| Misshapen("a term"))?;
            // The first 16 bytes may be a producer's: they are stamped anew.
            let header = BatchHeader { base_offset: offset, leader_epoch, ..header };
            Body::Batch { header, bytes: entry.batch }
        }
    };
    Ok(Stored { id, offset, body })
}

pub(super) fn request_out(request: Request) -> FrameBody {
    match request {
        Request::Greeting(greeting) => FrameBody::Greeting(greeting_out(greeting)),
        Request::Append(append) => FrameBody::Append(proto::RaftAppend {
            route: route_out(append.route),
            vote: vote_out(append.vote),
            previous: append.previous.map(id_out),
            committed: append.committed.map(id_out),
            entries: append.entries.into_iter().map(entry_out).collect(),
        }),
        Request::Vote(ask) => FrameBody::Vote(proto::RaftVote {
            route: route_out(ask.route),
            vote: vote_out(ask.vote),
            last: ask.last.map(id_out),
        }),
        Request::PreVotes(asks) => {
            let ask_out = |pre: PreVote| proto::RaftPreVote {
                route: route_out(Route { tp: pre.tp, from: pre.ask.candidate, to: pre.to }),
                last: pre.ask.last.map(id_out),
            };
            FrameBody::PreVotes(proto::RaftPreVotes { asks: asks.into_iter().map(ask_out).collect() })
        }
        Request::Snapshot(send) => FrameBody::Snapshot(proto::RaftSnapshot {
            route: route_out(send.route),
            vote: vote_out(send.vote),
            at: Some(id_out(send.at)),
            members_at: send.members.at.map(id_out),
            members: Some(members_out(&send.members.members)),
            beginning: send.bytes.into(),
        }),
        Request::Resigned(resigned) => {
            FrameBody::Resigned(proto::RaftResigned { route: route_out(resigned.route), term: resigned.term })
        }
        Request::Replicas(asked) => FrameBody::Replicas(proto::RaftReplicas {
            partitions: asked.into_iter().map(asked_out).collect(),
        }),
    }
}

fn greeting_out(greeting: Greeting) -> proto::RaftGreeting {
    proto::RaftGreeting { boot: greeting.boot, unheard: greeting.unheard.into_iter().collect() }
}

fn greeting_in(greeting: proto::RaftGreeting) -> Result<Greeting, Misshapen> {
    if greeting.unheard.len() > BROKERS_MAX {
        return Err(Misshapen("a cluster's bounds"));
    }
    Ok(Greeting { boot: greeting.boot, unheard: greeting.unheard.into_iter().collect() })
}

fn asked_out((tp, since_epoch): (TopicPartition, LeaderEpoch)) -> proto::RaftPartition {
    let topic_id = Bytes::copy_from_slice(tp.topic_id.0.as_bytes());
    proto::RaftPartition { topic_id, partition: tp.partition, since_epoch }
}

fn asked_in(asked: proto::RaftPartition) -> Result<(TopicPartition, LeaderEpoch), Misshapen> {
    let topic_id = Uuid::from_slice(&asked.topic_id).map_err(|_| Misshapen("a topic id"))?;
    Ok((TopicPartition::new(TopicId(topic_id), asked.partition), asked.since_epoch))
}

pub(super) fn request_in(body: FrameBody) -> Result<Request, Misshapen> {
    Ok(match body {
        FrameBody::Greeting(greeting) => Request::Greeting(greeting_in(greeting)?),
        FrameBody::Append(append) => Request::Append(Append {
            route: route_in(append.route)?,
            vote: vote_in(append.vote)?,
            previous: append.previous.map(id_in),
            committed: append.committed.map(id_in),
            entries: append.entries.into_iter().map(entry_in).collect::<Result<_, _>>()?,
        }),
        FrameBody::Vote(ask) => Request::Vote(VoteAsk {
            route: route_in(ask.route)?,
            vote: vote_in(ask.vote)?,
            last: ask.last.map(id_in),
        }),
        FrameBody::PreVotes(asks) => {
            let ask_in = |pre: proto::RaftPreVote| {
                let route = route_in(pre.route)?;
                let ask = Ask { candidate: route.from, last: pre.last.map(id_in) };
                Ok(PreVote { tp: route.tp, to: route.to, ask })
            };
            Request::PreVotes(asks.asks.into_iter().map(ask_in).collect::<Result<_, _>>()?)
        }
        FrameBody::Snapshot(send) => Request::Snapshot(SnapshotSend {
            route: route_in(send.route)?,
            vote: vote_in(send.vote)?,
            at: id_in(send.at.ok_or(Misshapen("a snapshot's place"))?),
            members: SetMembers {
                at: send.members_at.map(id_in),
                members: Arc::new(members_in(send.members.ok_or(Misshapen("members"))?)),
            },
            bytes: send.beginning.into(),
        }),
        FrameBody::Resigned(resigned) => {
            Request::Resigned(Resigned { route: route_in(resigned.route)?, term: resigned.term })
        }
        FrameBody::Replicas(asked) => {
            Request::Replicas(asked.partitions.into_iter().map(asked_in).collect::<Result<_, _>>()?)
        }
        _ => return Err(Misshapen("a request")),
    })
}

pub(super) fn answer_out(answer: Answer) -> FrameBody {
    match answer {
        Answer::Greeting(greeting) => FrameBody::Greeting(greeting_out(greeting)),
        Answer::Append(answer) => {
            let outcome = match answer {
                AppendAnswer::Success => Outcome::Success(true),
                AppendAnswer::Partial(Some(id)) => Outcome::Partial(id_out(id)),
                // Nothing appended: the entry before all.
                AppendAnswer::Partial(None) => Outcome::Partial(proto::RaftEntryId::default()),
                AppendAnswer::HigherVote(vote) => Outcome::HigherVote(vote_out(vote).expect("always some")),
                AppendAnswer::Conflict => Outcome::Conflict(true),
            };
            FrameBody::AppendAnswer(proto::RaftAppendAnswer { outcome: Some(outcome) })
        }
        Answer::Vote { vote, is_granted, last } => FrameBody::VoteAnswer(proto::RaftVoteAnswer {
            vote: vote_out(vote),
            is_granted,
            last: last.map(id_out),
        }),
        Answer::PreVotes(yes) => FrameBody::PreVotesAnswer(proto::RaftPreVotesAnswer { yes }),
        Answer::Snapshot { vote } => {
            FrameBody::SnapshotAnswer(proto::RaftSnapshotAnswer { vote: vote_out(vote) })
        }
        Answer::Replicas(found) => {
            let replica = |id: Option<u64>| proto::RaftReplica {
                is_here: id.is_some(),
                replica: id.unwrap_or_default(),
            };
            let replicas = found.into_iter().map(replica).collect();
            FrameBody::ReplicasAnswer(proto::RaftReplicasAnswer { replicas })
        }
        Answer::Refused(why) => FrameBody::Refused(why),
    }
}

pub(super) fn answer_in(body: FrameBody) -> Result<Answer, Misshapen> {
    Ok(match body {
        FrameBody::Greeting(greeting) => Answer::Greeting(greeting_in(greeting)?),
        FrameBody::AppendAnswer(answer) => {
            Answer::Append(match answer.outcome.ok_or(Misshapen("an outcome"))? {
                Outcome::Success(_) => AppendAnswer::Success,
                Outcome::Partial(id) if id == proto::RaftEntryId::default() => AppendAnswer::Partial(None),
                Outcome::Partial(id) => AppendAnswer::Partial(Some(id_in(id))),
                Outcome::HigherVote(vote) => AppendAnswer::HigherVote(vote_in(Some(vote))?),
                Outcome::Conflict(_) => AppendAnswer::Conflict,
            })
        }
        FrameBody::VoteAnswer(answer) => Answer::Vote {
            vote: vote_in(answer.vote)?,
            is_granted: answer.is_granted,
            last: answer.last.map(id_in),
        },
        FrameBody::PreVotesAnswer(answer) => Answer::PreVotes(answer.yes),
        FrameBody::SnapshotAnswer(answer) => Answer::Snapshot { vote: vote_in(answer.vote)? },
        FrameBody::ReplicasAnswer(answer) => {
            let replica = |r: proto::RaftReplica| r.is_here.then_some(r.replica);
            Answer::Replicas(answer.replicas.into_iter().map(replica).collect())
        }
        FrameBody::Refused(why) => Answer::Refused(why),
        _ => return Err(Misshapen("an answer")),
    })
}
